"""python -m ensemble.predict: pictures that nobody labelled → a verdict for every tile.

Needs the run's folder alone (`run.json`, `ensemble.json`, `members/`): no packed tiles, no Ray.
A photograph has as many chances of a false alarm as it has tiles, so look at where its cracked
tiles lie (the overlays) before you call it cracked.
"""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("predict")

import argparse
import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ensemble.base.errors import InputError
from ensemble.base.files import make_folder, read_object, write_table
from ensemble.base.memory import keep_freed_memory
from ensemble.base.progress_bar import progress_bar
from ensemble.base.wording import plural
from ensemble.data.batches import place_tiles
from ensemble.data.reading.blank import is_one_colour
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.listing import describe_passed_over
from ensemble.data.reading.pictures import Picture, list_pictures, read_picture
from ensemble.explanation.mosaic import NOT_JUDGED, Box, cut_tile, lay_grid
from ensemble.explanation.overlays import draw_overlays
from ensemble.run.members import choose_device, find_run, score_with
from ensemble.selection.calibration import apply_temperature
from ensemble.selection.choice import EnsembleRecord, open_choice
from ensemble.training.checkpoint import Member
from ensemble.training.precision import describe_scoring

LOT_BYTES = 128 * 2**20  # pixels scored at a time: 682 tiles of 256 px
NUM_LISTED = 10


def main(options: argparse.Namespace) -> None:
    """Score the pictures, write the table and the overlays."""
    if options.csv.suffix.lower() != ".csv" or options.csv.is_dir():
        raise InputError(f"--csv {options.csv}: must be a file called ….csv")
    overlays = options.overlays or options.csv.with_name(f"{options.csv.stem}-overlays")
    _check_writable("--csv", options.csv, options.csv.parent)
    _check_writable("--overlays", overlays, overlays)
    console = Console(highlight=False, soft_wrap=True)
    keep_freed_memory()
    predict(find_run(options.run, under=options.out), options.paths, options.csv, overlays, console)


