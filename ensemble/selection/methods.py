"""Scores of members and what is asked for → how much each member counts.

The ways of choosing are those of `METHODS` that need no forward pass: mean, greedy and weighted.
`auto` takes the one of them that cross-validation over the photographs prefers. Where a tile may
cost fewer forward passes than that needs, the members that count most are kept and weighed anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.selection.cross_validation import MethodScore, cross_validate
from ensemble.selection.weighting import (
    Method,
    convex_weights,
    greedy_weights,
    mean_weights,
)
from ensemble.training.metrics import best_threshold

LEAST_WEIGHT = 0.01  # a member below it costs a forward pass and changes nothing
NUM_BAGS = 20


@dataclass(frozen=True)
class Asked:
    """What is asked of a choice.

    Attributes:
        method: mean, greedy, weighted or auto.
        top_k: Number of members of `mean`.
        rule: Rule of the threshold, by which `auto` compares.
        budget: Forward passes that a tile may cost, before flips and turns; None for any number.
        num_bags: Bags of greedy selection.
    """

    method: str
    top_k: int
    rule: str
    budget: int | None = None
    num_bags: int = NUM_BAGS


@dataclass(frozen=True, eq=False)
class Weighed:
    """How much each member counts.

    Attributes:
        method: The method that was asked for, or that `auto` took.
        weights: (M,) summing to 1; 0 for a member that is not kept.
        scores: What `auto` compared.
    """

    method: str
    weights: np.ndarray
    scores: list[MethodScore] = field(default_factory=list)


def weigh(
    probabilities: np.ndarray,
    labels: np.ndarray,
    photographs: np.ndarray,
    asked: Asked,
    num_networks: Sequence[int] = (),
) -> Weighed:
    """Choose members and weights as asked.

    Of members that cost more than the budget allows, those with the largest weights are kept, of
    equal ones those with the best F1, as many as there are passes, and weighed anew by the same
    method: a member counts with one network as it does with all, as their scores are the same.

    Args:
        probabilities: (M, N) of "cracked", one row a member.
        labels: (N,) of 0 and 1, at least one 1.
        photographs: (N,) ids; all empty where tiles have none, then each tile stands for itself.
        asked: What is asked of the choice.
        num_networks: Number of networks of each of the M members; one each where it is empty.

    Raises:
        InputError: `auto` is asked for, and fewer than two photographs have cracked tiles.
    """
    methods: dict[str, Method] = {
        "mean": lambda scores, labels, _: mean_weights(scores, labels, k=asked.top_k),
        "greedy": lambda *seen: greedy_weights(*seen, num_bags=asked.num_bags),
        "weighted": lambda scores, labels, _: convex_weights(scores, labels),
    }
    method, compared = asked.method, []
    if method == "auto":
        compared = cross_validate(methods, probabilities, labels, photographs, rule=asked.rule)
        method = max(compared, key=lambda score: score.outer_score).method
    weights = _prune(methods[method](probabilities, labels, photographs), method)
    costs = np.array(num_networks or [1] * len(probabilities))
    if asked.budget is not None and costs[weights > 0].sum() > asked.budget:
        f1 = np.array([best_threshold(labels, row)[1] for row in probabilities])
        first = np.lexsort((-f1, -weights))[: asked.budget]
        kept = np.sort(first[weights[first] > 0])
        weights = np.zeros(len(probabilities))
        weights[kept] = _prune(methods[method](probabilities[kept], labels, photographs), method)
    return Weighed(method, weights, compared)


def _prune(weights: np.ndarray, method: str) -> np.ndarray:
    """Weights that sum to 1, without those that a method made too small to matter."""
    if method != "mean":
        weights = np.where(weights > LEAST_WEIGHT, weights, 0)
    return weights / weights.sum()


def deal_networks(weights: Sequence[float], num_networks: Sequence[int], passes: int) -> list[int]:
    """Deal forward passes to members by weight, at least one to each: how many networks each keeps.

    The next pass goes to the member with the largest weight a network, counting the one that it
    would get (D'Hondt), of equal ones to the first.

    Args:
        weights: Weights of M members, all above 0.
        num_networks: Number of networks of each.
        passes: Number of passes in all, at least M.
    """
    kept = [1] * len(weights)
    while sum(kept) < passes:
        free = [i for i, most in enumerate(num_networks) if kept[i] < most]
        if not free:
            break
        kept[max(free, key=lambda i: weights[i] / (kept[i] + 1))] += 1
    return kept
