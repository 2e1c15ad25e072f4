"""Decode once: a source → a pack, one uint8 array file a split, each with its table.

The folder gets its final name when it is complete; an interrupted one is thrown away by the next.
"""

import hashlib
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError, writing
from ensemble.base.files import sync_file, write_json
from ensemble.base.locks import file_lock
from ensemble.data.pack import FORMAT, Pack, digest_rows, open_pack, record_files
from ensemble.data.photographs import check_photographs
from ensemble.data.reading.listing import Reader
from ensemble.data.samples import draw_samples
from ensemble.data.sizes import explain_classes_by_size, most_common_size
from ensemble.data.sources import Source
from ensemble.data.split import (
    DEFAULT_FRACTIONS,
    SPLITS,
    Fractions,
    assign_splits,
    digest_columns,
    digest_split,
    drop_duplicates,
    keep_splits,
)
from ensemble.data.tiles import check_bad_tiles, decode_tiles, digest_tiles, find_common_size


def pack(
    source: Source,
    *,
    under: Path,
    fractions: Fractions = DEFAULT_FRACTIONS,
    split_seed: int = 0,
    leaky_split: bool = False,
    max_bad_tiles: int = 10,
    log: Callable[[str], None] = print,
) -> Pack:
    """Split and decode `source` into a folder under `under`, or reuse the one that is there.

    Args:
        source: The tiles.
        under: Folder of packs; made if missing.
        fractions: Of the photographs.
        split_seed: Of the split.
        leaky_split: Split tiles rather than photographs, only to show what leakage is worth.
        max_bad_tiles: Unreadable tiles, and such without a photograph among others with one, that
            are left out before it is an error.
        log: Takes lines for the person.

    Raises:
        InputError: Too many unreadable tiles, too few photographs, or no room on the disk.
    """
    if leaky_split and source.layout.keeps_split:
        raise InputError("--leaky-split and --split folders exclude each other; give one")
    plan = {"seed": split_seed, "fractions": fractions, "leaky": leaky_split}
    key = _key(source, plan)
    folder = under / f"{source.path.stem}-{key[:12]}"
    under.mkdir(parents=True, exist_ok=True)
    with file_lock(
        under / f".{folder.name}.lock",
        on_wait=lambda: log("waiting: another process is packing the same tiles"),
    ):
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
    check_bad_tiles(packed.record["bad_tiles"] | packed.record["odd_tiles"], max_bad_tiles)
    return packed


def _key(source: Source, plan: dict[str, Any]) -> str:
    told = digest_columns(source.tiles, *source.tiles.columns)
    how = (source.layout.keeps_split, source.doubt, sorted(plan.items()))
    parts = (FORMAT, source.fingerprint, source.cracked_folders, told, how)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _write(
    source: Source, folder: Path, plan: dict[str, Any], max_bad_tiles: int
) -> dict[str, Any]:
    reader = Reader(source.path)
    bad: dict[str, str] = {}
    by_photograph = source.has_photographs and not plan["leaky"]
    keeps_split = source.layout.keeps_split
    try:
        size = find_common_size(source.tiles["tile"].tolist(), reader)
        tiles, copies, contradictory = _count_once(
            source, reader, bad, compare_all=not by_photograph, max_bad_tiles=max_bad_tiles
        )
        odd: list[str] = []
        if source.has_photographs:
            left = max_bad_tiles - len(bad)
            odd = check_photographs(tiles, source.layout, left)
            tiles = tiles[~tiles["tile"].isin(odd)].reset_index(drop=True)
        splits = _split(tiles, source, plan)
        while True:
            tiles["split"] = splits
            tiles["row"] = tiles.groupby("split").cumcount()
            for wrong in folder.glob("*.npy"):
                wrong.unlink()
            _check_room(folder, len(tiles) * size[0] * size[1] * 3)
            tiles = decode_tiles(tiles, reader, folder, size, bad, max_bad_tiles=max_bad_tiles)
            # once more where tiles are missing now, or the few that were looked at are exceptions
            splits = _split(tiles, source, plan)
            common_size = most_common_size(Counter(tiles["size"]), where=source.path)
            if common_size == size and splits.equals(tiles["split"]):
                break
            size = common_size
    finally:
        reader.close()
    height, width = size
    num_resized = sum(had != size for had in tiles["size"])
    arrays = _digest_arrays(tiles, folder, height * width * 3)
    classes_by_size = explain_classes_by_size(tiles)
    tiles = tiles.drop(columns=["size", "pixels_sum", "split_folder", "folder_label"])
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
        "classes_by_size": classes_by_size,
        "split_by": "photograph" if by_photograph else "folders" if keeps_split else "content",
        "keeps_split": keeps_split,
        "photograph_doubt": source.doubt,
        "leaky_split": plan["leaky"],
        "split_seed": plan["seed"],
        "fractions": None if keeps_split else plan["fractions"]._asdict(),
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
        "odd_tiles": dict.fromkeys(odd, "its name carries no photograph"),
        "num_relabelled": source.num_relabelled,
        "files": record_files(folder, arrays),
    }


def _split(tiles: pd.DataFrame, source: Source, plan: dict[str, Any]) -> pd.Series:
    """Keep the person's split, or draw one; a doubt about the photographs is part of a refusal."""
    try:
        if source.layout.keeps_split:
            return keep_splits(tiles, seed=plan["seed"], fractions=plan["fractions"])
        return assign_splits(tiles, **plan)
    except InputError as error:
        doubt = f"; {source.doubt}" if source.doubt else ""
        raise InputError(f"{error}{doubt}") from None


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
