"""Labels and probabilities → the figures of a binary classifier whose positive class is "cracked".

`METRICS` is the one table of figures: an entry there is a figure of every evaluation, with its
interval, its column on the terminal and in the report, and its direction. F1 and its kin are taken
where `probability >= threshold`. AP is scikit-learn's step-wise sum, AUC the area under the ROC
curve; both need no threshold. Recall at a precision and precision at a recall take the best of all
thresholds, so that two classifiers compare at one point of work.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ensemble.base.errors import InputError

# Averages of probabilities reach 0 and 1 in float64, where a logarithm has no value. As in
# scikit-learn's log_loss; a certain error costs 36 nats, of whichever class the tile is.
LEAST_PROBABILITY = float(np.finfo(np.float64).eps)

LEAST_PRECISION, LEAST_RECALL = 0.5, 0.95  # at which recall and precision are compared


def check_both_classes(labels: np.ndarray, *, what: str) -> None:
    """Refuse tiles of one class, on which every figure is a lie: "always the same" has accuracy 1.

    Args:
        labels: (N,) of 0 and 1.
        what: Is judged, for the message.

    Raises:
        InputError: A class is missing.
    """
    present = set(np.unique(labels).tolist())
    if present != {0, 1}:
        only = "cracked" if present == {1} else "uncracked"
        raise InputError(
            f"{what} are all {only}: a network that says {only} of everything would be right every "
            "time, so no figure would mean anything; give tiles of both classes"
            if present
            else f"{what} are none; give tiles of both classes"
        )


def margins_to_probabilities(margins: np.ndarray) -> np.ndarray:
    """Logit differences (cracked − uncracked) → probabilities of "cracked", float64."""
    margins = np.asarray(margins, dtype=np.float64)
    return np.exp(-np.logaddexp(0.0, -margins))


def divide_tiles(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every distinct division of D: thresholds (falling), true positives, tiles called; all (D,).

    Between two neighbouring probabilities the threshold is their middle.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of "cracked".
    """
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    hits = np.cumsum(labels[order])  # true positives when the first i + 1 are called cracked
    ends = np.flatnonzero(np.append(ordered[:-1] > ordered[1:], True))  # equal ones stay together
    uppers = ordered[ends]
    lowers = np.append(ordered[ends[:-1] + 1], uppers[-1])  # the last calls every tile
    middles = (uppers + lowers) / 2
    return np.where(middles > lowers, middles, uppers), hits[ends], ends + 1


class Counts(NamedTuple):
    """Numbers of tiles: each of one set of tiles, or an array (n,) of those of n sets."""

    tiles: Any
    cracked: Any
    called: Any  # called cracked
    hits: Any  # cracked and called so


Ratio = tuple[Any, Any]  # numerator and denominator


def f_beta_ratio(counts: Counts, beta: float = 1.0) -> Ratio:
    """Numerator and denominator of F-beta, in which recall weighs beta times as much as precision.

    Above 1 a missed crack costs more than a false alarm.
    """
    return (1 + beta**2) * counts.hits, counts.called + beta**2 * counts.cracked


def tile_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """−log of the probability given to each tile's true class, in nats: (N,), (N,) → (N,)."""
    given = np.where(labels == 1, probabilities, 1 - probabilities)
    return -np.log(np.maximum(given, LEAST_PROBABILITY))


def squared_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Squared distance of each tile's probability from its label: (N,), (N,) → (N,)."""
    return np.square(probabilities - labels)


@dataclass(frozen=True)
class Metric:
    """One figure of a classifier. Without `of_counts` and `of_tiles` it is one of the ranking.

    Attributes:
        title: Name for people.
        better: Whether a higher or a lower value is better.
        of_counts: Numerator and denominator of a figure that is a ratio of counts.
        of_tiles: What each tile (N,) adds to a figure that is a mean over tiles.
        column: Title of its column on the terminal; empty where it is not shown there.
        scale: Scale on which its interval is symmetric; "Wilson" for a share of photographs, and
            "percentile" for a figure that goes in steps and so has no derivative.
        is_compared: Whether the ensemble's is compared with the best single member's.
    """

    title: str
    better: Literal["higher", "lower"] = "higher"
    of_counts: Callable[[Counts], Ratio] | None = None
    of_tiles: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    column: str = ""
    scale: Literal["logit", "log", "square root", "Wilson", "percentile"] = "logit"
    is_compared: bool = True


METRICS = {  # in the order of the report's columns
    "f1": Metric("F1", of_counts=f_beta_ratio, column="F1"),
    "precision": Metric("precision", of_counts=lambda n: (n.hits, n.called), column="precision"),
    "recall": Metric("recall", of_counts=lambda n: (n.hits, n.cracked), column="recall"),
    "f2": Metric("F2", of_counts=lambda n: f_beta_ratio(n, beta=2)),
    "average_precision": Metric("average precision", column="AP"),
    "roc_auc": Metric("ROC AUC", column="AUC"),
    "recall_at_precision_50": Metric("recall at precision 0.5", scale="percentile"),
    "precision_at_recall_95": Metric("precision at recall 0.95", scale="percentile"),
    "accuracy": Metric(
        "accuracy",
        of_counts=lambda n: (n.tiles - n.cracked - n.called + 2 * n.hits, n.tiles),
        column="accuracy",
        is_compared=False,
    ),
    "brier": Metric("Brier score", "lower", of_tiles=squared_errors),
    "loss": Metric("log loss", "lower", of_tiles=tile_losses, column="loss", scale="log"),
    "cracked_photographs_hit": Metric(  # photographs with a hit among those with a crack
        "cracked photographs hit",
        of_counts=lambda n: (np.greater(n.hits, 0) + 0.0, np.greater(n.cracked, 0) + 0.0),
        scale="Wilson",
        is_compared=False,
    ),
    "false_alarms_per_photograph": Metric(
        "false alarms a photograph",
        "lower",
        of_counts=lambda n: (n.called - n.hits, np.ones_like(n.hits)),
        scale="square root",
        is_compared=False,
    ),
}


