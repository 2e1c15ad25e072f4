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


@pytest.fixture
def other(tmp_path: Path) -> tuple[Path, str]:
    """Another folder of ours, with one file, and what is said of it."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "bridges.toml").touch()
    return tmp_path / "other", "a recipe, which `train --recipe` takes"


def test_a_file_is_found_by_its_path_and_one_of_ours_by_its_name(
    ours: Path, other: tuple[Path, str]
) -> None:
    assert find_toml("mine.toml", ours, what="--space", other=other) == Path("mine.toml")
    assert (
        find_toml(str(ours / "walls.toml"), ours, what="--space", other=other)
        == ours / "walls.toml"
    )
    assert find_toml("walls", ours, what="--space", other=other) == ours / "walls.toml"


def test_a_file_comes_before_a_name_and_a_folder_does_not(
    ours: Path, other: tuple[Path, str]
) -> None:
    Path("walls").mkdir()
    assert find_toml("walls", ours, what="--space", other=other) == ours / "walls.toml"
    Path("decks").touch()
    assert find_toml("decks", ours, what="--space", other=other) == Path("decks")


@pytest.mark.parametrize("given", ["roads", "roads.toml", "", ".", "../ours", "walls.toml", "a\0b"])
def test_what_is_not_there_is_refused_with_what_is(
    given: str, ours: Path, other: tuple[Path, str]
) -> None:
    with pytest.raises(InputError) as refused:
        find_toml(given, ours, what="--space", other=other)
    assert str(refused.value) == f"--space {given}: no such file, nor one of decks, walls"


def test_a_name_that_no_file_can_have_is_refused(ours: Path, other: tuple[Path, str]) -> None:
    with pytest.raises(InputError, match=r"recipe x+: cannot be read"):
        find_toml("x" * 5000, ours, what="recipe", other=other)


def test_a_name_of_the_other_kind_is_refused_with_where_it_belongs(
    ours: Path, other: tuple[Path, str]
) -> None:
    with pytest.raises(InputError) as refused:
        find_toml("bridges", ours, what="--space", other=other)
    assert str(refused.value) == "--space bridges: is a recipe, which `train --recipe` takes"
