"""The comparison of means with and without the members' class weights, on scores made by hand."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

FOLDER = Path(__file__).parents[2] / "scripts" / "evidence"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return importlib.import_module("class_weights")


def test_taking_out_the_weights_gives_the_mean_of_members_without_any(script):
    rng = np.random.default_rng(0)
    labels = np.tile([1, 0, 0, 0], 100)
    photographs = np.repeat([f"photo {n}" for n in range(20)], 20)
    margins = rng.normal(2.0 * labels - 1, 1.0, size=(3, 400))
    weights = np.array([1.0, 0.05, 60.0])
    shifted = script.compare_means(margins + np.log(weights)[:, None], weights, labels, photographs)
    assert list(shifted["class_weights"]) == ["1 0.05", "1 60", "0.05 60", "1 0.05 60"]
    for figure in ("average_precision", "f1"):
        without = script.compare_means(margins, np.ones(3), labels, photographs)[f"plain_{figure}"]
        assert shifted[f"corrected_{figure}"].to_numpy() == pytest.approx(without.to_numpy())
        assert script.describe_gain(shifted, figure)["of_all_members"] > 0.005
    mean = (1 / (1 + np.exp(-margins))).mean(axis=0)
    assert shifted["corrected_average_precision"].iloc[-1] == pytest.approx(
        average_precision_score(labels, mean)
    )


def test_a_gain_is_corrected_minus_plain_and_counted_by_sets(script):
    rng = np.random.default_rng(1)
    labels = np.tile([1, 0, 0, 0], 100)
    photographs = np.repeat([f"photo {n}" for n in range(20)], 20)
    margins = rng.normal(2.0 * labels - 1, 1.0, size=(2, 400))
    table = script.compare_means(margins, np.array([1.0, 1.0]), labels, photographs)
    assert script.describe_gain(table, "f1") == {
        "mean": 0.0,
        "smallest": 0.0,
        "largest": 0.0,
        "of_all_members": 0.0,
        "num_sets": 1,
        "num_sets_that_gain": 0,
    }
