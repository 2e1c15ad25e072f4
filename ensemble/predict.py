"""python -m ensemble.predict: pictures that nobody labelled → a verdict for every tile.

Needs the run's folder alone (`run.json`, `ensemble.json`, `members/`), or the file that `export`
made of it: no packed tiles, no Ray.
A photograph has as many chances of a false alarm as it has tiles, so look at where its cracked
tiles lie (the overlays) before you call it cracked.
"""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("predict")

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ensemble.base.door import printing_result
from ensemble.base.errors import InputError
from ensemble.base.files import table_rows
from ensemble.base.process import keep_freed_memory
from ensemble.base.wording import plural
from ensemble.prediction.opening import open_run
from ensemble.prediction.overlays import NOT_JUDGED
from ensemble.prediction.tiling import in_first_grid
from ensemble.prediction.verdicts import check_csv, predict_pictures

NUM_LISTED = 10


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Judge the pictures, write the table and the overlays, and return the counts and rows."""
    check_csv(options.csv)
    overlays = options.overlays or options.csv.with_name(f"{options.csv.stem}-overlays")
    _check_overlays(overlays)
    keep_freed_memory()
    console = Console(highlight=False, soft_wrap=True)
    say = partial(console.print, markup=False)
    run, ensemble = open_run("predict", options.run, options.photographs, options.out, say)
    lines: list[str] = []
    tiles = predict_pictures(
        ensemble,
        options.photographs,
        overlap=options.overlap,
        csv=options.csv,
        overlays=overlays,
        log=lines.append,
    )
    with printing_result():
        print_summary(tiles, console)
    for line in lines:
        say(line)
    is_cracked, is_first = tiles["verdict"] == "cracked", in_first_grid(tiles["tile"])
    return {
        "run": str(run),
        "csv": str(options.csv),
        "num_pictures": int(tiles["picture"].nunique()),
        "num_tiles": int(is_first.sum()),
        "num_cracked_tiles": int((is_first & is_cracked).sum()),
        "num_overlapping_tiles": int((~is_first).sum()),
        "num_cracked_overlapping_tiles": int((~is_first & is_cracked).sum()),
        "tiles": table_rows(tiles),
    }


def _check_overlays(folder: Path) -> None:
    """Make sure that a folder is there and can be written, or can be made, before hours of work."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"--overlays {folder}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--overlays {folder}: {there} cannot be written; name another place")


def print_summary(tiles: pd.DataFrame, console: Console) -> None:
    """Print how many pictures and tiles are cracked, and the pictures with most cracked tiles.

    Of pictures with equally many, the one with the highest probability comes first. Tiles of the
    grids between are counted by themselves, because they show the same cracks once more.
    """
    is_cracked, is_first = tiles["verdict"] == "cracked", in_first_grid(tiles["tile"])
    pictures = (
        tiles.assign(cracked=is_cracked, first=is_first, first_cracked=is_first & is_cracked)
        .groupby("picture", sort=False)
        .agg(
            tiles=("tile", "size"),
            cracked=("cracked", "sum"),
            first=("first", "sum"),
            first_cracked=("first_cracked", "sum"),
            highest=("refined", "max"),
        )
        .sort_values(["cracked", "highest"], ascending=False, kind="stable")
    )
    cracked = pictures[pictures["cracked"] > 0]
    console.print(
        f"{plural(len(pictures), 'picture')}, {_count(tiles)}; cracked: "
        f"{_count(tiles[is_cracked])} in {plural(len(cracked), 'picture')}"
    )
    if not cracked.empty:
        shown = cracked.head(NUM_LISTED)
        title = "Most cracked pictures" if len(shown) < len(cracked) else "Cracked pictures"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("picture", overflow="fold")
        overlaps = not is_first.all()
        header = "tiles + overlapping" if overlaps else "tiles"
        for column in (header, "cracked", "highest probability"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, row in shown.iterrows():
            cells = []
            for first, both in (("first", "tiles"), ("first_cracked", "cracked")):
                others = f" + {row[both] - row[first]:,.0f}" if overlaps else ""
                cells.append(f"{row[first]:,.0f}{others}")
            table.add_row(Text(str(name)), *cells, f"{row['highest']:.3f}")
        console.print(table)
    blank = tiles[tiles["verdict"] == NOT_JUDGED]
    if not blank.empty:
        console.print(
            f"not judged, as more than half is blank or all is of one colour: "
            f"{_count(blank)} in {plural(blank['picture'].nunique(), 'picture')}"
        )


def _count(tiles: pd.DataFrame) -> str:
    """The number of tiles, and of those in the grids between, if there are any."""
    num_first = int(in_first_grid(tiles["tile"]).sum())
    counted = plural(num_first, "tile")
    if num_first == len(tiles):
        return counted
    return f"{counted} and {plural(len(tiles) - num_first, 'overlapping one')}"
