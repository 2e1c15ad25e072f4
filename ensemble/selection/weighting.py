"""Validation probabilities → how much each member counts.

Greedy selection: Caruana et al. 2004, https://doi.org/10.1145/1015330.1015432. Convex weights: the
log loss of a mixture is convex in its proportions (stacking as in Breiman 1996,
https://doi.org/10.1007/BF00117832). Weights are (M,), none negative, and sum to 1.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]

from ensemble.training.metrics import (
    LEAST_PROBABILITY,
    Counts,
    best_threshold,
    f_beta_ratio,
    log_loss,
)

Method = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
ROWS_AT_ONCE = 16  # candidates sorted together: 16 × 10,000 scores stay in a core's cache


def average(weights: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The ensemble's probabilities: the members' weighted mean, (M,), (M, N) → (N,).

    Rounded weights may sum to a bit more than 1, but no mean of probabilities is above it.
    """
    return np.minimum(weights @ probabilities, 1)


def mean_weights(probabilities: np.ndarray, labels: np.ndarray, *, k: int) -> np.ndarray:
    """Equal weights for the k rows with the best F1 at its best threshold: (M, N) → (M,)."""
    scores = [best_threshold(labels, row)[1] for row in probabilities]
    weights = np.zeros(len(scores))
    weights[np.argsort(-np.array(scores), kind="stable")[:k]] = 1 / k
    return weights


