"""Facts about grids: the width whose borders continue, places by names, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from ensemble.base.errors import InputError
from ensemble.data.grid import (
    BORDER_POINTS,
    PLACE,
    find_grid,
    look_around,
    read_borders,
    start_at_zero,
)
from ensemble.data.layout import Layout
from ensemble.data.packing import pack
from ensemble.data.prepare import describe_pack
from ensemble.data.samples import (
    LIGHT,
    MOST_NAME_LINES,
    NAME_SIZE,
    break_name,
    draw_samples,
)
from ensemble.data.sources import open_source
from ensemble.data.split import SPLITS
from ensemble.data.synthetic import value_noise

ROWS, COLUMNS, SIDE_PX = 6, 7, 32


def draw_photograph(seed: int, rows: int = ROWS, columns: int = COLUMNS) -> Image.Image:
    """A photograph of soft noise, which is cut into tiles without a gap."""
    rng = np.random.default_rng(seed)
    shape = (rows * SIDE_PX, columns * SIDE_PX)
    grey = 128 + 80 * value_noise(rng, shape, (25, 25)) + 5 * rng.standard_normal(shape)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def cut(picture: Image.Image) -> list[tuple[int, int, Image.Image]]:
    """Row, column and picture of each tile, row by row."""
    return [
        (y // SIDE_PX, x // SIDE_PX, picture.crop((x, y, x + SIDE_PX, y + SIDE_PX)))
        for y in range(0, picture.height, SIDE_PX)
        for x in range(0, picture.width, SIDE_PX)
    ]


def tiles_of(*photographs: Image.Image, first: int = 1) -> pd.DataFrame:
    """Tiles called as SDNET2018's, with the place in which they stand as `row` and `column`."""
    rows = [
        {"tile": f"D/UD/{photograph}-{number}.jpg", "photograph": f"{photograph}", "row": row,
         "tile_in_photograph": f"{number}", "column": column, "borders": read_borders(picture)}
        for photograph, whole in enumerate(photographs)
        for number, (row, column, picture) in enumerate(cut(whole), first)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**dict.fromkeys(PLACE, -1))


def keep(tiles: pd.DataFrame, share: float) -> pd.DataFrame:
    chosen = np.random.default_rng(0).random(len(tiles)) < share
    return tiles[chosen].reset_index(drop=True)


def assert_places(tiles: pd.DataFrame) -> None:
    assert (tiles[PLACE].to_numpy() == tiles[["row", "column"]].to_numpy()).all()


DRAWN = [draw_photograph(seed) for seed in range(4)]


# Borders


