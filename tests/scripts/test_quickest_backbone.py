"""Which network is quickest to a good F1: the script, on tiny networks of drawn tiles."""

import importlib
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny_recipe import write_recipe

from ensemble.base.errors import InputError
from ensemble.data.synthetic import draw_dataset
from ensemble.recipes.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "scripts" / "evidence"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("backbones")


def test_networks_take_turns_seed_by_seed(script, tmp_path):
    asked = script.list_asked(["squeezenet1_1:128", "timm/regnety_002:64"], [0, 7], tmp_path)
    assert [each.run.name for each in asked] == [
        "squeezenet1_1-128-seed-0", "timm-regnety_002-64-seed-0",
        "squeezenet1_1-128-seed-7", "timm-regnety_002-64-seed-7",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"--network resnet18: give name and side"):
        script.list_asked(["resnet18"], [0], tmp_path)


@pytest.mark.parametrize("name", ["backbones", "backbones_lite0"])
def test_training_goes_on_until_a_network_no_longer_gains(name):
    settings = load_recipe(str(FOLDER / f"{name}.toml")).base.optimisation
    assert settings.schedule == "constant"
    assert 0 < settings.early_stopping_patience < settings.epochs
    assert settings.ema_decay > 0


def test_a_training_is_as_long_as_at_the_pace_of_its_quickest_epoch(script):
    table = pd.DataFrame(
        {
            "network": ["a"] * 3 + ["b"],
            "seed": [0, 0, 1, 0],
            "is_finished": True,
            "epoch": [1, 2, 1, 1],
            "minutes": [1, 2, 1, 5],
            "seconds": [60.0, 90, 80, 300],
            "val_f1": [0.5, 0.7, 0.8, 0.6],
            "val_average_precision": [0.6, 0.5, 0.7, 0.1],
        }
    )
    a, b = script.summarise(table)
    assert (a["epochs"], a["seconds_of_the_quickest_epoch"]) == ([2, 1], 60)
    assert (a["best_f1"], a["minutes_to_best_f1"]) == (0.75, 1.5)
    assert a["best_average_precision"] == pytest.approx(0.65)
    assert (b["seeds"], b["best_f1"]) == (1, 0.6)


@pytest.mark.slow
def test_a_row_for_each_epoch_and_a_picture(script, tmp_path, monkeypatch):
    draw_dataset(tmp_path / "tiles", photographs_per_surface=3, rows=3, columns=4, tile_size_px=32)
    write_recipe(tmp_path / "tiny.toml", epochs=2, ema_decay=0.5)
    words = ["--data", str(tmp_path / "tiles"), "--gpus", "0", "--seeds", "0"]
    words += ["--network", "small_cnn:32", "small_cnn:16", "--recipe", str(tmp_path / "tiny.toml")]
    words += ["--out", str(tmp_path / "runs"), "--table", str(tmp_path / "quickest.csv")]
    monkeypatch.setattr(sys, "argv", ["backbones.py", *words])
    script.main()
    table = pd.read_csv(tmp_path / "quickest.csv")
    assert list(table["network"]) == ["small_cnn, 32 px"] * 2 + ["small_cnn, 16 px"] * 2
    assert list(table["epoch"]) == [1, 2] * 2
    assert table["is_finished"].all()
    quickest = table.groupby("network")["seconds"].transform("min")
    assert table["minutes"].tolist() == pytest.approx(table["epoch"] * quickest / 60, abs=1e-4)
    about = json.loads((tmp_path / "quickest.json").read_text())
    assert [each["epochs"] for each in about["networks"]] == [[2], [2]]
    assert (tmp_path / "quickest.png").stat().st_size > 10_000
