"""The name of a tile → the tiles around it in its photograph, as the files of a run tell it."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_table
from ensemble.data.grid import PLACE, look_around
from ensemble.data.pack import Pack
from ensemble.run.pack import find_pack


def name_neighbours(run: Path, tile: str) -> list[str] | None:
    """The names of the tiles around and under a tile of the run, of its own split.

    Validation tiles stand in `validation.csv`, test tiles in what `evaluate` wrote, if it did, and
    training tiles in the pack, if that is in its place.

    Args:
        run: Folder of the run.
        tile: Name of a tile in the data set.

    Returns:
        Nine names at `ensemble.data.windows.PLACES`, empty where no tile is; None where no file of
        the run names the tile.

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
            return [names[number] if number >= 0 else "" for number in around]
    return None


def _read_places(run: Path) -> Iterator[pd.DataFrame]:
    """Yield the tables of splits that are there and tell each tile's place."""
    for path in (run / "validation.csv", run / "evaluation" / "predictions.csv"):
        if path.is_file():
            table = read_table(path, text=("tile", "photograph"))
            if {"tile", "photograph", *PLACE} <= {*table}:  # once there were no places
                if not all(pd.api.types.is_integer_dtype(table[name]) for name in PLACE):
                    raise InputError(f"{path}: damaged (a place is no whole number)")
                yield table
    try:
        folder = find_pack(run)
    except InputError:  # gone, which is no reason not to look at a picture
        return
    yield Pack(folder, {}).table("train")
