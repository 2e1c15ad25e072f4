"""The table of what a refit tried: figures out of fold, and what each configuration gains."""

import numpy as np
import pandas as pd
import pytest

from ensemble.evaluation.intervals import paired_intervals
from ensemble.run.members import read_validation
from ensemble.search.comparison import compare_members, describe_comparison
from ensemble.training.checkpoint import open_member, write_member
from ensemble.training.metrics import margins_to_probabilities, validation_metrics

NUM_PHOTOGRAPHS, TILES_EACH = 12, 6


@pytest.fixture
def labels():
    return np.random.default_rng(0).integers(0, 2, NUM_PHOTOGRAPHS * TILES_EACH)


@pytest.fixture
def run(tmp_path, labels):
    """A run whose tiles are of twelve photographs."""
    count = len(labels)
    table = {
        "tile": [f"{i}.jpg" for i in range(count)],
        "photograph": [f"{i // TILES_EACH:03}" for i in range(count)],
        "surface": "D",
        "label": labels,
        "row_in_photograph": -1,
        "column_in_photograph": -1,
        "fold": np.arange(count) // TILES_EACH % 2,
    }
    pd.DataFrame(table).to_csv(tmp_path / "validation.csv", index=False)
    trials = {"trial": [0, 1, 2], "name": ["run/3", "run/3, seed 2", "data.context_px = 0"]}
    pd.DataFrame({**trials, "seconds": [60, 90, 30.5]}).to_csv(tmp_path / "trials.csv", index=False)
    return tmp_path


@pytest.fixture
def members(run, labels, make_trial_config):
    """A member that is often right, one that says the same, and one that is never wrong."""
    noise = np.random.default_rng(1).normal(0, 2, len(labels))
    sure = 2.0 * labels - 1
    found = []
    for number, margins in enumerate((sure + noise, sure + noise, sure)):
        figures = validation_metrics(labels, margins.astype(np.float32))
        write_member(
            run / "members" / f"{number:04}",
            {},
            margins,
            trial=number,
            config=make_trial_config(),
            epoch=1,
            metrics={f"val_{name}": value for name, value in figures.items()},
            split_digest="",
            initial_weights_digest="",
        )
        found.append(open_member(run / "members" / f"{number:04}"))
    return found


def test_each_configuration_is_compared_with_the_first_on_the_same_photographs(
    run, labels, members
):
    tried = compare_members(run, members)
    pd.testing.assert_frame_equal(pd.read_csv(run / "tried.csv"), tried)
    assert tried["name"].tolist() == ["run/3", "run/3, seed 2", "data.context_px = 0"]
    assert tried["seconds"].tolist() == [60, 90, 30.5]
    assert tried["f1"].tolist() == [member.val_f1 for member in members]
    assert tried.loc[0].filter(regex="difference|low|high|verdict").isna().all()
    assert (tried.loc[1].filter(regex="difference|low|high") == 0).all()
    assert tried.loc[2, "f1"] == tried.loc[2, "average_precision"] == 1
    scores = [margins_to_probabilities(member.val_margins()) for member in members]
    wanted = paired_intervals(
        labels,
        scores[2],
        scores[0],
        read_validation(run)["photograph"].to_numpy(),
        thresholds=tuple(members[i].record.metrics["val_threshold"] for i in (2, 0)),
        metrics=("f1", "average_precision"),
    )
    for metric, gain in wanted.items():
        ends = [tried.loc[2, f"{metric}_{end}"] for end in ("difference", "low", "high")]
        assert ends == [gain.value, gain.low, gain.high]
        assert tried.loc[2, f"{metric}_verdict"] == "better"
        assert gain.low > 0


def test_a_line_tells_each_gain_with_its_interval_and_its_cost(run, members):
    tried = compare_members(run, members)
    first, same, better = describe_comparison(tried, read_validation(run))
    assert first.startswith("tried on the folds, against run/3: F1 0.")
    assert first.endswith("(95 % intervals resample 12 photographs)")
    assert "run/3, seed 2: F1 0." in same
    assert "+0.000 [0.000, 0.000], no difference shown; AP" in same
    assert better.startswith("  data.context_px = 0: F1 1.000, +0.")
    assert better.endswith("], better; 0:00:30")
