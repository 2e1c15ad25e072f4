"""A pack: the tiles of each split, decoded once, as uint8 arrays and one table a split.

A pack is a folder: `development.npy` (training and validation tiles, so that folds over both read
one array) and `test.npy` of shape (N, H, W, 3), at the largest size that was asked for and no
larger than the tiles came; the tables `train.csv`, `val.csv` and `test.csv`, `samples.png` and
`pack.json` (counts, what was left out, the split's digest, size and digest of each file). Every
process of a node maps the same file, so the pixels are in memory once. The test split is a file of
its own: only `ensemble/evaluation/` opens it.

Tables and other small files are read and compared with their digests whenever a pack is opened.
Pixels are read only where size or time of change differ from what `.verified.json` noted at the
last look, as in a copy. Their digest is made of a CRC-32 of each tile, computed while the tile is
in the cache: SHA-256 over all pixels takes a fifth of the time of decoding them.
"""

import hashlib
import zlib
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_json, read_object, write_json
from ensemble.base.wording import plural
from ensemble.data.grid import PLACE
from ensemble.data.split import SPLITS

FORMAT = 7  # since 7 training and validation tiles share an array
ARRAYS = {"train": "development", "val": "development", "test": "test"}  # the array of each split
TEXT = ("tile", "photograph", "surface", "content", "tile_in_photograph")
VERIFIED = ".verified.json"  # size and time of change of each array whose digest was right
NUM_NAMED = 3  # tiles in a message


class PackError(InputError):
    """A pack cannot be used: a file is missing, damaged, or of another version."""


