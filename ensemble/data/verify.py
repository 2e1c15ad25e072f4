"""Whether the files of a pack are still what was packed: their sizes and digests.

`pack.json` records both. Tables and other small files are read whenever a pack is opened. Pixels
are read only where size or time of change differ from what `.verified.json` says of the last look,
as in a copy. Their digest is made of a CRC-32 of each tile, worked out while the tile is in the
cache: SHA-256 over all pixels takes a fifth of the time of decoding them.
"""

import hashlib
import zlib
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.base.errors import InputError
from ensemble.base.files import read_json, write_json

VERIFIED = ".verified.json"  # size and time of change of each array whose digest was right


class PackError(InputError):
    """A pack cannot be used: a file is missing, damaged, or of another version."""


def record_files(folder: Path, arrays: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Size and digest of each file of a pack, for its `pack.json`.

    Args:
        folder: Folder of the pack, complete but for `pack.json`.
        arrays: Digest of each array by file name, as `digest_rows` makes it.
    """
    write_json(folder / VERIFIED, {name: _stamp(folder / name) for name in arrays})
    return {
        path.name: {
            "bytes": path.stat().st_size,
            "digest": arrays.get(path.name) or _digest(path),
        }
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    }


def digest_rows(shape: tuple[int, ...], sums: Iterable[int]) -> str:
    """SHA-256 over the shape of a uint8 array and the CRC-32 of each of its rows in order."""
    digest = hashlib.sha256(repr(shape).encode())
    for row_sum in sums:
        digest.update(row_sum.to_bytes(4, "little"))
    return digest.hexdigest()


def check_files(folder: Path, records: dict[str, Any], *, splits: Collection[str]) -> None:
    """Make sure that the files of a pack are those that `pack.json` records.

    Args:
        folder: Folder of the pack.
        records: What `record_files` returned.
        splits: Splits whose files are needed; those of others need not be there.

    Raises:
        PackError: A file is missing or differs.
    """
    seen: dict[str, Any] = {}
    with suppress(InputError):
        found = read_json(folder / VERIFIED)
        seen = found if isinstance(found, dict) else {}
    stamps: dict[str, Any] = dict(seen)
    for name, record in records.items():
        path = folder / name
        if path.suffix in (".npy", ".csv") and path.stem not in splits:
            continue
        try:
            _check_file(path, record, stamps)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(path, str(error)) from None
    if stamps != seen:
        with suppress(OSError, InputError):  # where nothing can be written it is read each time
            write_json(folder / VERIFIED, stamps)


def damaged(path: Path, why: str) -> PackError:
    """The error that names a file of a pack and says what to do."""
    is_there = False
    with suppress(OSError, ValueError):  # a name that no disk can hold
        is_there = path.is_file()
    what = f"is damaged ({why})" if is_there else "is missing"
    return PackError(
        f"{path} {what}; delete the folder {path.parent}, then the command that made it packs the "
        "tiles again"
    )


def _check_file(path: Path, record: dict[str, Any], stamps: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != record["bytes"]:
        raise ValueError(f"{size:,} bytes, not {record['bytes']:,}")
    is_array = path.suffix == ".npy"
    if is_array and stamps.get(path.name) == _stamp(path):
        return
    if (_digest_array(path) if is_array else _digest(path)) != record["digest"]:
        raise ValueError("its content is not what was packed")
    if is_array:
        stamps[path.name] = _stamp(path)


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_array(path: Path) -> str:
    """The digest of an array, read row by row: a damaged disk is an error here, not a signal."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    assert isinstance(array, np.memmap)
    row_bytes = int(np.prod(array.shape[1:], dtype=np.int64))
    if array.dtype != np.uint8 or not array.flags.c_contiguous:
        raise ValueError("not an array of tiles")
    with path.open("rb") as file:
        file.seek(array.offset)
        return digest_rows(array.shape, (zlib.crc32(file.read(row_bytes)) for _ in array))
