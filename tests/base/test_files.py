"""Facts about files that are whole or absent, and about how bad input reaches a person."""

import errno
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.base.door import run_command
from ensemble.base.errors import CannotWriteError, InputError, one_line
from ensemble.base.files import (
    append_line,
    atomic_write,
    make_folder,
    read_json,
    read_table,
    remove_file,
    write_json,
    write_text,
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent  # a rename within one file system
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_older_file_stays_as_it_was_on_an_exception(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise error
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_nothing_is_left_where_nothing_was_on_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ValueError), atomic_write(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise ValueError
    assert names_in(tmp_path) == []


def test_older_file_outlives_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from ensemble.base.files import *\n"
        "with atomic_write(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('new')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=root)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "newer")
    assert path.read_text() == "newer"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_an_input_error_and_the_older_file_stays(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(InputError, match=r"no room on the disk for .*a\.txt"), atomic_write(path):
        raise OSError(number, "full")
    assert path.read_text() == "old"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_in_any_way_is_an_input_error_that_says_how(
    tmp_path: Path, number: int
) -> None:
    reason = os.strerror(number)
    with (
        pytest.raises(CannotWriteError, match=rf"a\.txt cannot be written \({reason}\)"),
        atomic_write(tmp_path / "a.txt"),
    ):
        raise OSError(number, reason)
    assert names_in(tmp_path) == []


def test_a_folder_that_takes_no_change_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (
        lambda: write_text(tmp_path / "gone" / "a.txt", "text"),
        lambda: make_folder(tmp_path / "file" / "folder"),
        lambda: remove_file(tmp_path / "file" / "a.txt"),
    ):
        with pytest.raises(CannotWriteError, match=r"cannot be written \((No such file|Not a dir)"):
            write()


@settings(max_examples=12, deadline=None)
@given(value=JSON_VALUES)
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_number_json_has_not_is_refused_and_the_older_file_stays(
    tmp_path: Path, number: float
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"loss": 1})
    with pytest.raises(ValueError):
        write_json(path, {"loss": number})
    assert json.loads(path.read_text()) == {"loss": 1}
    assert names_in(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe{", b"[" * 200_000, b"9" * 10_000],
    ids=["empty", "half", "no UTF-8", "too deep", "too long a number"],
)
def test_file_that_is_no_json_is_an_input_error_that_names_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json cannot be read as JSON"):
        read_json(path)


def test_missing_json_is_an_input_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json is missing"):
        read_json(tmp_path / "a.json")


def test_folder_in_the_place_of_json_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_json(tmp_path)


def test_input_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise InputError("no\nsuch   folder")

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "error: no such folder\n")


def test_error_of_our_own_is_not_hidden() -> None:
    def command() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        run_command(command)


# What was found by tests/test_fuzz.py


def test_message_moves_no_cursor_and_keeps_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise InputError("a\x1b[2J\u202eb\x9bc\n" + "x" * 5000 + "; name it")

    with pytest.raises(SystemExit):
        run_command(refuse)
    line = capsys.readouterr().err
    assert line.startswith(r"error: a\x1b[2J\u202eb\x9bc xxx")
    assert line.endswith("; name it\n")
    assert len(line) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 cells under 2 columns"),
        (b"," * 100_000, "100,001 columns"),
        (b"a\n\xff\n", "cannot be read as CSV"),
        (b'a\n"' + b"x" * 200_000, "cannot be read as CSV"),
        (b"a\n1\n", "has no column 'b'"),
        (b"", "has no column 'b'"),
    ],
    ids=["ragged", "wide", "not UTF-8", "open quote", "another column", "empty"],
)
def test_table_that_is_none_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(path, columns=("b",))


def test_text_columns_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("photograph,label\n007,1\n,0\n")
    table = read_table(path, text=("photograph", "tile"))
    assert table["photograph"].tolist() == ["007", ""]
    assert table["label"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--storage s3://key:se/cret@bucket/a is bad", "--storage s3://***@bucket/a is bad"),
        ("--storage 's3:/key:secret@bucket'", "--storage 's3:/***@bucket'"),
        ("abfs://a/b?sas_token=x%3D&region=eu", "abfs://a/b?sas_token=***&region=eu"),
        (
            "http://me:pw@host:5000 and http://h?X-Amz-Signature=1f",
            "http://***@host:5000 and http://h?X-Amz-Signature=***",
        ),
        ("/data/me@home/tiles.zip", "/data/me@home/tiles.zip"),
    ],
)
def test_a_line_for_the_person_holds_no_password_of_a_url(text, shown):
    assert one_line(text) == shown


def append_often(path: Path, number: int) -> None:
    for i in range(40):
        append_line(path, f"{number},{i}", header="process,line")


def test_no_line_is_lost_where_several_processes_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_often, args=(path, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    first, *lines = path.read_text().splitlines()
    assert first == "process,line"
    assert sorted(lines) == sorted(f"{n},{i}" for n in range(4) for i in range(40))


def test_a_line_that_a_power_cut_tore_stays_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    path.write_text("a,b\n1,2\n3,")
    append_line(path, "5,6", header="a,b")
    assert path.read_text() == "a,b\n1,2\n3,\n5,6\n"


def test_what_cannot_be_appended_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError, match="cannot be written"):
        append_line(tmp_path / "missing" / "ledger.csv", "1", header="a")
