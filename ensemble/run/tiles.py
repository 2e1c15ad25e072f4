"""The name of a tile → its label and the tiles around it, as the files of a run tell them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_table
from ensemble.data.grid import PLACE, look_around
from ensemble.data.pack import Pack
from ensemble.run.pack import find_pack


class KnownTile(NamedTuple):
    """A tile that a run was trained, chosen or tested on.

    Attributes:
        label: 1 for a cracked tile, 0 for another.
        around: Names of the tiles of its split around and under it, nine at
            `ensemble.data.windows.PLACES`; empty where no tile is.
    """

    label: int
    around: list[str]


def find_tile(run: Path, tile: str) -> KnownTile | None:
    """Find what a run knows of a tile; None where no file of the run names it.

    Validation tiles stand in `validation.csv`, test tiles in what `evaluate` wrote, if it did, and
    training tiles in the pack, if that is in its place.

    Args:
        run: Folder of the run.
        tile: Name of a tile in the data set.

    Raises:
        InputError: A file of the run is damaged.
    """
    for table in _read_places(run):
        mine = table[table["tile"] == tile]
        if not mine.empty:
            table = table[table["photograph"] == mine["photograph"].iloc[0]]
            names = table["tile"].to_numpy(dtype=object)
            places = (table[name].to_numpy() for name in ("photograph", *PLACE))
            around = look_around(*places, reach=1, names=names)[names == tile][0].ravel()
            return KnownTile(
                label=int(mine["label"].iloc[0]),
                around=[names[number] if number >= 0 else "" for number in around],
            )
    return None


def _read_places(run: Path) -> Iterator[pd.DataFrame]:
    """Yield the tables of splits that are there and tell each tile's place and label."""
    for path in (run / "validation.csv", run / "evaluation" / "predictions.csv"):
        if path.is_file():
            table = read_table(path, text=("tile", "photograph"))
            if {"tile", "photograph", "label", *PLACE} <= {*table}:  # once there were no places
                if not all(pd.api.types.is_integer_dtype(table[name]) for name in PLACE):
                    raise InputError(f"{path}: damaged (a place is no whole number)")
                if not table["label"].isin((0, 1)).all():
                    raise InputError(f"{path}: damaged (a label is neither 0 nor 1)")
                yield table
    try:
        folder = find_pack(run)
    except InputError:  # gone, which is no reason not to look at a picture
        return
    yield Pack(folder, {}).table("train")
