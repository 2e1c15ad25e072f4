"""How much each member counts: validation probabilities in, weights out. No test tiles.

Greedy selection: Caruana et al. 2004, https://doi.org/10.1145/1015330.1015432. Convex weights: the
log loss of a mixture is convex in its proportions (stacking as in Breiman 1996,
https://doi.org/10.1007/BF00117832). Weights are (M,), none negative, and sum to 1; the ensemble's
probability is `weights @ probabilities`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]

from ensemble.errors import InputError
from ensemble.training.metrics import LEAST_PROBABILITY, best_threshold, f_beta, log_loss

Method = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
ROWS_AT_ONCE = 16  # candidates sorted together: 16 × 10,000 scores stay in a core's cache


@dataclass(frozen=True)
class MethodScore:
    """What a way of weighting promises and what it keeps, as F1 pooled over the folds."""

    method: str
    inner_score: float  # on the photographs that weights and threshold were chosen on
    outer_score: float  # on photographs that neither had seen

    @property
    def optimism(self) -> float:
        """How much of the promise is not kept."""
        return self.inner_score - self.outer_score


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
    equal ones that with the lower log loss, then the first. The best prefix of the picks is kept,
    so one bag is never below the best single member on the tiles it saw. A bag sees a random half
    of the photographs (of those with cracks and of those without), as Caruana's bags see a random
    half of the models; the bags' weights are averaged, and that mean has no such guarantee.

    Args:
        probabilities: (M, N) of "cracked", one row a member.
        labels: (N,) of 0 and 1, at least one 1.
        photographs: (N,) ids; all empty where tiles have none, then each tile stands for itself.
        num_picks: At least 1.
        num_bags: 1 means all photographs, without any draw.
        seed: Of the draw of the photographs.
    """
    _check(probabilities, labels)
    if num_picks < 1 or num_bags < 1:
        raise ValueError(
            f"`num_picks, num_bags >= 1` must hold, but got {num_picks=}, {num_bags=}."
        )
    if num_bags == 1:
        return _pick(probabilities, labels, num_picks)
    groups, num_cracked = _group_tiles(labels, photographs)
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
    sums, counts = np.zeros(len(labels)), np.zeros(len(probabilities))
    best_weights, best_score, last = counts, (-1.0, 0.0), 0
    for picks in range(1, num_picks + 1):
        f1 = _f1_of_additions(sums, probabilities, labels, likely=last)
        tied = np.flatnonzero(f1 == f1.max())
        losses = [log_loss(labels, (sums + probabilities[i]) / picks) for i in tied]
        last = int(tied[np.argmin(losses)])
        sums = sums + probabilities[last]
        counts[last] += 1
        weights = counts / picks
        # Scored as it will be used: the rounding of a sum must not decide between two prefixes.
        mean = weights @ probabilities
        score = (best_threshold(labels, mean)[1], -log_loss(labels, mean))
        if score > best_score:
            best_weights, best_score = weights, score
    return best_weights


def _f1_of_additions(
    sums: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, *, likely: int
) -> np.ndarray:
    """The best F1 of `sums + row` for every row: (M,). Exact for the best, else no more than it.

    An F1 of at least `f1` needs `2·hits >= f1·(called + cracked)` and `hits <= min(called,
    cracked)`, hence at least `least` and at most `most` tiles called. An addition raises a score by
    0 to 1, so with a good `f1` in hand (that of the row `likely`) most tiles are called, or are
    not, whichever row wins; the others alone are sorted.
    """
    cracked = int(labels.sum())
    f1 = float(_f1_of_rows((sums + probabilities[likely])[None], labels, cracked, 0, 0)[0])
    least = max(int(np.ceil(cracked * f1 / (2 - f1) - 1e-6)), 1)
    most = min(int(np.floor(cracked * (2 - f1) / f1 + 1e-6)), len(sums))
    descending = -np.sort(-sums)
    called = sums > descending[least - 1] + 1  # in every division that can win
    is_open = (sums + 1 >= descending[most - 1]) & ~called
    sure_hits, sure_called = int(labels[called].sum()), int(called.sum())
    rows, labels = np.compress(is_open, probabilities, axis=1), labels[is_open]
    blocks = np.split(rows, range(ROWS_AT_ONCE, len(rows), ROWS_AT_ONCE))
    sums = sums[is_open]
    f1s = [_f1_of_rows(sums + block, labels, cracked, sure_hits, sure_called) for block in blocks]
    return np.concatenate(f1s)


def _f1_of_rows(
    scores: np.ndarray, labels: np.ndarray, cracked: int, sure_hits: int, sure_called: int
) -> np.ndarray:
    """The best F1 of each row of scores >= 0, with `sure_called` tiles above them: (M,).

    Bits of floats >= 0 are ordered as the floats are, and shifting out the sign makes room for the
    label. Of equal scores the uncracked are called first: a division between equals, which no
    threshold can make, is then never better than both that can be made beside it. F1 rises with
    each hit, so it is enough to look where a cracked tile is the last one called.
    """
    keys = (scores.view(np.uint64) << np.uint64(1)) | (labels == 0).astype(np.uint64)
    keys.sort(axis=1)
    places = np.flatnonzero((keys & np.uint64(1)) == 0).reshape(len(scores), -1)
    places -= np.arange(len(scores))[:, None] * scores.shape[1]
    hits = sure_hits + np.arange(places.shape[1], 0, -1)
    f1 = 2 * hits / (sure_called + scores.shape[1] - places + cracked)
    return f1.max(axis=1, initial=0.0)


