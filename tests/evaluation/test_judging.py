"""The ensemble of a run on another data set: what is judged, and what is not."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from tiny_recipe import write_recipe

from ensemble import InputError, open_run, train
from ensemble.cli import parse
from ensemble.data.synthetic import draw_dataset


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run, beside the folder `tiles` that it was trained on."""
    here = tmp_path_factory.mktemp("judging")
    draw_dataset(here / "tiles", photographs_per_surface=4, rows=3, columns=4, tile_size_px=32)
    for path in (here / "tiles").rglob("*.jpg"):
        photograph, number = path.stem.split("-")
        row, column = divmod(int(number) - 1, 4)
        path.rename(path.with_stem(f"{photograph}-r{row}-c{column}"))
    write_recipe(here / "recipe.toml", context_px=8)
    words = ["--recipe", str(here / "recipe.toml"), "--data", str(here / "tiles")]
    train.main(parse("train", [*words, "--name", "run", "--out", str(here)]))
    open_run(here / "run").evaluate()
    return here / "run"


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of the run for one test."""
    shutil.copytree(evaluated, tmp_path / "results" / "run")
    return tmp_path / "results" / "run"


def split_of(run: Path, split: str) -> pd.DataFrame:
    folder = Path(json.loads((run / "run.json").read_text())["pack_folder"])
    return pd.read_csv(folder / f"{split}.csv", dtype={"photograph": str})


def copy_tiles(run: Path, tiles: pd.Series, to: Path) -> Path:
    source = Path(json.loads((run / "run.json").read_text())["data"])
    for tile in tiles:
        (to / tile).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / tile, to / tile)
    return to


def test_a_copy_of_the_test_photographs_has_the_figures_of_the_evaluation(run, tmp_path):
    evaluation = json.loads((run / "evaluation" / "metrics.json").read_text())
    data = copy_tiles(run, split_of(run, "test")["tile"], tmp_path / "My tiles")
    judgement = open_run(run).judge(data=data)
    metrics = judgement.metrics
    assert judgement.folder == run / "judged" / "My-tiles"
    assert metrics["ensemble"] == evaluation["ensemble"]
    assert metrics["surfaces"] == evaluation["surfaces"]
    assert metrics["ways"] == evaluation["ways"]
    tested = pd.read_csv(run / "evaluation" / "predictions.csv")
    assert (tested["context"] == "neighbours").all()
    pd.testing.assert_frame_equal(pd.read_csv(judgement.folder / "predictions.csv"), tested)
    assert metrics["trained_on"]["data"] == json.loads((run / "run.json").read_text())["data"]
    assert metrics["trained_on"]["surfaces"] == ["D", "P", "W"]
    assert metrics["num_own_test_tiles"] == len(tested)
    ledger = pd.read_csv(run / "evaluation" / "ledger.csv")
    assert ledger["method"].tolist() == ["mean", "mean (judged in My-tiles)"]
    assert open_run(run).judge(data=data).metrics["num_judgements"] == 2
    assert len(pd.read_csv(judgement.folder / "ledger.csv")) == 2


def test_tiles_that_the_run_was_trained_or_chosen_on_are_refused(run, tmp_path):
    for split in ("train", "val"):
        data = copy_tiles(run, split_of(run, split)["tile"], tmp_path / split)
        with pytest.raises(
            InputError, match=f"chosen on {len(split_of(run, split))} tiles of these, so"
        ):
            open_run(run).judge(data=data)
        assert not (run / "judged" / split).exists()


def test_a_trained_tile_is_known_by_its_pixels_and_takes_its_photograph_with_it(run, tmp_path):
    test, trained = split_of(run, "test"), split_of(run, "train")
    data = copy_tiles(run, test["tile"], tmp_path / "mixed")
    (one, *_), source = trained["tile"], Path(json.loads((run / "run.json").read_text())["data"])
    with Image.open(source / one) as picture:  # the same pixels in another file
        (data / one).parent.mkdir(parents=True, exist_ok=True)
        picture.save((data / one).with_suffix(".png"))
        blank = Image.new("RGB", picture.size, (90, 120, 90))
        photograph = Path(one).stem.split("-")[0]
        blank.save((data / one).with_name(f"{photograph}-r7-c7.png"))
    metrics = open_run(run).judge(data=data).metrics
    assert metrics["num_known_tiles"] == 1
    assert metrics["num_tiles_beside_known"] == 1
    assert metrics["num_tiles"] == len(test)


def test_trained_photographs_that_were_saved_anew_are_told_by_their_names(run, tmp_path, capsys):
    data = copy_tiles(run, split_of(run, "test")["tile"], tmp_path / "mixed")
    source = Path(json.loads((run / "run.json").read_text())["data"])
    anew = split_of(run, "train")["tile"][:7]
    for tile in anew:
        (data / tile).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source / tile) as picture:
            picture.save((data / tile).with_suffix(".jpg"), quality=60)
    metrics = open_run(run).judge(data=data, quiet=False).metrics
    assert (metrics["num_known_tiles"], metrics["num_namesakes"]) == (0, 7)
    assert "7 tiles have the names of tiles that the run was trained" in capsys.readouterr().out


def test_figures_of_other_tiles_are_not_replaced(run, tmp_path):
    tiles = split_of(run, "test")["tile"]
    data = copy_tiles(run, tiles, tmp_path / "tiles")
    kept = open_run(run).judge(data=data, name="kept").folder / "metrics.json"
    before = kept.read_bytes()
    (data / tiles.iloc[0]).unlink()
    with pytest.raises(InputError, match=r"has the figures of other tiles, .*name this judgement"):
        open_run(run).judge(data=data, name="kept")
    assert kept.read_bytes() == before


def test_what_was_chosen_stays_as_it_is_and_other_concrete_is_judged_whole(run, tmp_path, capsys):
    before = (run / "ensemble.json").read_bytes()
    draw_dataset(
        tmp_path / "other", seed=5, photographs_per_surface=2, rows=2, columns=3, tile_size_px=40
    )
    judgement = open_run(run).judge(data=tmp_path / "other", name="forty", quiet=False)
    metrics = judgement.metrics
    assert (run / "ensemble.json").read_bytes() == before
    assert metrics["num_tiles"] == 3 * 2 * 2 * 3 == len(judgement.predictions)
    assert metrics["data"]["resized_tiles"] == 36
    assert metrics["ensemble"]["threshold"] == json.loads(before)["threshold"]
    assert metrics["num_known_tiles"] == metrics["num_own_test_tiles"] == 0
    assert len(pd.read_csv(run / "evaluation" / "ledger.csv")) == 1
    said = capsys.readouterr().out
    for part in (
        "every tile cracked",
        "surface W",
        "tile alone",
        "trained on ",
        "of surfaces D, P",
    ):
        assert part in said
    assert judgement.figures.loc["ensemble", "f1"] == metrics["ensemble"]["f1"]


@pytest.mark.parametrize(("side", "amount"), [(64, "many"), (6, "few")])
def test_tiles_that_predict_would_not_take_as_one_are_refused_with_the_way_out(
    run, tmp_path, side, amount
):
    for name in ("Cracked/1.png", "Uncracked/1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        Image.effect_noise((side, side), 80).convert("RGB").save(path)
    with pytest.raises(InputError, match=f"has {side} × {side} px, too {amount} .* resize"):
        open_run(run).judge(data=tmp_path / "data")


def test_a_name_is_a_plain_word_and_an_ensemble_must_have_been_chosen(run, tmp_path):
    with pytest.raises(InputError, match=r"--name '\.\./x': must be letters"):
        open_run(run).judge(data="synthetic", name="../x")
    (run / "ensemble.json").unlink()
    with pytest.raises(InputError, match="has no ensemble yet"):
        open_run(run).judge(data="synthetic")
