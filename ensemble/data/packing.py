"""Packing: a source is split and decoded once, into uint8 arrays and one table a split.

The folder gets its final name when it is complete; an interrupted one is thrown away by the next.
"""

import hashlib
import math
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError, writing
from ensemble.base.files import sync_file, write_json
from ensemble.base.locks import file_lock
from ensemble.data.grid import find_grid
from ensemble.data.pack import ARRAYS, FORMAT, Pack, digest_rows, open_pack, record_files
from ensemble.data.photographs import check_photographs
from ensemble.data.reading.listing import Reader
from ensemble.data.samples import draw_samples
from ensemble.data.sources import Source
from ensemble.data.split import (
    DEFAULT_FRACTIONS,
    SPLITS,
    assign_splits,
    digest_columns,
    digest_split,
    drop_duplicates,
    keep_splits,
)
from ensemble.data.tiles import (
    Size,
    check_bad_tiles,
    decode_tiles,
    digest_tiles,
    explain_classes_by_size,
    find_common_size,
    most_common_size,
    stored_size,
)

MEASURED = ("size", "pixels_sum", "borders")  # columns that no table of a pack has


def pack(
    source: Source,
    *,
    under: Path,
    split_seed: int = 0,
    leaky_split: bool = False,
    max_bad_tiles: int = 10,
    side_px: int | None = None,
    log: Callable[[str], None] = print,
) -> Pack:
    """Split and decode `source` into a folder under `under`, or reuse the one that is there.

    Args:
        source: Listed tiles.
        under: Folder of packs; made if missing.
        split_seed: Seed of the split.
        leaky_split: Whether to split tiles rather than photographs, to show what leakage is worth.
        max_bad_tiles: Largest number of tiles to leave out before it is an error: unreadable ones,
            and those without a photograph among others with one.
        side_px: Largest side of a tile that anybody will ask for; pixels are stored no larger.
            None stores them as they are.
        log: Receives lines for the person.

    Raises:
        InputError: Too many unreadable tiles, too few photographs, or no room on the disk.
    """
    if leaky_split and source.layout.keeps_split:
        raise InputError("--leaky-split and --split folders exclude each other; give one")
    plan = {"seed": split_seed, "fractions": DEFAULT_FRACTIONS, "leaky": leaky_split}
    key = _key(source, plan, side_px)
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
                    record = _write_files(source, partial, plan, max_bad_tiles, side_px)
                    for path in partial.iterdir():
                        sync_file(path)
                write_json(partial / "pack.json", {"format": FORMAT, "key": key, **record})
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            packed = open_pack(folder)
    check_bad_tiles(packed.record["bad_tiles"] | packed.record["odd_tiles"], max_bad_tiles)
    return packed


def _key(source: Source, plan: dict[str, Any], side_px: int | None) -> str:
    table_digest = digest_columns(source.tiles, *source.tiles.columns)
    options = (source.layout.keeps_split, source.doubt, sorted(plan.items()), side_px)
    parts = (FORMAT, source.fingerprint, source.cracked_folders, table_digest, options)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _write_files(
    source: Source,
    folder: Path,
    plan: dict[str, Any],
    max_bad_tiles: int,
    side_px: int | None,
) -> dict[str, Any]:
    """Write the files of a pack but its `pack.json`, and return the content of that."""
    by_photograph = source.has_photographs and not plan["leaky"]
    bad: dict[str, str] = {}
    with closing(Reader(source.path)) as reader:
        size = find_common_size(source.tiles["tile"].tolist(), reader)
        tiles, left_out = _leave_out(source, reader, bad, not by_photograph, max_bad_tiles)
        tiles, size = _split_and_decode(
            tiles,
            size,
            split=lambda tiles: _split(tiles, source, plan),
            decode=lambda tiles, size: decode_tiles(
                tiles,
                reader,
                folder,
                stored_size(size, side_px),
                bad,
                max_bad_tiles=max_bad_tiles,
            ),
            where=source.path,
        )
    tiles, grid = find_grid(tiles)
    draw_samples(
        tiles[tiles["split"] == "train"],
        np.load(folder / f"{ARRAYS['train']}.npy", mmap_mode="r"),
        folder / "samples.png",
    )
    tables = {split: tiles[tiles["split"] == split] for split in SPLITS}
    for split, table in tables.items():
        others = ["split", "array", "split_folder", "folder_label"]
        table.drop(columns=[*MEASURED, *others]).to_csv(folder / f"{split}.csv", index=False)
    return {
        "source": str(source.path),
        "cracked_folders": source.cracked_folders,
        "uncracked_folders": source.uncracked_folders,
        "height_px": size[0],
        "width_px": size[1],
        "stored_size_px": list(stored_size(size, side_px)),
        "resized_tiles": sum(own_size != size for own_size in tiles["size"]),
        "classes_by_size": explain_classes_by_size(tiles),
        "photograph_doubt": source.doubt,
        "grid": grid,
        "split_digest": digest_split(tiles),
        "tiles_digest": digest_columns(tiles, "content"),
        "labels_digest": digest_columns(tiles, "content", "label"),
        **_describe_split(tables, plan, source),
        **left_out,
        "bad_tiles": bad,
        "num_relabelled": source.num_relabelled,
        "files": record_files(folder, _digest_arrays(tiles, folder)),
    }


