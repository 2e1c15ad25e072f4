"""Which photograph each tile was cut from: by its name, as a person says, or not known."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from ensemble.base.errors import InputError, short_repr
from ensemble.base.wording import plural
from ensemble.data.classes import SPLIT_FOLDERS, Classes, folders_of
from ensemble.data.layout import Layout
from ensemble.data.tile_lists import read_tile_list

SDNET_TILE = re.compile(r"(\d+)-\d+(_\d+)?")
FOLDERS, NONE = "folders", "none"
PLACES = ("row", "column", "tile")  # of a tile in its photograph
MOST_TILES = 1000  # in one photograph; SDNET2018 has 260 at the most
MANY_TILES = 10  # in most photographs, beside which one tile is hardly a photograph
NUM_NAMED = 3


def tell_photographs(
    names: Sequence[str], classes: Classes, surfaces: Sequence[str], layout: Layout
) -> pd.DataFrame:
    """Say of each tile which photograph it belongs to, and where in it, as far as that is known.

    Args:
        names: Paths of the tiles inside the data.
        classes: Classes of the tiles.
        surfaces: Surface of each tile: equal names on two surfaces are two photographs.
        layout: What the person says.

    Returns:
        `photograph`, empty where nothing tells it, and those of `row_in_photograph`,
        `column_in_photograph` and `tile_in_photograph` that are told.

    Raises:
        InputError: What the person says cannot be used.
    """
    if layout.photograph_pattern is not None:
        told = _by_pattern(names, layout.photograph_pattern, given=layout.photographs)
    elif layout.photographs in (FOLDERS, NONE) and not Path(layout.photographs).is_file():
        known = layout.photographs == FOLDERS
        told = pd.DataFrame(
            {"photograph": _folders(names, classes) if known else [""] * len(names)}
        )
    elif layout.photographs is not None:
        told = _by_list(names, Path(layout.photographs))
    else:
        stems = [SDNET_TILE.fullmatch(PurePosixPath(name).stem) for name in names]
        told = pd.DataFrame({"photograph": [stem[1] if stem else "" for stem in stems]})
    surface = pd.Series(surfaces, index=told.index, dtype=object)
    ids = told["photograph"]
    is_twice = surface.groupby(ids).transform("nunique").gt(1) & (ids != "")
    told["photograph"] = ids.mask(is_twice, surface + "/" + ids)
    return told


def is_told(layout: Layout) -> bool:
    """Whether a person says which photograph each tile belongs to."""
    return layout.photograph_pattern is not None or layout.photographs not in (None, NONE)


def check_photographs(tiles: pd.DataFrame, layout: Layout, max_bad_tiles: int) -> list[str]:
    """The tiles that must be left out because nothing says which photograph they belong to.

    Args:
        tiles: `tile` and `photograph`, without copies; some have a photograph.
        layout: What the person says: that must hold for every tile.
        max_bad_tiles: So many may be left out where names tell the photograph.

    Raises:
        InputError: There are more.
    """
    odd = tiles.loc[tiles["photograph"] == "", "tile"].tolist()
    named = ", ".join(odd[:NUM_NAMED]) + (", …" if len(odd) > NUM_NAMED else "")
    if odd and is_told(layout):
        what, way_out = _told_by(layout)
        raise InputError(f"{what} of {plural(len(odd), 'tile')} ({named}); {way_out}")
    if len(odd) > max_bad_tiles:
        other = tiles[tiles["photograph"] != ""].iloc[0]
        raise InputError(
            f"the names of {plural(len(odd), 'tile')} carry no photograph ({named}), while "
            f"{other['tile']} looks like a part of photograph {other['photograph']}; rename or "
            "--exclude them, say which photograph a tile belongs to (--photograph-pattern, "
            "--photographs), split tile by tile (--photographs none), or leave them out "
            f"(--max-bad-tiles {len(odd)})"
        )
    return odd


def doubt_photographs(tiles: pd.DataFrame, layout: Layout) -> str | None:
    """Why what names seem to tell may be no photographs; None without a doubt or if a person says.

    Args:
        tiles: `tile`, `photograph`, `label`.
        layout: What the person says.
    """
    named = tiles[tiles["photograph"] != ""]
    if is_told(layout) or named.empty:
        return None
    sizes = named.groupby("photograph").size()
    counted = plural(len(sizes), "photograph")
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
        f"names such as {first['tile']} look like SDNET2018's, photograph {first['photograph']}, "
        f"but {why}: if they mean something else, test figures may be too good; say what they "
        "mean (--photograph-pattern, --photographs) or --photographs none"
    )


def _told_by(layout: Layout) -> tuple[str, str]:
    if layout.photograph_pattern is not None:
        option = f"--photograph-pattern {layout.photograph_pattern}"
        return f"{option} does not match the names", "mend it, or --exclude their folder"
    if layout.photographs == FOLDERS:
        return (
            "--photographs folders: beside the class folder there is no folder in the names",
            "give each photograph a folder, or --exclude theirs",
        )
    return f"--photographs {layout.photographs} has no row", "add them, or --exclude their folder"


def _by_pattern(names: Sequence[str], pattern: str, *, given: str | None) -> pd.DataFrame:
    option = f"--photograph-pattern {pattern}"
    if given is not None:
        raise InputError(f"{option} and --photographs {given} exclude each other; give one")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{option}: not a regular expression ({error})") from None
    groups = compiled.groupindex
    if "photograph" not in groups:
        raise InputError(
            rf"{option}: no group called photograph; write such as '(?P<photograph>IMG_\d+)_'"
        )
    found = [compiled.search(name) for name in names]
    if not any(found):
        raise InputError(
            f"{option}: matches none of the tiles, such as {short_repr(names[0])}; mend it"
        )
    columns = {"photograph": [one["photograph"] or "" if one else "" for one in found]}
    for place in PLACES:
        if place in groups:
            columns[f"{place}_in_photograph"] = [one[place] or "" if one else "" for one in found]
    return pd.DataFrame(columns)


def _by_list(names: Sequence[str], path: Path) -> pd.DataFrame:
    said = read_tile_list(path, ("photograph",), PLACES[:2], tiles=names)
    columns = {"photograph": [said.get(name, {}).get("photograph", "") for name in names]}
    for place in PLACES[:2]:
        if any(place in row for row in said.values()):
            cells = [said.get(name, {}).get(place, "") for name in names]
            columns[f"{place}_in_photograph"] = cells
    return pd.DataFrame(columns)


def _folders(names: Sequence[str], classes: Classes) -> list[str]:
    """The folders of each tile but its class folder and those of a split."""
    ids = []
    for name, level in zip(names, classes.levels, strict=True):
        parts = folders_of(name)
        others = parts[:level] + parts[level + 1 :]
        ids.append("/".join(part for part in others if part.casefold() not in SPLIT_FOLDERS))
    return ids
