"""The grid of each photograph: the row and the column in which each tile stands.

In: the tiles of a source with what their names say, and the grey values of their borders. Out: two
int64 columns, counted from 0, and a sentence for the person.

Where names carry numbers only, as SDNET2018's do, the number of columns is read from the pixels:
the lower border of tile n continues in the upper border of tile n + w where w is the number of
columns, and nowhere else. Solvers of jigsaw puzzles compare borders in this way (Pomeranz,
Shemesh, Ben-Shahar 2011, doi 10.1109/CVPR.2011.5995331); here a single number is looked for, so the
mean over all tiles decides.
"""

import re
from collections.abc import Sequence
from posixpath import splitext
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ensemble.base.wording import plural

BORDER_POINTS = 32  # of each border, at equal distances
TOP, BOTTOM, LEFT, RIGHT = range(4)
PLACE = ["row_in_photograph", "column_in_photograph"]
UNKNOWN = -1
WHOLE_NUMBER = re.compile(r"\d{1,6}", re.ASCII)
LEAST_PAIRS = 20  # of tiles, before the mean difference of their borders counts
LEAST_RATIO = 1.5  # to the next best width, over all photographs; SDNET2018 has 2.6
LEAST_RATIO_IN_ONE = 1.05  # in every photograph; SDNET2018 has 1.8, and 1.1 at half the size
LEAST_CONTRAST = 2.0  # in grey levels, without which a photograph is blank
MOST_TILES = 2000  # of one photograph that are compared


class _Photograph(NamedTuple):
    """Tiles of one photograph in the order of their places, of which no two are equal.

    Attributes:
        name: Name of the photograph.
        places: Number of each tile from 0, (N, 1), or its row and column, (N, 2).
        borders: Grey values, 0 in the middle, (N, 4, BORDER_POINTS) float32.
    """

    name: str
    places: np.ndarray
    borders: np.ndarray


class _Sums(NamedTuple):
    """Sums of the differences of borders by photograph and by class of pairs of tiles."""

    differences: np.ndarray  # (P, classes) in grey levels
    pairs: np.ndarray  # (P, classes)


def read_borders(picture: Image.Image) -> bytes:
    """Green values of the top, bottom, left and right border of a tile: (4, BORDER_POINTS) uint8.

    They are read at the tile's own size: in SDNET2018 reduced to a quarter borders no longer tell.
    Points are picked, not averaged, which would take three times as long and tell little more.
    """
    width, height = picture.size
    points, kind = BORDER_POINTS, Image.Transform.AFFINE
    # output pixels are mapped to the centres of pixels in the first and the last line
    first_y, first_x = 1 - height / 2, 1 - width / 2
    rows = picture.transform((points, 2), kind, (width / points, 0, 0, 0, height - 1, first_y))
    columns = picture.transform((2, points), kind, (width - 1, 0, first_x, 0, height / points, 0))
    top_and_bottom, left_and_right = rows.tobytes()[1::3], columns.tobytes()[1::3]
    return top_and_bottom + left_and_right[::2] + left_and_right[1::2]


def file_stem(name: str) -> str:
    """The name of a tile without its folders and its suffix; `pathlib` takes ten times as long."""
    return splitext(name.rpartition("/")[2])[0]


def number_of(text: str) -> int:
    """The whole number that a text states; -1 where it states none."""
    return int(text) if WHOLE_NUMBER.fullmatch(text) else UNKNOWN


