"""`predictions.csv` and `metrics.json` → the figures of the test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.metrics import precision_recall_curve, roc_curve

from ensemble.base.wording import percent
from ensemble.evaluation.presentation import score_limits
from ensemble.report.plots import (
    DOTTED,
    ENSEMBLE,
    FAINT,
    INK,
    MUTED,
    SINGLE,
    THIRD,
    TRIVIAL,
    Drawing,
    finish,
    new_panels,
    page_style,
)
from ensemble.selection.calibration import reliability_curve
from ensemble.training.metrics import Counts, confusion_counts, f_beta_ratio


@page_style()
def f1_intervals(rows: Sequence[tuple[str, dict[str, Any]]]) -> Drawing:
    """Draw F1 with its interval, a row each; the first is the ensemble."""
    [axes] = new_panels(height=1.3 + 0.42 * len(rows))
    axes.margins(x=0.12)  # for the numbers above the outermost dots
    has_bars = any(figures["intervals"]["f1"]["low"] is not None for _, figures in rows)
    for i, (_, figures) in enumerate(rows):
        colour = ENSEMBLE if i == 0 else MUTED
        bounds, f1 = figures["intervals"]["f1"], figures["f1"]
        if bounds["low"] is not None:
            axes.plot([bounds["low"], bounds["high"]], [i, i], color=colour, linewidth=2.4)
        axes.plot(f1, i, "o", color=colour, markersize=7)
        above: Any = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{f1:.3f}", (f1, i), fontsize=9, **above)
    trivial = rows[0][1]["trivial_f1"]
    axes.axvline(trivial, color=SINGLE, linewidth=1.4, linestyle=":", label=TRIVIAL)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.7), xlabel="test F1")
    axes.grid(False, axis="y")
    axes.set_xlim(score_limits(*axes.get_xlim()))
    scores = "; ".join(f"{name} {figures['f1']:.3f}" for name, figures in rows)
    return finish(
        axes,
        "intervals",
        title="Test F1 with 95 % intervals" if has_bars else "Test F1",
        label=f"Test F1: {scores}; {TRIVIAL} {trivial:.3f}",
        caption="Dots are the F1 on the test split, bars the 95 % intervals where there are any. "
        "Where bars overlap much, do not read an order into the dots; the paired comparison below "
        "is the sharper one, because all are judged on the same photographs."
        if has_bars
        else "Dots are the F1 on the test split. There is no interval, so do not read an order "
        "into them: how far they would move with other photographs is not known.",
    )


def precision_recall_steps(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the corners (recall, precision) of the curve; the area below it is the AP.

    A precision holds from the recall of the next higher threshold up to its own.

    Args:
        labels: (N,) of 0 and 1, at least one 1.
        probabilities: (N,) of "cracked".
    """
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    # the last point, a precision of 1 at a recall of 0, belongs to no threshold
    return np.repeat(recall, 2)[1:-1][::-1], np.repeat(precision[:-1], 2)[::-1]


@page_style()
def precision_recall(
    predictions: pd.DataFrame, metrics: dict[str, Any], trials: Sequence[int]
) -> Drawing:
    """Draw precision against recall of the ensemble, the best single member and the others."""
    labels, ensemble = predictions["label"].to_numpy(), metrics["ensemble"]
    axes = _unit_square("recall", "precision")
    for column, style in _columns(metrics, trials):
        axes.plot(*precision_recall_steps(labels, predictions[column].to_numpy()), **style)
    axes.axhline(labels.mean(), label="guessing", **DOTTED)
    _mark_threshold(axes, ensemble["recall"], ensemble["precision"])
    return finish(
        axes,
        "precision-recall",
        title="Precision and recall",
        label=f"Precision–recall curve, average precision {ensemble['average_precision']:.3f}; at "
        f"the threshold recall {ensemble['recall']:.3f}, precision {ensemble['precision']:.3f}",
        caption="Up and to the right is better. The dot is where the ensemble works: its threshold "
        "was fixed before the test split was opened. Another threshold moves along the blue line.",
    )


@page_style()
def roc(predictions: pd.DataFrame, metrics: dict[str, Any], trials: Sequence[int]) -> Drawing:
    """Draw found cracks against false alarms."""
    labels, ensemble = predictions["label"].to_numpy(), metrics["ensemble"]
    counts = ensemble["confusion_matrix"]
    alarms = counts["false_positive"] / max(counts["false_positive"] + counts["true_negative"], 1)
    axes = _unit_square("share of uncracked tiles called cracked", "recall")
    for column, style in _columns(metrics, trials):
        false_alarm_rate, recall, _ = roc_curve(labels, predictions[column])
        axes.plot(false_alarm_rate, recall, **style)
    axes.plot([0, 1], [0, 1], label="guessing", **DOTTED)
    _mark_threshold(axes, alarms, ensemble["recall"])
    return finish(
        axes,
        "roc",
        title="ROC",
        label=f"ROC curve, area {ensemble['roc_auc']:.3f}; at the threshold recall "
        f"{ensemble['recall']:.3f} with {percent(alarms)} of the uncracked tiles called cracked",
        caption="Up and to the left is better. Where cracks are rare, this curve flatters: a small "
        "share of many uncracked tiles is many false alarms. Read it beside precision and recall.",
    )


