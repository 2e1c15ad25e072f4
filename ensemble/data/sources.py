"""A folder or a .zip of tiles → one table of tiles, and a way to read their bytes.

Three layouts are known: SDNET2018 as published (`D/CD/7001-12.jpg`) or as its mirrors name it
(`Decks/Cracked/7001-12.jpg`), METU (`Positive/00001.jpg`), and any two class folders. Nothing is
unpacked to the disk: a .zip is read member by member, with bounds on names and sizes.

SDNET2018: Maguire, Dorafshan, Thomas (2018), doi 10.15142/T3TD19.
METU: Özgenel (2018), doi 10.17632/5y9wdsg2zt.2.
"""

import hashlib
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from ensemble.data.archive import CONTROL, list_members, read_member
from ensemble.errors import InputError, quote

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
CRACKED_FOLDERS = {"cracked", "crack", "cracks", "positive"}
SDNET_CLASS = re.compile(r"[CU][DPW]")
SDNET_TILE = re.compile(r"(\d+)-\d+(_\d+)?")
SURFACES = {
    **dict.fromkeys(("d", "deck", "decks"), "D"),
    **dict.fromkeys(("w", "wall", "walls"), "W"),
    **dict.fromkeys(("p", "pavement", "pavements"), "P"),
}
SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}
MAX_TILE_BYTES = 64 * 2**20


class Reader:
    """Reads the bytes of one tile by its name; safe to use from several threads."""

    def __init__(self, path: Path):
        self.path = path
        self._zip = None if path.is_dir() else zipfile.ZipFile(path)

    def read(self, tile: str) -> bytes:
        """The file's bytes.

        Raises:
            OSError, zipfile.BadZipFile: It cannot be read.
            ValueError: It is larger than a tile can be.
        """
        if self._zip is not None:
            return read_member(self._zip, tile)
        path = self.path / tile
        if path.stat().st_size > MAX_TILE_BYTES:
            raise ValueError(f"larger than {MAX_TILE_BYTES >> 20} MiB")
        return path.read_bytes()

    def close(self) -> None:
        """Close the archive."""
        if self._zip is not None:
            self._zip.close()


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
    """

    path: Path
    tiles: pd.DataFrame
    cracked_folders: tuple[str, ...]
    uncracked_folders: tuple[str, ...]
    has_photographs: bool
    fingerprint: str


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
    if path.is_dir():
        listing = _list_folder(path)
    elif path.is_file():
        listing = _list_zip(path)
    else:
        raise InputError(f"--data {path}: no such folder or .zip")
    listing = {name: entry for name, entry in listing.items() if _is_tile(name)}
    if not listing:
        raise InputError(
            f"--data {path}: no tiles found; expected pictures in class folders, "
            "such as D/CD/7001-1.jpg, Cracked/1.jpg or Positive/1.jpg"
        )
    names = sorted(listing)
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
            "copy_key": [listing[name].copy_key for name in names],
        }
    )
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{listing[name].stamp}\n".encode())
    return Source(path, tiles, cracked, uncracked, has_photographs, digest.hexdigest())


def _is_tile(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return len(parts) >= 2 and not hidden and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


class _Entry(NamedTuple):
    """What a listing says of a file: changes with it, and is equal for files that may be equal."""

    stamp: str
    copy_key: str


def _list_folder(folder: Path) -> dict[str, _Entry]:
    listing = {}
    for parent, _, files in os.walk(folder):
        for file in files:
            path = Path(parent, file)
            if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
                continue
            stat = path.stat()
            name = path.relative_to(folder).as_posix()
            listing[name] = _Entry(f"{stat.st_size} {stat.st_mtime_ns}", f"{stat.st_size}")
    return listing


def _list_zip(path: Path) -> dict[str, _Entry]:
    members = list_members(path, wanted=_is_tile, max_bytes=MAX_TILE_BYTES)
    sums = {member.filename: f"{member.file_size} {member.CRC:08x}" for member in members}
    return {name: _Entry(of_bytes, of_bytes) for name, of_bytes in sums.items()}


def _tell_classes(
    folders: list[str], positive: str | None, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which class folders hold the cracks: by the name given, SDNET2018's, or a known name."""
    found = ", ".join(folders[:10])
    if len(folders) > 10 or len(found) > 200:
        found = f"{found[:200]}, …"
    sdnet = all(SDNET_CLASS.fullmatch(folder) for folder in folders)
    if positive is not None:
        cracked = [f for f in folders if f.casefold() == positive.casefold()]
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
