"""Labels, probabilities and photographs → figures with intervals that resample photographs.

Tiles of one photograph are alike, so the photograph is the unit. Symmetric bootstrap-t (Hall 1988,
doi 10.1214/aos/1176350933; Efron & Tibshirani 1993, ch. 12): photographs are drawn with
replacement, and each resample's deviation is divided by its own standard error (infinitesimal
jackknife: from the derivative of the figure by each photograph's weight), on the logit, log or
square root scale for a figure and as it is for a difference. `cracked_photographs_hit` is a share
of independent photographs: Wilson's interval, and for a difference Bonett & Price's (2012,
doi 10.3102/1076998611411915). `COVERAGE` says how often such intervals hold the true value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.special import expit, logit  # type: ignore[import-untyped]

Arrays = tuple[np.ndarray, np.ndarray]
HIT = "cracked_photographs_hit"
ALARMS = "false_alarms_per_photograph"
METRICS = (
    *("loss", "brier", "accuracy", "precision", "recall", "f1", "f2"),
    *("average_precision", "roc_auc", HIT, ALARMS),
)
LOWER_IS_BETTER = frozenset({"loss", "brier", ALARMS})
SCALES: dict[str, tuple[Callable, Callable, Callable]] = {  # there, inverse derivative, back
    "logit": (logit, lambda x: x * (1 - x), expit),
    "log": (np.log, lambda x: x, np.exp),
    "square root": (np.sqrt, lambda x: 2 * np.sqrt(x), lambda x: max(x, 0) ** 2),
    "identity": (np.asarray, np.ones_like, float),
}
SCALE_OF = {"loss": "log", ALARMS: "square root"}
MIN_PHOTOGRAPHS = 5  # of fewer, too few resamples differ
CELLS_AT_ONCE = 2**19  # levels x resamples in memory: about 12 arrays of 4 MB

# Share of 95 % intervals that held the true value with 7, 35 and 100 photographs, of a figure and
# of a difference: results/evidence/interval_coverage.csv, made by scripts/coverage.py
COVERAGE_PHOTOGRAPHS = (7, 35, 100)
COVERAGE: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "loss": ((0.943, 0.940, 0.939), (0.969, 0.961, 0.960)),
    "brier": ((0.941, 0.948, 0.938), (0.967, 0.959, 0.953)),
    "accuracy": ((0.931, 0.949, 0.941), (0.966, 0.960, 0.951)),
    "precision": ((0.927, 0.937, 0.955), (0.951, 0.961, 0.954)),
    "recall": ((0.937, 0.955, 0.953), (0.936, 0.949, 0.949)),
    "f1": ((0.942, 0.956, 0.953), (0.946, 0.957, 0.950)),
    "f2": ((0.938, 0.953, 0.955), (0.945, 0.958, 0.949)),
    "average_precision": ((0.955, 0.952, 0.949), (0.951, 0.951, 0.950)),
    "roc_auc": ((0.930, 0.943, 0.941), (0.961, 0.959, 0.961)),
    HIT: ((0.923, 0.942, 0.975), (1.000, 1.000, 1.000)),
    ALARMS: ((0.869, 0.925, 0.950), (0.969, 0.963, 0.957)),
}


@dataclass(frozen=True)
class Interval:
    """A figure or a difference with its interval; NaN where a bound is undefined."""

    value: float
    low: float
    high: float
    level: float
    method: str
    num_photographs: int


@dataclass(frozen=True)
class PhotographSums:
    """What every figure needs of n photographs, so that a resample is a row of n weights."""

    ratios: dict[str, Arrays]  # by metric: (n,) / (n,), each summed first
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
        "loss": (total(-np.log(np.maximum(given, np.finfo(np.float64).tiny))), tiles),
        "brier": (total((1 - given) ** 2), tiles),
        "accuracy": (tiles - alarms - missed, tiles),
        "precision": (hits, hits + alarms),
        "recall": (hits, hits + missed),
        "f1": (2 * hits, 2 * hits + alarms + missed),
        "f2": (5 * hits, 5 * hits + alarms + 4 * missed),
        HIT: ((hits > 0).astype(float), (hits + missed > 0).astype(float)),
        ALARMS: (alarms, ones),
    }
    return PhotographSums(ratios, by_level(cracked), by_level(~cracked))


def weighted_figures(sums: PhotographSums, weights: np.ndarray, metric: str) -> Arrays:
    """(R,) figures where photographs count (R, n) `weights` times, and (R, n) derivatives by them.

    Where nothing is counted, a figure is 0, and NaN for rankings and `cracked_photographs_hit`.
    """
    if metric in sums.ratios:
        upper, lower = sums.ratios[metric]
        counted = weights @ lower  # (R,)
        values = _divide(weights @ upper, counted, np.nan if metric == HIT else 0.0)
        return values, _divide(upper - values[:, None] * lower, counted[:, None])
    rank = {"average_precision": _average_precision, "roc_auc": _roc_auc}[metric]
    step = max(1, CELLS_AT_ONCE // sums.cracked.shape[0])
    parts = [rank(sums, weights[i : i + step].T) for i in range(0, len(weights), step)]
    values, slopes = (np.concatenate(column) for column in zip(*parts, strict=True))
    counts = [weights @ each.sum(axis=0) for each in (sums.cracked, sums.uncracked)]
    return np.where(np.minimum(*counts) > 0, values, np.nan), slopes


def _average_precision(sums: PhotographSums, weights: np.ndarray) -> Arrays:
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


def _roc_auc(sums: PhotographSums, weights: np.ndarray) -> Arrays:
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


def intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    photographs: np.ndarray,
    *,
    threshold: float,
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Each figure of (N,) labels, probabilities of "cracked" and photographs' ids, by metric.

    `threshold` is taken as given, not as estimated; `level` is the aimed share of intervals that
    hold the true value. Bounds are NaN where the data say nothing about the spread: fewer than five
    photographs (but for `cracked_photographs_hit`), one class only, or a figure at the end of its
    range (a precision of 1). Raises ValueError where labels or probabilities are out of range.
    """
    sums = [sum_by_photograph(labels, probabilities, photographs, threshold)]
    return _intervals(sums, metrics, level, num_resamples, seed)