def greedy_weights(
    probabilities: np.ndarray,
    labels: np.ndarray,
    photographs: np.ndarray,
    *,
    num_picks: int = 25,
    num_bags: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """Caruana's ensemble selection with replacement: weights are shares of the picks.

    Each pick is the member whose addition gives the mean the highest F1 at its best threshold; of
    equal ones that with the lower log loss, then the first. The best prefix of the picks is kept.
    A bag sees a random half of the photographs (of those with cracks and of those without), as
    Caruana's bags see a random half of the models; the bags' weights are averaged.

    Args:
        probabilities: (M, N) of "cracked", one row a member.
        labels: (N,) of 0 and 1, at least one 1.
        photographs: (N,) ids; all empty where tiles have none, then each tile stands for itself.
        num_picks: Picks of a bag, at least 1.
        num_bags: Number of bags; 1 means all photographs, without any draw.
        seed: Seed of the draw of the photographs.
    """
    check_scores(probabilities, labels)
    if num_picks < 1 or num_bags < 1:
        raise ValueError(
            f"`num_picks, num_bags >= 1` must hold, but got {num_picks=}, {num_bags=}."
        )
    if num_bags == 1:
        return _pick(probabilities, labels, num_picks)
    groups, num_cracked = group_tiles(labels, photographs)
    generator = np.random.default_rng(seed)
    bags = []
    for _ in range(num_bags):
        order = generator.permutation(len(num_cracked))
        order = order[np.argsort(num_cracked[order] == 0, kind="stable")]  # with cracks first
        seen = np.isin(groups, order[::2])
        bags.append(_pick(probabilities[:, seen], labels[seen], num_picks))
    return np.mean(bags, axis=0)


def _pick(probabilities: np.ndarray, labels: np.ndarray, num_picks: int) -> np.ndarray:
    """The shares of the members in the best prefix of the picks: (M,)."""
    probabilities = np.ascontiguousarray(probabilities, dtype=np.float64)
    blocks = np.split(probabilities, range(ROWS_AT_ONCE, len(probabilities), ROWS_AT_ONCE))
    sums, counts = np.zeros(len(labels)), np.zeros(len(probabilities))
    best_weights, best_score = counts, (-1.0, 0.0)
    for picks in range(1, num_picks + 1):
        f1 = np.concatenate([_best_f1(sums + rows, labels) for rows in blocks])
        tied = np.flatnonzero(f1 == f1.max())
        losses = [log_loss(labels, (sums + probabilities[i]) / picks) for i in tied]
        last = int(tied[np.argmin(losses)])
        sums = sums + probabilities[last]
        counts[last] += 1
        weights = counts / picks
        # Scored as it will be used: the rounding of a sum must not decide between two prefixes.
        mean = weights @ probabilities
        score = (float(_best_f1(mean[None], labels)[0]), -log_loss(labels, mean))
        if score > best_score:
            best_weights, best_score = weights, score
    return best_weights


def _best_f1(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The highest F1 of each row of scores >= 0 at any threshold: (M, N), (N,) → (M,).

    Bits of floats >= 0 are ordered as the floats are, and shifting out the sign makes room for the
    label. Of equal scores the uncracked are called first: a division between equals, which no
    threshold can make, is then never better than both that can be made beside it. F1 rises with
    each hit, so it is enough to look where a cracked tile is the last one called.
    """
    keys = (scores.view(np.uint64) << np.uint64(1)) | (labels == 0).astype(np.uint64)
    keys.sort(axis=1)
    num_tiles, cracked = scores.shape[1], int(labels.sum())
    places = np.flatnonzero((keys & np.uint64(1)) == 0).reshape(len(scores), -1)
    places -= np.arange(len(scores))[:, None] * num_tiles
    counts = Counts(num_tiles, cracked, num_tiles - places, np.arange(cracked, 0, -1))
    return np.divide(*f_beta_ratio(counts)).max(axis=1, initial=0.0)


def convex_weights(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The weights whose average has the lowest log loss, to within about 1e-8 nats.

    With the sum of the weights added to the loss, the optimum over all weights >= 0 sums to 1 by
    itself (Kim et al. 2020, https://doi.org/10.1080/10618600.2019.1689985), which leaves bounds
    for L-BFGS-B. Deterministic. A member of noise gets next to no weight, unless the others are all
    too sure: then it serves to lower their mean.

    Args:
        probabilities: (M, N) of "cracked", one row a member.
        labels: (N,) of 0 and 1.
    """
    check_scores(probabilities, labels)
    prob_true_class = np.where(labels == 1, probabilities, 1 - probabilities)  # (M, N)
    prob_true_class = np.maximum(prob_true_class, LEAST_PROBABILITY)

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(weights @ prob_true_class, LEAST_PROBABILITY)
        gradient = 1 - prob_true_class @ (1 / mixed) / len(labels)
        return weights.sum() - np.log(mixed).mean(), gradient

    num_members = len(prob_true_class)
    optimum = minimize(
        loss_and_gradient,
        np.full(num_members, 1 / num_members),
        method="L-BFGS-B",
        jac=True,
        bounds=[(0, None)] * num_members,
        options={"maxiter": 2000, "ftol": 0.0, "gtol": 1e-9},  # by gradient: the loss is flat
    )
    weights = np.maximum(optimum.x, 0)
    return weights / weights.sum()


def group_tiles(labels: np.ndarray, photographs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each tile's photograph (N,), and the cracked tiles of each photograph."""
    names, groups = np.unique(photographs, return_inverse=True)
    if len(names) == 1 and str(names[0]) == "":
        groups = np.arange(len(labels))
    return groups, np.bincount(groups, weights=labels).astype(np.int64)


def diversity(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray
) -> dict[str, np.ndarray]:
    """How differently members judge, pairwise, each at its own threshold (M,).

    Returns:
        `disagreement`: (M, M) shares of tiles judged differently. `error_correlation`: (M, M)
        Pearson correlation of being wrong; NaN for a member that is never or always wrong.
    """
    called = probabilities >= np.asarray(thresholds)[:, None]
    wrong = (called != (labels == 1)).astype(np.float64)  # (M, N)
    num_wrong, num_tiles = wrong.sum(axis=1), len(labels)
    both = wrong @ wrong.T  # (M, M)
    # Two verdicts on one tile differ where exactly one of them is wrong.
    disagreement = (num_wrong[:, None] + num_wrong - 2 * both) / num_tiles
    spread = np.sqrt(num_wrong * (num_tiles - num_wrong))
    scale = np.where(spread > 0, spread, np.nan)
    covariance = num_tiles * both - np.outer(num_wrong, num_wrong)
    return {"disagreement": disagreement, "error_correlation": covariance / np.outer(scale, scale)}


def check_scores(probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError unless (M, N) probabilities and (N,) labels go together, with a crack."""
    if probabilities.ndim != 2 or not len(probabilities) or labels.shape != probabilities.shape[1:]:
        raise ValueError(
            "`probabilities` (M, N) and `labels` (N,) must agree, "
            f"but got shapes {probabilities.shape} and {labels.shape}."
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("`0 <= probabilities <= 1` must hold, but some are outside or NaN.")
    if not (labels == 1).any():
        raise ValueError("`labels` must hold at least one 1, but got none.")
