"""Facts about predicting: how pictures are cut, scored, drawn and refused."""

import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bright_run import TEMPERATURE, THRESHOLD, TILE, make_bright_run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ensemble.api import load_ensemble
from ensemble.base.errors import InputError
from ensemble.base.files import write_json
from ensemble.cli import COMMANDS, parse
from ensemble.data.batches import SplitTiles, place_tiles
from ensemble.data.reading.pictures import list_pictures, read_picture
from ensemble.data.view import View
from ensemble.predict import main
from ensemble.prediction.overlays import DARK, LEGEND_PX, LIGHT, PALENESS, draw_overlay
from ensemble.prediction.tiling import cut_tile, lay_grid
from ensemble.selection.choice import (
    open_choice,
)
from ensemble.training.checkpoint import Member
from ensemble.training.config import TrialConfig
from ensemble.training.loop import predict_margins
from ensemble.training.metrics import margins_to_probabilities

PLACE = ["picture", "tile", "left_px", "top_px", "width_px", "height_px"]


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    make_bright_and_dark: Callable[..., SplitTiles],
    make_trial_config: Callable[..., TrialConfig],
    write_member: Callable[..., Member],
) -> Path:
    """A run's folder with two small networks that take bright for cracked, weighing 3 to 1."""
    makers = make_bright_and_dark, make_trial_config, write_member
    return make_bright_run(tmp_path_factory.mktemp("run"), *makers)


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def noise(height: int, width: int, *, seed: int = 0, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (height, width, 3)).astype(np.uint8)


def save(pixels: np.ndarray, path: Path | str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def predict(run: Path, *words: str) -> pd.DataFrame:
    main(parse("predict", [str(run), *words]))
    return pd.read_csv("predictions.csv", keep_default_na=False)


def mosaic() -> np.ndarray:
    """Three by four dark tiles of 32 px, and a bright one in the second row and third column."""
    pixels = noise(96, 128, low=20, high=80)
    pixels[32:64, 64:96] = noise(32, 32, low=160, high=220)
    return pixels


# cutting


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(8, 200), st.integers(8, 200)),
    tile=st.tuples(st.integers(8, 60), st.integers(8, 60)),
)
def test_tiles_cover_every_pixel_and_nothing_else(size: tuple[int, int], tile: tuple[int, int]):
    width, height = size
    boxes = lay_grid(size, tile)
    covered = np.zeros((height, width), dtype=int)
    for box in boxes:
        assert box.left_px >= 0
        assert box.top_px >= 0
        assert box.left_px + box.width_px <= width
        assert box.top_px + box.height_px <= height
        covered[box.top_px :, box.left_px :][: box.height_px, : box.width_px] += 1
    assert covered.min() >= 1
    assert len({box.tile for box in boxes}) == len(boxes)
    assert (boxes[0].tile == "") == (len(boxes) == 1)


def test_the_last_row_and_column_are_shifted_inward():
    boxes = lay_grid((100, 70), TILE)
    assert [box.left_px for box in boxes[:4]] == [0, 32, 64, 100 - 32]
    assert [box.top_px for box in boxes[::4]] == [0, 32, 70 - 32]
    assert {(box.width_px, box.height_px) for box in boxes} == {(32, 32)}
    assert [boxes[0].tile, boxes[-1].tile] == ["r1-c1", "r3-c4"]


def test_an_exact_multiple_of_the_tile_is_cut_without_overlap():
    boxes = lay_grid((96, 64), TILE)
    assert [(box.left_px, box.top_px) for box in boxes] == [
        (left, top) for top in (0, 32) for left in (0, 32, 64)
    ]


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(8, 200), st.integers(8, 200)),
    tile=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    overlap=st.sampled_from([0.5, 0.75]),
)
def test_overlapping_tiles_are_the_grid_and_whole_tiles_between_under_names_of_their_own(
    size: tuple[int, int], tile: tuple[int, int], overlap: float
):
    first, boxes = lay_grid(size, tile), lay_grid(size, tile, overlap)
    assert boxes[: len(first)] == first
    assert {(box.width_px, box.height_px) for box in boxes} == {first[0][3:]}
    assert len({box.tile for box in boxes}) == len(boxes)
    for box in boxes[len(first) :]:
        assert 0 <= box.left_px <= size[0] - box.width_px
        assert 0 <= box.top_px <= size[1] - box.height_px
        row, column = (part[1:] for part in box.tile.split("-"))
        for number, start, side_px, length in (
            (row, box.top_px, box.height_px, size[1]),
            (column, box.left_px, box.width_px, size[0]),
        ):
            place = (float(number) - 1) * side_px
            assert start == min(int(place), length - side_px)
            assert start == int(place) or "." not in number


