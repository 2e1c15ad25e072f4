"""The soak's tables: what is measured again, and what each row says of the code it came from."""

import importlib
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from person import ROOT

from ensemble.base.errors import InputError

TESTS = """
import os
from pathlib import Path

import pytest


def test_good():
    with Path("runs").open("a") as file:
        file.write("good ")


@pytest.mark.parametrize("what", ["", "a b", "x[1]", "[fd00::2]:1-\\\\r/ü"])
def test_of(what):
    with Path("runs").open("a") as file:
        file.write("of ")
    assert what == "a b" or Path("mended").exists()


@pytest.fixture
def lasting():
    yield
    assert Path("mended").exists()


def test_of_a_fixture(lasting):
    assert os.environ["TINY"] == "3"
    assert Path("mended").exists()
"""


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "evidence")
    return importlib.import_module("soak")


@pytest.fixture
def tiny(soak, tmp_path, monkeypatch):
    """Measures test files of its own, whose table comes back."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_tiny.py").write_text(TESTS)
    path = tmp_path / "soak_tiny.csv"

    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # half of pytest's seconds

    def measure(*, again=False):
        earlier = soak.read_earlier(path, {"TINY": 3}) if again else None
        passed = soak.soak(["test_tiny.py"], {"TINY": 3}, path, earlier=earlier, root=tmp_path)
        return passed, pd.read_csv(path, keep_default_na=False)

    return measure


def read_about(folder: Path) -> dict:
    return json.loads((folder / "soak_tiny.json").read_text())


def write_earlier(folder: Path, part: str, counts: dict[str, int], *outcomes: str) -> Path:
    """A table as it was before rows named their commit."""
    path = folder / f"soak_{part}.csv"
    rows = [
        {"file": "test_fuzz", "test": f"test_{n}", "outcome": outcome, "seconds": 0.1}
        for n, outcome in enumerate(outcomes)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    about = {"counts": counts, "wall_seconds": 70, "commit": "abc"}
    path.with_suffix(".json").write_text(json.dumps(about))
    return path


def test_only_what_did_not_pass_is_run_again_and_replaces_its_rows(tiny, tmp_path, capfd):
    passed, first = tiny()
    assert not passed
    assert first["outcome"].value_counts().to_dict() == {"passed": 2, "failure": 4, "error": 1}
    about = read_about(tmp_path)
    (tmp_path / "soak_tiny.json").write_text(json.dumps({**about, "wall_seconds": 1000}))
    (tmp_path / "mended").touch()
    (tmp_path / "runs").unlink()
    passed, second = tiny(again=True)
    assert passed
    assert (tmp_path / "runs").read_text() == "of of of "
    assert second["test"].tolist() == first["test"].unique().tolist()
    assert set(second["outcome"]) == {"passed"}
    assert set(second["commit"]) == {about["commit"] or ""}
    after = read_about(tmp_path)
    assert after["counts"] == {"TINY": 3}
    assert 1000 < after["wall_seconds"] < 1100
    assert after.keys() == about.keys()


def test_where_all_passed_nothing_is_run_again(tiny, tmp_path, capsys):
    (tmp_path / "mended").touch()
    assert tiny()[0]
    before = {path: path.read_bytes() for path in tmp_path.glob("soak_tiny.*")}
    (tmp_path / "runs").unlink()
    assert tiny(again=True)[0]
    assert "all passed, nothing to run again" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert {path: path.read_bytes() for path in before} == before


def test_tests_that_are_new_are_run_and_rows_of_those_that_are_gone_go(tiny, tmp_path):
    (tmp_path / "mended").touch()
    tiny()
    (tmp_path / "runs").unlink()
    renamed = TESTS.replace("test_of(", "test_of_other(")
    (tmp_path / "tests" / "test_tiny.py").write_text(renamed)
    passed, table = tiny(again=True)
    assert passed
    assert (tmp_path / "runs").read_text() == "of of of of "
    names = [name.partition("[")[0] for name in table["test"]]
    assert names == ["test_good", "test_of_a_fixture", *["test_of_other"] * 4]


def test_tests_that_cannot_be_read_leave_the_table_as_it_was(tiny, tmp_path):
    tiny()
    before = (tmp_path / "soak_tiny.csv").read_bytes()
    (tmp_path / "tests" / "test_tiny.py").write_text("1 / 0")
    with pytest.raises(InputError, match=r"pytest cannot read the tests: .*ZeroDivisionError"):
        tiny(again=True)
    assert (tmp_path / "soak_tiny.csv").read_bytes() == before


def test_rows_without_a_commit_have_that_of_the_file_beside_them(soak, tmp_path):
    path = write_earlier(tmp_path, "inputs", {"FUZZ_EXAMPLES": 5}, "passed", "failure")
    earlier = soak.read_earlier(path, {"FUZZ_EXAMPLES": 5})
    assert [row["commit"] for row in earlier.rows] == ["abc", "abc"]
    new = [{**earlier.rows[1], "outcome": "passed", "commit": "def"}]
    merged = soak.merge_rows(earlier.rows, new)
    assert [(row["test"], row["outcome"], row["commit"]) for row in merged] == [
        ("test_0", "passed", "abc"),
        ("test_1", "passed", "def"),
    ]


def test_other_counts_are_refused_by_the_options_that_were_meant(soak, tmp_path, monkeypatch):
    path = write_earlier(tmp_path, "inputs", {"FUZZ_EXAMPLES": 5}, "failure")
    words = ["--again", "--part", "inputs", "--inputs", "6", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["soak.py", *words])
    with pytest.raises(InputError, match=f"{path} was measured with --inputs 5; "):
        soak.main()


def test_what_was_never_measured_cannot_be_measured_again(soak, tmp_path, monkeypatch):
    write_earlier(tmp_path, "faults", {"DRIVER_KILLS": 10, "WORKER_TRIALS": 20}, "passed")
    monkeypatch.setattr(sys, "argv", ["soak.py", "--again", "--out", str(tmp_path)])
    with pytest.raises(InputError, match=r"soak_inputs\.csv is missing"):
        soak.main()