def _check_writable(option: str, given: Path, folder: Path) -> None:
    """Make sure that a folder is there and can be written, or can be made, before hours of work."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"{option} {given}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{option} {given}: {there} cannot be written; name another place")


def predict(
    run: Path, paths: Sequence[Path], csv: Path, overlays: Path, console: Console
) -> pd.DataFrame:
    """Score all pictures, write `csv` and `overlays`, print a summary.

    Args:
        run: A run's folder with an ensemble.
        paths: Pictures, and folders and .zip files of pictures, in any layout.
        csv: Written whole, when all is scored.
        overlays: A folder, made where there is something to draw; what lies in it is not read.
        console: For the summary.

    Returns:
        The rows of `csv`.

    Raises:
        InputError: The run has no ensemble, a path does not exist or is unsafe, or no picture can
            be read.
    """
    choice, members = open_choice(run)
    tile_size = read_tile_size(run)
    unreadable: dict[str, str] = {}
    with ExitStack() as archives:
        pictures, passed_over = list_pictures(paths, overlays, archives)
        tiles = score_pictures(pictures, choice, members, tile_size, unreadable)
        make_folder(csv.parent)
        write_table(csv, tiles)
        num_overlays = draw_overlays(pictures, tiles, choice, tile_size, overlays)
    print_summary(tiles, unreadable, console)
    recorded = {member.trial: member.record.precision for member in members}
    if note := describe_scoring(recorded, choose_device()):
        console.print(note)
    for line in describe_passed_over(passed_over):
        console.print(line.strip(), markup=False)
    console.print(f"written: {csv}", markup=False)
    if num_overlays:
        console.print(f"written: {overlays} ({plural(num_overlays, 'overlay')})", markup=False)
    return tiles


def read_tile_size(run: Path) -> tuple[int, int]:
    """(height, width) in pixels of the tiles that a run was trained on.

    Raises:
        InputError: `run.json` does not say.
    """
    size = read_object(run / "run.json").get("tile_size_px")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(n) is int and n > 0 for n in size)
    ):
        raise InputError(
            f"{run / 'run.json'}: no 'tile_size_px': [height, width] of the tiles trained on "
            f"(got {size!r}), so pictures cannot be cut; add it, or search again"
        )
    return size[0], size[1]


def score_pictures(
    pictures: Sequence[Picture],
    choice: EnsembleRecord,
    members: Sequence[Member],
    tile_size: tuple[int, int],
    unreadable: dict[str, str],
) -> pd.DataFrame:
    """One row a tile: its place, each member's probability, the ensemble's, and the verdict.

    A tile that shows nothing is not judged: it has no probabilities.

    Args:
        pictures: Read one at a time; pixels of at most `LOT_BYTES` wait to be scored.
        choice: Weights, temperature and threshold.
        members: In the order of `choice.members`.
        tile_size: (height, width) that they were trained on.
        unreadable: Receives the names of pictures that cannot be read, with the reason.

    Raises:
        InputError: No picture can be read.
    """
    lot_size = max(1, LOT_BYTES // (3 * tile_size[0] * tile_size[1]))
    tiles = _cut_pictures(pictures, tile_size, unreadable)
    device, tables = choose_device(), []
    models = [member.load_model() for member in members]
    with progress_bar() as progress:
        task = progress.add_task("looking for cracks", total=len(pictures))
        while lot := list(itertools.islice(tiles, lot_size)):
            pixels = {place: tile for place, (*_, tile) in enumerate(lot) if tile is not None}
            shown = list(pixels)
            scores = np.full((len(members), len(lot)), np.nan)  # (M, N)
            if shown:
                stack = np.stack(list(pixels.values()))  # (N, H, W, 3)
                nothing_known = np.zeros(len(shown), dtype=np.int64)
                placed = place_tiles(stack, np.arange(len(shown)), nothing_known, device)
                for row, member, model in zip(scores, members, models, strict=True):
                    row[shown] = score_with(member, model, placed, tta=choice.tta)
            mean = choice.weights @ scores
            table = pd.DataFrame([{"picture": name, **box._asdict()} for name, box, *_ in lot])
            names = [f"trial_{member.trial}" for member in choice.members]
            verdicts = np.where(mean >= choice.threshold, "cracked", "uncracked").astype(object)
            verdicts[np.isnan(mean)] = NOT_JUDGED
            tables.append(
                table.assign(
                    **dict(zip(names, scores, strict=True)),
                    ensemble=mean,
                    calibrated=apply_temperature(mean, choice.temperature),
                    verdict=verdicts,
                )
            )
            progress.update(task, completed=lot[-1][2])
    if not tables:
        name, reason = next(iter(unreadable.items()))
        raise InputError(
            f"none of {plural(len(pictures), 'picture')} can be read ({name}: {reason})"
        )
    return pd.concat(tables, ignore_index=True)


def _cut_pictures(
    pictures: Sequence[Picture], tile_size: tuple[int, int], unreadable: dict[str, str]
) -> Iterator[tuple[str, Box, float, np.ndarray | None]]:
    """Yield picture, place, how many pictures are done by then, and pixels, of every tile.

    There are no pixels where a tile shows nothing.
    """
    for index, picture in enumerate(pictures):
        try:
            with picture.open() as file:
                image = read_picture(file, tile_size)
        except (*UNREADABLE, struct.error) as error:
            unreadable[picture.name] = explain_unreadable(error)
            continue
        boxes = lay_grid(image.size, tile_size)
        for number, box in enumerate(boxes, 1):
            pixels = cut_tile(image, box, tile_size)
            if pixels is not None and is_one_colour(pixels):
                pixels = None
            yield picture.name, box, index + number / len(boxes), pixels


def print_summary(tiles: pd.DataFrame, unreadable: dict[str, str], console: Console) -> None:
    """Print how many pictures and tiles are cracked, the most cracked pictures, what was not read.

    The most cracked picture is the one with most cracked tiles; of several, that of the surest.
    """
    pictures = (
        tiles.assign(cracked=tiles["verdict"] == "cracked")
        .groupby("picture", sort=False)
        .agg(tiles=("tile", "size"), cracked=("cracked", "sum"), highest=("calibrated", "max"))
        .sort_values(["cracked", "highest"], ascending=False, kind="stable")
    )
    cracked = pictures[pictures["cracked"] > 0]
    console.print(
        f"{plural(len(pictures), 'picture')}, {plural(len(tiles), 'tile')}; cracked: "
        f"{plural(int(cracked['cracked'].sum()), 'tile')} in {plural(len(cracked), 'picture')}"
    )
    if not cracked.empty:
        shown = cracked.head(NUM_LISTED)
        title = "Most cracked pictures" if len(shown) < len(cracked) else "Cracked pictures"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("picture", overflow="fold")
        for column in ("tiles", "cracked", "highest probability"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, row in shown.iterrows():
            cells = f"{row['tiles']:,.0f}", f"{row['cracked']:,.0f}", f"{row['highest']:.3f}"
            table.add_row(Text(str(name)), *cells)
        console.print(table)
    blank = tiles[tiles["verdict"] == NOT_JUDGED]
    if not blank.empty:
        console.print(
            f"not judged, as more than half is blank or all is of one colour: "
            f"{plural(len(blank), 'tile')} in {plural(blank['picture'].nunique(), 'picture')}"
        )
    if unreadable:
        console.print(f"skipped, cannot be read: {plural(len(unreadable), 'picture')}")
        for name, reason in unreadable.items():
            console.print(f"  {name}: {reason}", markup=False)