def paired_intervals(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    photographs: np.ndarray,
    *,
    thresholds: tuple[float, float],
    metrics: Sequence[str] = METRICS,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Each figure of `first` minus that of `second`, on the same resamples; else as `intervals`."""
    sums = [
        sum_by_photograph(labels, probabilities, photographs, threshold)
        for probabilities, threshold in zip((first, second), thresholds, strict=True)
    ]
    return _intervals(sums, metrics, level, num_resamples, seed)


def _intervals(
    sums: list[PhotographSums], metrics: Sequence[str], level: float, num_resamples: int, seed: int
) -> dict[str, Interval]:
    weights = resample(sums[0], num_resamples, seed)
    parts = {name: [weighted_figures(each, weights, name) for each in sums] for name in metrics}
    return {name: interval_of(name, sums, weights, parts[name], level) for name in metrics}


def interval_of(
    metric: str, sums: list[PhotographSums], weights: np.ndarray, parts: list[Arrays], level: float
) -> Interval:
    """Of one classifier, or of the first minus the second; `parts`: their `weighted_figures`."""
    paired = len(sums) == 2
    values, slopes = parts[0]
    if paired:
        values, slopes = values - parts[1][0], slopes - parts[1][1]
    if metric == HIT:
        method = "Bonett-Price" if paired else "Wilson"
        bounds = _hit_bounds([each.ratios[HIT] for each in sums], level)
    else:
        scale = "identity" if paired else SCALE_OF.get(metric, "logit")
        method = f"bootstrap-t, {scale}"
        bounds = _bootstrap_t(weights, values, slopes, level, scale)
    return Interval(float(values[0]), *bounds, level, method, weights.shape[1])


def resample(sums: PhotographSums, num_resamples: int, seed: int) -> np.ndarray:
    """(1 + R, n) how often each photograph is drawn; the first row is the data: once each."""
    n = sums.cracked.shape[1]
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=num_resamples)
    return np.vstack([np.ones(n), drawn])


def _bootstrap_t(
    weights: np.ndarray, values: np.ndarray, slopes: np.ndarray, level: float, scale: str
) -> tuple[float, float]:
    """Bounds that are symmetric on the scale; the first row of each array is the data's."""
    n = weights.shape[1]
    if n < MIN_PHOTOGRAPHS:
        return np.nan, np.nan
    if scale == "identity" and not slopes.any() and np.fmax.reduce(values) == values[0]:
        return float(values[0]), float(values[0])  # two classifiers that say the same
    errors = np.sqrt(n / (n - 1) * np.einsum("rn,rn,rn->r", weights, slopes, slopes))
    forth, inverse_slope, back = SCALES[scale]
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = errors / inverse_slope(values)
        deviations = np.abs(forth(values[1:]) - forth(values[0])) / errors[1:]
    usable = np.isfinite(deviations)  # not: a resample of one class, or at the end of the range
    if not np.isfinite(errors[0]) or usable.sum() < len(usable) / 2:
        return np.nan, np.nan
    middle, reach = forth(values[0]), np.quantile(deviations[usable], level) * errors[0]
    return float(back(middle - reach)), float(back(middle + reach))


def _hit_bounds(photographs: list[Arrays], level: float) -> tuple[float, float]:
    """Wilson's bounds of a share of photographs, Bonett & Price's of two shares' difference."""
    (hit, has_crack), (other, _) = photographs[0], photographs[-1]
    n, z = has_crack.sum(), NormalDist().inv_cdf((1 + level) / 2)
    if n == 0:
        return np.nan, np.nan
    if len(photographs) == 1:
        lowest, share = 0, hit.sum() / n
        middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    else:
        lowest, n = -1, n + 2
        won, lost = ((hit > other).sum() + 1) / n, ((hit < other).sum() + 1) / n
        middle, reach = won - lost, z * np.sqrt((won + lost - (won - lost) ** 2) / n)
    low, high = np.clip(np.round([middle - reach, middle + reach], 12), lowest, 1)
    return float(low), float(high)


def describe_difference(metric: str, interval: Interval) -> str:
    """`better`, `worse` or `no difference shown`, of the first against the second."""
    if not (interval.low > 0 or interval.high < 0):  # NaN too
        return "no difference shown"
    return "better" if (interval.low > 0) != (metric in LOWER_IS_BETTER) else "worse"


def measured_coverage(
    metric: str, num_photographs: int, *, of_difference: bool = False
) -> float | None:
    """How often the 95 % interval held the true value in simulation; None where not measured.

    Of the largest simulated number of photographs that is not above `num_photographs`.
    """
    below = [i for i, n in enumerate(COVERAGE_PHOTOGRAPHS) if n <= num_photographs]
    return COVERAGE[metric][of_difference][below[-1]] if below and metric in COVERAGE else None


def _divide(upper: np.ndarray, lower: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """Quotients, `otherwise` where there is nothing to divide by."""
    shape = np.broadcast_shapes(upper.shape, lower.shape)
    return np.divide(upper, lower, out=np.full(shape, otherwise), where=lower > 0)