@page_style()
def reliability(predictions: pd.DataFrame, trials: Sequence[int]) -> Drawing:
    """Draw the share of cracked tiles against the probability, before and after calibration."""
    labels = predictions["label"].to_numpy()
    axes = _unit_square("predicted probability", "share that is cracked")
    axes.plot([0, 1], [0, 1], label="as it should be", **DOTTED)
    for i, trial in enumerate(trials):
        predicted, share, _ = reliability_curve(
            labels, predictions[f"trial_{trial}"].to_numpy(), 10
        )
        axes.plot(predicted, share, label="members" if i == 0 else None, **FAINT)
    for column, colour, dash, name in (
        ("ensemble", SINGLE, "--", "ensemble before"),
        ("calibrated", ENSEMBLE, "-", "after calibration"),
    ):
        predicted, share, counts = reliability_curve(labels, predictions[column].to_numpy(), 10)
        axes.plot(predicted, share, color=colour, linestyle=dash, label=name)
        sizes = 8 + 90 * np.sqrt(counts / counts.max())
        axes.scatter(predicted, share, s=sizes, color=colour, alpha=0.75, linewidth=0)
    return finish(
        axes,
        "reliability",
        title="Reliability",
        label="Share of tiles that are cracked against the predicted probability, in ten "
        "bins, for the ensemble before and after calibration",
        caption="On the dotted line, of the tiles given a probability of 70 %, 70 % are cracked. "
        "Larger dots hold more tiles; small ones are mostly chance. The temperature was fitted "
        "on validation; it changes no verdict.",
    )


@page_style()
def f_against_threshold(predictions: pd.DataFrame, threshold: float, origin: str) -> Drawing:
    """Draw F1 and F2 of the ensemble by threshold; `origin` stands behind “it was”."""
    labels, scores = predictions["label"].to_numpy(), predictions["ensemble"].to_numpy()
    thresholds = np.linspace(0, 1, 201)
    counts = [confusion_counts(labels, scores, each) for each in thresholds]
    hits = np.array([c["true_positive"] for c in counts])
    called = hits + np.array([c["false_positive"] for c in counts])
    tiles = Counts(len(labels), labels.sum(), called, hits)
    f1, f2 = (np.divide(*f_beta_ratio(tiles, beta)) for beta in (1.0, 2.0))
    axes = _unit_square("threshold", "test score")
    axes.plot(thresholds, f1, color=ENSEMBLE, label="F1")
    axes.plot(thresholds, f2, color=THIRD, linestyle="--", label="F2")
    axes.axhline(f1[0], label=f"F1, {TRIVIAL}", **DOTTED)
    used: Any = {"color": SINGLE, "linewidth": 1.6, "linestyle": "-."}
    axes.axvline(threshold, label=f"used: {threshold:.3f}", **used)
    return finish(
        axes,
        "threshold",
        title="F1 and F2 against the threshold",
        label=f"F1 and F2 of the ensemble by threshold; the one used is {threshold:.3f}",
        caption=f"The marked threshold was {origin}. That the peak of the test curve lies "
        "elsewhere is no reason to move it: that would be choosing on the test. A broad top says "
        "that the exact threshold matters little.",
    )


def _unit_square(xlabel: str, ylabel: str) -> Axes:
    """Make axes from 0 to 1 in both directions."""
    [axes] = new_panels(height=3.7)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return axes


def _mark_threshold(axes: Axes, x: float, y: float) -> None:
    """Mark the point at which the ensemble works."""
    dot: Any = {"color": ENSEMBLE, "markersize": 8, "markeredgecolor": INK, "zorder": 5}
    axes.plot(x, y, "o", label="at the threshold", **dot)


def _columns(metrics: dict[str, Any], trials: Sequence[int]) -> list[tuple[str, dict[str, Any]]]:
    """Columns of `predictions.csv` and how to draw them, the ensemble last, on top."""
    single = metrics["best_single"]["trial"]
    others = [f"trial_{trial}" for trial in trials if trial != single]
    return [
        *(
            (name, FAINT | {"label": None if i else "other members"})
            for i, name in enumerate(others)
        ),
        (f"trial_{single}", {"color": SINGLE, "linestyle": "--", "label": "best single member"}),
        ("ensemble", {"color": ENSEMBLE, "linewidth": 2.2, "label": "ensemble"}),
    ]
