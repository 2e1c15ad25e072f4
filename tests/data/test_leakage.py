"""Facts about leakage: no pixel of another split or photograph reaches what a network sees.

They are proved by poisoning: what must not be seen is overwritten, and every window stays the same.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ensemble.data.batches import SplitTiles, make_batch, place_split, place_tiles
from ensemble.data.grid import PLACE
from ensemble.data.pack import ARRAYS, Pack
from ensemble.data.packing import pack
from ensemble.data.sources import open_source
from ensemble.data.split import SPLITS, assign_splits
from ensemble.data.synthetic import draw_dataset
from ensemble.data.view import View
from ensemble.data.windows import find_neighbours

SIDE = 32  # px
ROWS, COLUMNS = 4, 5
MARGINS = range(SIDE + 1)
CPU = torch.device("cpu")


def draw(folder: Path, *, names_places: bool = False) -> Path:
    """Drawn photographs, four of each surface; those of walls are named as those of decks are."""
    draw_dataset(folder, photographs_per_surface=4, rows=ROWS, columns=COLUMNS, tile_size_px=SIDE)
    for path in sorted(folder.rglob("*.jpg")):
        photograph, tile = path.stem.split("-")
        down, right = divmod(int(tile) - 1, COLUMNS)
        if path.parts[-3] == "W":
            photograph = f"{int(photograph) - 68}"
        place = f"r{down:02}-c{right:02}" if names_places else tile
        path.rename(path.with_name(f"{photograph}-{place}.jpg"))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("drawn") / "tiles")


@pytest.fixture(scope="module")
def listed(packs: dict[str, Pack]) -> pd.DataFrame:
    """All tiles with their places; every photograph has tiles of both classes."""
    tiles = pd.concat([packs["by photograph"].table(split) for split in SPLITS], ignore_index=True)
    return tiles.assign(label=tiles[PLACE[1]] % 2)


@pytest.fixture(scope="module")
def packs(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pack]:
    """A pack by photograph, and a leaky one, whose photographs are torn."""
    under = tmp_path_factory.mktemp("packs")
    source = open_source(drawn)
    return {
        "by photograph": pack(source, under=under),
        "leaky": pack(source, under=under, leaky_split=True),
    }


def place_with(tiles: SplitTiles, pixels: np.ndarray) -> SplitTiles:
    """The same tiles with other pixels in the packed array."""
    neighbours = tiles.neighbours.numpy()
    return place_tiles(pixels, tiles.rows.numpy(), tiles.labels.numpy(), CPU, neighbours=neighbours)


def windows(tiles: SplitTiles, numbers: np.ndarray) -> Iterator[torch.Tensor]:
    """Windows at every margin as they are judged, then some as they are augmented in training."""
    index = torch.from_numpy(numbers)
    for context_px in MARGINS:
        yield make_batch(tiles, index, View(SIDE, context_px))[0]
    for context_px in MARGINS[::4]:
        yield make_batch(
            tiles,
            index,
            View(SIDE, context_px),
            augmentation=1.0,
            context_dropout=0.2,
            generator=torch.Generator().manual_seed(context_px),
        )[0]


def are_same(one: SplitTiles, other: SplitTiles, numbers: np.ndarray) -> bool:
    return all(
        torch.equal(*pair)
        for pair in zip(windows(one, numbers), windows(other, numbers), strict=True)
    )


def some_photographs(table: pd.DataFrame) -> list[str]:
    """One photograph of each surface."""
    return table.groupby("surface")["photograph"].min().tolist()


@pytest.mark.parametrize("kind", ["by photograph", "leaky"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_window_shows_pixels_of_its_own_photograph_and_no_others(
    packs: dict[str, Pack], kind: str, split: str
) -> None:
    tiles, table = place_split(packs[kind], split, CPU)
    assert tiles.has_neighbours.any()
    for photograph in some_photographs(table):
        is_own = (table["photograph"] == photograph).to_numpy()
        poisoned = tiles.pixels.numpy().copy()
        poisoned[table.loc[~is_own, "row"]] ^= 0xFF
        assert are_same(tiles, place_with(tiles, poisoned), np.flatnonzero(is_own)), photograph


def test_poison_in_a_neighbour_is_seen(packs: dict[str, Pack]) -> None:
    """Without this fact the others would say nothing: windows do show what lies around a tile."""
    tiles, table = place_split(packs["by photograph"], "train", CPU)
    middle = np.flatnonzero((table[PLACE] == 1).all(axis=1))[:1]
    neighbour = (table["photograph"] == table["photograph"][middle[0]]) & (
        (table[PLACE[0]] == 1) & (table[PLACE[1]] == 2)
    )
    poisoned = tiles.pixels.numpy().copy()
    poisoned[table.loc[neighbour, "row"]] ^= 0xFF
    pairs = zip(windows(tiles, middle), windows(place_with(tiles, poisoned), middle), strict=True)
    is_same = [torch.equal(*pair) for pair in pairs]
    assert is_same[: len(MARGINS)] == [True] + [False] * SIDE
    assert not all(is_same[len(MARGINS) :])


@pytest.mark.parametrize("kind", ["by photograph", "leaky"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_tiles_of_other_splits_reach_no_window(
    packs: dict[str, Pack], kind: str, split: str, tmp_path: Path
) -> None:
    """Also where tiles of one photograph stand in several splits: there they are holes."""
    copy = Pack(Path(shutil.copytree(packs[kind].folder, tmp_path / "pack")), packs[kind].record)
    before, table = place_split(copy, split, CPU)
    before = place_with(before, before.pixels.numpy().copy())
    for other in SPLITS:
        if other != split:
            array = np.load(copy.folder / f"{ARRAYS[other]}.npy", mmap_mode="r+")
            rows = copy.table(other)["row"].to_numpy()
            array[rows] = 255 - array[rows]
            array.flush()
    after, _ = place_split(copy, split, CPU)
    numbers = np.arange(0, len(table), 7)
    assert are_same(before, after, numbers)


def test_a_torn_photograph_lends_its_tiles_no_neighbours_of_another_split(
    packs: dict[str, Pack],
) -> None:
    tables = {split: packs["leaky"].table(split) for split in SPLITS}
    everything = pd.concat(tables.values())
    assert everything.groupby("photograph").size().eq(ROWS * COLUMNS).all()
    for split in ("train", "val"):
        tiles, table = place_split(packs["leaky"], split, CPU)
        places = set(zip(table["photograph"], *(table[name] for name in PLACE), strict=True))
        expected = [
            sum((photograph, y + dy, x + dx) in places for dy in (-1, 0, 1) for dx in (-1, 0, 1))
            for photograph, y, x in zip(
                table["photograph"], *(table[name] for name in PLACE), strict=True
            )
        ]
        assert (tiles.neighbours >= 0).sum(1).tolist() == expected


def test_test_photographs_changed_on_disk_change_no_window_of_training_and_validation(
    tmp_path: Path,
) -> None:
    """From the files on: reading, packing and reducing mix nothing between splits."""
    folder = draw(tmp_path / "tiles", names_places=True)
    before = pack(open_source(folder), under=tmp_path / "before", side_px=20)
    for tile in before.table("test")["tile"]:
        noise = np.random.default_rng(len(tile)).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise ^ hash_of(tile)).save(folder / tile)
    after = pack(open_source(folder), under=tmp_path / "after", side_px=20)
    assert after.record["tiles_digest"] != before.record["tiles_digest"]
    for split in ("train", "val"):
        assert after.table(split)["tile"].equals(before.table(split)["tile"])
        (one, table), (other, _) = (place_split(each, split, CPU) for each in (before, after))
        assert one.pixels.shape[1:3] == (20, 20)
        assert are_same(one, other, np.arange(0, len(table), 7))
    assert not np.array_equal(before.pixels("test"), after.pixels("test"))


def hash_of(tile: str) -> np.uint8:
    """A number for each name, so that no two tiles get equal pixels."""
    return np.uint8(sum(tile.encode()) % 256)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_no_seed_divides_a_photograph(listed: pd.DataFrame, seed: int) -> None:
    """So every window that is split by photograph is as whole as in the photograph itself."""
    splits = assign_splits(listed, seed=seed)
    assert splits.groupby(listed["photograph"]).nunique().eq(1).all()
    assert set(splits) == set(SPLITS)
    places = [listed[name].to_numpy() for name in ("photograph", *PLACE)]
    rows = np.arange(len(listed))
    whole = find_neighbours(rows, *places)
    for split in SPLITS:
        chosen = (splits == split).to_numpy()
        found = find_neighbours(rows[chosen], *(place[chosen] for place in places))
        np.testing.assert_array_equal(found, whole[chosen])


def test_photographs_of_equal_names_on_two_surfaces_are_two(packs: dict[str, Pack]) -> None:
    table = pd.concat(packs["by photograph"].table(split) for split in SPLITS)
    sizes = table.groupby("photograph").size()
    assert {"D/7001", "W/7001"} <= set(sizes.index)
    assert sizes.eq(ROWS * COLUMNS).all()
    assert table.groupby("photograph")["surface"].nunique().eq(1).all()
