"""Probabilities of the validation split → how far to trust them.

Temperature scaling and the expected calibration error are those of Guo et al. 2017,
https://arxiv.org/abs/1706.04599, the error here for the class "cracked" alone.
"""

import numpy as np
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]
from scipy.special import logit as unsafe_logit

from ensemble.training.metrics import (
    LEAST_PROBABILITY,
)

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0


def logit(probabilities: np.ndarray) -> np.ndarray:
    """log(p / (1 − p)), finite: p counts as no nearer to 0 or 1 than `LEAST_PROBABILITY`."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    return unsafe_logit(np.clip(probabilities, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T in [0.05, 20] for which sigmoid(logits / T) has the lowest log loss; above 1: too sure.

    The labels are smoothed as by Platt 1999 ("Probabilistic outputs for support vector machines"),
    1 to (P + 1) / (P + 2) and 0 to 1 / (U + 2) for P cracked and U uncracked tiles. Without that,
    T would fall without end where 0.5 separates the classes, and probabilities would become 0 and
    1. The loss is convex in 1 / T, so the search over log T meets one minimum only.

    Args:
        logits: (N,) finite: margins (cracked − uncracked), or `logit` of probabilities.
        labels: (N,) of 0 and 1.
    """
    num_cracked = int((labels == 1).sum())
    num_uncracked = len(labels) - num_cracked
    targets = np.where(labels == 1, (num_cracked + 1) / (num_cracked + 2), 1 / (num_uncracked + 2))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - targets * scaled).mean())

    optimum = minimize_scalar(
        loss,
        bounds=(np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(optimum.x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """sigmoid(logit(p) / T): up to rounding no two tiles change places, and 0.5 stays 0.5."""
    if not temperature > 0:
        raise ValueError(f"`temperature > 0` must hold, but got {temperature=}.")
    return expit(logit(probabilities) / temperature)


def reliability_curve(
    labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of cracked tiles, and number of tiles of every bin that has any.

    Bins are of equal width, as Guo's: the first [0, 1/B], then each without its lower end.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of "cracked".
        num_bins: B, at least 1.
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins >= 1` must hold, but got {num_bins=}.")
    bins = np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], probabilities)
    _, bins, counts = np.unique(bins, return_inverse=True, return_counts=True)
    predicted = np.bincount(bins, weights=probabilities)
    observed = np.bincount(bins, weights=labels)
    return predicted / counts, observed / counts, counts


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 15
) -> float:
    """Mean distance of probability and share of cracked tiles, over the tiles of equal-width bins.

    Equal width rather than equal mass: it is what others report, and tiles of equal probability
    stay together. Most tiles lie in the first bin, so it speaks of the sure ones above all.
    """
    predicted, observed, counts = reliability_curve(labels, probabilities, num_bins)
    return float(np.abs(predicted - observed) @ counts / len(labels))
