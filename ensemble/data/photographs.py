"""The photograph of each tile, and the place in it: by its name, as a person states, or unknown."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError, short_repr
from ensemble.base.wording import plural
from ensemble.data.classes import Classes
from ensemble.data.grid import PLACE, UNKNOWN, file_stem, number_of, start_at_zero
from ensemble.data.layout import Layout, read_tile_list

SDNET_TILE = re.compile(r"(?P<photograph>\d+)-(?P<tile>\d+)(_\d+)?")
GRID_TILE = re.compile(
    r"((?P<photograph>.+)[-_])?r(?P<row>\d+)[-_]?c(?P<column>\d+)(_\d+)?", re.IGNORECASE
)
FOLDERS, NONE = "folders", "none"
PLACES = ("row", "column", "tile")  # of a tile in its photograph
MOST_TILES = 1000  # in one photograph; SDNET2018 has 260 at the most
MANY_TILES = 10  # in most photographs, beside which one tile is hardly a photograph
NUM_NAMED = 3


def find_photographs(
    names: Sequence[str], classes: Classes, surfaces: Sequence[str], layout: Layout
) -> pd.DataFrame:
    """Find the photograph of each tile, and its place in it, as far as they are known.

    Args:
        names: Paths of the tiles inside the data.
        classes: Classes of the tiles.
        surfaces: Surface of each tile: equal names on two surfaces are two photographs.
        layout: Layout of the data, as the person states it.

    Returns:
        Columns `photograph`, empty where it is not known; `row_in_photograph` and
        `column_in_photograph`, int64 from 0, or -1; `tile_in_photograph`, the text that tells
        tiles of one photograph apart, or empty.

    Raises:
        InputError: What the person states cannot be used.
    """
    if layout.photograph_pattern is not None:
        table = _by_pattern(names, layout.photograph_pattern, other=layout.photographs)
    elif layout.photographs == FOLDERS and not Path(FOLDERS).is_file():
        table = _one_column("/".join(folders.others()) for folders in classes.folders)
        if not table["photograph"].any():
            problem, way_out = _explain_source(layout)
            raise InputError(f"{problem}, such as {short_repr(names[0])}; {way_out}")
    elif layout.photographs == NONE and not Path(NONE).is_file():
        table = _one_column("" for _ in names)
    elif layout.photographs is not None:
        table = _by_list(names, Path(layout.photographs))
    else:
        table = _by_name(names)
    surface = pd.Series(surfaces, index=table.index, dtype=object)
    ids = table["photograph"]
    is_twice = surface.groupby(ids).transform("nunique").gt(1) & (ids != "")
    table["photograph"] = ids.mask(is_twice, surface + "/" + ids)
    if "tile_in_photograph" not in table:
        table["tile_in_photograph"] = ""
    return table.assign(**_find_places(table, names, layout))


def _one_column(photographs: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame({"photograph": list(photographs)})


def _find_places(
    table: pd.DataFrame, names: Sequence[str], layout: Layout
) -> dict[str, np.ndarray]:
    """Row and column of each tile from 0, or -1: as a person states, else by names.

    Raises:
        InputError: A person states something else than a whole number.
    """
    if not set(PLACE) <= set(table.columns):
        matches = [GRID_TILE.fullmatch(file_stem(name)) for name in names]
        return {
            column: start_at_zero([number_of(match[group]) if match else -1 for match in matches])
            for column, group in zip(PLACE, PLACES, strict=False)
        }
    places = {}
    for column, group in zip(PLACE, PLACES, strict=False):
        numbers = [number_of(text) for text in table[column]]
        for name, text, number in zip(names, table[column], numbers, strict=True):
            if text and number == UNKNOWN:
                raise InputError(
                    f"{_name_option(layout)}: the {group} of {short_repr(name)} is "
                    f"{short_repr(text)}, not a whole number from 0 to 999999; mend it"
                )
        places[column] = start_at_zero(numbers)
    return places


def is_stated(layout: Layout) -> bool:
    """Whether a person states which photograph each tile belongs to."""
    return layout.photograph_pattern is not None or layout.photographs not in (None, NONE)


def check_photographs(
    tiles: pd.DataFrame, layout: Layout, *, max_bad_tiles: int, num_bad: int
) -> list[str]:
    """Return the tiles that must be left out because their photograph is not known.

    Args:
        tiles: Table of `tile` and `photograph`, without copies.
        layout: Layout of the data, which must hold for every tile.
        max_bad_tiles: Number that may be left out where names tell the photograph.
        num_bad: Number of others that are left out already, and count for it.

    Raises:
        InputError: There are more.
    """
    odd = tiles.loc[tiles["photograph"] == "", "tile"].tolist()
    shown = ", ".join(odd[:NUM_NAMED]) + (", …" if len(odd) > NUM_NAMED else "")
    if odd and is_stated(layout):
        problem, way_out = _explain_source(layout)
        raise InputError(f"{problem} of {plural(len(odd), 'tile')} ({shown}); {way_out}")
    if len(odd) + num_bad > max_bad_tiles:
        others = tiles[tiles["photograph"] != ""]
        but = "".join(
            f", while {tile} looks like a part of photograph {photograph}"
            for tile, photograph in others[["tile", "photograph"]].head(1).to_numpy()
        )
        raise InputError(
            f"the names of {plural(len(odd), 'tile')} carry no photograph ({shown}){but}; rename "
            "or --exclude them, say which photograph a tile belongs to (--photograph-pattern, "
            "--photographs), split tile by tile (--photographs none), or leave them out "
            f"(--max-bad-tiles {len(odd) + num_bad})"
        )
    return odd


def doubt_photographs(tiles: pd.DataFrame, layout: Layout) -> str | None:
    """Explain why what tells photographs apart may not do so; None without a doubt.

    Args:
        tiles: Table of `tile`, `photograph` and `label`.
        layout: Layout of the data; what a person states is doubted only where every photograph
            has one tile.
    """
    named = tiles[tiles["photograph"] != ""]
    if named.empty:
        return None
    sizes = named.groupby("photograph").size()
    counted = plural(len(sizes), "photograph")
    if is_stated(layout):
        if sizes.max() > 1:
            return None
        option = "--photographs" if layout.photograph_pattern is None else "--photograph-pattern"
        return (
            f"by {option} each of the {counted} has one tile: if some tiles are parts of one "
            f"photograph, test figures are too good; mend {option}"
        )
    shown = named["photograph"].iloc[0]
    if sizes.max() > MOST_TILES:
        shown = sizes.idxmax()
        why = f"it would have {sizes.max():,} tiles"
    elif sizes.max() == 1:
        why = f"each of the {counted} would have one tile"
    elif sizes.min() == 1 and sizes.median() >= MANY_TILES:
        shown = sizes.idxmin()
        why = f"it would have one tile, and most photographs {sizes.median():.0f}"
    elif named.groupby("photograph")["label"].nunique().max() == 1:
        why = f"none of the {counted} would have tiles of both classes"
    else:
        return None
    first = named[named["photograph"] == shown].iloc[0]
    return (
        f"names such as {first['tile']} look like parts of photograph {first['photograph']}, "
        f"but {why}: if they mean something else, test figures may be too good; say what they "
        "mean (--photograph-pattern, --photographs) or --photographs none"
    )


def _name_option(layout: Layout) -> str:
    """The option by which a person states the photographs."""
    if layout.photograph_pattern is not None:
        return f"--photograph-pattern {layout.photograph_pattern}"
    return f"--photographs {layout.photographs}"


def _explain_source(layout: Layout) -> tuple[str, str]:
    """What the layout does not cover, as the start of a sentence, and a way out."""
    option = _name_option(layout)
    if layout.photograph_pattern is not None:
        return f"{option} does not match the names", "mend it, or --exclude their folder"
    if layout.photographs == FOLDERS:
        return (
            f"{option}: beside the class folder there is no folder in the names",
            "give each photograph a folder, or --exclude theirs",
        )
    return f"{option} has no row", "add them, or --exclude their folder"


def _by_name(names: Sequence[str]) -> pd.DataFrame:
    """Photograph and number of tiles called as SDNET2018's, or the photograph before the row."""
    rows = [read_name(file_stem(name)) for name in names]
    return pd.DataFrame(rows, columns=["photograph", "tile_in_photograph"])


