"""Facts about photographs that are predicted whole: they are judged as their tiles are."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ensemble.base.errors import InputError
from ensemble.base.files import read_object, write_json
from ensemble.data.batches import SplitTiles, make_batch, place_split, place_tiles
from ensemble.data.grid import PLACE
from ensemble.data.layout import Layout
from ensemble.data.pack import Pack
from ensemble.data.packing import pack
from ensemble.data.reading.pictures import Picture
from ensemble.data.sources import open_source
from ensemble.data.synthetic import draw_dataset
from ensemble.data.tiles import resize_picture
from ensemble.data.view import View
from ensemble.data.windows import CENTRE, PLACES, find_neighbours
from ensemble.prediction.overlays import draw_overlay
from ensemble.prediction.single_tile import FoundPicture, draw_look, find_picture, read_tile
from ensemble.prediction.verdicts import predict_pictures
from ensemble.run.members import score_tiles
from ensemble.selection.choice import TileAlone
from ensemble.selection.ensemble import Ensemble
from ensemble.selection.neighbours import (
    FIGURES,
    NeighbourGain,
    NeighbourModel,
    Places,
    gather_around,
)
from ensemble.training.checkpoint import Member
from ensemble.training.config import TrialConfig

SIDE, STORED, CONTEXT = 32, (24, 24), 12
ROWS, COLUMNS = 3, 5
CPU = torch.device("cpu")
GAIN = NeighbourGain(
    log_loss=0.1, log_loss_without=0.2, standard_error=0.01, score=0.8, score_without=0.7
)
NEIGHBOURS = NeighbourModel(
    intercept=-0.1,
    coefficients={name: 0.3 + 0.1 * number for number, name in enumerate(FIGURES)},
    threshold=0.45,
    val_metrics={},
    gain=GAIN,
)


class Data(NamedTuple):
    """A pack of drawn concrete, and the folder of its tiles."""

    folder: Path
    pack: Pack

    def read(self, tile: str) -> np.ndarray:
        with Image.open(self.folder / tile) as picture:
            return np.asarray(picture.convert("RGB"))

    def photograph(self) -> tuple[str, np.ndarray]:
        """The first photograph of the test split, put together from its tiles."""
        table = self.pack.table("test")
        name = str(table["photograph"].iloc[0])
        whole = np.zeros((ROWS * SIDE, COLUMNS * SIDE, 3), dtype=np.uint8)
        for tile, down, right in table.loc[table["photograph"] == name, ["tile", *PLACE]].to_numpy(
            dtype=object
        ):
            whole[down * SIDE :, right * SIDE :][:SIDE, :SIDE] = self.read(tile)
        return name, whole


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    draw_dataset(
        folder / "tiles", photographs_per_surface=4, rows=ROWS, columns=COLUMNS, tile_size_px=SIDE
    )
    packed = pack(
        open_source(folder / "tiles", Layout()),
        under=folder,
        split_seed=0,
        max_bad_tiles=0,
        side_px=STORED[0],
        log=lambda line: None,
    )
    return Data(folder / "tiles", packed)


@pytest.fixture(scope="module")
def ensemble(
    tmp_path_factory: pytest.TempPathFactory,
    make_trial_config: Callable[..., TrialConfig],
    write_member: Callable[..., Member],
) -> Ensemble:
    """Two small networks, of which the first sees what lies around a tile."""
    folder = tmp_path_factory.mktemp("run")
    members = [
        write_member(
            folder / f"{trial:04}",
            trial=trial,
            config=make_trial_config(data={"context_px": context_px}),
        )
        for trial, context_px in ((0, CONTEXT), (1, 0))
    ]
    return Ensemble(
        members=members,
        weights=np.array([0.7, 0.3]),
        threshold=0.5,
        tile_size_px=(SIDE, SIDE),
        stored_size_px=STORED,
        device=CPU,
        temperature=0.5,
    )


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(pixels: np.ndarray, name: str = "wall.png") -> list[str]:
    Image.fromarray(pixels).save(name)
    return [name]


def scores_of(tiles: pd.DataFrame) -> np.ndarray:
    """(M, N) probabilities of the members."""
    return tiles[["trial_0", "trial_1"]].to_numpy().T


def test_a_photograph_put_together_from_its_tiles_gets_the_scores_of_its_tiles(
    data: Data, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, whole = data.photograph()
    tiles, table = place_split(data.pack, "test", CPU)
    mine = (table["photograph"] == name).to_numpy()
    table = table[mine].sort_values(PLACE)
    assert len(table) == ROWS * COLUMNS
    refining = replace(ensemble, neighbours=NEIGHBOURS)
    scores = refining.score(tiles)[:, table.index]
    mean = refining.weigh(scores)
    refined = refining.refine(refining.calibrate(mean), Places.of(table))
    for lot_bytes in (2**20, 11 * 3 * STORED[0] * STORED[1]):  # one lot, and a few tiles each
        monkeypatch.setattr("ensemble.prediction.verdicts.LOT_BYTES", lot_bytes)
        found = predict_pictures(refining, save(whole))
        np.testing.assert_allclose(scores_of(found), scores, rtol=1e-5)
        np.testing.assert_allclose(found["ensemble"], mean, rtol=1e-5)
        np.testing.assert_allclose(found["refined"], refined.probabilities, rtol=1e-4)
        assert found["threshold"].tolist() == refined.thresholds.tolist()
        assert (found["verdict"] == "cracked").tolist() == refined.called.tolist()
        assert set(found["context"]) == {"neighbours"}
    alone = score_tiles(refining.members, tiles, alone=True)[:, table.index]
    assert np.abs(alone[0] - scores[0]).min() > 1e-4  # so what lies around is seen
    np.testing.assert_allclose(alone[1], scores[1], rtol=1e-5)


def cut_around(whole: np.ndarray, lefts: list[int], tops: list[int]) -> SplitTiles:
    """Tiles with the nine bricks of each, cut from the photograph reflected at its rim."""
    around = np.pad(whole, [(SIDE, SIDE), (SIDE, SIDE), (0, 0)], mode="symmetric")
    bricks = [
        resize_picture(
            Image.fromarray(
                around[top + (1 + down) * SIDE :, left + (1 + right) * SIDE :][:SIDE, :SIDE]
            ),
            STORED,
        )
        for top in tops
        for left in lefts
        for down, right in PLACES
    ]
    neighbours = np.arange(len(bricks)).reshape(-1, len(PLACES))
    return place_tiles(
        np.stack(bricks),
        neighbours[:, CENTRE],
        np.zeros(len(neighbours)),
        CPU,
        neighbours=neighbours,
        tile_size_px=(SIDE, SIDE),
    )


@pytest.mark.parametrize(("width", "height"), [(140, 80), (130, 50), (100, 33)])
def test_a_shifted_tile_sees_the_pixels_around_it(
    data: Data, ensemble: Ensemble, width: int, height: int
) -> None:
    whole = data.photograph()[1][:height, :width]
    lefts = [*range(0, width - SIDE, SIDE), width - SIDE]
    tops = [*range(0, height - SIDE, SIDE), height - SIDE]
    found = predict_pictures(ensemble, save(whole))
    assert found["left_px"].tolist() == lefts * len(tops)
    expected = ensemble.score(cut_around(whole, lefts, tops))
    np.testing.assert_allclose(scores_of(found), expected, rtol=1e-5)


def test_a_lone_tile_is_judged_alone_and_passes_the_second_stage_unchanged(
    data: Data, ensemble: Ensemble
) -> None:
    tiles, table = place_split(data.pack, "test", CPU)
    names = table["tile"].tolist()[:4]
    expected = score_tiles(ensemble.members, tiles, alone=True)[:, :4]
    refining = replace(ensemble, neighbours=NEIGHBOURS)
    found = predict_pictures(refining, [data.folder / name for name in names])
    np.testing.assert_allclose(scores_of(found), expected, rtol=1e-5)
    assert found["context"].tolist() == ["tile"] * 4
    assert found["refined"].tolist() == found["calibrated"].tolist()
    assert found["threshold"].tolist() == [refining.calibrated_threshold] * 4
    assert found["verdict"].equals(predict_pictures(ensemble, list(found["picture"]))["verdict"])


def test_a_lone_tile_has_the_threshold_that_was_fitted_to_lone_tiles(
    data: Data, ensemble: Ensemble
) -> None:
    _, whole = data.photograph()
    never = TileAlone(temperature=1.0, threshold=1.0, calibrated_threshold=1.0, val_metrics={})
    always = replace(ensemble, threshold=0.0, alone=never)
    lone = predict_pictures(always, save(whole[:SIDE, :SIDE]))
    assert lone["verdict"].tolist() == ["uncracked"]
    assert lone["calibrated"].tolist() == pytest.approx(lone["ensemble"].tolist())
    assert set(predict_pictures(always, save(whole))["verdict"]) == {"cracked"}


def test_a_blank_tile_is_a_hole_to_its_neighbours(data: Data, ensemble: Ensemble) -> None:
    name, whole = data.photograph()
    pixels = np.dstack([whole, np.full(whole.shape[:2], 255, np.uint8)])
    pixels[SIDE : 2 * SIDE, SIDE : 2 * SIDE] = 0  # the second of the second row
    table = data.pack.table("test")
    table = table[table["photograph"] == name].sort_values(PLACE)
    table = table[(table[PLACE] != 1).any(axis=1)]
    rows = table["row"].to_numpy()
    neighbours = find_neighbours(rows, table["photograph"].to_numpy(), *table[PLACE].to_numpy().T)
    tiles = place_tiles(
        data.pack.pixels("test"),
        rows,
        np.zeros(len(rows)),
        CPU,
        neighbours=neighbours,
        tile_size_px=(SIDE, SIDE),
    )
    refining = replace(ensemble, neighbours=NEIGHBOURS)
    scores = refining.score(tiles)
    refined = refining.refine(refining.calibrate(refining.weigh(scores)), Places.of(table))
    found = predict_pictures(refining, save(pixels)).set_index("tile")
    hole = found.loc["r2-c2"]
    assert (hole["verdict"], hole["context"]) == ("not judged", "")
    assert hole[["refined", "threshold"]].isna().all()
    seen = found.drop(index="r2-c2")
    np.testing.assert_allclose(scores_of(seen), scores, rtol=1e-5)
    np.testing.assert_allclose(seen["refined"], refined.probabilities, rtol=1e-4)


def test_a_shifted_row_that_shows_little_of_its_own_is_nobodys_neighbour(
    data: Data, ensemble: Ensemble
) -> None:
    whole = data.photograph()[1][:, : 3 * SIDE]
    refining = replace(ensemble, neighbours=NEIGHBOURS)
    for height, places in ((2 * SIDE + 10, [0, 1, 1]), (2 * SIDE + 20, [0, 1, 2])):
        found = predict_pictures(refining, save(whole[:height]))
        grid = Places(
            np.full(9, "wall"), np.repeat(places, 3).astype(int), np.tile(np.arange(3), 3)
        )
        refined = refining.refine(found["calibrated"].to_numpy(), grid)
        assert found["refined"].tolist() == refined.probabilities.tolist()


@pytest.mark.parametrize(("overlap", "num_grids"), [(0.5, 4), (0.75, 16)])
def test_every_grid_of_overlapping_tiles_is_judged_by_itself(
    data: Data, ensemble: Ensemble, overlap: float, num_grids: int
) -> None:
    """The first grid as without overlap; the second stage reads no tile of another grid."""
    whole = data.photograph()[1][:80, :140]  # the last row and column are shifted inward
    refining = replace(ensemble, neighbours=NEIGHBOURS)
    without = predict_pictures(refining, save(whole))
    found = predict_pictures(refining, save(whole), overlap=overlap)
    pd.testing.assert_frame_equal(found.head(len(without)), without, rtol=1e-5)
    steps = range(0, SIDE, round((1 - overlap) * SIDE))
    grids = [
        [
            list(range(moved, length - SIDE + 1, SIDE)) + [length - SIDE] * (moved == 0)
            for moved, length in ((left, 140), (top, 80))
        ]
        for top in steps
        for left in steps
    ]
    assert len(grids) == num_grids
    assert len(found) == sum(len(lefts) * len(tops) for lefts, tops in grids)
    first = 0
    for lefts, tops in grids:
        grid = found.iloc[first:].head(len(lefts) * len(tops))
        first += len(grid)
        assert grid["left_px"].tolist() == lefts * len(tops)
        assert grid["top_px"].tolist() == np.repeat(tops, len(lefts)).tolist()
        scores = ensemble.score(cut_around(whole, lefts, tops))
        np.testing.assert_allclose(scores_of(grid), scores, rtol=1e-5)
        places = [((grid[name] + SIDE // 2) // SIDE).to_numpy() for name in ("top_px", "left_px")]
        refined = refining.refine(
            grid["calibrated"].to_numpy(), Places(np.full(len(grid), "wall"), *places)
        )
        np.testing.assert_allclose(grid["refined"], refined.probabilities, rtol=1e-12)


def test_an_overlap_whose_steps_do_not_divide_a_tile_is_refused(
    data: Data, ensemble: Ensemble
) -> None:
    with pytest.raises(InputError, match=r"^overlap=0\.3: must be 0, 0\.5 or 0\.75$"):
        predict_pictures(ensemble, save(data.photograph()[1]), overlap=0.3)


def test_a_copy_in_the_first_class_folder_is_nobodys_neighbour(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "tiles", photographs_per_surface=4, rows=3, columns=5, tile_size_px=32)
    original = sorted((tmp_path / "tiles" / "D" / "UD").iterdir())[0]
    copy = tmp_path / "tiles" / "D" / "CD" / f"{original.stem}_2.jpg"
    with Image.open(original) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(copy)
    packed = pack(open_source(tmp_path / "tiles", Layout()), under=tmp_path, log=lambda line: None)
    found = 0
    for split in ("train", "val", "test"):
        tiles, table = place_split(packed, split, CPU)
        of = {Path(tile).stem: row for tile, row in zip(table["tile"], table["row"], strict=True)}
        if copy.stem in of:
            assert of[copy.stem] < of[original.stem]
            neighbours = np.delete(tiles.neighbours.numpy(), CENTRE, axis=1)
            assert not (neighbours == of[copy.stem]).any()
            assert (neighbours == of[original.stem]).sum() >= 3
            places = Places.of(table)
            around = gather_around(table["row"].to_numpy(dtype=float), places)
            assert not (around == of[copy.stem]).any()
            found += 1
    assert found == 1


def test_a_photograph_that_shows_nothing_has_no_scores_and_a_legend_without_a_threshold(
    ensemble: Ensemble,
) -> None:
    blank = np.zeros((2 * SIDE, 2 * SIDE, 4), dtype=np.uint8)
    found = predict_pictures(replace(ensemble, neighbours=NEIGHBOURS), save(blank))
    assert set(found["verdict"]) == {"not judged"}
    assert found[["ensemble", "refined", "threshold"]].isna().all(axis=None)
    overlay = draw_overlay(Image.fromarray(blank[..., :3]), found)
    assert overlay.height > 2 * SIDE


def test_members_without_context_are_spared_the_surroundings(
    data: Data, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    score = Ensemble.score

    def count(self: Ensemble, tiles: SplitTiles) -> np.ndarray:
        shapes.append(tiles.pixels.shape)
        return score(self, tiles)

    monkeypatch.setattr(Ensemble, "score", count)
    single = replace(ensemble, members=ensemble.members[1:], weights=np.ones(1))
    paths = save(data.photograph()[1][:80, :140])
    assert set(predict_pictures(single, paths)["context"]) == {"tile"}
    assert shapes == [(15, *STORED, 3)]


@pytest.mark.parametrize("context_px", [0, CONTEXT])
def test_a_look_at_a_photograph_shows_what_predict_shows(
    data: Data, ensemble: Ensemble, context_px: int
) -> None:
    member = ensemble.members[0 if context_px else 1]
    run = Path("run")
    sizes = {"tile_size_px": [SIDE, SIDE], "stored_size_px": list(STORED)}
    run.mkdir()
    write_json(run / "run.json", {"split_digest": "split", **sizes})
    (path,) = save(data.photograph()[1])
    found = predict_pictures(ensemble, [path]).sort_values(f"trial_{member.trial}")
    likeliest = found.iloc[-1]
    tile = read_tile(FoundPicture(Picture("wall.png", path)), member, run)
    assert tile.name == f"wall.png, tile {likeliest['tile']} of {ROWS * COLUMNS}"
    assert tile.probability == pytest.approx(likeliest[f"trial_{member.trial}"], rel=1e-5)
    assert tile.pixels.shape == (*STORED, 3)
    image, _ = make_batch(tile.tiles, torch.tensor([tile.number]), View(16, context_px))
    assert image.shape[-1] == 16 + 2 * context_px * 16 // SIDE
    draw_look(member, tile, Path("look.png"), run_name="run")
    assert Path("look.png").stat().st_size > 0


def run_of(data: Data, source: Path) -> Path:
    """A run's folder after `evaluate`, as far as a look reads it."""
    run = Path("run")
    (run / "evaluation").mkdir(parents=True)
    record = data.pack.record
    write_json(
        run / "run.json",
        {
            "data": str(source),
            "pack_folder": str(data.pack.folder),
            "split_digest": record["split_digest"],
            "stored_size_px": record["stored_size_px"],
            "tile_size_px": [SIDE, SIDE],
        },
    )
    data.pack.table("val").to_csv(run / "validation.csv", index=False)
    data.pack.table("test").to_csv(run / "evaluation" / "predictions.csv", index=False)
    return run


