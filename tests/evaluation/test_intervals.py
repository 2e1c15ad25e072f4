"""Facts about the intervals: against scikit-learn, repeated rows, degenerate data, simulation."""

import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from scipy.stats import binom
from scipy.stats import norm as normal
from scipy.stats import t as student

from ensemble.evaluation import intervals as evaluation_intervals
from ensemble.evaluation.figures import coverage_note
from ensemble.evaluation.intervals import (
    COVERAGE_FILE,
    MIN_CONTRIBUTING,
    Interval,
    _read_coverage,
    describe_difference,
    intervals,
    measured_coverage,
    paired_intervals,
    resample,
    sum_by_photograph,
    weighted_figures,
)
from ensemble.training.metrics import (
    METRICS,
    log_loss,
    margins_to_probabilities,
    ranking_metrics,
    threshold_metrics,
)

PHOTO_RECALL, ALARMS_PER_PHOTO = "cracked_photographs_hit", "false_alarms_per_photograph"
IN_STEPS = {"recall_at_precision_50", "precision_at_recall_95"}
Tiles = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(num_photographs: int, seed: int, *, tiles: int = 60, decimals: int = 2) -> Tiles:
    """Labels, probabilities with ties and photographs that differ in crack share and light."""
    rng = np.random.default_rng(seed)
    shape = (num_photographs, tiles)
    share = margins_to_probabilities(rng.normal(-1.8, 1, (num_photographs, 1)))
    labels = (rng.random(shape) < share).astype(int)
    light = rng.normal(0, 0.7, (num_photographs, 1))
    margins = light + np.where(labels, 1.2, -2.8) + rng.normal(0, 1.7, shape)
    probabilities = margins_to_probabilities(margins).round(decimals).clip(0.001, 0.999)
    photographs = np.repeat([f"D/{i}" for i in range(num_photographs)], tiles)
    return labels.ravel(), probabilities.ravel(), photographs


def figures(tiles: Tiles, threshold: float) -> dict[str, float]:
    """Every figure as this project's metrics, scikit-learn and plain loops have it."""
    labels, probabilities, photographs = tiles
    called = probabilities >= threshold
    cracked = labels == 1
    with_crack = np.unique(photographs[cracked])
    hit = [called[cracked & (photographs == name)].any() for name in with_crack]
    return {
        "loss": log_loss(labels, probabilities),
        "brier": sklearn.metrics.brier_score_loss(labels, probabilities),
        **threshold_metrics(labels, probabilities, threshold),
        "f2": sklearn.metrics.fbeta_score(labels, called, beta=2, zero_division=0),
        **ranking_metrics(labels, probabilities),
        **at_one_point(labels, probabilities),
        PHOTO_RECALL: float(np.mean(hit)),
        ALARMS_PER_PHOTO: (called & ~cracked).sum() / len(np.unique(photographs)),
    }


