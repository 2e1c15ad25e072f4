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
from ensemble.data.reading.pictures import LEAST_TILE, is_one_tile
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
    options = (source.layout.keeps_split, source.doubt, sorted(plan.items()), side_px)
    packed = _pack_under(
        under,
        source,
        options,
        ("train", "val"),  # the test split stays closed
        lambda folder: _write_files(source, folder, plan, max_bad_tiles, side_px),
        log,
    )
    check_bad_tiles(packed.record["bad_tiles"] | packed.record["odd_tiles"], max_bad_tiles)
    return packed


def pack_whole(
    source: Source,
    *,
    under: Path,
    tile_size: Size,
    stored: Size,
    max_bad_tiles: int = 10,
    log: Callable[[str], None] = print,
) -> Pack:
    """Decode `source` without splitting it, for a run that was trained on other tiles.

    All tiles are of the split `test`. Each is resized as the run's own tiles and the pictures of
    `predict` are.

    Args:
        source: Listed tiles.
        under: Folder of packs; made if missing.
        tile_size: (height, width) of the run's tiles.
        stored: (height, width) at which the run's tiles are stored.
        max_bad_tiles: Largest number of tiles to leave out before it is an error; see `pack`.
        log: Receives lines for the person.

    Raises:
        InputError: Tiles are much larger or smaller than the run's, too many are unreadable, or
            there is no room on the disk.
    """
    packed = _pack_under(
        under,
        source,
        ("whole", source.doubt, tile_size, stored),
        ("test",),
        lambda folder: _write_whole(source, folder, tile_size, stored, max_bad_tiles),
        log,
    )
    check_bad_tiles(packed.record["bad_tiles"] | packed.record["odd_tiles"], max_bad_tiles)
    return packed


def _pack_under(
    under: Path,
    source: Source,
    options: tuple[Any, ...],
    splits: tuple[str, ...],
    write: Callable[[Path], dict[str, Any]],
    log: Callable[[str], None],
) -> Pack:
    """Open the pack of these tiles and options, or make its folder, whole or not at all."""
    key = _key(source, options)
    folder = under / f"{source.path.stem}-{key[:12]}"
    under.mkdir(parents=True, exist_ok=True)
    with file_lock(
        under / f".{folder.name}.lock",
        on_wait=lambda: log("waiting: another process is packing the same tiles"),
    ):
        if (folder / "pack.json").exists():
            return open_pack(folder, splits=splits)
        if folder.exists():
            raise InputError(f"{folder}: in the way, and not a finished pack; delete it")
        partial = under / f".{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with writing(folder):
                partial.mkdir()
                record = write(partial)
                for path in partial.iterdir():
                    sync_file(path)
                write_json(partial / "pack.json", {"format": FORMAT, "key": key, **record})
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return open_pack(folder)


def _key(source: Source, options: tuple[Any, ...]) -> str:
    table_digest = digest_columns(source.tiles, *source.tiles.columns)
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
    return {
        **_describe_tiles(tiles, tables, source, folder, size, stored_size(size, side_px)),
        "grid": grid,
        **_describe_split(tables, plan, source),
        **left_out,
        "bad_tiles": bad,
        "files": record_files(folder, _digest_arrays(tiles, folder)),
    }


def _write_whole(
    source: Source, folder: Path, tile_size: Size, stored: Size, max_bad_tiles: int
) -> dict[str, Any]:
    """Write the files of a pack that is not split but its `pack.json`, and return that content."""
    bad: dict[str, str] = {}
    with closing(Reader(source.path)) as reader:
        _check_size(find_common_size(source.tiles["tile"].tolist(), reader), tile_size, source)
        compare_all = not source.has_photographs
        tiles, left_out = _leave_out(source, reader, bad, compare_all, max_bad_tiles)
        tiles = tiles.assign(split="test", array=ARRAYS["test"], row=range(len(tiles)))
        tiles = decode_tiles(tiles, reader, folder, stored, bad, max_bad_tiles=max_bad_tiles)
    for size in tiles["size"]:
        _check_size(size, tile_size, source)
    tiles, grid = find_grid(tiles)
    tables = {"test": tiles}
    return {
        **_describe_tiles(tiles, tables, source, folder, tile_size, stored),
        "grid": grid,
        "split_by": "nothing",
        **_count_tiles(tables, source),
        **left_out,
        "bad_tiles": bad,
        "files": record_files(folder, _digest_arrays(tiles, folder)),
    }


def _check_size(size: Size, tile_size: Size, source: Source) -> None:
    """Refuse a tile that `predict` would cut into several, or that shows too little."""
    (height, width), (own_height, own_width) = size, tile_size
    shows_little = height < LEAST_TILE * own_height or width < LEAST_TILE * own_width
    if is_one_tile((width, height), tile_size) and not shows_little:
        return
    amount = "few" if shows_little else "many"
    raise InputError(
        f"--data {source.path}: a tile has {width} × {height} px, too {amount} for a run that was "
        f"trained on tiles of {own_width} × {own_height} px; resize the tiles to that size where "
        "they show as much, or cut and label them anew"
    )


def _describe_tiles(
    tiles: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    source: Source,
    folder: Path,
    size: Size,
    stored: Size,
) -> dict[str, Any]:
    """Write the table of each split, and describe the tiles of all."""
    for split, table in tables.items():
        others = ["split", "array", "split_folder", "folder_label"]
        table.drop(columns=[*MEASURED, *others]).to_csv(folder / f"{split}.csv", index=False)
    return {
        "source": str(source.path),
        "cracked_folders": source.cracked_folders,
        "uncracked_folders": source.uncracked_folders,
        "height_px": size[0],
        "width_px": size[1],
        "stored_size_px": list(stored),
        "resized_tiles": sum(own_size != size for own_size in tiles["size"]),
        "classes_by_size": explain_classes_by_size(tiles),
        "photograph_doubt": source.doubt,
        "split_digest": digest_split(tiles),
        "test_digest": digest_columns(tables["test"], "content"),
        "tiles_digest": digest_columns(tiles, "content"),
        "labels_digest": digest_columns(tiles, "content", "label"),
        "num_relabelled": source.num_relabelled,
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
        **_count_tiles(tables, source),
    }


def _count_tiles(tables: dict[str, pd.DataFrame], source: Source) -> dict[str, Any]:
    return {
        "num_tiles": {split: len(table) for split, table in tables.items()},
        "num_cracked": {split: int(table["label"].sum()) for split, table in tables.items()},
        "num_photographs": {
            split: int(table["photograph"].nunique()) if source.has_photographs else None
            for split, table in tables.items()
        },
    }


def _leave_out(
    source: Source, reader: Reader, bad: dict[str, str], compare_all: bool, max_bad_tiles: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The tiles that count, and those left out, by the reason; unreadable ones go to `bad`.

    Only tiles that may have copies are read, unless `compare_all`; the others have their names for
    `content`.

    Raises:
        InputError: Too many must be left out, or none is left.
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
        how = {"max_bad_tiles": max_bad_tiles, "num_bad": len(bad)}
        odd = check_photographs(tiles, source.layout, **how)
        tiles = tiles[~tiles["tile"].isin(odd)].reset_index(drop=True)
    if tiles.empty:
        raise InputError(
            f"{source.path}: no tile is left, as each is unreadable, equal to one of the other "
            "class, or without a photograph; mend the data"
        )
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
