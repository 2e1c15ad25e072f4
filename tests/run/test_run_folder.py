"""A run's folder: what it may be called, who may work in it, and what it notes when it goes on."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from ensemble.base.errors import CannotWriteError, InputError
from ensemble.data.prepare import open_data, prepare_data
from ensemble.data.synthetic import draw_dataset
from ensemble.run import folder as module
from ensemble.run.folder import begin_run, identify_data, run_folder, run_lock
from ensemble.run.members import name_run


@pytest.mark.parametrize("name", ["what?b", "a#b", "a b", "ein Lauf ü", "n" * 200])
def test_a_run_may_be_called_like_any_folder(tmp_path, name):
    folder = run_folder(name, under=tmp_path)
    with run_lock(folder, what="search"):
        folder.mkdir()
    assert folder == tmp_path.resolve() / name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("n" * 201, "at most 200 bytes, but has 201"),
        ("ü" * 101, "at most 200 bytes, but has 202"),
        (os.fsdecode(b"caf\xe9"), "must be text in UTF-8"),
        ("two\nlines", "must be text in UTF-8 that can be printed"),
        ("a/b", "must be a plain name"),
    ],
)
def test_a_name_that_no_run_can_have_is_refused_in_one_printable_line(tmp_path, name, why):
    with pytest.raises(InputError, match=why) as refused:
        run_folder(name, under=tmp_path)
    assert str(refused.value).isprintable()


def test_a_folder_below_one_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="choose another --name or --out"):
        run_folder("decks", under=tmp_path / os.fsdecode(b"r\xe9sultats"))


@pytest.mark.parametrize(
    "where", ["members", "members/0003", "members/0003/epoch-1.npy", "study.db"]
)
def test_a_link_in_a_run_is_refused_and_what_it_points_to_stays(tmp_path, where):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "epoch-notes.txt").write_text("mine")
    run = tmp_path / "run"
    link = run / where
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(InputError, match=rf"{where} is a link"), run_lock(run, what="search"):
        raise AssertionError("nobody works there")
    assert (elsewhere / "epoch-notes.txt").read_text() == "mine"


def test_a_run_that_nobody_may_write_is_refused_before_anything_is_done(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    if subprocess.run(["chattr", "+i", str(run)], capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here")
    try:
        with (
            pytest.raises(CannotWriteError, match=r"run cannot be written \(Operation not perm"),
            run_lock(run, what="search"),
        ):
            raise AssertionError("nobody works there")
    finally:
        subprocess.run(["chattr", "-i", str(run)], check=True)


def test_what_changed_since_a_run_was_last_at_work_is_said_once_and_noted(tmp_path, monkeypatch):
    draw_dataset(tmp_path / "tiles", photographs_per_surface=4, rows=2, columns=2, tile_size_px=32)
    where = {"packs": tmp_path / "packs", "log": lambda line: None}
    source = open_data(str(tmp_path / "tiles"), **where)
    packed = prepare_data(source, split_seed=0, max_bad_tiles=0, **where)
    run, said = tmp_path / "run", []
    identity = {**identify_data(packed), "weights": {}}

    def begin(*, torch: str, keep: int) -> list[str]:
        about = {"commit": "0123456789abcdef", "versions": {"torch": torch}, "hardware": {}}
        monkeypatch.setattr(module, "describe_code_and_machine", lambda: about)
        said.clear()
        begin_run(run, identity, packed, {}, asked={}, settings={"keep": keep}, log=said.append)
        return said

    assert begin(torch="2.11.0", keep=20) == []
    assert begin(torch="2.11.0", keep=20) == []
    changed = "changed since this run was last at work: keep 20, now 5; torch 2.11.0, now 2.15.0"
    assert begin(torch="2.15.0", keep=5) == [changed]
    assert begin(torch="2.15.0", keep=5) == []
    record = json.loads(Path(run / "run.json").read_text())
    assert (record["keep"], record["versions"]) == (20, {"torch": "2.11.0"})
    assert [each["keep"] for each in record["continued"]] == [5]


@pytest.mark.parametrize(
    ("data", "is_told"),
    [
        ("/home/lee/results/packs/synthetic-0", True),
        ("synthetic-12", True),
        ("synthetic", True),
        ("/home/lee/SDNET2018.zip", False),
        ("/home/lee/synthetic-bridges", False),
    ],
)
def test_a_run_that_saw_drawings_alone_is_named_so(tmp_path: Path, data: str, is_told: bool):
    (tmp_path / "run.json").write_text(json.dumps({"data": data}))
    drawn = " (trained on drawn concrete: for trying out only)"
    assert name_run(tmp_path) == tmp_path.name + drawn * is_told
