"""A TOML file that a person names, by its path or as one of ours."""

from pathlib import Path

import pytest

from ensemble.base.errors import InputError
from ensemble.base.files import find_toml


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our folder, with two files, beside the working directory."""
    folder, here = tmp_path / "ours", tmp_path / "here"
    for path in (folder / "walls.toml", folder / "decks.toml", here / "mine.toml"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(here)
    return folder


def test_a_file_is_found_by_its_path_and_one_of_ours_by_its_name(ours: Path) -> None:
    assert find_toml("mine.toml", ours, what="--space") == Path("mine.toml")
    assert find_toml(str(ours / "walls.toml"), ours, what="--space") == ours / "walls.toml"
    assert find_toml("walls", ours, what="--space") == ours / "walls.toml"


def test_a_file_comes_before_a_name_and_a_folder_does_not(ours: Path) -> None:
    Path("walls").mkdir()
    assert find_toml("walls", ours, what="--space") == ours / "walls.toml"
    Path("decks").touch()
    assert find_toml("decks", ours, what="--space") == Path("decks")


@pytest.mark.parametrize("given", ["roads", "roads.toml", "", ".", "../ours", "walls.toml", "a\0b"])
def test_what_is_not_there_is_refused_with_what_is(given: str, ours: Path) -> None:
    with pytest.raises(InputError) as refused:
        find_toml(given, ours, what="--space")
    assert str(refused.value) == f"--space {given}: no such file, nor one of decks, walls"


def test_a_name_that_no_file_can_have_is_refused(ours: Path) -> None:
    with pytest.raises(InputError, match=r"recipe x+: cannot be read"):
        find_toml("x" * 5000, ours, what="recipe")
