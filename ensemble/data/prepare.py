"""Makes a pack of what --data names: a folder, a .zip or drawn concrete; describes it in words."""

import os
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

from ensemble.base.errors import InputError, writing
from ensemble.base.files import make_folder
from ensemble.base.wording import plural
from ensemble.data.layout import Layout
from ensemble.data.pack import Pack
from ensemble.data.packing import pack, pack_whole
from ensemble.data.reading.listing import describe_passed_over
from ensemble.data.sources import Source, open_source
from ensemble.data.synthetic import draw_dataset
from ensemble.data.tiles import Size


def open_data(
    data: str,
    layout: Layout = Layout(),  # noqa: B008 (frozen)
    *,
    packs: Path,
    log: Callable[[str], None],
) -> Source:
    """List the tiles of the data, and say how many there are and what was passed over.

    Args:
        data: Path of a folder or a .zip, or `synthetic` or `synthetic:SEED`, which is drawn.
        layout: Layout of the data, as the person states it.
        packs: Folder of packs, beside which concrete is drawn.
        log: Receives lines for the person.

    Raises:
        InputError: The data cannot be used.
    """
    path = _draw_synthetic(packs, data, log) if is_synthetic(data) else Path(data)
    source = open_source(path, layout)
    cracked, uncracked = ", ".join(source.cracked_folders), ", ".join(source.uncracked_folders)
    log(
        f"{source.path}: {plural(len(source.tiles), 'tile')}; "
        f"cracked = {cracked}, uncracked = {uncracked}"
    )
    for line in describe_passed_over(source.passed_over):
        log(line)
    return source


def prepare_data(
    source: Source,
    *,
    split_seed: int,
    leaky_split: bool = False,
    max_bad_tiles: int,
    side_px: int | None = None,
    context_px: int = 0,
    packs: Path,
    log: Callable[[str], None],
) -> Pack:
    """Split and decode the data, and describe them to the person.

    Args:
        source: Tiles, as `open_data` lists them.
        split_seed: Seed of the split.
        leaky_split: Whether to split tiles rather than photographs, to show what leakage is worth.
        max_bad_tiles: Largest number of tiles to leave out before it is an error; see `pack`.
        side_px: Largest side of a tile that anybody will ask for; see `pack`.
        context_px: Largest margin around a tile, in its own pixels, that anybody will ask for.
        packs: Folder of packs.
        log: Receives lines for the person.

    Raises:
        InputError: The data cannot be used; nothing is left half-made.
    """
    layout = source.layout
    folders = sorted(set(source.tiles["split_folder"]) - {""})
    if folders and not layout.keeps_split:
        log(
            f"  the folders called {' and '.join(folders)} are put together and split anew; "
            "--split folders keeps them as they are"
        )
    elif folders and "val" not in folders:
        log("  there is no folder val: validation tiles are drawn from train")
    make_folder(packs)
    packed = pack(
        source,
        under=packs,
        split_seed=split_seed,
        leaky_split=leaky_split,
        max_bad_tiles=max_bad_tiles,
        side_px=side_px,
        log=log,
    )
    for line in describe_pack(packed.record):
        log(line)
    log(f"packed tiles and samples.png: {packed.folder}")
    _check_context(packed, context_px, log)
    return packed


def prepare_whole(
    data: str,
    layout: Layout,
    *,
    tile_size: Size,
    stored: Size,
    max_bad_tiles: int,
    packs: Path,
    log: Callable[[str], None],
) -> Pack:
    """List and decode data that are judged as a whole, and describe them to the person.

    Args:
        data: Path of a folder or a .zip, or `synthetic` or `synthetic:SEED`, which is drawn.
        layout: Layout of the data, as the person states it.
        tile_size: (height, width) of the tiles of the run that judges.
        stored: (height, width) at which its tiles are stored.
        max_bad_tiles: Largest number of tiles to leave out before it is an error; see `pack`.
        packs: Folder of packs.
        log: Receives lines for the person.

    Raises:
        InputError: The data cannot be used; nothing is left half-made.
    """
    source = open_data(data, layout, packs=packs, log=log)
    make_folder(packs)
    packed = pack_whole(
        source,
        under=packs,
        tile_size=tile_size,
        stored=stored,
        max_bad_tiles=max_bad_tiles,
        log=log,
    )
    for line in describe_tiles(packed.record):
        log(line)
    return packed