def _describe_split(
    tables: dict[str, pd.DataFrame], plan: dict[str, Any], source: Source
) -> dict[str, Any]:
    has_photographs, keeps_split = source.has_photographs, source.layout.keeps_split
    by_photograph = has_photographs and not plan["leaky"]
    return {
        "split_by": "photograph" if by_photograph else "folders" if keeps_split else "content",
        "keeps_split": keeps_split,
        "leaky_split": plan["leaky"],
        "split_seed": plan["seed"],
        "fractions": None if keeps_split else plan["fractions"]._asdict(),
        "num_tiles": {split: len(table) for split, table in tables.items()},
        "num_cracked": {split: int(table["label"].sum()) for split, table in tables.items()},
        "num_photographs": {
            split: int(table["photograph"].nunique()) if has_photographs else None
            for split, table in tables.items()
        },
    }


def _leave_out(
    source: Source, reader: Reader, bad: dict[str, str], compare_all: bool, max_bad_tiles: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The tiles that count, and those left out, by the reason; unreadable ones go to `bad`.

    Only tiles that may have copies are read, unless `compare_all`; the others have their names for
    `content`.
    """
    tiles = source.tiles
    may_be_copies = tiles["copy_key"].duplicated(keep=False) | compare_all
    digests = digest_tiles(
        tiles.loc[may_be_copies, "tile"].tolist(), reader, bad, max_bad_tiles=max_bad_tiles
    )
    tiles = tiles.assign(content=[digests.get(tile, tile) for tile in tiles["tile"]])
    tiles, copies, contradictory = drop_duplicates(
        tiles[~tiles["tile"].isin(bad)].drop(columns="copy_key")
    )
    odd: list[str] = []
    if source.has_photographs:
        odd = check_photographs(tiles, source.layout, max_bad_tiles - len(bad))
        tiles = tiles[~tiles["tile"].isin(odd)].reset_index(drop=True)
    return tiles, {
        "duplicates": copies,
        "contradictory_tiles": contradictory,
        "odd_tiles": dict.fromkeys(odd, "its name carries no photograph"),
    }


def _split_and_decode(
    tiles: pd.DataFrame,
    size: Size,
    *,
    split: Callable[[pd.DataFrame], pd.Series],
    decode: Callable[[pd.DataFrame, Size], pd.DataFrame],
    where: Path,
) -> tuple[pd.DataFrame, Size]:
    """Split the tiles and decode them to `size`, once more if decoding changes one of the two.

    A tile that cannot be decoded has no say in the split, and the tiles whose size was looked at
    may be exceptions; both are known only when all are decoded.
    """
    while True:
        tiles = tiles.assign(split=split(tiles))
        tiles["array"] = tiles["split"].map(ARRAYS)
        tiles["row"] = tiles.groupby("array").cumcount()
        decoded = decode(tiles, size)
        common_size = most_common_size(Counter(decoded["size"]), where=where)
        if common_size == size and split(decoded).equals(decoded["split"]):
            return decoded, size
        tiles, size = decoded, common_size


def _split(tiles: pd.DataFrame, source: Source, plan: dict[str, Any]) -> pd.Series:
    """Keep the person's split, or draw one; a doubt about the photographs is part of a refusal."""
    try:
        if source.layout.keeps_split:
            return keep_splits(tiles, seed=plan["seed"])
        return assign_splits(tiles, **plan)
    except InputError as error:
        doubt = f"; {source.doubt}" if source.doubt else ""
        raise InputError(f"{error}{doubt}") from None


def _digest_arrays(tiles: pd.DataFrame, folder: Path) -> dict[str, str]:
    """Digest each array; rows of tiles that could not be decoded are zeros."""
    digests = {}
    for array, table in tiles.groupby("array"):
        path = folder / f"{array}.npy"
        shape = np.load(path, mmap_mode="r").shape
        row_sums = dict.fromkeys(range(shape[0]), zlib.crc32(bytes(math.prod(shape[1:]))))
        row_sums |= dict(zip(table["row"], table["pixels_sum"], strict=True))
        digests[path.name] = digest_rows(shape, row_sums.values())
    return digests