def at_one_point(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The best recall and precision of all thresholds, from scikit-learn's curve."""
    precision, recall, _ = sklearn.metrics.precision_recall_curve(labels, probabilities)
    precision, recall = precision[:-1], recall[:-1]  # the last point is no threshold's
    return {
        "recall_at_precision_50": recall[precision >= 0.5].max(initial=0),
        "precision_at_recall_95": precision[recall >= 0.95].max(),
    }


@pytest.mark.parametrize("threshold", [0.3, 0.85])
def test_values_are_those_of_the_metric_functions(threshold):
    tiles = draw(12, seed=1)
    found = intervals(*tiles, threshold=threshold, num_resamples=20)
    assert list(found) == list(METRICS)
    values = {name: interval.value for name, interval in found.items()}
    assert values == pytest.approx(figures(tiles, threshold), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_weighted_figure_is_that_of_literally_repeated_rows(seed):
    labels, probabilities, photographs = draw(6, seed, tiles=40, decimals=1)  # ties throughout
    sums = sum_by_photograph(labels, probabilities, photographs, 0.5)
    weights = resample(sums, 1, seed)
    names = np.unique(photographs)
    rows, copies = [], []
    for place, times in enumerate(weights[1].astype(int)):
        for copy in range(times):
            own = np.flatnonzero(photographs == names[place])
            rows.append(own)
            copies += [f"{place}, copy {copy}"] * len(own)
    repeated = np.concatenate(rows)
    expected = figures((labels[repeated], probabilities[repeated], np.array(copies)), 0.5)
    found = {name: weighted_figures(sums, weights, name)[0][1] for name in METRICS}
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", sorted(set(METRICS) - {PHOTO_RECALL} - IN_STEPS))
def test_slopes_are_the_derivatives_by_the_weights(metric):
    sums = sum_by_photograph(*draw(5, seed=2, decimals=1), 0.5)
    weights = np.random.default_rng(0).uniform(0.5, 2, (1, 5))
    step = 1e-5 * np.eye(5)
    above, below = (weighted_figures(sums, weights + s, metric)[0] for s in (step, -step))
    slopes = weighted_figures(sums, weights, metric)[1][0]
    np.testing.assert_allclose(slopes, (above - below) / 2e-5, rtol=1e-5, atol=1e-8)
    assert slopes @ weights[0] == pytest.approx(0, abs=1e-12)  # twice the data: the same figure


def test_same_seed_same_interval_and_another_seed_another():
    tiles = draw(10, seed=3)
    first, again, other = (
        intervals(*tiles, threshold=0.5, num_resamples=200, seed=seed) for seed in (7, 7, 8)
    )
    assert first == again
    assert first["f1"] != other["f1"]
    assert first["f1"].value == other["f1"].value


def test_order_of_the_tiles_changes_nothing():
    tiles = draw(10, seed=4)
    order = np.random.default_rng(0).permutation(len(tiles[0]))
    shuffled = [column[order] for column in tiles]
    before = intervals(*tiles, threshold=0.5, num_resamples=200)
    after = intervals(*shuffled, threshold=0.5, num_resamples=200)
    for name in METRICS:
        expected = (before[name].value, before[name].low, before[name].high)
        assert (after[name].value, after[name].low, after[name].high) == pytest.approx(expected)


def test_intervals_hold_their_value_and_stay_within_the_range_of_the_metric():
    for name, found in intervals(*draw(20, seed=5), threshold=0.5, num_resamples=300).items():
        assert 0 <= found.low <= found.value <= found.high
        assert found.high <= 1 or name in ("loss", ALARMS_PER_PHOTO)
        assert found.num_contributing == 20


def test_more_photographs_narrow_an_interval_and_a_higher_level_widens_it():
    few, many = (intervals(*draw(n, seed=6), threshold=0.5) for n in (15, 120))
    wide = intervals(*draw(15, seed=6), threshold=0.5, level=0.99)
    for name in METRICS:
        assert many[name].high - many[name].low < few[name].high - few[name].low
        assert wide[name].high - wide[name].low > few[name].high - few[name].low


def test_photographs_not_tiles_are_the_unit():
    labels, probabilities, photographs = draw(15, seed=7)
    each_its_own = np.arange(len(labels))
    by_photograph = intervals(labels, probabilities, photographs, threshold=0.5, metrics=["f1"])
    by_tile = intervals(labels, probabilities, each_its_own, threshold=0.5, metrics=["f1"])
    widths = [each["f1"].high - each["f1"].low for each in (by_photograph, by_tile)]
    assert widths[0] > 1.3 * widths[1]


def test_many_units_are_resampled_in_groups_with_about_the_same_bounds(monkeypatch):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, size=600)
    probabilities = rng.beta(2 + labels, 3 - labels)
    tiles = np.arange(600).astype(str)
    each = intervals(labels, probabilities, tiles, threshold=0.5)
    monkeypatch.setattr("ensemble.evaluation.intervals.MOST_UNITS", 150)
    grouped = intervals(labels, probabilities, tiles, threshold=0.5)
    assert grouped["f1"] != each["f1"]
    assert grouped["cracked_photographs_hit"] == each["cracked_photographs_hit"]
    for metric, interval in each.items():
        other = grouped[metric]
        assert other.value == pytest.approx(interval.value, abs=1e-12)
        assert other.num_contributing == interval.num_contributing
        width = interval.high - interval.low
        assert abs(other.low - interval.low) + abs(other.high - interval.high) < width / 4


def test_a_share_of_photographs_has_wilsons_interval():
    hit, with_crack = 9, 10
    labels = np.ones(10, dtype=int)
    probabilities = np.where(np.arange(10) < hit, 0.9, 0.1)
    found = intervals(labels, probabilities, np.arange(10), threshold=0.5, metrics=[PHOTO_RECALL])[
        PHOTO_RECALL
    ]
    z = normal.ppf(0.975)
    for bound in (found.low, found.high):  # where the score test just rejects
        error = math.sqrt(bound * (1 - bound) / with_crack)
        assert abs(hit / with_crack - bound) == pytest.approx(z * error)


def test_recall_at_a_precision_and_precision_at_a_recall_by_hand():
    """From above: crack, none, none, crack, none; with the first threshold precision is 1."""
    tiles = np.array([1, 0, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.arange(5)
    found = intervals(*tiles, threshold=0.5, metrics=sorted(IN_STEPS), num_resamples=5)
    assert found["recall_at_precision_50"].value == 1.0  # with two of four tiles called
    assert found["precision_at_recall_95"].value == 0.5
    worse = np.array([1, 0, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1, 0.5]), np.arange(5)
    found = intervals(*worse, threshold=0.5, metrics=sorted(IN_STEPS), num_resamples=5)
    assert found["recall_at_precision_50"].value == 0.5  # all five would be 2 of 5
    assert found["precision_at_recall_95"].value == 0.4
    last = np.array([0, 0, 0, 0, 1]), np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.arange(5)
    found = intervals(*last, threshold=0.5, metrics=sorted(IN_STEPS), num_resamples=5)
    assert found["recall_at_precision_50"].value == 0.0  # no threshold reaches the precision


def test_a_figure_in_steps_has_quantiles_of_the_resamples_that_students_t_takes_further_out():
    tiles = draw(20, seed=5)
    found = intervals(*tiles, threshold=0.5, metrics=IN_STEPS, num_resamples=400)
    sums = sum_by_photograph(*tiles, 0.5)
    tail = normal.cdf(student.ppf(0.025, 19) * math.sqrt(20 / 19))
    assert 0.01 < tail < 0.02
    for name in IN_STEPS:
        drawn = weighted_figures(sums, resample(sums, 400, seed=0), name)[0][1:]
        expected = np.quantile(drawn, [tail, 1 - tail])
        assert (found[name].low, found[name].high) == pytest.approx(tuple(expected))
        assert found[name].method == "expanded percentile"


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_no_interval_where_both_are_needed(label):
    _, probabilities, photographs = draw(14, seed=8)
    labels = np.full(len(probabilities), label)
    found = intervals(labels, probabilities, photographs, threshold=0.5, num_resamples=50)
    for name in ("average_precision", "roc_auc", *IN_STEPS):
        assert math.isnan(found[name].value)
        assert math.isnan(found[name].low)
        assert math.isnan(found[name].high)
    assert found["loss"].low < found["loss"].value < found["loss"].high
    if label == 0:
        assert math.isnan(found[PHOTO_RECALL].value)
        assert math.isnan(found["f1"].low)


@pytest.mark.parametrize("num_photographs", [1, 9])
def test_too_few_photographs_give_the_value_without_bounds(num_photographs):
    tiles = draw(num_photographs, seed=9)
    found = intervals(*tiles, threshold=0.5, num_resamples=50)
    assert found["f1"].value == threshold_metrics(*tiles[:2], 0.5)["f1"]
    assert all(math.isnan(found[name].low) for name in METRICS if name != PHOTO_RECALL)


def test_a_ratio_has_bounds_only_where_ten_photographs_count_in_its_denominator():
    labels, probabilities, photographs = draw(20, seed=15)
    quiet = np.isin(photographs, [f"D/{i}" for i in range(MIN_CONTRIBUTING - 1, 20)])
    probabilities = np.where(quiet, np.minimum(probabilities, 0.4), probabilities)
    found = intervals(labels, probabilities, photographs, threshold=0.5, num_resamples=300)
    assert found["precision"].num_contributing == MIN_CONTRIBUTING - 1
    assert math.isnan(found["precision"].low)
    assert found["recall"].num_contributing == 20
    assert found["recall"].low > 0
    assert found["recall"].method == "bootstrap-t, logit"
    wider = np.where(photographs == "D/19", 0.9, probabilities)
    again = intervals(labels, wider, photographs, threshold=0.5, num_resamples=300)["precision"]
    assert again.num_contributing == MIN_CONTRIBUTING
    assert 0 < again.low < again.value < again.high < 1


def test_a_resample_at_the_end_of_the_range_counts_as_infinitely_far_off():
    """All false alarms lie in one photograph: a third of the resamples have a precision of 1."""
    labels, probabilities, photographs = draw(12, seed=19)
    alarms_only_there = (labels == 1) | (photographs == "D/3")
    probabilities = np.where(alarms_only_there, probabilities, np.minimum(probabilities, 0.4))
    found = intervals(labels, probabilities, photographs, threshold=0.5)
    assert found["precision"].num_contributing >= MIN_CONTRIBUTING
    assert 0 < found["precision"].value < 1
    assert math.isnan(found["precision"].low)
    assert found["recall"].low < found["recall"].value


def test_a_difference_that_rests_on_one_photograph_is_not_judged():
    labels, probabilities, photographs = draw(15, seed=16)
    other = np.where(photographs == "D/3", 0.001, probabilities)
    found = paired_intervals(
        labels, probabilities, other, photographs, thresholds=(0.5, 0.5), metrics=["f1"]
    )["f1"]
    assert found.value > 0
    assert describe_difference("f1", found) == "not judged: too few photographs differ"
    few = paired_intervals(*draw(9, seed=16)[:2], *draw(9, seed=17)[1:], thresholds=(0.5, 0.5))
    assert describe_difference("f1", few["f1"]) == "not judged: too few photographs"
    assert describe_difference("f1", few["f1"], unit="tile") == "not judged: too few tiles"


def test_all_metrics_together_need_no_more_memory_than_the_largest_one():
    labels, probabilities, _ = draw(10, seed=18)
    each_its_own = np.arange(len(labels))

    def peak(metrics: Sequence[str]) -> int:
        tracemalloc.start()
        intervals(labels, probabilities, each_its_own, threshold=0.5, metrics=metrics)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(METRICS) < 1.2 * max(peak([metric]) for metric in METRICS)


def test_a_perfect_figure_has_no_bounds():
    labels, _, photographs = draw(12, seed=10)
    found = intervals(labels, labels * 0.8 + 0.1, photographs, threshold=0.5, num_resamples=50)
    for name in ("f1", *IN_STEPS):
        assert found[name].value == 1
        assert math.isnan(found[name].low)
        assert math.isnan(found[name].high)


@pytest.mark.parametrize(("label", "probability"), [(2, 0.5), (0, 1.5), (1, -0.1), (1, math.nan)])
def test_what_is_out_of_range_is_refused(label, probability):
    with pytest.raises(ValueError, match="must hold"):
        intervals(np.array([label]), np.array([probability]), np.array([1]), threshold=0.5)


def test_identical_classifiers_differ_by_exactly_nothing():
    labels, probabilities, photographs = draw(12, seed=11)
    found = paired_intervals(
        labels, probabilities, probabilities, photographs, thresholds=(0.4, 0.4), num_resamples=50
    )
    for name, interval in found.items():
        assert interval.value == 0
        assert interval.low == -interval.high
        assert interval.high == 0 or name == PHOTO_RECALL
        assert describe_difference(name, interval) == "no difference shown"


def test_a_difference_is_that_of_the_figures_and_changes_sign_with_the_order():
    labels, probabilities, photographs = draw(12, seed=12)
    noise = np.random.default_rng(0).normal(0, 0.2, len(labels))
    other = (probabilities + noise).clip(0.01, 0.99)
    one = figures((labels, probabilities, photographs), 0.5)
    two = figures((labels, other, photographs), 0.4)
    ahead = paired_intervals(labels, probabilities, other, photographs, thresholds=(0.5, 0.4))
    back = paired_intervals(labels, other, probabilities, photographs, thresholds=(0.4, 0.5))
    for name in METRICS:
        assert ahead[name].value == pytest.approx(one[name] - two[name], abs=1e-12)
        expected = (-ahead[name].high, -ahead[name].low)
        assert (back[name].low, back[name].high) == pytest.approx(expected, abs=1e-12)
    assert describe_difference("roc_auc", ahead["roc_auc"]) == "better"
    assert describe_difference("brier", ahead["brier"]) == "better"
    assert describe_difference("brier", back["brier"]) == "worse"


def test_a_paired_interval_is_narrower_than_either_ones():
    labels, probabilities, photographs = draw(25, seed=13)
    noise = np.random.default_rng(0).normal(0, 0.02, len(labels))
    other = (probabilities + noise).clip(0.01, 0.99)
    paired = paired_intervals(labels, probabilities, other, photographs, thresholds=(0.5, 0.5))
    single = intervals(labels, probabilities, photographs, threshold=0.5)
    for name in ("f1", "average_precision", "brier"):
        widths = [each[name].high - each[name].low for each in (paired, single)]
        assert widths[0] < widths[1] / 2


@pytest.mark.parametrize("metric", METRICS)
def test_a_difference_is_described_by_the_direction_of_the_metric(metric):
    def of(low: float, high: float) -> str:
        interval = Interval((low + high) / 2, low, high, "", 12)
        return describe_difference(metric, interval)

    lower = {"loss", "brier", ALARMS_PER_PHOTO}
    above, below = ("worse", "better") if metric in lower else ("better", "worse")
    assert of(0.1, 0.2) == above
    assert of(-0.2, -0.1) == below
    assert of(-0.1, 0.1) == of(0.0, 0.1) == "no difference shown"
    assert of(math.nan, math.nan) == "not judged: too few photographs differ"


def test_f1_of_35_photographs_is_held_about_as_often_as_said():
    num_data_sets, held = 200, 0
    labels, probabilities, _ = draw(8000, seed=14)
    truth = threshold_metrics(labels, probabilities, 0.5)["f1"]
    for seed in range(num_data_sets):
        tiles = draw(35, seed=1000 + seed)
        found = intervals(*tiles, threshold=0.5, metrics=["f1"], num_resamples=300, seed=seed)["f1"]
        held += found.low <= truth <= found.high
    lowest, highest = binom.ppf([0.0005, 0.9995], num_data_sets, 0.95)
    assert lowest <= held <= highest


def test_coverage_told_is_that_of_the_committed_table():
    table = pd.read_csv(COVERAGE_FILE)
    shipped = table[table["method"] == "shipped"]
    assert len(shipped) == len(METRICS) * 3 * 2
    for row in shipped.itertuples():
        told = measured_coverage(
            row.metric, row.num_photographs, of_difference=row.kind == "difference"
        )
        assert told == row.coverage


def test_coverage_between_measured_sizes_is_that_of_the_smaller_one():
    least, next_one, largest = 10, 35, 100
    first, last = measured_coverage("f1", least), measured_coverage("f1", largest)
    assert first != last
    assert measured_coverage("f1", next_one - 1) == measured_coverage("f1", least) == first
    assert measured_coverage("f1", 1000) == last
    assert measured_coverage("f1", least - 1) is None
    assert measured_coverage("no such metric", next_one) is None


def test_without_the_committed_table_no_coverage_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation_intervals, "COVERAGE_FILE", tmp_path / "coverage.csv")
    _read_coverage.cache_clear()
    try:
        assert measured_coverage("f1", 100) is None
        assert coverage_note(100) == "95 % intervals resample 100 photographs"
    finally:
        _read_coverage.cache_clear()
