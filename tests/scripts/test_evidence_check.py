"""Which committed tables are older than their code, told from a repository made by hand."""

import importlib
import json
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "evidence")
    return importlib.import_module("check")


def test_each_committed_table_names_a_command_and_code_that_are_there():
    results = ROOT / "results"
    tables = tomllib.loads((results / "tables.toml").read_text(encoding="utf-8"))
    committed = [*results.glob("*.csv"), *results.glob("evidence/*.csv")]
    committed += [*results.glob("benchmarks/*.csv"), *results.glob("sdnet2018/*.csv")]
    named = {str(path.relative_to(results).with_suffix("")) for path in committed}
    assert set(tables) == named
    for about in tables.values():
        words = about["command"].split()
        assert words[0] in ("python", "make")
        assert words[0] == "make" or (ROOT / words[1]).is_file()
        for path in about["code"]:
            assert (ROOT / path).exists(), path


def test_a_table_is_older_than_its_code_where_a_later_commit_changed_that(
    script, tmp_path, monkeypatch, capsys
):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        git("add", name)
        git("commit", "-qm", name)
        return git("rev-parse", "HEAD")

    def table(name: str, columns: str, about: object = None) -> None:
        (results / f"{name}.csv").write_text(columns)
        if about is not None:
            (results / f"{name}.json").write_text(json.dumps(about))

    git("init", "-q")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (results := tmp_path / "results").mkdir()
    first = commit("code.py", "1")
    second = commit("code.py", "2")
    commit("other.py", "1")
    table("new", "f1\n1\n", {"parts": [{"commit": second}]})
    table("old", "f1\n1\n", {"trained_at_commit": [f"{first}+", second], "commit": second})
    table("rows", f"f1,commit\n1,{first}\n1,{second}\n", {"commit": second})
    table("foreign", "f1\n1\n", {"commit": "0" * 40})
    table("silent", "f1\n1\n")
    names = ["new", "old", "rows", "foreign", "silent"]
    text = "".join(f'[{name}]\ncommand = "make {name}"\ncode = ["code.py"]\n' for name in names)
    (results / "tables.toml").write_text(text)
    script.main()
    said = capsys.readouterr().out
    assert said.splitlines() == [
        f"new: made at {second[:7]}, and its code has not changed since",
        "    make new",
        f"old: made at {first[:7]}; 1 later commit changed its code",
        "    make old",
        f"rows: made at {first[:7]}; 1 later commit changed its code",
        "    make rows",
        "foreign: made at 0000000, which this clone does not have",
        "    make foreign",
        "silent: no commit is recorded",
        "    make silent",
    ]
    (results / "new.csv").unlink()
    with pytest.raises(script.InputError, match=r"new\.csv: missing"):
        script.main()