@dataclass(frozen=True)
class Pack:
    """An opened pack.

    Attributes:
        folder: Folder of the pack.
        record: Content of its `pack.json`.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def tile_size_px(self) -> tuple[int, int]:
        """(height, width) of the tiles as they came."""
        return self.record["height_px"], self.record["width_px"]

    def table(self, split: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Tiles of a split in order: `row` in its array, `tile`, `photograph`, `surface`, …

        Args:
            split: Name of the split.
            columns: Columns that are read; None reads all.
        """
        types = dict.fromkeys(TEXT, "str") | dict.fromkeys(PLACE, "int64")
        path = self.folder / f"{split}.csv"
        try:
            return pd.read_csv(path, usecols=columns, dtype=types, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise damage_error(path, str(error)) from None

    def pixels(self, split: str) -> np.ndarray:
        """The array of a split, mapped: (rows, H, W, 3) uint8, private to writes."""
        path = self.folder / f"{ARRAYS[split]}.npy"
        try:
            return np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise damage_error(path, str(error)) from None


def open_pack(folder: Path, *, splits: Collection[str] = SPLITS, sha256: str | None = None) -> Pack:
    """Open a finished pack and make sure that its files are what was packed.

    Args:
        folder: Folder of the pack.
        splits: Splits that are needed; files of others may be missing.
        sha256: SHA-256 that `pack.json` must have, for a copy.

    Raises:
        PackError: There is no pack, it is of another version, or a file is missing or damaged.
    """
    path = folder / "pack.json"
    try:
        record = read_object(path, format=int)
        digest = _digest_file(path)
    except (InputError, OSError) as error:
        raise damage_error(path, str(error)) from None
    if record["format"] != FORMAT:
        raise PackError(
            f"{folder}: packed by another version of crack-ensemble; the same command under "
            "another --name packs the tiles again and begins a new run"
        )
    if not isinstance(record.get("files"), dict) or digest != (sha256 or digest):
        raise damage_error(path, "its content is not what was packed")
    _check_files(folder, record["files"], splits)
    return Pack(folder, record)


def record_files(folder: Path, array_digests: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Size and digest of each file of a pack, for its `pack.json`.

    Args:
        folder: Folder of the pack, complete but for `pack.json`.
        array_digests: Digest of each array by file name, as `digest_rows` makes it.
    """
    write_json(folder / VERIFIED, {name: _stamp(folder / name) for name in array_digests})
    return {
        path.name: {
            "bytes": path.stat().st_size,
            "digest": array_digests.get(path.name) or _digest_file(path),
        }
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    }


def digest_rows(shape: tuple[int, ...], row_sums: Iterable[int]) -> str:
    """SHA-256 over the shape of a uint8 array and the CRC-32 of each of its rows in order."""
    digest = hashlib.sha256(repr(shape).encode())
    for row_sum in row_sums:
        digest.update(row_sum.to_bytes(4, "little"))
    return digest.hexdigest()


def damage_error(path: Path, reason: str) -> PackError:
    """The error that names a file of a pack and says what to do."""
    is_there = False
    with suppress(OSError, ValueError):  # a name that no disk can hold
        is_there = path.is_file()
    state = f"is damaged ({reason})" if is_there else "is missing"
    return PackError(
        f"{path} {state}; delete the folder {path.parent}, then the command that made it packs the "
        "tiles again"
    )


def explain_difference(old_record: dict[str, Any], old_folder: Path, new: Pack) -> str:
    """How the tiles, labels or split of a pack differ from an older one's, after "a run exists".

    Args:
        old_record: Content of the older pack's `pack.json`.
        old_folder: Folder of the older pack; if it is still there, labels are compared one by one.
        new: The newer pack.
    """
    record = new.record
    if "labels_digest" not in old_record:
        return (
            "from a version whose digest of the split did not cover labels, so that nobody can say "
            "whether they are the same"
        )
    is_same_tiles = old_record.get("tiles_digest") == record["tiles_digest"]
    if is_same_tiles and old_record["labels_digest"] != record["labels_digest"]:
        return f"with other labels: {_explain_relabelled(old_folder, new)}"
    if is_same_tiles:
        seeds = old_record.get("split_seed"), record["split_seed"]
        detail = "their photographs, surfaces or split are given differently now"
        if seeds[0] != seeds[1]:
            detail = f"split seed {seeds[0]}, now {seeds[1]}"
        return f"with another split of the same tiles ({detail})"
    old_data, new_data = (
        f"{one['source']} of {plural(sum(one['num_tiles'].values()), 'tile')}"
        for one in (old_record, record)
    )
    return f"with other data ({old_data}, now {new_data})"


def _explain_relabelled(old_folder: Path, new: Pack) -> str:
    try:
        old_tiles, tiles = (_labels_by_content(pack) for pack in (Pack(old_folder, {}), new))
    except InputError:  # the older pack is gone
        return "of the same tiles, some are labelled differently now"
    relabelled = tiles[tiles["label"] != old_tiles["label"].reindex(tiles.index)]
    count = plural(len(relabelled), "tile")
    if len(relabelled) == len(old_tiles):
        return f"{count}, all of them: the classes are swapped (--positive)"
    names = ", ".join(relabelled["tile"].sort_values()[:NUM_NAMED])
    more = ", …" if len(relabelled) > NUM_NAMED else ""
    return f"{count} labelled differently now ({names}{more})"


def _labels_by_content(pack: Pack) -> pd.DataFrame:
    tables = [pack.table(split)[["content", "tile", "label"]] for split in SPLITS]
    return pd.concat(tables).set_index("content")


def _check_files(folder: Path, records: dict[str, Any], splits: Collection[str]) -> None:
    """Make sure that the files of `splits` are those that `records` describes."""
    known: dict[str, Any] = {}
    with suppress(InputError):
        content = read_json(folder / VERIFIED)
        known = content if isinstance(content, dict) else {}
    stamps = dict(known)
    parts = {".csv": set(splits), ".npy": {ARRAYS[split] for split in splits}}
    for name, record in records.items():
        path = folder / name
        if path.stem not in parts.get(path.suffix, {path.stem}):
            continue
        try:
            _check_file(path, record, stamps)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damage_error(path, str(error)) from None
    if stamps != known:
        with suppress(OSError, InputError):  # where nothing can be written it is read each time
            write_json(folder / VERIFIED, stamps)


def _check_file(path: Path, record: dict[str, Any], stamps: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != record["bytes"]:
        raise ValueError(f"{size:,} bytes, not {record['bytes']:,}")
    is_array = path.suffix == ".npy"
    if is_array and stamps.get(path.name) == _stamp(path):
        return
    if (_digest_array(path) if is_array else _digest_file(path)) != record["digest"]:
        raise ValueError("its content is not what was packed")
    if is_array:
        stamps[path.name] = _stamp(path)


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_array(path: Path) -> str:
    """Digest an array read row by row: a damaged disk is an error here, not a signal."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    assert isinstance(array, np.memmap)
    row_bytes = int(np.prod(array.shape[1:], dtype=np.int64))
    if array.dtype != np.uint8 or not array.flags.c_contiguous:
        raise ValueError("not an array of tiles")
    with path.open("rb") as file:
        file.seek(array.offset)
        return digest_rows(array.shape, (zlib.crc32(file.read(row_bytes)) for _ in array))