def _check_context(packed: Pack, context_px: int, log: Callable[[str], None]) -> None:
    """Refuse a margin beyond the next tile, and say where there is nothing to see in it."""
    side = min(packed.tile_size_px)
    if context_px > side:
        raise InputError(
            f"context_px = {context_px} is more than the side of a tile ({side} px), and no more "
            f"than the next tile can be seen; choose from 0 to {side}"
        )
    if context_px and not packed.record["grid"]["columns"]:
        log(
            f"  context_px = {context_px} shows nothing: nobody knows which tiles lie side by "
            "side, so that each is surrounded by its own mirror image"
        )


def is_synthetic(data: str) -> bool:
    """Whether `data` asks for drawn concrete, and is no file or folder of that name."""
    return re.fullmatch(r"synthetic(:\d{1,19})?", data) is not None and not Path(data).exists()


def is_drawn(data: str) -> bool:
    """Whether data, as a run records their path, are drawn concrete; see `is_synthetic`."""
    return re.fullmatch(r"synthetic([:-]\d+)?", PurePath(data).name) is not None


def describe_pack(record: dict[str, Any]) -> Iterator[str]:
    """Yield a line about each split, and about what was left out or is doubtful."""
    for split, tiles in record["num_tiles"].items():
        photographs = record["num_photographs"][split]
        of = f" of {plural(photographs, 'photograph')}" if photographs else ""
        yield f"  {split:5} {tiles:6,} tiles{of}, {record['num_cracked'][split]:,} cracked"
    unit = "the folders of the data" if record["keeps_split"] else record["split_by"]
    yield f"  split by {unit}, digest {record['split_digest'][:12]}"
    if record["leaky_split"]:
        yield (
            "  LEAKY SPLIT: tiles of one photograph stand in train and test on purpose; the "
            "figures show what leakage is worth and are no result"
        )
    elif record["split_by"] != "photograph":
        yield (
            "  nothing says which photograph a tile belongs to: tiles of one photograph may stand "
            "in different splits, so leakage cannot be ruled out and test figures may be too good; "
            "state it with --photograph-pattern or --photographs"
        )
    yield from describe_tiles(record)


def describe_tiles(record: dict[str, Any]) -> Iterator[str]:
    """Yield a line about the grid, and about what was left out, changed or is doubtful."""
    if record["photograph_doubt"]:
        yield f"  DOUBTFUL: {record['photograph_doubt']}"
    if any(record["num_photographs"].values()):
        yield f"  {record['grid']['sentence']}"
    if record["num_relabelled"]:
        yield f"  {plural(record['num_relabelled'], 'label')} corrected as --labels says"
    for key, title in (
        ("duplicates", "counted once, as copies of others"),
        ("contradictory_tiles", "left out, as equal bytes carry both labels"),
        ("bad_tiles", "left out, as unreadable"),
        ("odd_tiles", "left out, for want of a photograph"),
    ):
        if left_out := record[key]:
            reasons = left_out if isinstance(left_out, dict) else dict.fromkeys(left_out, "")
            named = ", ".join(f"{tile} ({why})" if why else tile for tile, why in reasons.items())
            shortened = textwrap.shorten(named, 200, placeholder=" …")
            yield f"  {plural(len(left_out), 'tile')} {title}: {shortened}"
    if record["resized_tiles"]:
        size = f"{record['width_px']} × {record['height_px']} px"
        yield f"  {plural(record['resized_tiles'], 'tile')} of another size resized to {size}"
    if record["stored_size_px"] != [record["height_px"], record["width_px"]]:
        height, width = record["stored_size_px"]
        yield f"  pixels are stored at {width} × {height} px, as no network is to see more of them"
    if record["classes_by_size"]:
        yield f"  DOUBTFUL: {record['classes_by_size']}"


def _draw_synthetic(packs: Path, data: str, log: Callable[[str], None]) -> Path:
    seed = int(data.partition(":")[2] or 0)
    folder = packs / f"synthetic-{seed}"
    if not folder.exists():
        partial = packs / f".synthetic-{seed}.{os.getpid()}.partial"
        try:
            log("drawing synthetic photographs of concrete")
            make_folder(packs)
            with writing(folder):
                draw_dataset(partial, seed=seed, photographs_per_surface=14, rows=5, columns=6)
                try:
                    partial.rename(folder)
                except OSError:
                    if not folder.is_dir():  # else another command has drawn the same meanwhile
                        raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
