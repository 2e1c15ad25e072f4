"""Validation scores → one score a method, on photographs left out.

The folds are folds of photographs. Weights and threshold never see the photographs left out, but
the kept epoch of each member, and in a search its settings, were chosen by the whole validation
split, so the scores are still too good.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ensemble.base.errors import InputError
from ensemble.selection.thresholds import choose_threshold, is_recall, rule_score
from ensemble.selection.weighting import Method, average, check_scores, group_tiles

# Tiles to choose on (N,) bool → how far every tile lies beyond the threshold chosen on them: (…, N)
Rate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class MethodScore:
    """What a method reaches, pooled over the folds: F1, or what else the rule asks for."""

    method: str
    inner_score: float  # on the photographs that weights and threshold were chosen on
    outer_score: float  # on photographs that neither had seen
    outer_recall: float  # on those, at the thresholds that were chosen


def cross_validate(
    methods: dict[str, Method],
    probabilities: np.ndarray,
    labels: np.ndarray,
    photographs: np.ndarray,
    *,
    rule: str | float = "f1",
    num_folds: int = 5,
    seed: int = 0,
) -> list[MethodScore]:
    """Score each method on photographs of the validation split that it has not seen.

    For every fold, weights and threshold are chosen on the other folds. All folds are judged
    together, because one may hold too few cracked tiles for a figure of its own: tiles of different
    folds compare by how far they lie beyond their fold's threshold. For a rule that asks for a
    recall it is moved until that recall is reached, as precisions compare at one recall only.

    Args:
        methods: Name → function of probabilities, labels and photographs that returns weights (M,).
        probabilities: (M, N) of "cracked", one row a member.
        labels: (N,) of 0 and 1.
        photographs: (N,) ids; all empty where tiles have none, then each tile stands for itself.
        rule: Rule of the threshold, as `choose_threshold` knows them; it decides the score.
        num_folds: At least 2; where there are fewer photographs, one is left out at a time.
        seed: Seed of the draw of the folds.

    Raises:
        InputError: Fewer than two photographs have cracked tiles.
    """
    check_scores(probabilities, labels)
    folds = draw_folds(labels, photographs, num_folds, seed)  # (N,)
    scores = []
    for name, choose in methods.items():
        rate = _rate_by(choose, probabilities, labels, photographs, rule)
        ratings = rate_by_fold(rate, folds)
        outer, known = left_out(ratings, folds), folds != np.unique(folds)[:, None]  # (K, N)
        inner_labels = np.broadcast_to(labels, known.shape)[known]
        scores.append(
            MethodScore(
                name,
                inner_score=_score_beyond(inner_labels, ratings[known], rule),
                outer_score=_score_beyond(labels, outer, rule),
                outer_recall=choose_threshold(labels, outer, 0.0).recall,
            )
        )
    return scores


def _rate_by(
    choose: Method,
    probabilities: np.ndarray,
    labels: np.ndarray,
    photographs: np.ndarray,
    rule: str | float,
) -> Rate:
    """Weights by a method, and a threshold by a rule, as a function of the tiles to choose on."""

    def rate(seen: np.ndarray) -> np.ndarray:
        weights = choose(probabilities[:, seen], labels[seen], photographs[seen])
        mean = average(weights, probabilities)
        return mean - choose_threshold(labels[seen], mean[seen], rule).threshold

    return rate


def rate_by_fold(rate: Rate, folds: np.ndarray) -> np.ndarray:
    """Every tile as rated by K choices, each of them made without one of K folds: (K, …, N).

    Args:
        rate: A choice.
        folds: (N,) fold of each tile.
    """
    return np.stack([rate(folds != fold) for fold in np.unique(folds)])


def left_out(ratings: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Each tile as rated by the choice that left out its fold: (K, …, N), (N,) → (…, N)."""
    number = np.unique(folds, return_inverse=True)[1]
    return np.moveaxis(ratings[number, ..., np.arange(len(folds))], 0, -1)


def _score_beyond(labels: np.ndarray, beyond: np.ndarray, rule: str | float) -> float:
    """What `rule` asks for, of tiles that are called cracked where `beyond` is at least 0."""
    return rule_score(choose_threshold(labels, beyond, rule if is_recall(rule) else 0.0), rule)


def draw_folds(
    labels: np.ndarray, photographs: np.ndarray, num_folds: int = 5, seed: int = 0
) -> np.ndarray:
    """A fold for every tile: (N,). Cracked tiles are spread over as many folds as they can be.

    Photographs are ordered by their cracked tiles; each run of neighbours is dealt to all folds.

    Args:
        labels: (N,) of 0 and 1.
        photographs: (N,) ids; all empty where tiles have none, then each tile stands for itself.
        num_folds: At least 2; where there are fewer photographs, one is left out at a time.
        seed: Seed of the draw.

    Raises:
        InputError: Fewer than two photographs have cracked tiles.
    """
    groups, num_cracked = group_tiles(labels, photographs)
    if num_folds < 2:
        raise ValueError(f"`num_folds >= 2` must hold, but got {num_folds=}.")
    if (num_cracked > 0).sum() < 2:
        raise InputError(
            "cross-validation needs cracked tiles in two photographs of the validation split, "
            f"but {(num_cracked > 0).sum()} of {len(num_cracked)} have any; prepare more data"
        )
    num_folds = min(num_folds, len(num_cracked))
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(num_cracked))
    order = order[np.argsort(-num_cracked[order], kind="stable")]
    dealt = [generator.permutation(num_folds) for _ in range(0, len(order), num_folds)]
    fold_of_group = np.empty(len(order), dtype=np.int64)
    fold_of_group[order] = np.concatenate(dealt)[: len(order)]
    return fold_of_group[groups]