def test_every_border_of_two_tiles_is_the_middle_of_an_overlapping_one():
    middles = {box.left_px + 16 for box in lay_grid((128, 96), TILE, 0.5)}
    assert middles == set(range(16, 128, 16))
    names = [box.tile for box in lay_grid((64, 64), TILE, 0.5)]
    assert names[:4] == ["r1-c1", "r1-c2", "r2-c1", "r2-c2"]
    assert names[4:] == ["r1-c1.5", "r2-c1.5", "r1.5-c1", "r1.5-c2", "r1.5-c1.5"]
    assert len(lay_grid((64, 64), TILE, 0.75)) == 25


@pytest.mark.parametrize(("size", "num_tiles"), [((48, 48), 1), ((49, 48), 4), ((20, 30), 1)])
def test_up_to_one_and_a_half_tiles_are_one_tile(size: tuple[int, int], num_tiles: int):
    assert len(lay_grid(size, TILE)) == num_tiles


def test_a_strip_lower_than_a_tile_is_cut_in_a_tiles_proportions():
    boxes = lay_grid((100, 16), TILE)
    assert {(box.width_px, box.height_px) for box in boxes} == {(16, 16)}
    assert len(boxes) == 7


def test_cut_pixels_are_those_of_the_picture():
    pixels = noise(70, 100)
    for box in lay_grid((100, 70), TILE):
        expected = pixels[box.top_px : box.top_px + 32, box.left_px : box.left_px + 32]
        assert np.array_equal(cut_tile(Image.fromarray(pixels), box, TILE), expected)


def test_a_large_photograph_is_turned_upright_and_a_single_tile_is_left_as_training_saw_it():
    for (height, width), size in (((40, 100), (40, 100)), ((30, 40), (40, 30))):
        orientation = Image.Exif()
        orientation[0x0112] = 6  # a quarter turn
        file = io.BytesIO()
        Image.fromarray(noise(height, width)).save(file, "JPEG", exif=orientation)
        assert read_picture(file, TILE).size == size


# scores


def test_one_tile_gets_the_probabilities_of_predict_margins(run: Path):
    pixels = np.stack([noise(*TILE, seed=seed, high=60 + 60 * seed) for seed in range(4)])
    for index, tile in enumerate(pixels):
        save(tile, f"tiles/{index}.png")
    found = predict(run, "tiles")
    tiles = place_tiles(pixels, np.arange(4), np.zeros(4), torch.device("cpu"))
    for member in open_choice(run)[1]:
        margins = predict_margins(member.load_model(), tiles, View(16))
        expected = margins_to_probabilities(margins)
        np.testing.assert_allclose(found[f"trial_{member.trial}"], expected, rtol=1e-5)
    assert found["tile"].tolist() == [""] * 4


def test_every_figure_follows_from_the_members_columns(run: Path):
    for seed in range(8):
        save(noise(*TILE, seed=seed, high=30 + 30 * seed), f"tiles/{seed}.png")
    found = predict(run, "tiles")
    judged = ["ensemble", "calibrated", "refined", "threshold", "context", "verdict"]
    assert [*found] == [*PLACE, "trial_2", "trial_7", *judged]
    mean = 0.75 * found["trial_2"] + 0.25 * found["trial_7"]
    np.testing.assert_allclose(found["ensemble"], mean, rtol=1e-12)
    odds = (found["ensemble"] / (1 - found["ensemble"])) ** (1 / TEMPERATURE)
    np.testing.assert_allclose(found["calibrated"], odds / (1 + odds), rtol=1e-9)
    assert found["refined"].tolist() == found["calibrated"].tolist()
    assert set(found["context"]) == {"tile"}
    expected = np.where(found["ensemble"] >= THRESHOLD, "cracked", "uncracked")
    assert found["verdict"].tolist() == expected.tolist()
    assert set(expected) == {"cracked", "uncracked"}


