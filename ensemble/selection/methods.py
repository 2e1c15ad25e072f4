"""Scores of members and what is asked for → how much each member counts.

The ways of choosing are those of `METHODS` that need no forward pass: mean, greedy and weighted.
`auto` takes the one of them that cross-validation over the photographs prefers.
"""

from dataclasses import dataclass, field

import numpy as np

from ensemble.selection.cross_validation import MethodScore, cross_validate
from ensemble.selection.weighting import (
    Method,
    convex_weights,
    greedy_weights,
    mean_weights,
)

LEAST_WEIGHT = 0.01  # a member below it costs a forward pass and changes nothing
NUM_BAGS = 20


@dataclass(frozen=True)
class Asked:
    """What is asked of a choice.

    Attributes:
        method: mean, greedy, weighted or auto.
        top_k: Number of members of `mean`.
        rule: Rule of the threshold, by which `auto` compares.
        num_bags: Bags of greedy selection.
    """

    method: str
    top_k: int
    rule: str
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
    probabilities: np.ndarray, labels: np.ndarray, photographs: np.ndarray, asked: Asked
) -> Weighed:
    """Choose members and weights as asked.

    Args:
        probabilities: (M, N) of "cracked", one row a member.
        labels: (N,) of 0 and 1, at least one 1.
        photographs: (N,) ids; all empty where tiles have none, then each tile stands for itself.
        asked: What is asked of the choice.

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
    weights = methods[method](probabilities, labels, photographs)
    if method != "mean":
        weights = np.where(weights > LEAST_WEIGHT, weights, 0)
    return Weighed(method, weights / weights.sum(), compared)
