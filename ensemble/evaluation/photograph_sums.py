"""Labels, probabilities and photographs → what each photograph adds to every figure.

A resample of photographs is then a row of weights, and its figures and their derivatives by the
weights follow without going through the tiles again.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from ensemble.training.metrics import tile_losses

ValuesAndSlopes = tuple[np.ndarray, np.ndarray]
PHOTO_RECALL = "cracked_photographs_hit"
ALARMS_PER_PHOTO = "false_alarms_per_photograph"
METRICS = (
    *("loss", "brier", "accuracy", "precision", "recall", "f1", "f2"),
    *("average_precision", "roc_auc", PHOTO_RECALL, ALARMS_PER_PHOTO),
)
CELLS_AT_ONCE = 2**19  # levels x resamples in memory: about 12 arrays of 4 MB


@dataclass(frozen=True)
class PhotographSums:
    """What every figure needs of n photographs, so that a resample is a row of n weights."""

    ratios: dict[str, ValuesAndSlopes]  # by metric: (n,) / (n,), each summed first
    cracked: csr_array  # (K, n) cracked tiles by level of probability, highest first
    uncracked: csr_array  # (K, n)


def sum_by_photograph(
    labels: np.ndarray, probabilities: np.ndarray, photographs: np.ndarray, threshold: float
) -> PhotographSums:
    """Sums and counts of each photograph, in the order of sorted ids; ValueError out of range."""
    if not (np.isin(labels, (0, 1)).all() and np.all(np.abs(probabilities - 0.5) <= 0.5)):
        raise ValueError("labels of 0 and 1 and probabilities in 0 … 1 must hold, but got others")
    ids, photograph = np.unique(photographs, return_inverse=True)
    cracked, called = labels == 1, probabilities >= threshold

    def total(of_tiles: np.ndarray) -> np.ndarray:
        return np.bincount(photograph, weights=of_tiles, minlength=len(ids))  # (n,)

    hits, alarms, missed = map(total, (cracked & called, ~cracked & called, cracked & ~called))
    tiles, ones = total(np.ones(len(labels))), np.ones(len(ids))
    given = np.where(cracked, probabilities, 1 - probabilities)
    levels, level = np.unique(-probabilities, return_inverse=True)

    def by_level(which: np.ndarray) -> csr_array:
        where = (level[which], photograph[which])
        return csr_array((np.ones(which.sum()), where), shape=(len(levels), len(ids)))

    ratios = {
        "loss": (total(tile_losses(labels, probabilities)), tiles),
        "brier": (total((1 - given) ** 2), tiles),
        "accuracy": (tiles - alarms - missed, tiles),
        "precision": (hits, hits + alarms),
        "recall": (hits, hits + missed),
        "f1": (2 * hits, 2 * hits + alarms + missed),
        "f2": (5 * hits, 5 * hits + alarms + 4 * missed),
        PHOTO_RECALL: ((hits > 0).astype(float), (hits + missed > 0).astype(float)),
        ALARMS_PER_PHOTO: (alarms, ones),
    }
    return PhotographSums(ratios, by_level(cracked), by_level(~cracked))


def weighted_figures(sums: PhotographSums, weights: np.ndarray, metric: str) -> ValuesAndSlopes:
    """(R,) figures where photographs count (R, n) `weights` times, and (R, n) derivatives by them.

    Where nothing is counted, a figure is 0, and NaN for rankings and `cracked_photographs_hit`.
    """
    if metric in sums.ratios:
        upper, lower = sums.ratios[metric]
        counted = weights @ lower  # (R,)
        values = _divide(weights @ upper, counted, np.nan if metric == PHOTO_RECALL else 0.0)
        return values, _divide(upper - values[:, None] * lower, counted[:, None])
    rank = {"average_precision": _average_precision, "roc_auc": _roc_auc}[metric]
    step = max(1, CELLS_AT_ONCE // sums.cracked.shape[0])
    parts = [rank(sums, weights[i : i + step].T) for i in range(0, len(weights), step)]
    values, slopes = (np.concatenate(column) for column in zip(*parts, strict=True))
    counts = [weights @ each.sum(axis=0) for each in (sums.cracked, sums.uncracked)]
    return np.where(np.minimum(*counts) > 0, values, np.nan), slopes


def _average_precision(sums: PhotographSums, weights: np.ndarray) -> ValuesAndSlopes:
    """Sum over levels of the share of cracked tiles there times the precision down to there."""
    cracked = sums.cracked @ weights  # (K, R)
    hits = np.cumsum(cracked, axis=0)
    called = hits + np.cumsum(sums.uncracked @ weights, axis=0)
    precision = _divide(hits, called)
    values = _divide((cracked * precision).sum(axis=0), hits[-1])
    share = _divide(cracked, called)  # a tile more changes the precision at all levels below it
    loss_below = np.cumsum((share * precision)[::-1], axis=0)[::-1]
    gain_below = np.cumsum(share[::-1], axis=0)[::-1] - loss_below
    slopes = sums.cracked.T @ (precision - values + gain_below) - sums.uncracked.T @ loss_below
    return values, _divide(slopes, hits[-1]).T


def _roc_auc(sums: PhotographSums, weights: np.ndarray) -> ValuesAndSlopes:
    """Share of pairs of a cracked and an uncracked tile in the right order; ties count half."""
    cracked, uncracked = sums.cracked @ weights, sums.uncracked @ weights  # (K, R)
    cracked_above = np.cumsum(cracked, axis=0) - cracked / 2
    num_cracked, num_uncracked = cracked.sum(axis=0), uncracked.sum(axis=0)
    uncracked_below = num_uncracked - np.cumsum(uncracked, axis=0) + uncracked / 2
    pairs = num_cracked * num_uncracked
    values = _divide((uncracked * cracked_above).sum(axis=0), pairs)
    slopes = sums.cracked.T @ (uncracked_below - values * num_uncracked)
    slopes += sums.uncracked.T @ (cracked_above - values * num_cracked)
    return values, _divide(slopes, pairs).T


def count_contributing(sums: PhotographSums, metric: str) -> int:
    """Photographs that the metric's denominator counts: with tiles called cracked for precision."""
    if metric in sums.ratios:
        return int((sums.ratios[metric][1] > 0).sum())
    classes = [sums.cracked] if metric == "average_precision" else [sums.cracked, sums.uncracked]
    return min(int((tiles.sum(axis=0) > 0).sum()) for tiles in classes)


def _divide(upper: np.ndarray, lower: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """Quotients, `otherwise` where there is nothing to divide by."""
    shape = np.broadcast_shapes(upper.shape, lower.shape)
    return np.divide(upper, lower, out=np.full(shape, otherwise), where=lower > 0)