def start_at_zero(numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Count from 0 what a data set counts from 0 or from 1, as its least number tells.

    Args:
        numbers: Numbers of all tiles; -1 where one is not known.
    """
    given = np.asarray(numbers, dtype=np.int64)
    known = given[given >= 0]
    first = min(1, known.min()) if len(known) else 0
    return np.where(given >= 0, given - first, UNKNOWN)


def find_grid(tiles: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Find the row and the column of each tile, and say in a sentence where they come from.

    Args:
        tiles: Table of `tile`, `photograph` (empty where it is not known), `row_in_photograph` and
            `column_in_photograph` (int64 as names tell, or -1), `tile_in_photograph` (text) and
            `borders` as `read_borders` returns them.

    Returns:
        The table with both columns filled as far as they are known, and a record of `columns`
        (None where they are not known), `source` (`names`, `borders` or None) and `sentence`.
    """
    has_photograph = tiles["photograph"] != ""
    is_known = (tiles[PLACE] >= 0).all(axis=1) & has_photograph
    if not has_photograph.any():
        return _without_grid(tiles, "nothing says which photograph a tile belongs to")
    if is_known.any():
        tiles = tiles.assign(**{name: tiles[name].where(is_known, UNKNOWN) for name in PLACE})
        tiles, doubled = _clear_doubles(tiles)
        columns = int(tiles[PLACE[1]].max()) + 1
        sentence = _check_places(tiles, columns)
        return tiles, {"columns": columns, "source": "names", "sentence": sentence + doubled}
    numbers = start_at_zero([number_of(text) for text in tiles["tile_in_photograph"]])
    numbers = np.where(has_photograph, numbers, UNKNOWN)
    if (numbers < 0).all():
        return _without_grid(tiles, "names carry neither row and column nor a number of the tile")
    columns_found, sentence = _find_columns(_photographs(tiles.assign(number=numbers), ["number"]))
    if columns_found is None:
        return _without_grid(tiles, sentence)
    places = [np.where(numbers < 0, UNKNOWN, part) for part in np.divmod(numbers, columns_found)]
    tiles, doubled = _clear_doubles(tiles.assign(**dict(zip(PLACE, places, strict=True))))
    return tiles, {"columns": columns_found, "source": "borders", "sentence": sentence + doubled}


def _without_grid(tiles: pd.DataFrame, why: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    sentence = (
        f"the grid of the photographs is not known: {why}; state rows and columns with "
        "--photograph-pattern or --photographs if you know them"
    )
    tiles = tiles.assign(**dict.fromkeys(PLACE, np.int64(UNKNOWN)))
    return tiles, {"columns": None, "source": None, "sentence": sentence}


def _clear_doubles(tiles: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Leave each place to the first tile by name, and to copies of that tile, such as `7-12_2`.

    Returns:
        The table, and the end of a sentence about the tiles that lost their place, or nothing.
    """
    known = tiles[tiles[PLACE[0]] >= 0]
    ordered = _by_name(known[known.duplicated(["photograph", *PLACE], keep=False)], PLACE)
    by_place = ordered.groupby(["photograph", *PLACE])["stem"]
    later = ordered.assign(first=by_place.transform("first"))[by_place.cumcount() > 0]
    is_copy = [
        re.fullmatch(r"_\d+", stem.removeprefix(first)) is not None
        for stem, first in zip(later["stem"], later["first"], strict=True)
    ]
    lost = later.index[~np.array(is_copy, dtype=bool)]
    if lost.empty:
        return tiles, ""
    tiles = tiles.copy()
    tiles.loc[lost, PLACE] = UNKNOWN
    return tiles, (
        f"; {plural(len(lost), 'tile')} left without a place, as another by name before it has the "
        f"same one (the first is {tiles.loc[lost[0], 'tile']})"
    )


def look_around(
    photographs: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    reach: int,
    names: np.ndarray | None = None,
) -> np.ndarray:
    """Which tile lies at each place around each tile.

    Args:
        photographs: (N,) photograph of each tile; empty where it is not known.
        rows: (N,) row of each tile in its photograph, −1 where it is not known.
        columns: (N,) its column.
        reach: Tiles to look at on each side.
        names: (N,) names of the tiles, which tell a tile from its copies; None where tiles come
            before their copies.

    Returns:
        (N, 2 · reach + 1, 2 · reach + 1) int64 numbers of tiles, −1 where none is; in the middle
        the tile itself. Of several tiles at one place the first by name is the neighbour of others:
        a copy, such as `7-12_2`, may lie in another class folder and come first in a table.
    """
    side = 2 * reach + 1
    around = np.full((len(rows), side, side), UNKNOWN, dtype=np.int64)
    known = np.flatnonzero((rows >= 0) & (columns >= 0) & (photographs != ""))
    codes = np.unique(photographs[known].astype(str), return_inverse=True)[1]
    down, right = rows[known], columns[known]
    num_down, num_right = (1 + 2 * reach + int(axis.max(initial=0)) for axis in (down, right))

    def number(down: np.ndarray, right: np.ndarray) -> "pd.Index[int]":
        """One number for each place, which is found far sooner than three."""
        return pd.Index((codes * num_down + down + reach) * num_right + right + reach)

    places = number(down, right)
    is_first = ~places.duplicated()
    if names is not None and not is_first.all():
        doubled = np.flatnonzero(places.duplicated(keep=False))
        keys = [(file_stem(name), name) for name in names[known[doubled]]]
        by_name = doubled[sorted(range(len(keys)), key=keys.__getitem__)]
        is_first[by_name] = ~places[by_name].duplicated()
    first_places, first = places[is_first], known[is_first]
    for y, x in np.ndindex(side, side):
        beside = number(down + y - reach, right + x - reach)
        found = first_places.get_indexer(beside)
        around[known[found >= 0], y, x] = first[found[found >= 0]]
    around[:, reach, reach] = np.arange(len(rows))
    return around


def keep_first(tiles: pd.DataFrame, places: list[str]) -> pd.DataFrame:
    """Keep of the tiles at one place of a photograph the first by name, sorted by place."""
    place = ["photograph", *places]
    doubled = _by_name(tiles[tiles.duplicated(place, keep=False)], places)
    return tiles.drop(index=doubled.index[doubled.duplicated(place)]).sort_values(place)


def _by_name(tiles: pd.DataFrame, places: list[str]) -> pd.DataFrame:
    """Sort tiles by photograph, place and name, that of the file before that of its folders."""
    stems = [file_stem(name) for name in tiles["tile"]]
    return tiles.assign(stem=stems).sort_values(["photograph", *places, "stem", "tile"])


def _photographs(tiles: pd.DataFrame, places: list[str]) -> list[_Photograph]:
    """Gather the tiles whose place is known by photograph, the first by name of each place."""
    table = keep_first(tiles[tiles[places[0]] >= 0], places)
    photographs = []
    for name, group in table.groupby("photograph"):
        some = group.head(MOST_TILES)
        photograph = _Photograph(str(name), some[places].to_numpy(), _grey(some["borders"]))
        photographs.append(photograph)
    return photographs


def _grey(borders: pd.Series) -> np.ndarray:
    """Grey values of borders, 0 in the middle: (N, 4, BORDER_POINTS) float32."""
    values = np.frombuffer(b"".join(borders), dtype=np.uint8)
    return values.reshape(-1, 4, BORDER_POINTS).astype(np.float32) - 128


def _differ(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root mean square difference of each border (N, L) from each other (N, L): (N, N)."""
    squares = np.square(first).mean(1)[:, None] + np.square(second).mean(1)
    # BLAS would start its threads, which cost more than these small products
    squares -= np.einsum("il,jl->ij", first, second) * (2 / first.shape[1])
    return np.sqrt(np.maximum(squares, 0))


def _sum_by_class(classes: np.ndarray, differences: np.ndarray, num_classes: int) -> np.ndarray:
    """Sums and counts (2, num_classes) of differences by their class; class -1 does not count."""
    counts = classes >= 0
    chosen = classes[counts]
    return np.stack(
        [
            np.bincount(chosen, differences[counts], minlength=num_classes),
            np.bincount(chosen, minlength=num_classes),
        ]
    )


def _sums(parts: list[np.ndarray]) -> _Sums:
    differences, pairs = np.stack(parts, axis=1)
    return _Sums(differences, pairs)


def _pool(sums: _Sums, contrast: np.ndarray) -> np.ndarray:
    """Mean difference of each class in grey levels, as if all photographs had equal contrast.

    Args:
        sums: Sums of P photographs.
        contrast: Mean difference of unrelated borders in each, (P,); 0 of one that does not count.

    Returns:
        (classes,), infinite where there are too few pairs.
    """
    used = contrast > 0
    pairs = sums.pairs[used].sum(0)
    relative = (sums.differences[used] / contrast[used, None]).sum(0)
    means = contrast[used].mean() * relative / np.maximum(pairs, 1)
    return np.where(pairs >= LEAST_PAIRS, means, np.inf)


def _find_columns(photographs: list[_Photograph]) -> tuple[int | None, str]:
    """Find the one number of columns at which borders continue, and put it into a sentence."""
    most = min(max(int(photograph.places.max()) + 1 for photograph in photographs), MOST_TILES) // 2
    if most < 2:
        return None, "photographs have too few tiles to tell the number of columns"
    parts = []
    for _, places, borders in photographs:
        steps = places.T - places  # from each tile to each other
        possible = (steps >= 2) & (steps <= (places.max() + 1) // 2) & (steps <= most)
        differences = _differ(borders[:, BOTTOM], borders[:, TOP])
        parts.append(_sum_by_class(np.where(possible, steps, UNKNOWN), differences, most + 1))
    sums = _sums(parts)
    contrast = sums.differences.sum(1) / np.maximum(sums.pairs.sum(1), 1)
    contrast = np.where(contrast >= LEAST_CONTRAST, contrast, 0)
    if not contrast.any():
        return None, "photographs have too few tiles, or too little contrast, to tell it"
    means = _pool(sums, contrast)
    best, second = (int(width) for width in np.argsort(means, kind="stable")[:2])
    if not np.isfinite(means[second]):
        return None, "photographs have too few tiles to tell the number of columns"
    figures = (
        f"borders of neighbours differ by {means[best]:.1f} grey levels, by {means[second]:.1f} at "
        f"the next best width ({second})"
    )
    if means[second] < LEAST_RATIO * means[best]:
        return None, f"at {best} columns {figures}, too small a difference to tell"
    against = _find_one_against(sums, contrast, best)
    if against is not None:
        return (
            None,
            f"at {best} columns {figures}, but not in photograph {photographs[against].name}",
        )
    if not _rows_end(photographs, contrast, best):
        return None, f"at {best} columns {figures}, but rows do not end where the numbers say"
    return best, f"{best} columns in each photograph's grid: {figures}"


def _find_one_against(sums: _Sums, contrast: np.ndarray, best: int) -> int | None:
    """The first photograph with enough tiles and contrast in which `best` does not win clearly."""
    enough = (sums.pairs >= LEAST_PAIRS) & (contrast[:, None] > 0)
    means = np.where(enough, sums.differences / np.maximum(sums.pairs, 1), np.inf)
    others = np.delete(means, best, axis=1).min(1)
    is_against = enough[:, best] & (others < LEAST_RATIO_IN_ONE * means[:, best])
    return int(is_against.argmax()) if is_against.any() else None


def _rows_end(photographs: list[_Photograph], contrast: np.ndarray, columns: int) -> bool:
    """Whether right borders continue in the next tile inside rows, and not where a row ends."""
    parts = []
    for _, places, borders in photographs:
        number = places[:, 0]
        is_next = np.diff(number) == 1
        is_end = (number[:-1] + 1) % columns == 0
        squares = np.square(borders[:-1, RIGHT] - borders[1:, LEFT]).mean(1)
        parts.append(_sum_by_class(np.where(is_next, is_end, UNKNOWN), np.sqrt(squares), 2))
    inside, at_end = _pool(_sums(parts), contrast)
    return not np.isfinite(inside + at_end) or bool(at_end >= LEAST_RATIO * inside)


def _check_places(tiles: pd.DataFrame, columns: int) -> str:
    """Say whether borders continue where names state that tiles are neighbours.

    Borders at which neighbours touch are compared with the opposite ones of the same tiles, which
    lie two tiles apart.
    """
    named = f"{columns} columns in each photograph's grid by the names of tiles"
    table = keep_first(tiles[tiles[PLACE[0]] >= 0], PLACE)
    parts = [
        _touch(table, PLACE[1], PLACE[0], (BOTTOM, TOP)),
        _touch(table, PLACE[0], PLACE[1], (RIGHT, LEFT)),
    ]
    if not sum(len(part) for part in parts):
        return f"{named}, but no two tiles are neighbours: rows or columns may mean something else"
    near, far = np.concatenate(parts).mean(0)
    figures = f"borders of neighbours differ by {near:.1f} grey levels, opposite ones by {far:.1f}"
    for part in parts:
        near, far = part.mean(0) if len(part) >= LEAST_PAIRS else (0.0, 0.0)
        if far < LEAST_RATIO * near:
            return f"{named} are doubtful: {figures}; rows or columns may mean something else"
    return f"{named}: {figures}"


def _touch(tiles: pd.DataFrame, line: str, place: str, sides: tuple[int, int]) -> np.ndarray:
    """Differences of the touching and of the opposite borders of neighbours, (pairs, 2).

    Args:
        tiles: Table of tiles, no two at one place.
        line: Column that neighbours have in common.
        place: Column in which they follow each other.
        sides: Border of the first and of the second tile that touch.
    """
    table = tiles.sort_values(["photograph", line, place])
    follows = (
        table["photograph"].eq(table["photograph"].shift(-1))
        & table[line].eq(table[line].shift(-1))
        & table[place].add(1).eq(table[place].shift(-1))
    )
    first = np.flatnonzero(follows)
    borders = _grey(table["borders"])
    touching, opposite = (
        np.sqrt(np.square(borders[first, one] - borders[first + 1, other]).mean(1))
        for one, other in (sides, sides[::-1])
    )
    return np.stack([touching, opposite], axis=1)