def changed_copy(run: Path, folder: Path, **changes: object) -> Path:
    """The same run with another choice."""
    shutil.copytree(run, folder)
    chosen = json.loads((run / "ensemble.json").read_text())
    write_json(folder / "ensemble.json", {**chosen, **changes})
    return folder


def test_a_tile_exactly_at_the_threshold_is_cracked(run: Path, tmp_path: Path):
    save(noise(*TILE, high=130), "tile.png")
    score = float(predict(run, "tile.png")["ensemble"][0])
    above = float(np.nextafter(score, 1))
    at_it = changed_copy(run, tmp_path / "at", threshold=score)
    below_it = changed_copy(run, tmp_path / "below", threshold=above)
    assert predict(at_it, "tile.png")["verdict"].tolist() == ["cracked"]
    assert predict(below_it, "tile.png")["verdict"].tolist() == ["uncracked"]


def test_with_tta_a_mirrored_tile_gets_the_same_probability(run: Path, tmp_path: Path):
    tile = noise(*TILE, high=150)
    tile[:, :9] //= 2
    save(tile, "tiles/a.png")
    save(tile[:, ::-1], "tiles/b.png")
    save(tile[::-1], "tiles/c.png")
    averaged = predict(changed_copy(run, tmp_path / "tta", tta=True), "tiles")["ensemble"]
    single = predict(run, "tiles")["ensemble"]
    assert np.ptp(averaged) < 1e-7
    assert np.ptp(single) > 1e-7


