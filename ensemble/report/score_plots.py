"""`predictions.csv` and `metrics.json` → the figures of the test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from ensemble.base.wording import percent
from ensemble.evaluation.score_axis import score_limits
from ensemble.report.plots import (
    ENSEMBLE,
    INK,
    MEMBER,
    MUTED,
    SINGLE,
    THIRD,
    WIDTH,
    Drawing,
    draw,
    legend_above,
)
from ensemble.selection.calibration import reliability_curve
from ensemble.training.metrics import confusion_counts, f_beta

TRIVIAL = "every tile called cracked"


def f1_intervals(rows: Sequence[tuple[str, dict[str, Any]]]) -> Drawing:
    """F1 with its interval, a row each; the first is the ensemble."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for i, (_, figures) in enumerate(rows):
            colour = ENSEMBLE if i == 0 else MUTED
            bounds = figures["intervals"]["f1"]
            if bounds["low"] is not None:
                axes.plot([bounds["low"], bounds["high"]], [i, i], color=colour, linewidth=2.4)
            axes.plot(figures["f1"], i, "o", color=colour, markersize=7)
            axes.annotate(
                f"{figures['f1']:.3f}",
                (figures["f1"], i),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=9,
            )
        axes.axvline(trivial, color=SINGLE, linewidth=1.4, linestyle=":", label=TRIVIAL)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.7), xlabel="test F1")
        axes.grid(False, axis="y")
        axes.set_xlim(score_limits(*axes.get_xlim()))
        legend_above(figure, axes)

    trivial = rows[0][1]["trivial_f1"]
    told = "; ".join(f"{name} {figures['f1']:.3f}" for name, figures in rows)
    return draw(
        "intervals",
        paint,
        title="Test F1 with 95 % intervals",
        label=f"Test F1: {told}; {TRIVIAL} {trivial:.3f}",
        caption="Dots are the F1 on the test split, bars the 95 % intervals where there are any. "
        "Where bars overlap much, do not read an order into the dots; the paired comparison below "
        "is the sharper one, because all are judged on the same photographs.",
        size=(WIDTH, 1.3 + 0.42 * len(rows)),
    )


def precision_recall_steps(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Corners (recall, precision) of the curve, from recall 0; the area below it is the AP.

    A precision holds from the recall of the next higher threshold up to its own.

    Args:
        labels: (N,) of 0 and 1, at least one 1.
        probabilities: (N,) of "cracked".
    """
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    # the last point, a precision of 1 at a recall of 0, belongs to no threshold
    return np.repeat(recall, 2)[1:-1][::-1], np.repeat(precision[:-1], 2)[::-1]


def precision_recall(
    predictions: pd.DataFrame, metrics: dict[str, Any], trials: Sequence[int]
) -> Drawing:
    """Precision against recall of the ensemble, the best single member and the others."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for column, style in _columns(metrics, trials):
            axes.plot(*precision_recall_steps(labels, predictions[column].to_numpy()), **style)
        share = labels.mean()
        axes.axhline(share, color=MUTED, linewidth=1, linestyle=":", label="guessing")
        axes.plot(
            ensemble["recall"],
            ensemble["precision"],
            "o",
            color=ENSEMBLE,
            markersize=8,
            markeredgecolor=INK,
            zorder=5,
            label="at the threshold",
        )
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
        legend_above(figure, axes)

    labels, ensemble = predictions["label"].to_numpy(), metrics["ensemble"]
    return draw(
        "precision-recall",
        paint,
        title="Precision and recall",
        label=f"Precision–recall curve, average precision {ensemble['average_precision']:.3f}; at "
        f"the threshold recall {ensemble['recall']:.3f}, precision {ensemble['precision']:.3f}",
        caption="Up and to the right is better. The dot is where the ensemble works: its threshold "
        "was fixed before the test split was opened. Another threshold moves along the blue line.",
        size=(WIDTH, 3.7),
    )


def roc(predictions: pd.DataFrame, metrics: dict[str, Any], trials: Sequence[int]) -> Drawing:
    """Found cracks against false alarms."""
    labels, ensemble = predictions["label"].to_numpy(), metrics["ensemble"]
    matrix = ensemble["confusion_matrix"]
    alarms = matrix["false_positive"] / max(matrix["false_positive"] + matrix["true_negative"], 1)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for column, style in _columns(metrics, trials):
            fall_out, recall, _ = roc_curve(labels, predictions[column])
            axes.plot(fall_out, recall, **style)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":", label="guessing")
        axes.plot(
            alarms,
            ensemble["recall"],
            "o",
            color=ENSEMBLE,
            markersize=8,
            markeredgecolor=INK,
            zorder=5,
            label="at the threshold",
        )
        axes.set(
            xlabel="share of uncracked tiles called cracked",
            ylabel="recall",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.04),
        )
        legend_above(figure, axes)

    return draw(
        "roc",
        paint,
        title="ROC",
        label=f"ROC curve, area {ensemble['roc_auc']:.3f}; at the threshold recall "
        f"{ensemble['recall']:.3f} with {percent(alarms)} of the uncracked tiles called cracked",
        caption="Up and to the left is better. Where cracks are rare, this curve flatters: a small "
        "share of many uncracked tiles is many false alarms. Read it beside precision and recall.",
        size=(WIDTH, 3.7),
    )


