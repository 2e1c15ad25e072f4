"""A rule and the probabilities of the validation split → from where tiles are called cracked."""

from dataclasses import dataclass

import numpy as np

from ensemble.base.errors import InputError
from ensemble.training.metrics import (
    best_threshold,
    confusion_counts,
    divide_tiles,
    threshold_metrics,
)

MOST_POINTS = 200  # of a threshold that a person moves


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold and what it reaches on the tiles it was chosen on."""

    threshold: float
    precision: float
    recall: float
    f1: float
    f2: float


def choose_threshold(
    labels: np.ndarray, probabilities: np.ndarray, rule: str | float = "f1"
) -> ThresholdChoice:
    """The threshold that a rule gives on these tiles, and what it reaches there.

    Args:
        labels: (N,) of 0 and 1, at least one 1.
        probabilities: (N,) of "cracked", or any score that rises with it.
        rule: `"f1"`, `"f2"` (a missed crack costs more), `"recall=0.95"` (as few tiles called
            cracked as that recall allows), or a number from 0 to 1, the threshold itself. Between
            two neighbouring probabilities a rule's threshold is their middle; of equally good
            ones, "f1" and "f2" take the lowest.

    Raises:
        InputError: There is no such rule.
    """
    if rule in ("f1", "f2"):
        threshold, _ = best_threshold(labels, probabilities, beta=1.0 if rule == "f1" else 2.0)
    elif is_recall(rule):
        least = _parse_share(rule, str(rule).removeprefix("recall="))
        thresholds, hits, _ = divide_tiles(labels, probabilities)
        threshold = float(thresholds[np.argmax(hits / hits[-1] >= least)])
    else:
        threshold = _parse_share(rule, rule)
    names = ("precision", "recall", "f1", "f2")
    return ThresholdChoice(threshold, **threshold_metrics(labels, probabilities, threshold, names))


def working_points(
    labels: np.ndarray, probabilities: np.ndarray, chosen: float
) -> list[tuple[float, int, int]]:
    """What other thresholds would find and miss, from the strictest one to the most lenient.

    Each is the highest threshold that finds so many cracked tiles, the one that `recall=R` would
    give. Where there are many cracked tiles, they go in equal steps of finds.

    Args:
        labels: (N,) of 0 and 1, at least one 1.
        probabilities: (N,) of "cracked".
        chosen: The threshold in use, which is among them.

    Returns:
        Threshold, cracked tiles found and uncracked tiles called cracked, for each.
    """
    thresholds, hits, called = divide_tiles(labels, probabilities)
    num_cracked = int(hits[-1])
    wanted = np.linspace(1, num_cracked, min(num_cracked, MOST_POINTS)).round()
    kept = np.unique(np.searchsorted(hits, wanted))
    points = {float(thresholds[i]): (int(hits[i]), int(called[i] - hits[i])) for i in kept}
    counts = confusion_counts(labels, probabilities, chosen)
    points[chosen] = counts["true_positive"], counts["false_positive"]
    return [(threshold, *points[threshold]) for threshold in sorted(points, reverse=True)]


def rule_score(choice: ThresholdChoice, rule: str | float) -> float:
    """The figure that a rule asks for: F2, the precision at a recall, or else F1."""
    if rule == "f2":
        return choice.f2
    return choice.precision if is_recall(rule) else choice.f1


def name_score(rule: str) -> str:
    """What `rule_score` is called."""
    if rule in ("f1", "f2"):
        return rule.upper()
    if is_recall(rule):
        return f"precision at a recall of {rule.removeprefix('recall=')}"
    return f"F1 at a threshold of {rule}"


def is_recall(rule: str | float) -> bool:
    """Whether a rule asks for a recall: `recall=R`."""
    return isinstance(rule, str) and rule.startswith("recall=")


def is_number(rule: str | float) -> bool:
    """Whether a rule is the threshold itself."""
    return rule not in ("f1", "f2") and not is_recall(rule)


def _parse_share(rule: str | float, text: str | float) -> float:
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:
        raise InputError(
            f"threshold rule {rule!r}: no such rule; "
            "use f1, f2, recall=R or a number, with R and the number from 0 to 1"
        )
    return share
