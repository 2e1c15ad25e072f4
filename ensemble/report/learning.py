"""Learning curves: the epochs of a trial → a figure, and by rule what it says about overfitting.

The course of the validation loss decides, not its distance from the training loss: training loss is
measured on augmented tiles, under dropout and while the network changes, and with class weights, a
focal exponent or smoothed labels it is another function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ensemble.base.wording import percent, plural
from ensemble.evaluation.score_axis import score_limits
from ensemble.report.plots import (
    ENSEMBLE,
    HEIGHT,
    MEMBER,
    MUTED,
    SINGLE,
    WIDTH,
    Drawing,
    draw,
    legend_above,
)

LEAST_EPOCHS = 3  # of fewer, a course cannot be told from noise
LEAST_RISE = 0.05  # of the validation loss above its lowest, to speak of overfitting

Verdict = Literal["too short", "overfits", "still improving", "no clear sign"]


@dataclass(frozen=True)
class Learning:
    """A trial's course: epochs from 1, losses relative to the lowest validation loss."""

    trial: int
    num_epochs: int
    kept_epoch: int
    lowest_loss_epoch: int
    loss_rise: float
    largest_wobble: float
    accuracy_gap: float
    verdict: Verdict
    sentence: str


def describe_learning(epochs: pd.DataFrame, trial: int, *, planned_epochs: int) -> Learning:
    """What the rows of `epochs.csv` of one trial, at least one, say.

    "Overfits" needs three things: the last validation loss is at least 5 % above the lowest, that
    is more than it rose between any two epochs before the lowest one, and the training loss fell
    meanwhile.

    Args:
        epochs: All rows of `epochs.csv`.
        trial: Its number.
        planned_epochs: What a trial has if nothing stops it.
    """
    rows = epochs[epochs["trial"] == trial].sort_values("epoch")
    number = rows["epoch"].to_numpy()
    val_loss, train_loss = rows["val_loss"].to_numpy(), rows["train_loss"].to_numpy()
    kept, lowest = int(rows["val_f1"].to_numpy().argmax()), int(val_loss.argmin())
    rise = float(val_loss[-1] / val_loss[lowest] - 1) if val_loss[lowest] > 0 else 0.0
    before = val_loss[: lowest + 1]
    wobble = float(max(before[1:] / before[:-1] - 1, default=0.0)) if (before > 0).all() else 0.0
    wobble = max(wobble, 0.0)
    gap = float(rows["train_accuracy"].iloc[kept] - rows["val_accuracy"].iloc[kept])
    verdict: Verdict
    if len(rows) < LEAST_EPOCHS:
        verdict = "too short"
        says = f"ran {len(rows)} of {plural(planned_epochs, 'epoch')}, too few to tell"
    elif rise >= max(LEAST_RISE, wobble) and train_loss[-1] < train_loss[lowest]:
        verdict = "overfits"
        says = (
            f"overfits after epoch {number[lowest]}: its validation loss ends "
            f"{percent(rise, 0)} above its lowest while the training loss fell on"
        )
    elif lowest == len(rows) - 1:
        verdict = "still improving"
        says = "shows no overfitting: its validation loss was lowest in its last epoch"
        says += ", so more epochs might help" if len(rows) >= planned_epochs else ""
    else:
        verdict = "no clear sign"
        says = (
            f"shows no clear overfitting: its validation loss was lowest in epoch {number[lowest]} "
            f"and ends {percent(rise, 0)} above that"
        )
        says += (
            f", no more than it rose between epochs before ({percent(wobble, 0)})"
            if (LEAST_RISE <= rise < wobble)
            else ""
        )
    in_training, on_validation = (
        percent(rows[f"{split}_accuracy"].iloc[kept]) for split in ("train", "val")
    )
    kept_accuracy = (
        f"In the kept epoch, {number[kept]}, accuracy is {in_training} in training and "
        f"{on_validation} on validation."
    )
    return Learning(
        trial=trial,
        num_epochs=len(rows),
        kept_epoch=int(number[kept]),
        lowest_loss_epoch=int(number[lowest]),
        loss_rise=rise,
        largest_wobble=wobble,
        accuracy_gap=gap,
        verdict=verdict,
        sentence=f"Trial {trial} {says}. {kept_accuracy}",
    )


def learning_curve(
    epochs: pd.DataFrame, trial: int, *, title: str, caption: str, faint: Sequence[int]
) -> Drawing:
    """Losses above accuracies of one trial, by epoch, others' validation behind them.

    Args:
        epochs: As in `epochs.csv`.
        trial: Whose.
        title: Of the figure.
        caption: What its course says.
        faint: Trials to draw behind.
    """
    rows = epochs[epochs["trial"] == trial].sort_values("epoch")
    kept_epoch = int(rows["epoch"].iloc[int(rows["val_f1"].to_numpy().argmax())])
    behind = epochs[epochs["trial"].isin([other for other in faint if other != trial])]

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2, sharex=True)
        for axes, what in zip(panels, ("loss", "accuracy"), strict=True):
            if len(behind):
                axes.plot(
                    *_one_line(behind, f"val_{what}"),
                    color=MEMBER,
                    linewidth=0.8,
                    alpha=0.55,
                    marker=".",
                    markersize=3,
                    label="validation, other trials",
                )
            axes.plot(
                rows["epoch"],
                rows[f"train_{what}"],
                color=SINGLE,
                linestyle="--",
                marker="s",
                markersize=3.5,
                label="training",
            )
            axes.plot(
                rows["epoch"],
                rows[f"val_{what}"],
                color=ENSEMBLE,
                marker="o",
                markersize=4,
                label="validation",
            )
            axes.axvline(kept_epoch, color=MUTED, linewidth=1, linestyle=":", label="kept epoch")
            axes.set_ylabel(what)
            own = rows[[f"train_{what}", f"val_{what}"]].to_numpy()
            margin = max(0.15 * np.ptp(own), 0.01)
            limits = own.min() - margin, own.max() + margin
            axes.set_ylim(*(limits if what == "loss" else score_limits(*limits)))
        panels[-1].set_xlabel("epoch")
        last = max([*rows["epoch"], *behind["epoch"]])
        panels[-1].set_xlim(0.5, last + 0.5)
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend_above(figure, panels[0])

    last = rows.iloc[-1]
    return draw(
        f"learning-{trial}",
        paint,
        title=title,
        label=f"Loss and accuracy of trial {trial} by epoch; after epoch {last['epoch']:.0f} the "
        f"training loss is {last['train_loss']:.3f} and the validation loss {last['val_loss']:.3f}",
        caption=caption,
        size=(WIDTH, HEIGHT * 1.45),
    )


def _one_line(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """All trials' curves as one, with gaps between them."""
    x: list[float] = []
    y: list[float] = []
    for _, part in rows.sort_values("epoch").groupby("trial"):
        x += [*part["epoch"], np.nan]
        y += [*part[column], np.nan]
    return np.array(x), np.array(y)