def test_tiles_score_the_same_whatever_they_are_scored_with(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    save(mosaic(), "wall.png")
    save(noise(*TILE), "zone.png")
    together = predict(run, "wall.png", "zone.png")
    monkeypatch.setattr("ensemble.prediction.verdicts.LOT_BYTES", 5 * 3 * 32 * 32)
    by_fives = predict(run, "wall.png", "zone.png")
    pd.testing.assert_frame_equal(together, by_fives, rtol=1e-5)
    assert len(together) == 13


# what is read


def test_picture_folder_and_zip_give_the_same_rows(run: Path):
    save(mosaic(), "photos/deck/wall.png")
    save(noise(*TILE), "photos/one.png")
    Path("photos/notes.txt").write_text("nothing to see")
    save(noise(*TILE), "photos/.hidden.png")
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for name in ("deck/wall.png", "one.png", "notes.txt"):
            archive.write(f"photos/{name}", name)
        archive.writestr("__MACOSX/one.png", b"resource fork")
    folder = predict(run, "photos")
    zipped = predict(run, "photos.zip")
    single = predict(run, "photos/deck/wall.png", "photos/one.png")
    assert folder["picture"].unique().tolist() == ["photos/deck/wall.png", "photos/one.png"]
    assert zipped["picture"].unique().tolist() == ["photos.zip/deck/wall.png", "photos.zip/one.png"]
    pd.testing.assert_frame_equal(folder, single)
    pd.testing.assert_frame_equal(folder[[*folder][1:]], zipped[[*zipped][1:]])


def test_a_picture_named_twice_counts_once(run: Path):
    save(noise(*TILE), "photos/one.png")
    assert len(predict(run, "photos", "photos/one.png", "./photos/../photos")) == 1


def test_unreadable_pictures_are_named_and_skipped(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    whole = save(noise(100, 100), "photos/[whole].png")
    Path("photos/truncated.png").write_bytes(whole.read_bytes()[:9000])
    Path("photos/text.jpg").write_text("not a picture")
    Path("photos/phone.avif").write_bytes(b"ftypavif")
    save(noise(3, 300), "photos/thin.png")
    Image.new("I;16", TILE, 4095).save("photos/deep.png")
    Image.new("F", TILE).save("photos/float.tif")
    save(noise(200, 200), "photos/vast.png")
    monkeypatch.setattr("ensemble.data.reading.pictures.MAX_PICTURE_PIXELS", 30_000)
    found = predict(run, "photos")
    assert found["picture"].unique().tolist() == ["photos/[whole].png"]
    out = capsys.readouterr().out
    assert "cannot be read: 6 pictures" in out
    assert "photos/text.jpg: no JPEG" in out
    assert "a kind that is not read; save them as JPEG, PNG or TIFF: 1 (photos/phone.avif)" in out
    assert "photos/thin.png: 300 × 3 px is too small" in out
    assert "photos/vast.png: 200 × 200 px is more than" in out
    assert "photos/deep.png: 16 bits a channel, of which the upper two are not used" in out
    assert "photos/float.tif: more than 8 bits a channel" in out
    assert "photos/truncated.png: it is cut off before its end; copy it anew" in out


def test_a_photograph_beyond_pillows_own_bound_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    file = io.BytesIO()
    Image.new("RGB", (100, 100)).save(file, "PNG")
    assert read_picture(file, TILE).size == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("name", ["../up.png", "/root.png", "C:\\disk.png"])
def test_a_zip_with_an_unsafe_name_is_refused(run: Path, name: str):
    with zipfile.ZipFile("bad.zip", "w") as archive:
        archive.writestr(name, b"")
    with pytest.raises(InputError, match="unsafe name"):
        main(parse("predict", [str(run), "bad.zip"]))


def test_a_zip_bomb_is_refused():
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(8 * 2**20))
    with ExitStack() as archives, pytest.raises(InputError, match="zip bomb"):
        list_pictures([Path("bomb.zip")], Path("overlays"), archives)


# what is refused, with nothing written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text.jpg"], r"none of 1 picture can be read \(text.jpg: no JPEG"),
        (["nowhere"], "nowhere: no such picture"),
        (["tile.png", "--overlap", "0.3"], "^--overlap '0.3': must be 0, 0.5 or 0.75; see "),
        (["tile.png", "--overlap", "half"], "^--overlap 'half': must be 0, 0.5 or 0.75; see "),
        (["empty"], "empty: no pictures"),
        (["tile.png", "--csv", "tile.png"], "--csv tile.png: must be"),
        (["tile.png", "--csv", "tile.png/a.csv"], "--csv tile.png/a.csv: must be a file called"),
        (
            ["tile.png", "--csv", "new/a.csv"],
            r"^--csv new/a\.csv: must be a file called ….csv in an existing folder$",
        ),
        (["tile.png", "--overlays", "tile.png"], "--overlays tile.png: .*tile.png is a file"),
        (
            ["empty", "--overlays", "empty"],
            "empty: results go there; name another folder with --overlays",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    run: Path, fresh_folder: Path, arguments: list[str], message: str
):
    Path("empty").mkdir()
    Path("text.jpg").write_text("not a picture")
    tile = save(noise(*TILE), "tile.png").read_bytes()
    Path("predictions.csv").write_text("older")
    before = sorted(fresh_folder.rglob("*"))
    with pytest.raises(InputError, match=message):
        main(parse("predict", [str(run), *arguments]))
    assert sorted(fresh_folder.rglob("*")) == before
    assert Path("predictions.csv").read_text() == "older"
    assert Path("tile.png").read_bytes() == tile


def test_no_picture_at_all_is_refused_from_python(run: Path):
    with pytest.raises(InputError, match="no picture was given; name a picture"):
        load_ensemble(run).predict([])


def test_a_run_without_an_ensemble_says_to_evaluate_it(run: Path, tmp_path: Path):
    write_json(tmp_path / "run.json", {"tile_size_px": list(TILE)})
    Path("trials.csv").write_text("trial,state\n0,COMPLETE\n")
    save(noise(*TILE), "tile.png")
    with pytest.raises(InputError, match=r"no ensemble yet; \S*python -m ensemble\.evaluate \. "):
        main(parse("predict", [str(tmp_path), "tile.png"]))


@pytest.mark.parametrize("size", [None, 32, [32], ["32", "32"], [0, 32]])
def test_a_run_without_a_tile_size_is_refused(run: Path, tmp_path: Path, size: object):
    copy = changed_copy(run, tmp_path / "copy")
    write_json(copy / "run.json", {"split_digest": "split", "tile_size_px": size})
    save(noise(*TILE), "tile.png")
    with pytest.raises(InputError, match="no 'tile_size_px'"):
        main(parse("predict", [str(copy), "tile.png"]))


def test_the_transparent_frame_of_a_mosaic_is_not_judged(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    pixels = np.dstack([mosaic(), np.full((96, 128), 255, np.uint8)])
    pixels[:, 96:] = 0  # the last column of tiles
    pixels[:32, :10] = (255, 255, 255, 0)  # bright, were it seen, in a third of the first tile
    save(pixels, "mosaic.png")
    found = predict(run, "mosaic.png").set_index("tile")
    left_out = found[found["verdict"] == "not judged"]
    assert left_out.index.tolist() == ["r1-c4", "r2-c4", "r3-c4"]
    figures = ["trial_2", "trial_7", "ensemble", "calibrated", "refined", "threshold", "context"]
    assert set(left_out[figures].to_numpy().ravel()) == {""}
    assert found.loc["r1-c1", "verdict"] == "uncracked"
    assert found.index[found["verdict"] == "cracked"].tolist() == ["r2-c3"]
    out = capsys.readouterr().out
    assert "more than half is blank or all is of one colour: 3 tiles in 1 picture" in out


def test_photographs_before_the_run_and_a_run_among_them_are_refused_with_the_order(run: Path):
    save(mosaic(), "photos/wall.png")
    started = Path("results/started")
    started.mkdir(parents=True)
    (started / "run.json").write_text("{}")
    for words, what in (
        (["photos", "more"], r"^photos: is a folder without a run in it, and the run comes first"),
        (["photos/wall.png", "demo"], r"wall\.png: is a picture, and the run comes first"),
    ):
        for command in ("predict", "inspect"):
            with pytest.raises(InputError, match=what + r".* RUN PHOTOS; runs in results: started"):
                importlib.import_module(COMMANDS[command].module).main(parse(command, words))
    with pytest.raises(InputError, match=r"^results/started: is a run, not a picture: "):
        main(parse("predict", [str(run), "photos", "results/started"]))
    with pytest.raises(InputError, match=r"PHOTOS is missing: .*predict RUN PHOTOS; see"):
        parse("predict", ["photos"])


def test_a_tile_of_one_colour_is_not_judged(run: Path):
    save(np.full((*TILE, 3), 255, np.uint8), "white.png")
    assert predict(run, "white.png")["verdict"].tolist() == ["not judged"]


# overlays and the command


def test_a_crack_on_the_border_of_two_tiles_is_whole_in_an_overlapping_one(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    pixels = noise(96, 128, low=20, high=80)
    pixels[32:64, 48:80] = bright = noise(32, 32, low=160, high=220)
    save(pixels, "wall.png")
    save(bright, "tile.png")
    assert set(predict(run, "wall.png")["verdict"]) == {"uncracked"}
    whole = predict(run, "tile.png")["ensemble"].item()
    capsys.readouterr()
    result = main(parse("predict", [str(run), "wall.png", "--overlap", "0.5"]))
    found = pd.read_csv("predictions.csv").set_index("tile")
    assert found.index[found["verdict"] == "cracked"].tolist() == ["r2-c2.5"]
    assert found.loc["r2-c2.5", "ensemble"] == pytest.approx(whole, rel=1e-5)
    counts = [value for name, value in result.items() if name.startswith("num_")]
    assert counts == [1, 12, 0, 9 + 8 + 6, 1]
    out = capsys.readouterr().out
    assert (
        "1 picture, 12 tiles and 23 overlapping ones; cracked: 0 tiles and 1 overlapping one in 1 "
        "picture\n"
    ) in out
    assert re.search(r"wall.png +│ +12 \+ 23 │ +0 \+ 1 │ +0.\d{3} │", out)


def test_overlapping_cracked_tiles_are_outlined_together_with_the_surest_number():
    side = 64
    tiles = pd.DataFrame(lay_grid((4 * side, 3 * side), (side, side), 0.5)).set_index("tile")
    tiles = tiles.assign(refined=0.1, threshold=0.5, verdict="uncracked")
    for name, probability in (("r2-c2.5", 0.9), ("r2-c2", 0.6), ("r2.5-c2", 0.7)):
        tiles.loc[name, ["refined", "verdict"]] = probability, "cracked"
    grey = Image.new("RGB", (4 * side, 3 * side), (128,) * 3)
    overlay = np.asarray(draw_overlay(grey, tiles.reset_index()))[: 3 * side, : 4 * side]
    covered = np.zeros(overlay.shape[:2], dtype=bool)
    covered[64:128, 64:160] = covered[96:160, 64:128] = True
    inner = np.zeros_like(covered)
    inner[65:127, 65:159] = inner[97:159, 65:127] = True
    innermost = np.zeros_like(covered)
    innermost[66:126, 66:158] = innermost[98:158, 66:126] = True
    assert (overlay[covered & ~inner] == DARK).all()
    assert (overlay[inner & ~innermost] == LIGHT).all()
    lines = np.zeros_like(covered)
    lines[::side] = lines[:, ::side] = True
    same = (overlay == 128).all(axis=2)
    pale = round(128 + PALENESS * (255 - 128))  # outside
    assert np.abs(overlay[~covered & ~lines].astype(int) - pale).max() <= 1
    changed = np.argwhere(innermost & ~lines & ~same)
    assert changed.min(axis=0).tolist() == [66, 98]  # the number of the surest, in its corner
    assert (changed.max(axis=0) < [66 + 24, 98 + 48]).all()


def test_the_overlay_outlines_the_bright_tile_and_leaves_all_else_but_the_grid(run: Path):
    save(mosaic(), "photos/wall.png")
    found = predict(run, "photos")
    assert found.loc[found["verdict"] == "cracked", "tile"].tolist() == ["r2-c3"]
    with Image.open("predictions-overlays/wall.png") as overlay:
        pixels = np.asarray(overlay)
    assert pixels.shape == (96 + LEGEND_PX[1], LEGEND_PX[0], 3)
    outline = np.zeros((96, 128), dtype=bool)
    outline[32:64, 64:96] = True
    outline[34:62, 66:94] = False
    lines = np.zeros((96, 128), dtype=bool)
    lines[::32] = lines[:, ::32] = True
    same = (pixels[:96, :128] == mosaic()).all(axis=2)
    assert same[~outline & ~lines].all()
    assert not same[outline].any()
    assert (pixels[32, 64:96] == DARK).all()
    assert (pixels[33, 65:95] == LIGHT).all()


@pytest.mark.parametrize("grey", [0, 20, 127, 128, 235, 255])
@pytest.mark.parametrize("size_px", [40, 256])
def test_mark_grid_and_number_show_on_concrete_of_any_brightness(grey: int, size_px: int):
    boxes = pd.DataFrame(lay_grid((3 * size_px, 2 * size_px), (size_px, size_px)))
    tiles = boxes.assign(refined=0.9, threshold=0.5, verdict="uncracked")
    tiles.loc[4, "verdict"] = "cracked"  # the second of the second row
    picture = Image.new("RGB", (3 * size_px, 2 * size_px), (grey,) * 3)
    overlay = draw_overlay(picture, tiles).convert("L")
    change = np.abs(np.asarray(overlay).astype(int)[: 2 * size_px, : 3 * size_px] - grey)
    tile = change[size_px:, size_px : 2 * size_px]
    middle, edge = size_px // 2, max(2, size_px // 20)
    for side in (tile[middle, :edge], tile[middle, -edge:], tile[-edge:, middle]):
        assert side.max() > 90  # the dark line or the light one
    assert (tile[edge : size_px // 4, edge : size_px // 3] > 90).any()  # the number's box
    assert (tile[middle:-edge, edge:-edge] == 0).all()  # and the crack is left to be seen
    assert (change[10, ::size_px] >= 25).all()  # the grid
    assert (change[:size_px, 1:size_px][1:] == 0).all()  # a tile that is not cracked


def test_tiles_too_small_for_a_number_are_marked_without_one():
    for side in (1, 2, 4, 8, 20):
        boxes = pd.DataFrame(lay_grid((6 * side, 6 * side), (side, side)))
        tiles = boxes.assign(refined=0.9, threshold=0.5, verdict="cracked")
        overlay = np.asarray(draw_overlay(Image.new("RGB", (6 * side,) * 2), tiles))
        assert (overlay[: 6 * side, : 6 * side] == LIGHT).all(axis=2).any()


def test_the_legend_shows_the_mark_and_fits_its_strip():
    boxes = pd.DataFrame(lay_grid((64, 32), (32, 32)))
    tiles = boxes.assign(refined=0.9, threshold=0.5, verdict="uncracked")
    overlay = np.asarray(draw_overlay(Image.new("RGB", (64, 32)), tiles))
    legend = overlay[32:]
    assert (legend == LIGHT).all(axis=2).any()
    assert (legend[:, -4:] == 255).all()
    assert (legend[-4:] == 255).all()


@pytest.mark.parametrize(("width", "height"), [(5000, 1000), (1000, 5000), (300, 200)])
def test_an_overlay_is_at_most_2000_px_long_and_keeps_proportions(width: int, height: int):
    boxes = pd.DataFrame(lay_grid((width, height), (256, 256)))
    tiles = boxes.assign(refined=0.9, threshold=0.5, verdict="cracked")
    overlay = draw_overlay(Image.new("RGB", (width, height)), tiles)
    assert max(overlay.size) <= 2000
    painted = np.asarray(overlay)[: overlay.height - LEGEND_PX[1]]
    shown = (painted < 255).any(axis=(0, 2)).sum()
    assert shown / len(painted) == pytest.approx(width / height, rel=0.01)


def test_one_tile_pictures_have_no_overlay(run: Path):
    save(noise(*TILE), "tile.png")
    predict(run, "tile.png")
    assert not Path("predictions-overlays").exists()


def test_pictures_of_one_name_get_an_overlay_each_and_overlays_are_not_read_again(run: Path):
    save(mosaic(), "a/wall.png")
    save(mosaic(), "b/wall.jpg")
    first = predict(run, ".")
    names = sorted(path.name for path in Path("predictions-overlays").iterdir())
    assert names == ["overlays.json", "wall-2.png", "wall.png"]
    pd.testing.assert_frame_equal(predict(run, "."), first)


def test_overlays_of_an_older_prediction_go_and_what_a_person_put_beside_them_stays(run: Path):
    save(mosaic(), "a/wall.png")
    save(mosaic(), "a/floor.png")
    predict(run, "a")
    folder = Path("predictions-overlays")
    (folder / "mine.txt").write_text("mine")
    predict(run, "a/wall.png")
    assert {path.name for path in folder.iterdir()} == {"overlays.json", "wall.png", "mine.txt"}
    save(noise(*TILE), "tile.png")
    predict(run, "tile.png")
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    predict(run, "a")
    (folder / "mine.txt").unlink()
    predict(run, "tile.png")
    assert not folder.exists()


def test_overlays_under_any_name_and_runs_are_no_photographs(run: Path, tmp_path: Path):
    save(mosaic(), "a/wall.png")
    shutil.copytree(run, tmp_path / "results" / "r1")
    save(mosaic(), "results/r1/samples.png")
    main(parse("predict", [str(run), ".", "--overlays", "seen"]))
    assert json.loads(Path("seen/overlays.json").read_text()) == {
        "pictures": {"wall.png": "a/wall.png"}
    }
    assert predict(run, ".")["picture"].unique().tolist() == ["a/wall.png"]


def test_a_missing_folder_of_the_table_is_refused_from_python_and_not_made(run: Path):
    save(mosaic(), "wall.png")
    with pytest.raises(InputError, match=r"new/cracks\.csv: must be .* in an existing folder"):
        load_ensemble(run).predict("wall.png", csv="new/cracks.csv")
    assert not Path("new").exists()


def test_members_are_loaded_once_for_all_tiles(run: Path, monkeypatch: pytest.MonkeyPatch):
    save(mosaic(), "wall.png")
    expected = predict(run, "wall.png")
    times: Counter[int] = Counter()
    load = Member.load_model

    def count(member: Member) -> torch.nn.Module:
        times[member.trial] += 1
        return load(member)

    monkeypatch.setattr(Member, "load_model", count)
    monkeypatch.setattr("ensemble.prediction.verdicts.LOT_BYTES", 3 * 3 * TILE[0] * TILE[1])
    pd.testing.assert_frame_equal(predict(run, "wall.png"), expected)
    assert times == {2: 1, 7: 1}


def test_the_command_runs_elsewhere_without_ray_and_optuna(run: Path, tmp_path: Path):
    save(mosaic(), "photos/wall.png")
    code = (
        "import sys, runpy\n"
        "sys.modules['ray'] = sys.modules['optuna'] = None\n"  # importing them is an ImportError
        "runpy.run_module('ensemble.predict', run_name='__main__')\n"
    )
    command = [run.name, "photos", "--out", str(run.parent), "--csv", "cracks.csv"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "1 picture, 12 tiles; cracked: 1 tile in 1 picture" in done.stdout
    assert "photos/wall.png" in done.stdout
    assert done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cracks-overlays",
        "cracks.csv",
        "photos",
    ]
