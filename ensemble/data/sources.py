"""A folder or a .zip of tiles → one table of tiles, and a way to read their bytes.

Three layouts are known: SDNET2018 as published (`D/CD/7001-12.jpg`) or as its mirrors name it
(`Decks/Cracked/7001-12.jpg`), METU (`Positive/00001.jpg`), and any two class folders.

SDNET2018: Maguire, Dorafshan, Thomas (2018), doi 10.15142/T3TD19.
METU: Özgenel (2018), doi 10.17632/5y9wdsg2zt.2.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from ensemble.data.archive import CONTROL
from ensemble.data.listing import Listing, explain_nothing, is_called, list_files
from ensemble.errors import InputError, quote

NO_CLASS = "pictures outside the class folders"
CRACKED_FOLDERS = {"cracked", "crack", "cracks", "positive"}
SDNET_CLASS = re.compile(r"[CU][DPW]")
SDNET_TILE = re.compile(r"(\d+)-\d+(_\d+)?")
SURFACES = {
    **dict.fromkeys(("d", "deck", "decks"), "D"),
    **dict.fromkeys(("w", "wall", "walls"), "W"),
    **dict.fromkeys(("p", "pavement", "pavements"), "P"),
}
SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class Source:
    """A listed data set.

    Attributes:
        path: The folder or .zip.
        tiles: One row a tile, sorted by name: `tile` (path inside the source), `photograph`
            (empty where names carry none), `surface` (empty where there is one), `label`
            (1 = cracked), `copy_key` (equal for tiles whose bytes may be equal).
        cracked_folders: The folders that were taken for the crack class.
        uncracked_folders: The folders that were taken for the other class.
        has_photographs: Whether tiles can be grouped by the photograph they were cut from.
        fingerprint: Digest of the listing; changes when a file is added, removed or rewritten.
        passed_over: Names of files and folders that are not read, by the reason.
    """

    path: Path
    tiles: pd.DataFrame
    cracked_folders: tuple[str, ...]
    uncracked_folders: tuple[str, ...]
    has_photographs: bool
    fingerprint: str
    passed_over: dict[str, list[str]]


def open_source(path: Path, *, positive: str | None = None) -> Source:
    """List the tiles under `path` and say what each one is.

    Args:
        path: A folder or a .zip.
        positive: Name of the folder of cracked tiles, where it cannot be told by its name.

    Raises:
        InputError: There are no tiles, the classes cannot be told apart, or the .zip is unsafe.
    """
    try:
        path = path.expanduser().resolve()
        path.exists()
    except (OSError, RuntimeError) as error:  # no such home, a link to itself, too long a name
        raise InputError(f"--data {path}: cannot be opened ({error})") from None
    if not path.is_dir() and not path.is_file():
        raise InputError(f"--data {path}: no such folder or .zip")
    listing = _list_tiles(path)
    if not listing.files:
        raise InputError(
            f"--data {path}: no tiles found; expected pictures in class folders, such as D/CD/"
            f"7001-1.jpg, Cracked/1.jpg or Positive/1.jpg{explain_nothing(listing.passed_over)}"
        )
    names = list(listing.files)
    for name in names:
        if CONTROL.search(name):
            raise InputError(
                f"--data {path}: the name {quote(name)} is not UTF-8 or has control characters; "
                "rename the file"
            )
    folders = [PurePosixPath(name).parent.name for name in names]
    cracked, uncracked = _tell_classes(sorted(set(folders)), positive, path)
    stems = [SDNET_TILE.fullmatch(PurePosixPath(name).stem) for name in names]
    has_photographs = all(stems)
    tiles = pd.DataFrame(
        {
            "tile": names,
            "photograph": [s[1] if s and has_photographs else "" for s in stems],
            "surface": _surfaces(names, folders),
            "label": [int(folder in cracked) for folder in folders],
            "copy_key": [listing.files[name].copy_key for name in names],
        }
    )
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{listing.files[name].stamp}\n".encode())
    return Source(
        path,
        tiles,
        cracked,
        uncracked,
        has_photographs,
        digest.hexdigest(),
        listing.passed_over,
    )


def _list_tiles(path: Path) -> Listing:
    """The pictures that lie in a folder; those beside the class folders have no class."""
    files, passed_over = list_files(path)
    loose = [name for name in files if "/" not in name]
    if loose:
        passed_over = {**passed_over, NO_CLASS: loose}
    return Listing({name: files[name] for name in files if "/" in name}, passed_over)


def _tell_classes(
    folders: list[str], positive: str | None, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which class folders hold the cracks: by the name given, SDNET2018's, or a known name."""
    found = ", ".join(folders[:10])
    if len(folders) > 10 or len(found) > 200:
        found = f"{found[:200]}, …"
    sdnet = all(SDNET_CLASS.fullmatch(folder) for folder in folders)
    if positive is not None:
        cracked = [f for f in folders if is_called(f, positive)]
        if not cracked:
            raise InputError(f"--positive {positive}: no such folder of tiles; found {found}")
    elif sdnet:
        cracked = [f for f in folders if f.startswith("C")]
    else:
        cracked = [f for f in folders if f.casefold() in CRACKED_FOLDERS]
    uncracked = [f for f in folders if f not in cracked]
    if len(folders) == 1 or not uncracked:
        raise InputError(f"--data {path}: one class only (folders: {found}); two are needed")
    if not cracked:
        raise InputError(
            f"--data {path}: cannot tell which folder holds the cracks (folders: {found}); "
            "name it with --positive FOLDER"
        )
    if len({f.casefold() for f in uncracked}) > 1 and (positive is not None or not sdnet):
        raise InputError(
            f"--data {path}: expected one folder beside {'/'.join(cracked)[:100]}, "
            f"but found {found}"
        )
    return tuple(cracked), tuple(uncracked)


def _surfaces(names: list[str], folders: list[str]) -> list[str]:
    """SDNET2018's letter, or the folder above the class folders where there are several."""
    if all(SDNET_CLASS.fullmatch(folder) for folder in folders):
        return [folder[1] for folder in folders]
    above = [PurePosixPath(name).parent.parent.name for name in names]
    kinds = {folder.casefold() for folder in above}
    if len(kinds) < 2 or kinds & SPLIT_FOLDERS:
        return [""] * len(names)
    return [SURFACES.get(folder.casefold(), folder) for folder in above]
