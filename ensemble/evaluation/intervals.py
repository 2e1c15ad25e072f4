"""Labels, probabilities and photographs → figures with intervals that resample photographs.

Tiles of one photograph are alike, so the photograph is the unit. Symmetric bootstrap-t (Hall 1988,
doi 10.1214/aos/1176350933; Efron & Tibshirani 1993, ch. 12): photographs are drawn with
replacement, and each resample's deviation is divided by its own standard error (infinitesimal
jackknife: from the derivative of the figure by each photograph's weight), on the logit, log or
square root scale for a figure and as it is for a difference. `cracked_photographs_hit` is a share
of independent photographs: Wilson's interval, and for a difference Bonett & Price's (2012,
doi 10.3102/1076998611411915). `COVERAGE` says how often such intervals hold the true value where
photographs were resampled; resampled tiles were not simulated. The networks are taken as they are:
what other seeds would have trained is in no interval.

With fewer than ten photographs in a figure's denominator there is no bootstrap-t: resamples then
rest on one or two of them, and with seven a precision of 0.833 got an interval from 0.004 to 1. A
percentile interval would be narrow there, but holds the true value too rarely: see the table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import expit, logit  # type: ignore[import-untyped]

from ensemble.evaluation.photograph_sums import (
    ALARMS_PER_PHOTO,
    METRICS,
    PHOTO_RECALL,
    PhotographSums,
    ValuesAndSlopes,
    count_contributing,
    sum_by_photograph,
    weighted_figures,
)

LOWER_IS_BETTER = frozenset({"loss", "brier", ALARMS_PER_PHOTO})
SCALES: dict[str, tuple[Callable, Callable, Callable]] = {  # there, inverse derivative, back
    "logit": (logit, lambda x: x * (1 - x), expit),
    "log": (np.log, lambda x: x, np.exp),
    "square root": (np.sqrt, lambda x: 2 * np.sqrt(x), lambda x: max(x, 0) ** 2),
    "identity": (np.asarray, np.ones_like, float),
}
SCALE_OF = {"loss": "log", ALARMS_PER_PHOTO: "square root"}
MIN_CONTRIBUTING = 10  # photographs that a denominator counts

# Share of 95 % intervals that held the true value with 10, 35 and 100 photographs, of a figure and
# of a difference: results/evidence/interval_coverage.csv, made by scripts/evidence/coverage.py
COVERAGE_PHOTOGRAPHS = (10, 35, 100)
COVERAGE: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "loss": ((0.941, 0.945, 0.937), (0.950, 0.964, 0.960)),
    "brier": ((0.932, 0.950, 0.940), (0.955, 0.966, 0.952)),
    "accuracy": ((0.927, 0.952, 0.939), (0.958, 0.966, 0.951)),
    "precision": ((0.943, 0.942, 0.951), (0.959, 0.965, 0.954)),
    "recall": ((0.935, 0.956, 0.964), (0.935, 0.949, 0.948)),
    "f1": ((0.934, 0.961, 0.958), (0.946, 0.961, 0.950)),
    "f2": ((0.937, 0.951, 0.963), (0.939, 0.957, 0.946)),
    "average_precision": ((0.952, 0.960, 0.952), (0.937, 0.949, 0.952)),
    "roc_auc": ((0.923, 0.944, 0.940), (0.939, 0.962, 0.962)),
    PHOTO_RECALL: ((0.897, 0.946, 0.974), (1.000, 1.000, 1.000)),
    ALARMS_PER_PHOTO: ((0.883, 0.929, 0.954), (0.970, 0.962, 0.956)),
}


@dataclass(frozen=True)
class Interval:
    """A figure or a difference with its interval; NaN where a bound is undefined.

    Attributes:
        value: The figure or the difference.
        low: Lower bound.
        high: Upper bound.
        method: Name of the interval, and the scale on which a bootstrap-t is symmetric.
        num_contributing: Photographs that the denominator counts, of two classifiers the fewer.
    """

    value: float
    low: float
    high: float
    method: str
    num_contributing: int


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
    hold the true value. Bounds are NaN where the data say too little about the spread: fewer than
    ten photographs in the denominator (but for `cracked_photographs_hit`), one class only, a figure
    at the end of its range (a precision of 1), or more than 1 − `level` of the resamples there.
    Raises ValueError where labels or probabilities are out of range.
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

    def interval(metric: str) -> Interval:  # the derivatives, as large as the resamples, go after
        parts = [weighted_figures(each, weights, metric) for each in sums]
        return interval_of(metric, sums, weights, parts, level)

    return {metric: interval(metric) for metric in metrics}


def interval_of(
    metric: str,
    sums: list[PhotographSums],
    weights: np.ndarray,
    parts: list[ValuesAndSlopes],
    level: float,
) -> Interval:
    """The interval of one classifier's figure, or of the first one's minus the second one's.

    Args:
        metric: A name of `METRICS`.
        sums: One classifier's, or two.
        weights: (1 + R, n) as `resample` draws them.
        parts: `weighted_figures` of each classifier.
        level: Share of intervals that should hold the true value.
    """
    paired = len(sums) == 2
    values, slopes = parts[0]
    if paired:
        values, slopes = values - parts[1][0], slopes - parts[1][1]
    contributing = min(count_contributing(each, metric) for each in sums)
    if metric == PHOTO_RECALL:
        method = "Bonett-Price" if paired else "Wilson"
        bounds = _hit_bounds([each.ratios[PHOTO_RECALL] for each in sums], level)
    else:
        scale = "identity" if paired else SCALE_OF.get(metric, "logit")
        method = f"bootstrap-t, {scale}"
        bounds = np.nan, np.nan
        if contributing >= MIN_CONTRIBUTING:
            bounds = _bootstrap_t(weights, values, slopes, level, scale)
    return Interval(float(values[0]), *bounds, method, contributing)


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
    if scale == "identity" and not slopes.any() and np.fmax.reduce(values) == values[0]:
        return float(values[0]), float(values[0])  # two classifiers that say the same
    errors = np.sqrt(n / (n - 1) * np.einsum("rn,rn,rn->r", weights, slopes, slopes))
    there, inverse_slope, back = SCALES[scale]
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = errors / inverse_slope(values)
        deviations = np.abs(there(values[1:]) - there(values[0])) / errors[1:]
        # of one class, or at the end of the range: as far off as can be, so never left out
        deviations = np.where(np.isfinite(deviations), deviations, np.inf)
        reach = np.quantile(deviations, level, method="higher") * errors[0]
    if not np.isfinite(reach):
        return np.nan, np.nan
    middle = there(values[0])
    return float(back(middle - reach)), float(back(middle + reach))


def _hit_bounds(photographs: list[ValuesAndSlopes], level: float) -> tuple[float, float]:
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


def describe_difference(metric: str, interval: Interval, *, unit: str = "photograph") -> str:
    """Say `better`, `worse`, `no difference shown`, or why the first was not judged."""
    if interval.low != interval.low:
        differ = " differ" if interval.num_contributing >= MIN_CONTRIBUTING else ""
        return f"not judged: too few {unit}s{differ}"
    if interval.low <= 0 <= interval.high:
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
