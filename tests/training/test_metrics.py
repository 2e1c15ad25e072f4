"""Facts about the figures: by hand, against scikit-learn and SciPy, and by trying everything."""

import math
from fractions import Fraction
from random import Random

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from ensemble.training.metrics import (
    best_threshold,
    confusion_counts,
    log_loss,
    margin_loss,
    margins_to_probabilities,
    ranking_metrics,
    threshold_metrics,
    trivial_f1,
    validation_metrics,
)

# few values for ties, all values for everything else
PROBABILITY = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
TILES = st.lists(st.tuples(st.integers(0, 1), PROBABILITY), min_size=1, max_size=25)
WITH_A_CRACK = TILES.filter(lambda tiles: any(label for label, _ in tiles))
OF_BOTH_CLASSES = TILES.filter(lambda tiles: len({label for label, _ in tiles}) == 2)

quick = settings(max_examples=80, deadline=None)


def as_arrays(tiles: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = zip(*tiles, strict=True)
    return np.array(labels), np.array(probabilities, dtype=np.float64)


def exact_f1(labels: np.ndarray, called: np.ndarray) -> Fraction:
    hits = int((labels & called).sum())
    return Fraction(2 * hits, int(labels.sum()) + int(called.sum()))


@quick
@given(WITH_A_CRACK)
def test_best_f1_is_the_highest_of_every_division(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    _, f1 = best_threshold(labels, probabilities)
    tried = [exact_f1(labels, probabilities >= cut) for cut in set(probabilities)]
    assert f1 == float(max(tried))


@quick
@given(WITH_A_CRACK)
def test_best_threshold_gives_the_f1_it_promises(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    threshold, f1 = best_threshold(labels, probabilities)
    assert threshold_metrics(labels, probabilities, threshold)["f1"] == f1
    called = probabilities >= threshold
    assert sklearn.metrics.f1_score(labels, called, zero_division=0) == pytest.approx(f1)


@quick
@given(WITH_A_CRACK)
def test_of_equally_good_thresholds_the_lowest_is_taken(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    threshold, _ = best_threshold(labels, probabilities)
    best = exact_f1(labels, probabilities >= threshold)
    for cut in probabilities[probabilities < threshold]:
        assert exact_f1(labels, probabilities >= cut) < best


@quick
@given(WITH_A_CRACK, st.randoms(use_true_random=False))
def test_order_of_the_tiles_does_not_move_the_threshold(
    tiles: list[tuple[int, float]], random: Random
) -> None:
    before = best_threshold(*as_arrays(tiles))
    random.shuffle(tiles)
    assert best_threshold(*as_arrays(tiles)) == before


@pytest.mark.parametrize(
    ("labels", "probabilities", "threshold", "f1"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.5, 1.0),  # the middle of the gap
        ([1, 0, 1], [0.2, 0.4, 0.9], 0.2, 0.8),  # all called cracked: the lowest itself
        ([0, 1], [0.5, 0.5], 0.5, 2 / 3),  # nothing to divide
        ([1, 0, 0, 1], [0.75, 0.5, 0.25, 0.125], 0.125, 2 / 3),  # 2/3 at 0.625 too: lower wins
        ([1], [0.0], 0.0, 1.0),
    ],
)
def test_best_threshold_by_hand(
    labels: list[int], probabilities: list[float], threshold: float, f1: float
) -> None:
    found = best_threshold(np.array(labels), np.array(probabilities))
    assert found == (pytest.approx(threshold), pytest.approx(f1))


def test_threshold_between_neighbouring_floats_still_divides_them() -> None:
    low = 0.3
    high = float(np.nextafter(low, 1))
    threshold, f1 = best_threshold(np.array([0, 1]), np.array([low, high]))
    assert low < threshold <= high
    assert f1 == 1.0


def test_counts_and_figures_by_hand() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    probabilities = np.array([0.9, 0.5, 0.1, 0.8, 0.4, 0.3, 0.2, 0.1])
    assert confusion_counts(labels, probabilities, 0.5) == {
        "true_positive": 2,  # 0.5 itself is called cracked
        "false_positive": 1,
        "false_negative": 1,
        "true_negative": 4,
    }
    assert threshold_metrics(labels, probabilities, 0.5) == {
        "accuracy": 6 / 8,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
    }


@pytest.mark.parametrize("labels", [[1, 0, 0, 0], [1, 1, 0], [0, 1]])
def test_trivial_f1_is_that_of_calling_every_tile_cracked(labels: list[int]) -> None:
    everything = threshold_metrics(np.array(labels), np.ones(len(labels)), 0.5)
    assert trivial_f1(np.array(labels)) == pytest.approx(everything["f1"])


def test_figures_are_zero_where_nothing_is_counted() -> None:
    nothing_called = threshold_metrics(np.array([1, 0]), np.array([0.1, 0.2]), 0.5)
    assert nothing_called == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    nothing_cracked = threshold_metrics(np.array([0, 0]), np.array([0.1, 0.2]), 0.5)
    assert nothing_cracked == {"accuracy": 1.0, "precision": 0.0, "recall": 0.0, "f1": 0.0}


@quick
@given(TILES, PROBABILITY)
def test_figures_at_a_threshold_are_scikit_learns(
    tiles: list[tuple[int, float]], threshold: float
) -> None:
    labels, probabilities = as_arrays(tiles)
    called = (probabilities >= threshold).astype(int)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        labels, called, average="binary", zero_division=0
    )
    assert threshold_metrics(labels, probabilities, threshold) == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(labels, called),
            "precision": precision,
            "recall": recall,
            "f1": f1,
        }
    )


