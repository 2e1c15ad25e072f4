"""Facts about the thresholds that a person may move to, and what they find."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensemble.selection.thresholds import MOST_POINTS, choose_threshold, working_points
from ensemble.training.metrics import confusion_counts

LABELS = np.arange(60) % 3 == 0


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, 60, elements=st.floats(0, 1)), st.floats(0, 1))
def test_every_point_counts_what_its_threshold_finds(probabilities: np.ndarray, chosen: float):
    labels = LABELS.astype(int)
    points = working_points(labels, probabilities, chosen)
    for threshold, found, false_alarms in points:
        counts = confusion_counts(labels, probabilities, threshold)
        assert (found, false_alarms) == (counts["true_positive"], counts["false_positive"])
    thresholds = [threshold for threshold, *_ in points]
    assert thresholds == sorted(set(thresholds), reverse=True)
    assert chosen in thresholds
    assert max(found for _, found, _ in points) == labels.sum()


@pytest.mark.parametrize("recall", [0.25, 0.5, 0.95, 1.0])
def test_a_point_is_where_a_rule_of_its_recall_puts_the_threshold(recall: float):
    labels = LABELS.astype(int)
    probabilities = np.random.default_rng(0).random(60) * 0.7 + 0.3 * labels
    chosen = choose_threshold(labels, probabilities, f"recall={recall}").threshold
    others = working_points(labels, probabilities, 0.123456)
    assert chosen in [threshold for threshold, *_ in others]


def test_many_cracked_tiles_go_in_equal_steps_to_the_last_one():
    labels = np.ones(5000, dtype=int)
    labels[-1] = 0
    points = working_points(labels, np.linspace(1, 0.5, 5000), 0.5)
    found = [each for _, each, _ in points]
    assert len(points) <= MOST_POINTS + 1
    assert max(np.diff(found)) <= 5000 / MOST_POINTS + 1
    assert found[-1] == 4999
