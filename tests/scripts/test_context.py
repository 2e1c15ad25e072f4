"""What context is worth: on tiny networks of drawn tiles, and on scores made by hand."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_recipe import write_recipe

from ensemble.data.synthetic import draw_dataset
from ensemble.evaluation.intervals import paired_intervals
from ensemble.recipes.recipe import load_recipe
from ensemble.training.cost import summarise
from ensemble.training.metrics import best_threshold

FOLDER = Path(__file__).parents[2] / "scripts" / "evidence"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("context")


def draw_scores(seed):
    rng = np.random.default_rng(seed)
    labels = np.tile([1, 0, 0, 0], 100)
    photographs = np.repeat([f"photo {n}" for n in range(20)], 20)
    networks = [1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(size=400)))) for _ in range(4)]
    return labels, photographs, networks


def test_the_difference_of_one_seed_is_that_of_a_paired_interval(script):
    labels, photographs, (first, second, _, _) = draw_scores(0)
    thresholds = tuple(best_threshold(labels, scores)[0] for scores in (first, second))
    expected = paired_intervals(labels, first, second, photographs, thresholds=thresholds)
    for metric in ("average_precision", "f1"):
        for times in (1, 2):  # a seed that is there twice changes nothing
            found = script.mean_difference(
                metric, labels, [first] * times, [second] * times, photographs
            )
            assert (found.value, found.low, found.high) == pytest.approx(
                (expected[metric].value, expected[metric].low, expected[metric].high)
            )


def test_the_difference_of_seeds_is_the_mean_of_theirs(script):
    labels, photographs, networks = draw_scores(1)
    first, second = networks[:2], networks[2:]
    mean = script.mean_difference("average_precision", labels, first, second, photographs)
    each = [
        script.mean_difference("average_precision", labels, [a], [b], photographs)
        for a, b in zip(first, second, strict=True)
    ]
    assert mean.value == pytest.approx(np.mean([one.value for one in each]))
    assert mean.high - mean.low < max(one.high - one.low for one in each)


def test_the_finer_tile_costs_what_a_margin_of_64_px_costs():
    context, finer = (load_recipe(FOLDER / f"{name}.toml") for name in ("context", "context_finer"))
    margins = [variant.config.data.context_px for variant in context.variants]
    assert sorted(margins) == [0, 32, 64, 128]
    of_margin, of_finer = (
        summarise(config, tile_side_px=256)
        for config in (context.variants[margins.index(64)].config, finer.base)
    )
    assert of_margin.input_side_px == of_finer.input_side_px == 192
    assert of_margin.multiply_adds == of_finer.multiply_adds
    changed = finer.base.model_copy(update={"data": context.base.data})
    assert changed == context.base


@pytest.fixture(scope="module")
def results(script, tmp_path_factory):
    """The files after two seeds of three networks, the second one without a test split."""
    folder = tmp_path_factory.mktemp("context")
    draw_dataset(folder / "tiles", photographs_per_surface=4, rows=3, columns=4, tile_size_px=64)
    write_recipe(folder / "finer.toml", image_size_px=48)
    write_recipe(folder / "plain.toml", variants={"margin 16": {"data.context_px": 16}})
    words = ["--data", str(folder / "tiles"), "--gpus", "0", "--out", str(folder / "out")]
    words += ["--recipes", str(folder / "finer.toml"), str(folder / "plain.toml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["context.py", *words, "--seeds", "1"])
        script.main()
        for path in (folder / "out" / "packs").glob("*/test.*"):
            path.unlink()
        patch.setattr(sys, "argv", ["context.py", *words, "--seeds", "2"])
        script.main()
    return folder / "out"


@pytest.mark.slow
def test_a_row_for_each_network_and_seed_without_the_test_split(results):
    table = pd.read_csv(results / "context.csv")
    networks = ["32 px, margin 0 px", "32 px, margin 16 px", "48 px, margin 0 px"]
    assert list(table["network"]) == [name for name in networks for _ in range(2)]
    assert list(table["seed"]) == [0, 1] * 3
    assert list(table["input_px"]) == [32, 32, 48, 48, 48, 48]
    assert table.loc[2, "million_multiply_adds"] == table.loc[4, "million_multiply_adds"]
    lone = table["context_px"] == 0
    for figure in ("average_precision", "f1"):
        same = table[f"val_{figure}"] == table[f"alone_val_{figure}"]
        assert same[lone].all()
        assert not same[~lone].all()


@pytest.mark.slow
def test_differences_are_those_of_the_rows(results):
    table = pd.read_csv(results / "context.csv").groupby("network").mean(numeric_only=True)
    about = json.loads((results / "context.json").read_text())
    assert about["num_validation_photographs"] == 3
    found = {(each["of"], each["minus"]): each for each in about["differences"]}
    smallest = "32 px, margin 0 px"
    for name in ("32 px, margin 16 px", "48 px, margin 0 px"):
        difference = found[name, smallest]
        assert difference["num_seeds"] == 2
        expected = table.loc[name] - table.loc[smallest]
        assert difference["f1"]["value"] == pytest.approx(expected["val_f1"], abs=2e-5)
        assert difference["f1"]["verdict"] == "not judged: too few photographs"
        assert (name + ", neighbours' scores", name) in found
