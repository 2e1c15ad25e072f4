"""The commit beside a figure is this project's own, or there is none."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from person import ROOT

from ensemble.base.provenance import describe_code_and_machine

GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a commit, and a copy of the module in a folder that it does not track."""
    (tmp_path / "notes.txt").write_text("somebody's own")
    (tmp_path / "venv" / "ensemble" / "base").mkdir(parents=True)
    for name in (
        "__init__.py",
        *(f"base/{part}.py" for part in ("__init__", "provenance", "version")),
    ):
        shutil.copy(ROOT / "ensemble" / name, tmp_path / "venv" / "ensemble" / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    commit(tmp_path, "notes.txt")
    return tmp_path


def commit(folder: Path, *paths: str) -> str:
    subprocess.run(["git", "add", *paths], cwd=folder, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "…"], cwd=folder, check=True)
    words = ["git", "rev-parse", "HEAD"]
    return subprocess.run(
        words, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def told(folder: Path) -> str:
    code = "from ensemble.base import provenance; print(provenance._commit())"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=folder / "venv", check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_is_none_where_the_package_only_lies_in_a_repository(repository: Path) -> None:
    assert told(repository) == "None"


def test_commit_is_told_where_it_holds_the_package_and_marked_where_files_differ(
    repository: Path,
) -> None:
    number = commit(repository, "venv")
    assert told(repository) == number
    (repository / "notes.txt").write_text("changed")
    assert told(repository) == f"{number}+"


def test_version_of_this_package_stands_among_the_versions() -> None:
    assert describe_code_and_machine()["versions"]["crack-ensemble"]
