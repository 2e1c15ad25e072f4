"""What --data means: a folder, a .zip or drawn concrete → a pack, and what was found, in words."""

import os
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ensemble.base.errors import writing
from ensemble.base.files import make_folder
from ensemble.base.wording import plural
from ensemble.data.layout import Layout
from ensemble.data.pack import Pack
from ensemble.data.packing import pack
from ensemble.data.reading.listing import describe_passed_over
from ensemble.data.sources import open_source
from ensemble.data.synthetic import draw_dataset


def prepare_data(
    data: str,
    layout: Layout = Layout(),  # noqa: B008 (frozen)
    *,
    split_seed: int,
    leaky_split: bool,
    max_bad_tiles: int,
    packs: Path,
    log: Callable[[str], None],
) -> Pack:
    """List, split and decode the data, and say what was found.

    Args:
        data: A folder, a .zip, or `synthetic` or `synthetic:SEED`, which is drawn.
        layout: What a person says of them.
        split_seed: Seed of the split.
        leaky_split: Split tiles rather than photographs, only to show what leakage is worth.
        max_bad_tiles: Unreadable tiles to leave out before it is an error.
        packs: Folder of packs.
        log: Takes lines for the person.

    Raises:
        InputError: The data cannot be used; nothing is left half-made.
    """
    path = Path(data)
    if is_synthetic(data):
        path = _draw_synthetic(packs, int(data.partition(":")[2] or 0), log)
    source = open_source(path, layout)
    cracked, uncracked = ", ".join(source.cracked_folders), ", ".join(source.uncracked_folders)
    log(
        f"{source.path}: {plural(len(source.tiles), 'tile')}; "
        f"cracked = {cracked}, uncracked = {uncracked}"
    )
    for line in describe_passed_over(source.passed_over):
        log(line)
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
        log=log,
    )
    for line in describe_pack(packed.record):
        log(line)
    log(f"packed tiles and samples.png: {packed.folder}")
    return packed


def is_synthetic(data: str) -> bool:
    """Whether `data` asks for drawn concrete, and is no file or folder of that name."""
    return re.fullmatch(r"synthetic(:\d+)?", data) is not None and not Path(data).exists()


def describe_pack(about: dict[str, Any]) -> Iterator[str]:
    """What was split and left out, a line each."""
    for split, tiles in about["num_tiles"].items():
        photographs = about["num_photographs"][split]
        of = f" of {plural(photographs, 'photograph')}" if photographs else ""
        yield f"  {split:5} {tiles:6,} tiles{of}, {about['num_cracked'][split]:,} cracked"
    kept = "the folders of the data" if about["keeps_split"] else about["split_by"]
    yield f"  split by {kept}, digest {about['split_digest'][:12]}"
    if about["leaky_split"]:
        yield (
            "  LEAKY SPLIT: tiles of one photograph stand in train and test on purpose; the "
            "figures show what leakage is worth and are no result"
        )
    elif about["split_by"] != "photograph":
        yield (
            "  nothing says which photograph a tile belongs to: tiles of one photograph may stand "
            "in different splits, so leakage cannot be ruled out and test figures may be too good; "
            "--photograph-pattern or --photographs say it"
        )
    if about["photograph_doubt"]:
        yield f"  DOUBTFUL: {about['photograph_doubt']}"
    if about["num_relabelled"]:
        yield f"  {plural(about['num_relabelled'], 'label')} corrected as --labels says"
    for key, what in (
        ("duplicates", "copies counted once"),
        ("contradictory_tiles", "tiles left out because equal bytes carry both labels"),
        ("bad_tiles", "unreadable tiles left out"),
        ("odd_tiles", "tiles without a photograph left out"),
    ):
        if found := about[key]:
            reasons = found if isinstance(found, dict) else dict.fromkeys(found, "")
            named = ", ".join(f"{tile} ({why})" if why else tile for tile, why in reasons.items())
            yield f"  {len(found)} {what}: {textwrap.shorten(named, 200, placeholder=' …')}"
    if about["resized_tiles"]:
        size = f"{about['width_px']} × {about['height_px']} px"
        yield f"  {plural(about['resized_tiles'], 'tile')} of another size resized to {size}"
    if about["classes_by_size"]:
        yield f"  DOUBTFUL: {about['classes_by_size']}"


def _draw_synthetic(packs: Path, seed: int, log: Callable[[str], None]) -> Path:
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