def reliability(predictions: pd.DataFrame, trials: Sequence[int]) -> Drawing:
    """Share of cracked tiles against the probability, before and after the temperature."""
    labels = predictions["label"].to_numpy()

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":", label="as it should be")
        for i, trial in enumerate(trials):
            told, found, _ = reliability_curve(labels, predictions[f"trial_{trial}"].to_numpy(), 10)
            axes.plot(
                told,
                found,
                color=MEMBER,
                linewidth=0.9,
                alpha=0.7,
                label="members" if i == 0 else None,
            )
        for column, colour, dash, name in (
            ("ensemble", SINGLE, "--", "ensemble before"),
            ("calibrated", ENSEMBLE, "-", "after calibration"),
        ):
            told, found, counts = reliability_curve(labels, predictions[column].to_numpy(), 10)
            axes.plot(told, found, color=colour, linestyle=dash, label=name)
            sizes = 8 + 90 * np.sqrt(counts / counts.max())
            axes.scatter(told, found, s=sizes, color=colour, alpha=0.75, linewidth=0)
        axes.set(
            xlabel="predicted probability",
            ylabel="share that is cracked",
            xlim=(-0.04, 1.04),
            ylim=(-0.04, 1.04),
        )
        legend_above(figure, axes)

    return draw(
        "reliability",
        paint,
        title="Reliability",
        label="Share of tiles that are cracked against the predicted probability, in ten "
        "bins, for the ensemble before and after calibration",
        caption="On the dotted line, of the tiles given a probability of 70 %, 70 % are cracked. "
        "Larger dots hold more tiles; small ones are mostly chance. The temperature was fitted "
        "on validation; it changes no verdict.",
        size=(WIDTH, 3.7),
    )


def f_against_threshold(predictions: pd.DataFrame, threshold: float, origin: str) -> Drawing:
    """F1 and F2 of the ensemble at every threshold; `origin` says how the one used came about."""
    labels, scores = predictions["label"].to_numpy(), predictions["ensemble"].to_numpy()
    thresholds = np.linspace(0, 1, 201)
    counts = [confusion_counts(labels, scores, each) for each in thresholds]
    hits = np.array([c["true_positive"] for c in counts])
    called = hits + np.array([c["false_positive"] for c in counts])
    f1, f2 = (f_beta(hits, called, labels.sum(), beta=beta) for beta in (1.0, 2.0))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(thresholds, f1, color=ENSEMBLE, label="F1")
        axes.plot(thresholds, f2, color=THIRD, linestyle="--", label="F2")
        axes.axhline(f1[0], color=MUTED, linewidth=1, linestyle=":", label=f"F1, {TRIVIAL}")
        axes.axvline(
            threshold, color=SINGLE, linewidth=1.6, linestyle="-.", label=f"used: {threshold:.3f}"
        )
        axes.set(xlabel="threshold", ylabel="test score", xlim=(0, 1), ylim=(-0.02, 1.02))
        legend_above(figure, axes)

    return draw(
        "threshold",
        paint,
        title="F1 and F2 against the threshold",
        label=f"F1 and F2 of the ensemble by threshold; the one used is {threshold:.3f}",
        caption=f"The marked threshold was {origin}. That the peak of the test curve lies "
        "elsewhere is no reason to move it: that would be choosing on the test. A broad top says "
        "that the exact threshold matters little.",
        size=(WIDTH, 3.7),
    )


def _columns(metrics: dict[str, Any], trials: Sequence[int]) -> list[tuple[str, dict[str, Any]]]:
    """Columns of `predictions.csv` and how to draw them, the ensemble last, on top."""
    single = metrics["best_single"]["trial"]
    others = [trial for trial in trials if trial != single]
    faint = {"color": MEMBER, "linewidth": 0.9, "alpha": 0.7}
    return [
        *(
            (f"trial_{trial}", {**faint, "label": "other members" if i == 0 else None})
            for i, trial in enumerate(others)
        ),
        (f"trial_{single}", {"color": SINGLE, "linestyle": "--", "label": "best single member"}),
        ("ensemble", {"color": ENSEMBLE, "linewidth": 2.2, "label": "ensemble"}),
    ]
