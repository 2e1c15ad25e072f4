"""Names of tiles → which folder is each one's class, which classes hold cracks, and the surface.

The class folder is the one that a tile lies in, or the first level of folders from the top on which
there are a folder of cracks and one other: class folders may have folders inside.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from ensemble.base.errors import InputError
from ensemble.data.reading.listing import is_called

CRACKED_FOLDERS = {"cracked", "crack", "cracks", "positive"}
SDNET_CLASS = re.compile(r"[CU][DPW]", re.IGNORECASE)
SURFACES = {
    **dict.fromkeys(("d", "deck", "decks"), "D"),
    **dict.fromkeys(("w", "wall", "walls"), "W"),
    **dict.fromkeys(("p", "pavement", "pavements"), "P"),
}
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Classes(NamedTuple):
    """Classes of tiles.

    Attributes:
        cracked: Folders of the crack class.
        uncracked: Folders of the other class.
        levels: For each tile, the place of its class folder among the folders of its name.
    """

    cracked: tuple[str, ...]
    uncracked: tuple[str, ...]
    levels: list[int]


class _NoClassesError(InputError):
    """The folders of a level are not two classes."""


def folders_of(name: str) -> tuple[str, ...]:
    """The folders in the name of a tile, the outermost first."""
    return PurePosixPath(name).parts[:-1]


def tell_classes(names: Sequence[str], positive: str | None, *, where: str) -> Classes:
    """Find the class folders: by the name given, SDNET2018's, or a known name; never by order.

    Args:
        names: Paths of the tiles inside the data, each in some folder.
        positive: Name of the folder of cracked tiles, where it cannot be told.
        where: The data, for messages.

    Raises:
        InputError: The classes cannot be told apart.
    """
    folders = [folders_of(name) for name in names]
    shallowest = min(map(len, folders))
    problems: list[tuple[bool, _NoClassesError]] = []
    for level in (-1, *range(shallowest), *range(-2, -shallowest - 1, -1)):
        found = sorted({parts[level] for parts in folders})
        cracked = _cracked_among(found, positive)
        try:
            uncracked = _check_level(found, cracked, positive, where)
        except _NoClassesError as error:
            problems.append((not cracked, error))
            continue
        levels = [level if level >= 0 else len(parts) + level for parts in folders]
        return Classes(tuple(cracked), tuple(uncracked), levels)
    raise min(problems, key=lambda problem: problem[0])[1]


def _cracked_among(found: list[str], positive: str | None) -> list[str]:
    if positive is not None:
        return [folder for folder in found if is_called(folder, positive)]
    if _is_sdnet(found):
        return [folder for folder in found if folder[0] in "Cc"]
    return [folder for folder in found if folder.casefold() in CRACKED_FOLDERS]


def _check_level(
    found: list[str], cracked: list[str], positive: str | None, where: str
) -> list[str]:
    """The uncracked folders among those that were found on a level."""
    shown = ", ".join(found[:10])
    if len(found) > 10 or len(shown) > 200:
        shown = f"{shown[:200]}, …"
    uncracked = [folder for folder in found if folder not in cracked]
    if positive is not None and not cracked:
        raise _NoClassesError(f"--positive {positive}: no such folder of tiles; found {shown}")
    if len(found) == 1 or not uncracked:
        raise _NoClassesError(f"{where}: one class only (folders: {shown}); two are needed")
    if not cracked:
        raise _NoClassesError(
            f"{where}: cannot tell which folder holds the cracks (folders: {shown}); "
            "name it with --positive FOLDER"
        )
    if len({folder.casefold() for folder in uncracked}) > 1 and (
        positive is not None or not _is_sdnet(found)
    ):
        raise _NoClassesError(
            f"{where}: expected one folder beside {'/'.join(cracked)[:100]}, but found {shown}; "
            "--exclude FOLDER leaves one out"
        )
    return uncracked


def _is_sdnet(folders: list[str]) -> bool:
    return all(SDNET_CLASS.fullmatch(folder) for folder in folders)


def surfaces_of(
    names: Sequence[str], classes: Classes, *, photographs_are_folders: bool
) -> list[str]:
    """SDNET2018's letter, or the folder above the class folders where there are several.

    Folders of a split are no surfaces, nor are those that stand for photographs.
    """
    if _is_sdnet([*classes.cracked, *classes.uncracked]):
        letters = [folders_of(n)[i][1] for n, i in zip(names, classes.levels, strict=True)]
        return [letter.upper() for letter in letters]
    above = []
    for name, level in zip(names, classes.levels, strict=True):
        parts = folders_of(name)
        outer = [part for part in parts[:level] if part.casefold() not in SPLIT_FOLDERS]
        if photographs_are_folders and level == len(parts) - 1:
            outer = outer[:-1]
        above.append(outer[-1] if outer else "")
    if len({folder.casefold() for folder in above}) < 2:
        return [""] * len(names)
    return [SURFACES.get(folder.casefold(), folder) for folder in above]


def split_folders_of(names: Sequence[str], classes: Classes) -> list[str]:
    """`train`, `val` or `test` where a folder other than the class folder is called so, or ""."""
    found = []
    for name, level in zip(names, classes.levels, strict=True):
        parts = folders_of(name)
        kinds = [
            SPLIT_FOLDERS.get(part.casefold(), "") for part in parts[:level] + parts[level + 1 :]
        ]
        found.append(next(filter(None, kinds), ""))
    return found