def convex_weights(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The weights whose average has the lowest log loss, to within about 1e-6 nats.

    With the sum of the weights added to the loss, the optimum over all weights >= 0 sums to 1 by
    itself (Kim et al. 2020, https://doi.org/10.1080/10618600.2019.1689985), which leaves bounds
    for L-BFGS-B; where it stops short, expectation maximisation goes on. Deterministic. Noise gets
    next to nothing, except beside members that are all too sure: there it serves as a doubt.

    Args:
        probabilities: (M, N) of "cracked", one row a member.
        labels: (N,) of 0 and 1.
    """
    _check(probabilities, labels)
    given = np.where(labels == 1, probabilities, 1 - probabilities)  # (M, N), to the true class
    given = np.maximum(given, LEAST_PROBABILITY)

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(weights @ given, LEAST_PROBABILITY)
        return weights.sum() - np.log(mixed).mean(), 1 - given @ (1 / mixed) / len(labels)

    num_members = len(given)
    found = minimize(
        loss_and_gradient,
        np.full(num_members, 1 / num_members),
        method="L-BFGS-B",
        jac=True,
        bounds=[(0, None)] * num_members,
        options={"maxiter": 2000, "ftol": 0.0, "gtol": 1e-9},  # by gradient: the loss is flat
    )
    weights = np.maximum(found.x, 0) / found.x.sum()
    for _ in range(1000):
        gains = given @ (1 / (weights @ given)) / len(labels)
        if gains.max() <= 1 + 1e-6:  # its log bounds the distance to the optimum, in nats
            break
        # A member at 0 stays there in a step of EM; a trace of each lets it return.
        weights = (weights + 1e-9) * gains
        weights /= weights.sum()
    return weights / weights.sum()


def cross_validate(
    methods: dict[str, Method],
    probabilities: np.ndarray,
    labels: np.ndarray,
    photographs: np.ndarray,
    *,
    num_folds: int = 5,
    seed: int = 0,
) -> list[MethodScore]:
    """What each way of weighting is worth on photographs of the validation split it has not seen.

    For every fold, weights and threshold are chosen on the other folds. Counts are summed over the
    folds and divided once, because a fold may hold too few cracked tiles for an F1 of its own:
    outside, every tile is judged once; inside, once for each fold it helped to choose.

    Args:
        methods: By name: probabilities, labels and photographs in, weights (M,) out.
        probabilities: (M, N) of "cracked", one row a member.
        labels: (N,) of 0 and 1.
        photographs: (N,) ids; all empty where tiles have none, then each tile stands for itself.
        num_folds: At least 2; where there are fewer photographs, one is left out at a time.
        seed: Of the draw of the folds.

    Raises:
        InputError: Fewer than two photographs have cracked tiles.
    """
    _check(probabilities, labels)
    folds = _draw_folds(labels, photographs, num_folds, seed)  # (N,)
    scores = []
    for name, choose in methods.items():
        inner, outer = np.zeros(3), np.zeros(3)  # hits, called, cracked
        for fold in np.unique(folds):
            seen = folds != fold
            weights = choose(probabilities[:, seen], labels[seen], photographs[seen])
            mean = weights @ probabilities
            threshold, _ = best_threshold(labels[seen], mean[seen])
            called, cracked = mean >= threshold, labels == 1
            tiles = np.stack([called & cracked, called, cracked])  # (3, N)
            inner += tiles[:, seen].sum(axis=1)
            outer += tiles[:, ~seen].sum(axis=1)
        scores.append(MethodScore(name, float(f_beta(*inner)), float(f_beta(*outer))))
    return scores


def _draw_folds(
    labels: np.ndarray, photographs: np.ndarray, num_folds: int, seed: int
) -> np.ndarray:
    """A fold for every tile: (N,). Cracked tiles are spread over as many folds as they can be.

    Photographs are ordered by their cracked tiles; each run of neighbours is dealt to all folds.
    """
    groups, num_cracked = _group_tiles(labels, photographs)
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


def _group_tiles(labels: np.ndarray, photographs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each tile's photograph (N,), and the cracked tiles of each photograph."""
    names, groups = np.unique(photographs, return_inverse=True)
    if len(names) == 1 and str(names[0]) == "":
        groups = np.arange(len(labels))
    return groups, np.bincount(groups, weights=labels).astype(np.int64)


def diversity(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray
) -> dict[str, np.ndarray]:
    """How differently members judge, pairwise, each at its own threshold.

    Args:
        probabilities: (M, N) of "cracked", one row a member.
        labels: (N,) of 0 and 1.
        thresholds: (M,).

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


def _check(probabilities: np.ndarray, labels: np.ndarray) -> None:
    if probabilities.ndim != 2 or not len(probabilities) or labels.shape != probabilities.shape[1:]:
        raise ValueError(
            "`probabilities` (M, N) and `labels` (N,) must agree, "
            f"but got shapes {probabilities.shape} and {labels.shape}."
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("`0 <= probabilities <= 1` must hold, but some are outside or NaN.")
    if not (labels == 1).any():
        raise ValueError("`labels` must hold at least one 1, but got none.")
