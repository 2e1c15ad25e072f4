"""Facts about members and weights under a budget of forward passes."""

import numpy as np
import pytest

from ensemble.selection.methods import Asked, deal_networks, weigh


@pytest.mark.parametrize(
    ("weights", "passes", "dealt"),
    [
        ([0.6, 0.4], 2, [1, 1]),
        ([0.6, 0.4], 5, [3, 2]),
        ([0.9, 0.1], 5, [4, 1]),
        ([0.9, 0.1], 7, [5, 2]),  # the first has no more
        ([0.5, 0.5], 3, [2, 1]),
        ([0.5, 0.5], 100, [5, 5]),
        ([1.0], 1, [1]),
    ],
)
def test_networks_are_dealt_by_weight_and_at_least_one_to_each(
    weights: list[float], passes: int, dealt: list[int]
) -> None:
    assert deal_networks(weights, [5] * len(weights), passes) == dealt


def draw() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of six members that err apart, with labels and photographs."""
    generator = np.random.default_rng(0)
    labels = (generator.random(200) < 0.3).astype(int)
    signal = np.linspace(0.1, 0.2, 6)[:, None]
    scores = np.clip(0.3 + signal * (2 * labels - 1) + 0.25 * generator.normal(size=(6, 200)), 0, 1)
    return scores, labels, np.arange(200) // 10


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_a_mean_within_a_budget_is_the_mean_of_fewer(passes: int) -> None:
    limited = weigh(*draw(), Asked("mean", 5, "f1", passes), (3,) * 6)
    fewer = weigh(*draw(), Asked("mean", passes, "f1"))
    assert np.array_equal(limited.weights, fewer.weights)


@pytest.mark.parametrize("method", ["greedy", "weighted"])
@pytest.mark.parametrize("passes", [1, 2])
def test_the_members_of_largest_weight_are_kept_and_weighed_anew(method: str, passes: int) -> None:
    scores, labels, photographs = draw()
    free = weigh(scores, labels, photographs, Asked(method, 5, "f1"))
    limited = weigh(scores, labels, photographs, Asked(method, 5, "f1", passes))
    assert (free.weights > 0).sum() > 2
    largest = np.sort(np.argsort(-free.weights)[:passes])
    assert np.flatnonzero(limited.weights).tolist() == largest.tolist()
    anew = weigh(scores[largest], labels, photographs, Asked(method, 5, "f1"))
    assert np.array_equal(limited.weights[largest], anew.weights)
