"""Decode once: a source → one uint8 array file a split, each with its table.

A pack is a folder: `train.npy`, `val.npy`, `test.npy` of shape (N, H, W, 3), their tables
`train.csv` …, `samples.png` and `pack.json` (counts, what was left out, the split's digest, size
and digest of each file). Every process of a node maps the same file, so the pixels are in memory
once. The test split is a file of its own: only `ensemble.evaluate` opens it.

The folder gets its final name when it is complete; an interrupted one is thrown away by the next.
"""

import fcntl
import hashlib
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.data.listing import Reader
from ensemble.data.samples import draw_samples
from ensemble.data.sources import Source
from ensemble.data.split import (
    DEFAULT_FRACTIONS,
    SPLITS,
    Fractions,
    assign_splits,
    digest_columns,
    digest_split,
    drop_duplicates,
)
from ensemble.data.tiles import check_bad_tiles, decode_tiles, digest_tiles, find_common_size
from ensemble.data.verify import PackError, check_files, damaged, digest_rows, record_files
from ensemble.errors import InputError
from ensemble.files import read_object, sync_file, write_json, writing

FORMAT = 3  # since 3 labels are part of the split's digest, and files have digests


@dataclass(frozen=True)
class Pack:
    """An opened pack.

    Attributes:
        folder: Where it lies.
        about: What `pack.json` says.
    """

    folder: Path
    about: dict[str, Any]

    def table(self, split: str) -> pd.DataFrame:
        """Tiles of a split in order: `row` in the array, `tile`, `photograph`, `surface`, …"""
        text = dict.fromkeys(("tile", "photograph", "surface", "content"), str)
        path = self.folder / f"{split}.csv"
        try:
            return pd.read_csv(path, dtype=text, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise damaged(path, str(error)) from None

    def pixels(self, split: str) -> np.ndarray:
        """All rows of a split, mapped: (rows, H, W, 3) uint8, private to writes."""
        path = self.folder / f"{split}.npy"
        try:
            return np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise damaged(path, str(error)) from None


def open_pack(folder: Path, *, splits: Collection[str] = SPLITS, sha256: str | None = None) -> Pack:
    """Open a finished pack, sure that its files are what was packed.

    Args:
        folder: Folder of the pack.
        splits: Splits that are needed; files of others may be missing.
        sha256: SHA-256 of the `pack.json` that is expected, for a copy.

    Raises:
        PackError: There is none, it is of another version, or a file is missing or damaged.
    """
    path = folder / "pack.json"
    try:
        about = read_object(path, format=int)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (InputError, OSError) as error:
        raise damaged(path, str(error)) from None
    if about["format"] != FORMAT:
        raise PackError(
            f"{folder}: packed by another version of crack-ensemble; the same command under "
            "another --name packs the tiles again and begins a new run"
        )
    if not isinstance(about.get("files"), dict) or digest != (sha256 or digest):
        raise damaged(path, "its content is not what was packed")
    check_files(folder, about["files"], splits=splits)
    return Pack(folder, about)


def pack(
    source: Source,
    *,
    under: Path,
    fractions: Fractions = DEFAULT_FRACTIONS,
    split_seed: int = 0,
    leaky_split: bool = False,
    max_bad_tiles: int = 10,
    say: Callable[[str], None] = print,
) -> Pack:
    """Split and decode `source` into a folder under `under`, or reuse the one that is there.

    Args:
        source: The tiles.
        under: Folder of packs; made if missing.
        fractions: Of the photographs.
        split_seed: Of the split.
        leaky_split: Split tiles rather than photographs, only to show what leakage is worth.
        max_bad_tiles: Unreadable tiles that are left out before it is an error.
        say: Takes lines for the person.

    Raises:
        InputError: Too many unreadable tiles, too few photographs, or no room on the disk.
    """
    plan = {"seed": split_seed, "fractions": fractions, "leaky": leaky_split}
    key = _key(source, plan)
    folder = under / f"{source.path.stem}-{key[:12]}"
    under.mkdir(parents=True, exist_ok=True)
    with _only_one(under / f".{folder.name}.lock", say):
        if (folder / "pack.json").exists():
            packed = open_pack(folder, splits=("train", "val"))  # the test split stays closed
        elif folder.exists():
            raise InputError(f"{folder}: in the way, and not a finished pack; delete it")
        else:
            partial = under / f".{folder.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                with writing(folder):
                    about = _write(source, partial, plan, max_bad_tiles)
                    for path in partial.iterdir():
                        sync_file(path)
                write_json(partial / "pack.json", {"format": FORMAT, "key": key, **about})
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            packed = open_pack(folder)
    check_bad_tiles(packed.about["bad_tiles"], max_bad_tiles)
    return packed


def _key(source: Source, plan: dict[str, Any]) -> str:
    parts = (FORMAT, source.fingerprint, source.cracked_folders, sorted(plan.items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@contextmanager
def _only_one(lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file; the kernel frees it when its process ends, however it ends."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting: another process is packing the same tiles")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(
    source: Source, folder: Path, plan: dict[str, Any], max_bad_tiles: int
) -> dict[str, Any]:
    reader = Reader(source.path)
    bad: dict[str, str] = {}
    by_photograph = source.has_photographs and not plan["leaky"]
    try:
        size = find_common_size(source.tiles["tile"].tolist(), reader)
        tiles, copies, contradictory = _count_once(
            source, reader, bad, compare_all=not by_photograph, max_bad_tiles=max_bad_tiles
        )
        splits = assign_splits(tiles, **plan)
        while True:
            tiles["split"] = splits
            tiles["row"] = tiles.groupby("split").cumcount()
            for wrong in folder.glob("*.npy"):
                wrong.unlink()
            _check_room(folder, len(tiles) * size[0] * size[1] * 3)
            tiles = decode_tiles(tiles, reader, folder, size, bad, max_bad_tiles=max_bad_tiles)
            # once more where tiles are missing now, or the few that were looked at are exceptions
            splits = assign_splits(tiles, **plan)
            [(common_size, _)] = Counter(tiles["size"]).most_common(1)
            if common_size == size and splits.equals(tiles["split"]):
                break
            size = common_size
    finally:
        reader.close()
    height, width = size
    num_resized = sum(had != size for had in tiles["size"])
    arrays = _digest_arrays(tiles, folder, height * width * 3)
    tiles = tiles.drop(columns=["size", "pixels_sum"])
    tables = {split: tiles[tiles["split"] == split] for split in SPLITS}
    for split, table in tables.items():
        table.drop(columns="split").to_csv(folder / f"{split}.csv", index=False)
    draw_samples(
        tables["train"], np.load(folder / "train.npy", mmap_mode="r"), folder / "samples.png"
    )
    return {
        "source": str(source.path),
        "cracked_folders": source.cracked_folders,
        "uncracked_folders": source.uncracked_folders,
        "height_px": height,
        "width_px": width,
        "resized_tiles": num_resized,
        "split_by": "photograph" if by_photograph else "content",
        "leaky_split": plan["leaky"],
        "split_seed": plan["seed"],
        "fractions": plan["fractions"]._asdict(),
        "split_digest": digest_split(tiles),
        "tiles_digest": digest_columns(tiles, "content"),
        "labels_digest": digest_columns(tiles, "content", "label"),
        "num_tiles": {split: len(table) for split, table in tables.items()},
        "num_cracked": {split: int(table["label"].sum()) for split, table in tables.items()},
        "num_photographs": {
            split: int(table["photograph"].nunique()) if source.has_photographs else None
            for split, table in tables.items()
        },
        "duplicates": copies,
        "contradictory_tiles": contradictory,
        "bad_tiles": bad,
        "files": record_files(folder, arrays),
    }


def _digest_arrays(tiles: pd.DataFrame, folder: Path, row_bytes: int) -> dict[str, str]:
    """The digest of each split's array; rows of tiles that could not be decoded are zeros."""
    digests = {}
    for split, rows in tiles.groupby("split"):
        path = folder / f"{split}.npy"
        shape = np.load(path, mmap_mode="r").shape
        sums = dict.fromkeys(range(shape[0]), zlib.crc32(bytes(row_bytes)))
        sums |= dict(zip(rows["row"], rows["pixels_sum"], strict=True))
        digests[path.name] = digest_rows(shape, sums.values())
    return digests


def _count_once(
    source: Source, reader: Reader, bad: dict[str, str], *, compare_all: bool, max_bad_tiles: int
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """`drop_duplicates` of the source's tiles, of which only those are read that may have copies.

    The others have their names for `content`; with `compare_all` there are no others.
    """
    tiles = source.tiles
    read = tiles["copy_key"].duplicated(keep=False) | compare_all
    digests = digest_tiles(
        tiles.loc[read, "tile"].tolist(),
        reader,
        bad,
        max_bad_tiles=max_bad_tiles,
        # one file's members are not there sooner by a second thread, which only waits for the GIL
        num_threads=None if source.path.is_dir() else 1,
    )
    tiles = tiles.assign(content=[digests.get(tile, tile) for tile in tiles["tile"]])
    return drop_duplicates(tiles[~tiles["tile"].isin(bad)].drop(columns="copy_key"))


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise InputError(
            f"no room on the disk for the packed tiles: {needed_bytes / 1e9:.1f} GB are needed in "
            f"{folder.parent}, {free / 1e9:.1f} GB are free; make room or choose another --out"
        )
