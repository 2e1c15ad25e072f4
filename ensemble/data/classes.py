"""The class, surface and split folder of each tile, from the folders in its name.

The class folder is the one that a tile lies in, or the first level of folders from the top that
has a folder of cracks and one other: class folders may have folders inside.
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
SDNET_SURFACES = {"D": "D, bridge deck", "P": "P, pavement", "W": "W, wall"}  # for people
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class TileFolders(NamedTuple):
    """The folders in the name of a tile: those above its class folder, it, and those in it."""

    above: tuple[str, ...]
    class_folder: str
    below: tuple[str, ...]

    def others(self) -> list[str]:
        """The folders that are neither a class nor a split."""
        return [name for name in self.above + self.below if name.casefold() not in SPLIT_FOLDERS]


class Classes(NamedTuple):
    """Classes of tiles.

    Attributes:
        cracked: Folders of the crack class.
        uncracked: Folders of the other class.
        folders: Folders of each tile.
    """

    cracked: tuple[str, ...]
    uncracked: tuple[str, ...]
    folders: list[TileFolders]


class _NoClassesError(InputError):
    """The folders of a level are not two classes."""


def find_classes(names: Sequence[str], positive: str | None, *, where: str) -> Classes:
    """Find the class folders: by the name given, SDNET2018's, or a known name; never by order.

    Args:
        names: Paths of the tiles inside the data, each in some folder.
        positive: Name of the folder of cracked tiles, where it is not a known one.
        where: Name of the data, for messages.

    Raises:
        InputError: The classes cannot be told apart.
    """
    paths = [PurePosixPath(name).parts[:-1] for name in names]
    shallowest = min(map(len, paths))
    problems: list[tuple[bool, _NoClassesError]] = []
    for level in (-1, *range(shallowest), *range(-2, -shallowest - 1, -1)):
        candidates = sorted({parts[level] for parts in paths})
        cracked = _cracked_among(candidates, positive)
        try:
            uncracked = _uncracked_among(candidates, cracked, positive, where)
        except _NoClassesError as error:
            problems.append((not cracked, error))
            continue
        folders = []
        for parts in paths:
            place = level % len(parts)
            folders.append(TileFolders(parts[:place], parts[place], parts[place + 1 :]))
        return Classes(tuple(cracked), tuple(uncracked), folders)
    raise min(problems, key=lambda problem: problem[0])[1]


def _cracked_among(candidates: list[str], positive: str | None) -> list[str]:
    if positive is not None:
        return [folder for folder in candidates if is_called(folder, positive)]
    if _is_sdnet(candidates):
        return [folder for folder in candidates if folder[0] in "Cc"]
    return [folder for folder in candidates if folder.casefold() in CRACKED_FOLDERS]


def _uncracked_among(
    candidates: list[str], cracked: list[str], positive: str | None, where: str
) -> list[str]:
    shown = ", ".join(candidates[:10])
    if len(candidates) > 10 or len(shown) > 200:
        shown = f"{shown[:200]}, …"
    uncracked = [folder for folder in candidates if folder not in cracked]
    if positive is not None and not cracked:
        raise _NoClassesError(f"--positive {positive}: no such folder of tiles; found {shown}")
    if len(candidates) == 1 or not uncracked:
        raise _NoClassesError(f"{where}: one class only (folders: {shown}); two are needed")
    if not cracked:
        raise _NoClassesError(
            f"{where}: cannot tell which folder holds the cracks (folders: {shown}); "
            "name it with --positive FOLDER"
        )
    if len({folder.casefold() for folder in uncracked}) > 1 and (
        positive is not None or not _is_sdnet(candidates)
    ):
        raise _NoClassesError(
            f"{where}: expected one folder beside {'/'.join(cracked)[:100]}, but found {shown}; "
            "--exclude FOLDER leaves one out"
        )
    return uncracked


def _is_sdnet(folders: Sequence[str]) -> bool:
    return all(SDNET_CLASS.fullmatch(folder) for folder in folders)


def find_surfaces(classes: Classes, *, photographs_are_folders: bool) -> list[str]:
    """SDNET2018's letter, or the folder above the class folder where there are several of them.

    Folders of a split are no surfaces, nor are folders that stand for photographs.
    """
    if _is_sdnet([*classes.cracked, *classes.uncracked]):
        return [folders.class_folder[1].upper() for folders in classes.folders]
    surfaces = []
    for above, _, below in classes.folders:
        names = [name for name in above if name.casefold() not in SPLIT_FOLDERS]
        if photographs_are_folders and not below:
            names = names[:-1]
        surfaces.append(names[-1] if names else "")
    if len({surface.casefold() for surface in surfaces}) < 2:
        return [""] * len(surfaces)
    return [SURFACES.get(surface.casefold(), surface) for surface in surfaces]


def find_split_folders(classes: Classes) -> list[str]:
    """`train`, `val` or `test` where a folder other than the class folder is called so, or ""."""
    kinds = (
        [SPLIT_FOLDERS.get(name.casefold(), "") for name in above + below]
        for above, _, below in classes.folders
    )
    return [next(filter(None, kind), "") for kind in kinds]