@pytest.mark.parametrize("size", [(256, 256), (227, 227), (96, 64), (16, 16), (1, 1)])
def test_borders_are_the_outermost_pixels_of_a_tile(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    top, bottom, left, right = np.frombuffer(
        read_borders(Image.fromarray(pixels)), dtype=np.uint8
    ).reshape(4, BORDER_POINTS)
    x, y = ((np.arange(BORDER_POINTS) + 0.5) * side / BORDER_POINTS for side in size)
    columns, rows = x.astype(int), y.astype(int)
    green = pixels[:, :, 1]
    assert (top == green[0, columns]).all()
    assert (bottom == green[-1, columns]).all()
    assert (left == green[rows, 0]).all()
    assert (right == green[rows, -1]).all()


# The number of columns


@pytest.mark.parametrize("first", [0, 1])
def test_the_width_is_the_one_whose_borders_continue(first: int) -> None:
    tiles, grid = find_grid(tiles_of(*DRAWN, first=first))
    assert (grid["columns"], grid["source"]) == (COLUMNS, "borders")
    assert grid["sentence"].startswith("7 columns in each photograph's grid: borders of neighbours")
    assert (tiles[PLACE].dtypes == np.int64).all()
    assert_places(tiles)


@pytest.mark.parametrize("share", [0.9, 0.5])
def test_holes_stay_holes(share: float) -> None:
    tiles, grid = find_grid(keep(tiles_of(*DRAWN), share))
    assert grid["columns"] == COLUMNS
    assert_places(tiles)


def test_photographs_of_a_few_tiles_do_not_veto() -> None:
    whole = tiles_of(*DRAWN)
    tiles, grid = find_grid(whole[(whole["photograph"] != "3") | (whole["row"] == 2)])
    assert grid["columns"] == COLUMNS
    assert_places(tiles)


def test_a_blank_photograph_does_not_veto() -> None:
    blank = Image.new("RGB", DRAWN[0].size, (250, 250, 250))
    tiles, grid = find_grid(tiles_of(*DRAWN, blank))
    assert grid["columns"] == COLUMNS
    assert_places(tiles)


def shuffle(tiles: pd.DataFrame, photographs: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    tiles = tiles.copy()
    for photograph in photographs:
        chosen = tiles["photograph"] == photograph
        numbers = tiles.loc[chosen, "tile_in_photograph"].to_numpy()
        tiles.loc[chosen, "tile_in_photograph"] = rng.permutation(numbers)
    return tiles


@pytest.mark.parametrize(
    ("tiles", "why"),
    [
        (shuffle(tiles_of(*DRAWN), ["0", "1", "2", "3"]), "too small a difference to tell"),
        (shuffle(tiles_of(*DRAWN), ["2"]), "but not in photograph 2"),
        (tiles_of(*DRAWN, draw_photograph(9, 7, 6)), "but not in photograph 4"),
        (tiles_of(*DRAWN, first=3), "but rows do not end where the numbers say"),
        (tiles_of(*(draw_photograph(seed, 2, 2) for seed in range(4))), "have too few tiles"),
        (tiles_of(*(draw_photograph(seed, 1, 1) for seed in range(4))), "have too few tiles"),
        (tiles_of(*[Image.new("RGB", DRAWN[0].size)] * 4), "too little contrast"),
        (tiles_of(*DRAWN).assign(photograph=""), "nothing says which photograph"),
        (tiles_of(*DRAWN).assign(tile_in_photograph="left"), "neither row and column nor a number"),
        (tiles_of(*DRAWN).assign(tile_in_photograph="99999999999999999999"), "neither row and col"),
    ],
)
def test_a_width_that_does_not_win_clearly_is_no_grid(tiles: pd.DataFrame, why: str) -> None:
    placed, grid = find_grid(tiles)
    assert (grid["columns"], grid["source"]) == (None, None)
    assert grid["sentence"].startswith("the grid of the photographs is not known: ")
    assert why in grid["sentence"]
    assert (placed[PLACE] == -1).all(axis=None)


def test_without_tiles_of_known_photographs_the_others_have_no_place() -> None:
    tiles = tiles_of(*DRAWN)
    tiles.loc[:3, "photograph"] = ""
    placed, _ = find_grid(tiles)
    assert (placed.loc[:3, PLACE] == -1).all(axis=None)
    assert_places(placed[4:])


@pytest.mark.parametrize(
    ("given", "counted"),
    [([1, 3, -1], [0, 2, -1]), ([0, 3, -1], [0, 3, -1]), ([5, 7], [4, 6]), ([-1], [-1]), ([], [])],
)
def test_numbers_count_from_zero_by_the_least_one(given: list[int], counted: list[int]) -> None:
    assert start_at_zero(given).tolist() == counted


# Two tiles at one place


def test_a_copy_stands_where_the_tile_stands_that_it_copies() -> None:
    tiles = tiles_of(*DRAWN)
    copy = tiles.iloc[[8]].assign(tile="D/CD/0-9_2.jpg", borders=tiles["borders"].iloc[20])
    placed, grid = find_grid(pd.concat([tiles, copy], ignore_index=True))
    assert grid["columns"] == COLUMNS
    assert_places(placed)
    assert "left without a place" not in grid["sentence"]


def test_a_tile_is_the_neighbour_of_others_also_where_its_copy_comes_first() -> None:
    """The copy lies in another class folder, whose name is before that of the tile's."""
    names = np.array(["CD/7-1_2.jpg", "UD/7-1.jpg", "UD/7-2.jpg"], dtype=object)
    columns = np.array([0, 0, 1])
    around = look_around(np.full(3, "7"), np.zeros(3, int), columns, reach=1, names=names)
    assert around[:, 1].tolist() == [[-1, 0, 2], [-1, 1, 2], [1, 2, -1]]


def test_of_two_other_tiles_at_one_place_the_first_by_name_has_it() -> None:
    tiles = tiles_of(*DRAWN)
    double = tiles.iloc[[8]].assign(tile="D/CD/0-9b.jpg")
    placed, grid = find_grid(pd.concat([tiles, double], ignore_index=True))
    assert_places(placed[:-1])
    assert placed.iloc[-1][PLACE].tolist() == [-1, -1]
    assert grid["sentence"].endswith(
        "; 1 tile left without a place, as another by name before it has the same one (the first "
        "is D/CD/0-9b.jpg)"
    )


# Places by names


def save(folder: Path, name_of: Callable[[int, int, int], str]) -> Path:
    """Save the tiles of some photographs; those of odd columns lie in the folder of cracks."""
    for photograph in range(4):
        for row, column, picture in cut(draw_photograph(photograph, 5, 6)):
            path = folder / ("Sound", "Cracked")[column % 2] / name_of(photograph, row, column)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return folder


def pack_and_say(folder: Path, layout: Layout) -> tuple[pd.DataFrame, str]:
    packed = pack(open_source(folder, layout), under=folder.parent / "packs", log=str)
    tables = pd.concat([packed.table(split) for split in SPLITS], ignore_index=True)
    return tables, "\n".join(describe_pack(packed.record))


@pytest.mark.parametrize(
    ("name_of", "layout"),
    [
        (lambda p, r, c: f"IMG {p}-r{r + 1:02}-c{c + 1:02}.png", Layout()),
        (lambda p, r, c: f"IMG_{p}_R{r}_C{c}.png", Layout()),
        (lambda p, r, c: f"{p}/r{r + 1:02}-c{c + 1:02}.png", Layout(photographs="folders")),
        (
            lambda p, r, c: f"{r}.{c}.{p}.png",
            Layout(photograph_pattern=r"(?P<row>\d)\.(?P<column>\d)\.(?P<photograph>\d)\.png"),
        ),
    ],
)
def test_names_give_row_and_column(
    tmp_path: Path, name_of: Callable[[int, int, int], str], layout: Layout
) -> None:
    table, said = pack_and_say(save(tmp_path / "tiles", name_of), layout)
    assert table["photograph"].nunique() == 4
    expected = {
        name_of(photograph, row, column): (row, column)
        for photograph in range(4)
        for row in range(5)
        for column in range(6)
    }
    found = {
        tile.partition("/")[2]: (row, column)
        for tile, row, column in table[["tile", *PLACE]].itertuples(index=False)
    }
    assert found == expected
    assert (table[PLACE].dtypes == np.int64).all()
    assert "  6 columns in each photograph's grid by the names of tiles: borders of nei" in said


@pytest.mark.parametrize(
    "name_of",
    [
        lambda p, r, c: f"IMG{p}-r{c}-c{r}.png",
        lambda p, r, c: f"IMG{p}-r{4 - r}-c{c}.png",
    ],
    ids=["rows and columns exchanged", "rows from below"],
)
def test_names_whose_borders_do_not_continue_are_doubted(
    tmp_path: Path, name_of: Callable[[int, int, int], str]
) -> None:
    _, said = pack_and_say(save(tmp_path / "tiles", name_of), Layout())
    assert "by the names of tiles are doubtful: borders of neighbours differ by" in said


def test_places_of_which_none_are_neighbours_are_doubted(tmp_path: Path) -> None:
    folder = save(tmp_path / "tiles", lambda p, r, c: f"IMG{p}-r{32 * r}-c{32 * c}.png")
    assert "but no two tiles are neighbours" in pack_and_say(folder, Layout())[1]


def test_a_pack_of_numbered_tiles_has_places_by_their_borders(tmp_path: Path) -> None:
    folder = save(tmp_path / "tiles", lambda p, r, c: f"{p}-{6 * r + c}.png")
    table, said = pack_and_say(folder, Layout())
    numbers = table["tile_in_photograph"].astype(int)
    assert (6 * table[PLACE[0]] + table[PLACE[1]] == numbers).all()
    assert (table[PLACE].dtypes == np.int64).all()
    assert "  6 columns in each photograph's grid: borders of neighbours differ by" in said


# samples.png


def test_samples_show_a_whole_photograph_with_cracked_tiles_outlined(tmp_path: Path) -> None:
    folder = save(tmp_path / "tiles", lambda p, r, c: f"{p}-{6 * r + c}.png")
    packed = pack(open_source(folder), under=tmp_path / "packs", log=str)
    with Image.open(packed.folder / "samples.png") as image:
        assert image.size == (6 * 136 + 8, 2 * (136 + 26 + 12) + 8 + 8 + 26 + 5 * 128 + 8)
        shown = np.asarray(image)[-8 - 5 * 128 : -8, 8 : 8 + 6 * 128].astype(int)
    wholes = [
        draw_photograph(seed, 5, 6).resize((768, 640), Image.Resampling.BOX)
        for seed in (0, 1, 2, 3)
    ]
    inside = np.zeros((5 * 128, 6 * 128), dtype=bool)
    for y, x in np.ndindex(5, 6):
        inside[128 * y + 4 : 128 * y + 124, 128 * x + 4 : 128 * x + 124] = True
    assert any((shown[inside] == np.asarray(whole)[inside]).all() for whole in wholes)
    light = (shown == LIGHT).all(2)
    for y, x in np.ndindex(5, 6):
        assert light[128 * y : 128 * y + 128, 128 * x : 128 * x + 128].any() == (x % 2 == 1)


@given(st.text("abc/é.", min_size=1, max_size=150))
def test_the_name_below_a_sample_is_the_whole_name_of_the_tile(tile: str) -> None:
    lines = break_name(tile)
    font = ImageFont.load_default(NAME_SIZE)
    assert all(font.getlength(line) <= 128 for line in lines)
    if lines[0] == "…":
        assert len(lines) == MOST_NAME_LINES
        assert tile.endswith("".join(lines[1:]))
    else:
        assert "".join(lines) == tile
    if "/" not in tile:
        assert len(lines) <= 1 + font.getlength(tile) // 100


def test_a_long_name_below_a_sample_is_broken_behind_its_folders() -> None:
    assert break_name("Bridge Decks of 2018/Cracked/7001-12.jpg") == [
        "Bridge Decks of 2018/",
        "Cracked/7001-12.jpg",
    ]


def test_of_a_photograph_too_large_for_the_sheet_a_part_is_shown(tmp_path: Path) -> None:
    places = 40 * np.arange(100)
    tiles = pd.DataFrame(
        {"row": 0, "tile": [f"7-{place}.png" for place in places], "photograph": "7",
         "surface": "", "label": 1, PLACE[0]: places, PLACE[1]: places}
    )  # fmt: skip
    draw_samples(tiles, np.zeros((1, 32, 32, 3), dtype=np.uint8), tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as image:
        assert (image.width, image.height < 2000) == (6 * 136 + 8, True)


# What a person states


def write_list(folder: Path, place: str) -> Layout:
    """A list in which the first tile has `place`, and the others have the right one."""
    rows = ["tile,photograph,row,column"]
    for number, tile in enumerate(sorted(folder.rglob("*.png"))):
        photograph, row, column = tile.stem.split(".")
        own = place if number == 0 else f"{row},{column}"
        rows.append(f"{tile.relative_to(folder).as_posix()},{photograph},{own}")
    path = folder.parent / "list.csv"
    path.write_text("\n".join(rows))
    return Layout(photographs=str(path))


@pytest.mark.parametrize("text", ["-1", "1.0", "second", "1e3", "9999999", "²"])
def test_a_row_that_is_no_whole_number_is_refused_by_the_name_of_its_tile(
    tmp_path: Path, text: str
) -> None:
    folder = save(tmp_path / "tiles", lambda p, r, c: f"{p}.{r}.{c}.png")
    with pytest.raises(InputError) as caught:
        open_source(folder, write_list(folder, f"{text},1"))
    assert f"the row of 'Cracked/0.0.1.png' is '{text}', not a whole number" in str(caught.value)


@pytest.mark.parametrize("place", [",", ",1", "0,"])
def test_a_blank_place_is_not_known(tmp_path: Path, place: str) -> None:
    folder = save(tmp_path / "tiles", lambda p, r, c: f"{p}.{r}.{c}.png")
    table, _ = pack_and_say(folder, write_list(folder, place))
    unknown = table[(table[PLACE] == -1).any(axis=1)]
    assert unknown["tile"].tolist() == ["Cracked/0.0.1.png"]
    assert (unknown[PLACE] == -1).all(axis=None)
