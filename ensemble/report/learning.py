"""Learning curves: the epochs of a trial → a figure, and by rule what it says about overfitting.

The course of the validation loss decides, not its distance from the training loss: training loss is
measured on augmented tiles, under dropout and while the network changes, and with class weights, a
focal exponent or smoothed labels it is another function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ensemble.base.wording import percent, plural
from ensemble.evaluation.presentation import score_limits
from ensemble.report.plots import (
    DOTTED,
    ENSEMBLE,
    FAINT,
    SINGLE,
    SMALL_WIDTH,
    Drawing,
    count_in_whole_numbers,
    finish,
    new_panels,
    page_style,
)

LEAST_EPOCHS = 3  # with fewer, a course is mostly noise
LEAST_RISE = 0.05  # of the validation loss above its lowest, to speak of overfitting

Verdict = Literal["overfits", "still improving", "no clear sign", "too short"]
GROUPS: dict[Verdict, str] = {
    "overfits": "Overfitting in later epochs",
    "still improving": "Lowest validation loss in the last epoch",
    "no clear sign": "No clear sign of overfitting",
    "too short": "Too few epochs to tell",
}


@dataclass(frozen=True)
class Learning:
    """A verdict on a trial; `accuracy_gap` is training minus validation, in the kept epoch."""

    trial: int
    kept_epoch: int
    accuracy_gap: float
    verdict: Verdict
    sentence: str


def describe_learning(epochs: pd.DataFrame, trial: int, *, planned_epochs: int) -> Learning:
    """Judge the course of one trial, of which `epochs` must have a row.

    `planned_epochs` are those of a trial that nothing stops.
    """
    rows = epochs[epochs["trial"] == trial].sort_values("epoch")
    verdict, course = _judge(rows, planned_epochs)
    kept = rows.iloc[int(rows["val_f1"].to_numpy().argmax())]
    accuracies = kept["train_accuracy"], kept["val_accuracy"]
    in_training, on_validation = map(percent, accuracies)
    return Learning(
        trial=trial,
        kept_epoch=int(kept["epoch"]),
        accuracy_gap=float(accuracies[0] - accuracies[1]),
        verdict=verdict,
        sentence=f"Trial {trial} {course}. In the kept epoch, {kept['epoch']:.0f}, accuracy is "
        f"{in_training} in training and {on_validation} on validation.",
    )


def _judge(rows: pd.DataFrame, planned_epochs: int) -> tuple[Verdict, str]:
    """Judge the epochs of one trial, in their order, and say it with a verb.

    "Overfits" needs three things: the last validation loss is at least 5 % above the lowest, that
    is more than it rose between any two epochs before the lowest one, and the training loss fell
    meanwhile.
    """
    val_loss, train_loss = rows["val_loss"].to_numpy(), rows["train_loss"].to_numpy()
    lowest = int(val_loss.argmin())
    lowest_epoch = rows["epoch"].iloc[lowest]
    rise = float(val_loss[-1] / val_loss[lowest] - 1) if val_loss[lowest] > 0 else 0.0
    before, rise_before = val_loss[: lowest + 1], 0.0
    if (before > 0).all():
        rise_before = float(max([0.0, *(before[1:] / before[:-1] - 1)]))
    if len(rows) < LEAST_EPOCHS:
        course = f"ran {len(rows)} of {plural(planned_epochs, 'epoch')}, too few to tell"
        return "too short", course
    if rise >= max(LEAST_RISE, rise_before) and train_loss[-1] < train_loss[lowest]:
        return "overfits", (
            f"overfits after epoch {lowest_epoch}: its validation loss ends "
            f"{percent(rise, 0)} above its lowest while the training loss fell on"
        )
    if lowest == len(rows) - 1:
        course = "shows no overfitting: its validation loss was lowest in its last epoch"
        more = ", so more epochs might help" if len(rows) >= planned_epochs else ""
        return "still improving", course + more
    course = (
        f"shows no clear overfitting: its validation loss was lowest in epoch {lowest_epoch} "
        f"and ends {percent(rise, 0)} above that"
    )
    if LEAST_RISE <= rise < rise_before:
        course += f", no more than it rose between epochs before ({percent(rise_before, 0)})"
    return "no clear sign", course


def group_by_verdict(notes: Sequence[Learning]) -> str:
    """Say which trials got which verdict, in one line."""
    groups = {
        words: [str(note.trial) for note in notes if note.verdict == verdict]
        for verdict, words in GROUPS.items()
    }
    return " ".join(
        f"{words}: trial{'s' * (len(trials) > 1)} {', '.join(trials)}."
        for words, trials in groups.items()
        if trials
    )


def draw_learning(
    epochs: pd.DataFrame, notes: Sequence[Learning], titles: dict[int, str], *, faint: Sequence[int]
) -> list[Drawing]:
    """Draw a small figure for each trial, all of them on the same axes.

    Args:
        epochs: Rows of all trials.
        notes: Trials to draw, with what is said of them.
        titles: Title of each of them.
        faint: Trials whose validation stands behind.
    """
    shown = epochs[epochs["trial"].isin([note.trial for note in notes])]
    limits = {what: _limits(shown, what) for what in ("loss", "accuracy")}
    last = max(shown["epoch"].max(), epochs.loc[epochs["trial"].isin(faint), "epoch"].max())
    return [
        _learning_curve(epochs, note, titles[note.trial], limits, (0.5, last + 0.5), faint)
        for note in notes
    ]


def _limits(shown: pd.DataFrame, what: str) -> tuple[float, float]:
    """The limits of an axis that all figures share."""
    values = shown[[f"train_{what}", f"val_{what}"]].to_numpy()
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.1 * (high - low), 0.01)
    return (low - margin, high + margin) if what == "loss" else score_limits(low - margin, high)


@page_style()
def _learning_curve(
    epochs: pd.DataFrame,
    note: Learning,
    title: str,
    limits: dict[str, tuple[float, float]],
    span: tuple[float, float],
    faint: Sequence[int],
) -> Drawing:
    """Draw losses above accuracies of one trial by epoch, validation of `faint` trials behind."""
    rows = epochs[epochs["trial"] == note.trial].sort_values("epoch")
    behind = epochs[epochs["trial"].isin([other for other in faint if other != note.trial])]
    validation: Any = {"color": ENSEMBLE, "marker": "o", "markersize": 3.5}
    training: Any = {"color": SINGLE, "linestyle": "--", "marker": "s", "markersize": 3}
    panels = new_panels(2, width=SMALL_WIDTH, height=3.4)
    for axes, what in zip(panels, ("loss", "accuracy"), strict=True):
        if len(behind):
            axes.plot(*_one_line(behind, f"val_{what}"), **FAINT | {"marker": ".", "markersize": 3})
        axes.plot(rows["epoch"], rows[f"train_{what}"], **training)
        axes.plot(rows["epoch"], rows[f"val_{what}"], **validation)
        axes.axvline(note.kept_epoch, **DOTTED)
        axes.set(ylabel=what, xlim=span, ylim=limits[what])
    panels[-1].set_xlabel("epoch")
    count_in_whole_numbers(panels[-1].xaxis)
    last = rows.iloc[-1]
    return finish(
        panels[0],
        f"learning-{note.trial}",
        title=title,
        label=f"Loss and accuracy of trial {note.trial} by epoch; after epoch {last['epoch']:.0f} "
        f"the training loss is {last['train_loss']:.3f} and the validation loss "
        f"{last['val_loss']:.3f}",
        caption=note.sentence,
    )


def _one_line(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """All trials' curves as one, with gaps between them."""
    x: list[float] = []
    y: list[float] = []
    for _, part in rows.sort_values("epoch").groupby("trial"):
        x += [*part["epoch"], np.nan]
        y += [*part[column], np.nan]
    return np.array(x), np.array(y)