@quick
@given(OF_BOTH_CLASSES)
def test_average_precision_is_the_stepwise_sum(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    total, recall_before = 0.0, 0.0
    for cut in sorted(set(probabilities), reverse=True):
        called = probabilities >= cut
        recall = labels[called].sum() / labels.sum()
        total += (recall - recall_before) * labels[called].mean()
        recall_before = recall
    figures = ranking_metrics(labels, probabilities)
    assert figures["average_precision"] == pytest.approx(total)
    reference = sklearn.metrics.average_precision_score(labels, probabilities)
    assert figures["average_precision"] == pytest.approx(reference)


@quick
@given(OF_BOTH_CLASSES)
def test_auc_is_the_share_of_pairs_in_the_right_order(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    cracked, uncracked = probabilities[labels == 1, None], probabilities[labels == 0]
    pairs = (cracked > uncracked) + 0.5 * (cracked == uncracked)
    figure = ranking_metrics(labels, probabilities)["roc_auc"]
    assert figure == pytest.approx(pairs.mean())
    assert figure == pytest.approx(sklearn.metrics.roc_auc_score(labels, probabilities))


@pytest.mark.parametrize("label", [0, 1])
def test_ranking_of_one_class_is_not_a_number(label: int) -> None:
    figures = ranking_metrics(np.full(3, label), np.array([0.1, 0.2, 0.3]))
    assert all(math.isnan(value) for value in figures.values())


@quick
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(1e-6, 1 - 1e-6)), min_size=1, max_size=25))
def test_log_loss_is_scikit_learns(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    reference = sklearn.metrics.log_loss(labels, probabilities, labels=[0, 1])
    assert log_loss(labels, probabilities) == pytest.approx(reference)


def test_a_certain_error_costs_the_same_whichever_the_class_is() -> None:
    for label, probability in ((1, 0.0), (0, 1.0)):
        cost = log_loss(np.array([label]), np.array([probability]))
        assert cost == pytest.approx(-math.log(np.finfo(np.float64).eps))  # 36 nats
        assert log_loss(np.array([label]), np.array([1 - probability])) == 0


@pytest.mark.parametrize("margin", [0.0, 3.0, 40.0, 700.0, 1e6])
def test_the_loss_of_a_wrong_margin_is_that_margin_for_both_classes(margin: float) -> None:
    for label, signed in ((0, margin), (1, -margin)):
        cost = margin_loss(np.array([label]), np.array([signed], dtype=np.float32))
        assert cost == pytest.approx(math.log1p(math.exp(-margin)) + margin)


def test_a_saturated_false_alarm_costs_its_margin_in_the_validation_loss() -> None:
    labels = np.array([1, 0, 1, 0])
    margins = np.array([40, 40, 40, -40], dtype=np.float32)
    assert validation_metrics(labels, margins)["loss"] == pytest.approx(10)


@quick
@given(st.lists(st.floats(-700, 700), min_size=1, max_size=10))
def test_probabilities_are_the_logistic_function(margins: list[float]) -> None:
    np.testing.assert_allclose(
        margins_to_probabilities(np.array(margins)), expit(np.array(margins)), rtol=1e-12
    )


def test_probabilities_of_extreme_margins_are_zero_and_one() -> None:
    largest = float(np.finfo(np.float32).max)
    margins = np.array([-np.inf, -largest, -1000, 0, 1000, largest, np.inf], dtype=np.float32)
    expected = [0, 0, 0, 0.5, 1, 1, 1]
    assert margins_to_probabilities(margins).tolist() == expected


def test_probabilities_are_the_softmax_of_two_logits_in_float64() -> None:
    probabilities = margins_to_probabilities(np.array([math.log(3)], dtype=np.float32))
    assert probabilities.dtype == np.float64
    assert probabilities[0] == pytest.approx(0.75)


def test_validation_metrics_by_hand() -> None:
    labels = np.array([1, 0, 1, 0])
    margins = np.array([math.log(3), math.log(1 / 3), math.log(1 / 2), math.log(1 / 7)])
    figures = validation_metrics(labels, margins)  # probabilities 3/4, 1/4, 1/3, 1/8
    assert figures == pytest.approx(
        {
            "loss": -(math.log(3 / 4) * 2 + math.log(1 / 3) + math.log(7 / 8)) / 4,
            "accuracy": 1.0,
            "precision": 1.0,
            "recall": 1.0,
            "f1": 1.0,
            "f1_at_half": 2 / 3,
            "average_precision": 1.0,
            "roc_auc": 1.0,
            "threshold": (1 / 3 + 1 / 4) / 2,
        }
    )