def read_name(stem: str) -> tuple[str, str]:
    """The photograph that the name of a tile's file tells, and the number in it; empty if none."""
    if match := SDNET_TILE.fullmatch(stem):
        return match["photograph"], match["tile"]
    match = GRID_TILE.fullmatch(stem)
    return (match["photograph"] or "") if match else "", ""


def _by_pattern(names: Sequence[str], pattern: str, *, other: str | None) -> pd.DataFrame:
    option = f"--photograph-pattern {pattern}"
    if other is not None:
        raise InputError(f"{option} and --photographs {other} exclude each other; give one")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{option}: not a regular expression ({error})") from None
    if "photograph" not in compiled.groupindex:
        raise InputError(
            rf"{option}: no group called photograph; write such as '(?P<photograph>IMG_\d+)_'"
        )
    matches = [compiled.search(name) for name in names]
    if not any(matches):
        raise InputError(
            f"{option}: matches none of the tiles, such as {short_repr(names[0])}; mend it"
        )
    groups = {"photograph": "photograph"} | {place: f"{place}_in_photograph" for place in PLACES}
    return pd.DataFrame(
        {
            column: [match[group] or "" if match else "" for match in matches]
            for group, column in groups.items()
            if group in compiled.groupindex
        }
    )


def _by_list(names: Sequence[str], path: Path) -> pd.DataFrame:
    rows = read_tile_list(path, ("photograph",), PLACES[:2], tiles=names)
    table = _one_column(rows.get(name, {}).get("photograph", "") for name in names)
    for place in PLACES[:2]:
        if any(place in row for row in rows.values()):
            table[f"{place}_in_photograph"] = [rows.get(name, {}).get(place, "") for name in names]
    return table
