"""A run's tables of trials and epochs → the figures of the search."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ensemble.base.wording import percent, plural
from ensemble.evaluation.presentation import score_limits
from ensemble.report.plots import (
    DOTTED,
    ENSEMBLE,
    INK,
    MEMBER,
    PAPER,
    SINGLE,
    TRIVIAL,
    Drawing,
    count_in_whole_numbers,
    finish,
    new_panels,
    page_style,
)
from ensemble.run.members import FINISHED_STATES


@page_style()
def history(
    trials: pd.DataFrame, members: Sequence[int], trivial_f1: float | None = None
) -> Drawing:
    """Draw validation F1 by trial, the best so far, and which trials are members.

    `trivial_f1` is that of calling every validation tile cracked.
    """
    scored = scored_trials(trials).sort_values("trial")
    failed = trials.loc[trials["state"] == "FAIL", "trial"]
    number, f1 = scored["trial"].to_numpy(), scored["val_f1"].to_numpy()
    complete, chosen = (scored["state"] == "COMPLETE").to_numpy(), np.isin(number, list(members))
    [axes] = new_panels(height=3.4)
    axes.step(number, np.maximum.accumulate(f1), where="post", color=ENSEMBLE, label="best so far")
    dots: dict[str, Any] = {"s": 34, "linewidth": 1.2, "edgecolor": INK, "zorder": 3}
    axes.scatter(number[complete], f1[complete], color=INK, label="ran to its end", **dots)
    axes.scatter(number[~complete], f1[~complete], color=PAPER, label="stopped early", **dots)
    if chosen.any():
        ring: Any = {"s": 110, "facecolor": "none", "edgecolor": SINGLE, "linewidth": 1.8}
        axes.scatter(number[chosen], f1[chosen], zorder=4, label="in the ensemble", **ring)
    if trivial_f1 is not None:
        axes.axhline(trivial_f1, label=f"{TRIVIAL}: {trivial_f1:.3f}", **DOTTED)
    if len(failed):
        at = np.full(len(failed), f1.min())
        axes.scatter(failed, at, marker="x", color=SINGLE, label="failed (no score)")
    axes.set(xlabel="trial", ylabel="validation F1", ylim=score_limits(*axes.get_ylim()))
    count_in_whole_numbers(axes.xaxis)
    top = int(f1.argmax())
    return finish(
        axes,
        "history",
        title="Validation F1 by trial",
        label=f"Validation F1 of {plural(len(f1), 'trial')}; the best is {f1[top]:.3f}, "
        f"trial {number[top]}",
        caption="Each dot is a trial, in the order in which they began. Where the line still rises "
        "at its right end, more trials might help; a long flat end says that the search found "
        "what it could.",
    )


@page_style()
def epochs_spent(trials: pd.DataFrame, full: np.ndarray) -> Drawing:
    """Draw the epochs that each trial trained, and above them what it would have had."""
    number, trained = trials["trial"], trials["epochs"]
    spent, whole = int(trained.sum()), int(full.sum())
    [axes] = new_panels(height=3.4)
    rest: Any = {"color": MEMBER, "alpha": 0.3, "label": "not trained"}
    axes.bar(number, full - trained, bottom=trained, **rest)
    axes.bar(number, trained, color=ENSEMBLE, label="trained")
    axes.set(xlabel="trial", ylabel="epochs")
    axes.grid(False, axis="x")
    count_in_whole_numbers(axes.xaxis, axes.yaxis)
    return finish(
        axes,
        "epochs",
        title="Epochs trained",
        label=f"Epochs of each trial: {spent} trained of {whole} that all trials would have had",
        caption="Blue: epochs that were trained. Grey: what early stopping or a failure left "
        "undone.",
    )


@page_style()
def importance(shares: dict[str, float], by_chance: dict[str, float]) -> Drawing:
    """Draw a bar a parameter, and what shuffled scores reach."""
    [axes] = new_panels(height=1.1 + 0.3 * len(shares))
    places = np.arange(len(shares))
    axes.barh(places, list(shares.values()), 0.6, color=ENSEMBLE, label="importance")
    mark: Any = {"marker": "|", "s": 170, "color": SINGLE, "linewidth": 2.2, "zorder": 3}
    chance = [by_chance[name] for name in shares]
    axes.scatter(chance, places, label="reached by chance (95 %)", **mark)
    axes.set_yticks(places, [short_name(name) for name in shares])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel("share of the importance")
    listed = ", ".join(f"{short_name(name)} {percent(share, 0)}" for name, share in shares.items())
    return finish(
        axes,
        "importance",
        title="Importance of each parameter",
        label=f"Importance of the parameters: {listed}",
        caption="How much each parameter decides whether a trial is in the best quarter "
        "(PED-ANOVA, arXiv 2304.10255). A bar that does not pass its orange mark is no more than "
        "what shuffled scores give: nothing can be said about that parameter.",
    )


def scored_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished trials with a score."""
    return trials[trials["state"].isin(FINISHED_STATES) & trials["val_f1"].notna()]


def parameter_columns(trials: pd.DataFrame) -> list[str]:
    """The columns of `trials.csv` that are parameters, `section.name`, in which trials differ.

    They also differ in a parameter that some of them do not have.
    """
    names = [name for name in trials.columns if "." in str(name)]
    return [name for name in names if trials[name].nunique(dropna=False) > 1]


def short_name(name: str) -> str:
    """A parameter's name without its section, unless its own name says nothing."""
    section, _, short = name.rpartition(".")
    return f"{section} {short}" if short == "kind" else short.replace("_", " ")