def best_threshold(
    labels: np.ndarray, probabilities: np.ndarray, *, beta: float = 1.0
) -> tuple[float, float]:
    """The threshold with the highest F-beta (F1 if not told otherwise), and that F-beta.

    Every distinct division of the tiles is tried; between two neighbouring probabilities the
    threshold is their middle. Of equally good ones the lowest is taken: a missed crack costs more.

    Args:
        labels: (N,) of 0 and 1, at least one 1.
        probabilities: (N,) of "cracked".
        beta: How much more recall weighs than precision.
    """
    thresholds, hits, called = divide_tiles(labels, probabilities)
    upper, lower = f_beta_ratio(Counts(len(labels), hits[-1], called, hits), beta)
    scores = np.divide(upper, lower)
    best = len(scores) - 1 - int(np.argmax(scores[::-1]))
    return float(thresholds[best]), float(scores[best])


def confusion_counts(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float | np.ndarray
) -> dict[str, int]:
    """Tiles by label and verdict: `true_positive`, `false_positive`, `false_negative`, …"""
    cracked, called = labels == 1, probabilities >= threshold
    return {
        "true_positive": int((cracked & called).sum()),
        "false_positive": int((~cracked & called).sum()),
        "false_negative": int((cracked & ~called).sum()),
        "true_negative": int((~cracked & ~called).sum()),
    }


def threshold_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float | np.ndarray,
    names: tuple[str, ...] = ("accuracy", "precision", "recall", "f1"),
) -> dict[str, float]:
    """Ratios of counts at a threshold, by their names in `METRICS`; 0 where nothing is counted.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of "cracked".
        threshold: Lowest probability that is called cracked, for all tiles or for each (N,).
        names: Names of ratios of counts.
    """
    cracked, called = labels == 1, probabilities >= threshold
    counts = Counts(len(labels), cracked.sum(), called.sum(), (cracked & called).sum())
    figures = {}
    for name in names:
        ratio = METRICS[name].of_counts
        assert ratio is not None, name
        upper, lower = ratio(counts)
        figures[name] = float(upper / lower) if lower else 0.0
    return figures


def trivial_f1(labels: np.ndarray) -> float:
    """F1 of calling every tile cracked: 2p / (1 + p), where p is the share of cracked tiles.

    Args:
        labels: (N,) of 0 and 1, at least one tile.
    """
    share = float(np.mean(labels))
    return 2 * share / (1 + share)


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean squared distance of the probability from the label."""
    return float(squared_errors(labels, probabilities).mean())


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of −log of the probability given to the true class, in nats."""
    return float(tile_losses(labels, probabilities).mean())


def margin_loss(labels: np.ndarray, margins: np.ndarray) -> float:
    """The log loss of sigmoid(margins), exact however large the margins are.

    Args:
        labels: (N,) of 0 and 1.
        margins: (N,) logit differences (cracked − uncracked).
    """
    signed = np.where(labels == 1, margins, -np.asarray(margins)).astype(np.float64)
    return float(np.logaddexp(0, -signed).mean())


def ranking_metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """`average_precision` and `roc_auc`; NaN where there is one class only.

    scikit-learn's, which takes a second to import in each process of each trial.
    """
    num_cracked = int(np.sum(labels))
    num_uncracked = len(labels) - num_cracked
    if not num_cracked or not num_uncracked:
        return {"average_precision": float("nan"), "roc_auc": float("nan")}
    _, hits, called = divide_tiles(labels, probabilities)
    recalls = np.append(0, hits / num_cracked)
    false_alarms = np.append(0, (called - hits) / num_uncracked)
    return {
        "average_precision": float(np.diff(recalls) @ (hits / called)),
        "roc_auc": float(np.diff(false_alarms) @ (recalls[1:] + recalls[:-1]) / 2),
    }


def validation_metrics(labels: np.ndarray, margins: np.ndarray) -> dict[str, float]:
    """What every epoch reports: figures at the best threshold, F1 at 0.5, and those of the ranking.

    Args:
        labels: (N,) of 0 and 1.
        margins: (N,) logit differences.

    Raises:
        InputError: The tiles are all of one class.
    """
    check_both_classes(labels, what="the validation tiles")
    probabilities = margins_to_probabilities(margins)
    threshold, _ = best_threshold(labels, probabilities)
    return {
        "loss": margin_loss(labels, margins),
        **threshold_metrics(labels, probabilities, threshold),
        "f1_at_half": threshold_metrics(labels, probabilities, 0.5)["f1"],
        **ranking_metrics(labels, probabilities),
        "threshold": threshold,
    }
