"""`predictions.csv` and `metrics.json` → the figures of the test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from ensemble.calibration import reliability_curve
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
from ensemble.training.metrics import confusion_counts, f_beta
from ensemble.wording import percent

MOST_POINTS = 400  # of a curve; more cannot be seen


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
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.7), xlabel="test F1")
        axes.grid(False, axis="y")

    told = "; ".join(f"{name} {figures['f1']:.3f}" for name, figures in rows)
    return draw(
        "intervals",
        paint,
        title="Test F1 with 95 % intervals",
        label=f"Test F1: {told}",
        caption="Dots are the F1 on the test split, bars the 95 % intervals. Where bars overlap "
        "much, do not read an order into the dots; the paired comparison below is the sharper "
        "one, because all are judged on the same photographs.",
        size=(WIDTH, 1.0 + 0.42 * len(rows)),
    )


def precision_recall(
    predictions: pd.DataFrame, metrics: dict[str, Any], trials: Sequence[int]
) -> Drawing:
    """Precision against recall of the ensemble, the best single member and the others."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for column, style in _columns(metrics, trials):
            precision, recall, _ = precision_recall_curve(labels, predictions[column])
            keep = _thin(len(recall))
            axes.step(recall[keep], precision[keep], where="pre", **style)
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
        "was chosen on validation, before the test split was opened. Another threshold moves along "
        "the blue line.",
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
            keep = _thin(len(recall))
            axes.plot(fall_out[keep], recall[keep], **style)
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


def f_against_threshold(predictions: pd.DataFrame, threshold: float, rule: str) -> Drawing:
    """F1 and F2 of the ensemble at every threshold."""
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
        axes.axvline(
            threshold, color=SINGLE, linewidth=1.6, linestyle="-.", label=f"chosen: {threshold:.3f}"
        )
        axes.set(xlabel="threshold", ylabel="test score", xlim=(0, 1), ylim=(-0.02, 1.02))
        legend_above(figure, axes)

    return draw(
        "threshold",
        paint,
        title="F1 and F2 against the threshold",
        label=f"F1 and F2 of the ensemble by threshold; the chosen one is {threshold:.3f}",
        caption=f"The marked threshold was chosen on validation (rule: {rule}). That the peak of "
        "the test curve lies elsewhere is no reason to move it: that would be choosing on the "
        "test. A broad top says that the exact threshold matters little.",
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


def _thin(count: int) -> np.ndarray:
    """Indices of at most `MOST_POINTS` of `count`, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
