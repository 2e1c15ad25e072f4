"""Labels and probabilities → the figures of a binary classifier whose positive class is "cracked".

F1 and its kin are taken where `probability >= threshold`. AP is scikit-learn's step-wise sum, AUC
the area under the ROC curve; both need no threshold.
"""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from ensemble.base.errors import InputError

# Averages of probabilities reach 0 and 1 in float64, where a logarithm has no value. As in
# scikit-learn's log_loss; a certain error costs 36 nats, of whichever class the tile is.
LEAST_PROBABILITY = float(np.finfo(np.float64).eps)


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


def f_beta(
    hits: np.ndarray | float,
    called: np.ndarray | float,
    cracked: np.ndarray | float,
    *,
    beta: float = 1.0,
) -> np.ndarray:
    """F-beta from counts, recall weighing beta times as much as precision.

    Args:
        hits: Cracked tiles that are called cracked.
        called: Tiles called cracked.
        cracked: Cracked tiles; `called` and `cracked` must not both be 0.
        beta: Above 1 a missed crack costs more than a false alarm.
    """
    return (1 + beta**2) * np.asarray(hits) / (called + beta**2 * np.asarray(cracked))


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
    scores = f_beta(hits, called, hits[-1], beta=beta)
    best = len(scores) - 1 - int(np.argmax(scores[::-1]))
    return float(thresholds[best]), float(scores[best])


def confusion_counts(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float
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
    labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> dict[str, float]:
    """`accuracy`, `precision`, `recall` and `f1` at a threshold; 0 where nothing is counted."""
    counts = confusion_counts(labels, probabilities, threshold)
    hits = counts["true_positive"]
    called = hits + counts["false_positive"]
    cracked = hits + counts["false_negative"]
    return {
        "accuracy": (hits + counts["true_negative"]) / len(labels),
        "precision": hits / called if called else 0.0,
        "recall": hits / cracked if cracked else 0.0,
        "f1": 2 * hits / (called + cracked) if called + cracked else 0.0,
    }


def trivial_f1(labels: np.ndarray) -> float:
    """F1 of calling every tile cracked: 2p / (1 + p), where p is the share of cracked tiles.

    Args:
        labels: (N,) of 0 and 1, at least one tile.
    """
    share = float(np.mean(labels))
    return 2 * share / (1 + share)


def tile_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """−log of the probability given to each tile's true class, in nats: (N,), (N,) → (N,)."""
    given = np.where(labels == 1, probabilities, 1 - probabilities)
    return -np.log(np.maximum(given, LEAST_PROBABILITY))


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
    """`average_precision` and `roc_auc`; NaN where there is one class only."""
    if len(np.unique(labels)) < 2:
        return {"average_precision": float("nan"), "roc_auc": float("nan")}
    return {
        "average_precision": float(average_precision_score(labels, probabilities)),
        "roc_auc": float(roc_auc_score(labels, probabilities)),
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