@pytest.mark.parametrize("kind", ["folder", ".zip", "path"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_look_at_a_tile_of_the_data_set_shows_the_tiles_around_it(
    data: Data, ensemble: Ensemble, split: str, kind: str
) -> None:
    source = data.folder
    if kind == ".zip":
        source = Path(shutil.make_archive("tiles", "zip", data.folder)).resolve()
    run, member = run_of(data, source), ensemble.members[0]
    tiles, table = place_split(data.pack, split, CPU)
    number = int((table[PLACE] == 1).all(axis=1).argmax())
    name = table["tile"][number]
    with ExitStack() as archives:
        found = find_picture(str(source / name) if kind == "path" else name, run, archives)
        tile = read_tile(found, member, run)
    view = member.record.view
    seen, _ = make_batch(tile.tiles, torch.tensor([tile.number]), view)
    expected, _ = make_batch(tiles, torch.tensor([number]), view)
    assert torch.equal(seen, expected)
    assert tile.probability == pytest.approx(score_tiles([member], tiles)[0, number], rel=1e-5)
    assert tile.name == (name.rpartition("/")[2] if kind == "path" else name)


def test_a_look_at_a_tile_whose_place_is_not_known_shows_its_mirror_image(
    data: Data, ensemble: Ensemble
) -> None:
    """Nobody has tested the run, and the pack is gone."""
    run, member = run_of(data, data.folder), ensemble.members[0]
    shutil.rmtree(run / "evaluation")
    write_json(run / "run.json", {**read_object(run / "run.json"), "pack_folder": "gone"})
    for split in ("train", "test"):
        tiles, table = place_split(data.pack, split, CPU)
        with ExitStack() as archives:
            tile = read_tile(find_picture(table["tile"][0], run, archives), member, run)
        alone = score_tiles([member], tiles, alone=True)[0, 0]
        assert tile.probability == pytest.approx(alone, rel=1e-5)
        assert not tile.tiles.has_neighbours[tile.number]


def test_a_tile_that_is_gone_from_around_another_is_refused(data: Data, ensemble: Ensemble) -> None:
    source = Path(shutil.copytree(data.folder, "tiles"))
    table = data.pack.table("val")
    middle = table[(table[PLACE] == 1).all(axis=1)].iloc[0]
    beside = (table["photograph"] == middle["photograph"]) & (table[PLACE] == [1, 2]).all(axis=1)
    (missing,) = table.loc[beside, "tile"]
    (source / missing).unlink()
    run = run_of(data, source)
    with ExitStack() as archives:
        found = find_picture(middle["tile"], run, archives)
        with pytest.raises(InputError, match=f"{missing}: cannot be read"):
            read_tile(found, ensemble.members[0], run)
        read_tile(found, ensemble.members[1], run)  # which sees the tile alone
