"""A run's tables of trials and epochs → the figures of the search."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ensemble.base.wording import percent, plural
from ensemble.evaluation.presentation import score_limits
from ensemble.report.plots import (
    ENSEMBLE,
    GRID,
    INK,
    MEMBER,
    MUTED,
    PAPER,
    SINGLE,
    Drawing,
    count_in_whole_numbers,
    finish,
    new_panels,
    page_style,
)
from ensemble.run.members import FINISHED_STATES


@page_style()
def history(trials: pd.DataFrame, members: Sequence[int]) -> Drawing:
    """Draw validation F1 by trial, the best so far, and which trials are members."""
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


@page_style()
def parallel_coordinates(
    trials: pd.DataFrame, space: dict[str, Any], members: Sequence[int]
) -> Drawing | None:
    """Draw every trial as a line through its parameters; None where there are none.

    `space` has the parameters as `run.json` describes them, by their column in `trials`.
    """
    names, scored = parameter_columns(trials), scored_trials(trials)
    if not names or scored.empty:
        return None
    [axes] = new_panels(height=0.62 * (len(names) + 1))
    places = []  # (rows, trials)
    for row, name in enumerate([*names, "val_f1"]):
        values, marks = _place(scored[name], space.get(name, {}))
        places.append(values)
        axes.plot([0, 1], [row, row], color=GRID, linewidth=1, zorder=0)
        title = "validation F1" if name == "val_f1" else short_name(name)
        axes.text(0, row - 0.17, title, ha="left", va="bottom", zorder=5)
        for at, text in marks:
            side = "left" if at < 0.05 else "right" if at > 0.95 else "center"
            below: Any = {"ha": side, "va": "top", "fontsize": 8, "color": MUTED, "zorder": 5}
            axes.text(at, row + 0.14, text, **below)
    for rank, i in enumerate(scored["val_f1"].argsort().to_numpy(), 1):
        style: Any = {"color": ENSEMBLE, "markersize": 4, "linewidth": 1.8, "zorder": 3}
        if scored["trial"].iloc[i] not in members:
            style = {"color": MEMBER, "markersize": 2.5, "linewidth": 0.9, "zorder": 2}
            style["alpha"] = 0.35 + 0.5 * rank / len(scored)
        axes.plot([values[i] for values in places], range(len(places)), marker="o", **style)
    axes.set(ylim=(len(places) - 0.5, -0.6), xlim=(-0.02, 1.02))
    axes.set_axis_off()
    return finish(
        axes,
        "parallel",
        title="Settings of all trials",
        label=f"Settings of {plural(len(scored), 'trial')} along "
        f"{plural(len(names), 'parameter')} and validation F1",
        caption="Each line is a trial, from its settings down to its validation F1; the blue ones "
        "are in the ensemble. A parameter matters where the blue lines meet in one place; where "
        "they scatter, it hardly did. A line breaks at a parameter that its trial did not have.",
    )


def scored_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished trials with a score."""
    return trials[trials["state"].isin(FINISHED_STATES) & trials["val_f1"].notna()]


def parameter_columns(trials: pd.DataFrame) -> list[str]:
    """The columns of `trials.csv` that are parameters: `section.name`, with more than one value."""
    return [name for name in trials.columns if "." in str(name) and trials[name].nunique() > 1]


def _place(values: pd.Series, parameter: dict[str, Any]) -> tuple[np.ndarray, list[Any]]:
    """Places from 0 to 1 of a parameter's values, and what to write where."""
    distribution = parameter.get("distribution", {}).get("attributes", {})
    numbers = pd.to_numeric(values, errors="coerce")
    if "choices" in distribution or (numbers.isna() & values.notna()).any():
        choices = [str(choice) for choice in distribution.get("choices", [])]
        choices += sorted({str(value) for value in values.dropna()} - set(choices))
        at = {c: i / max(len(choices) - 1, 1) for i, c in enumerate(choices)}
        places = [at[str(value)] if pd.notna(value) else np.nan for value in values]
        return np.array(places), [(place, choice) for choice, place in at.items()]
    low = float(distribution.get("low", numbers.min()))
    high = float(distribution.get("high", numbers.max()))
    scale = np.log if distribution.get("log") else np.asarray
    span = (scale(high) - scale(low)) or 1.0
    ends = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    return (scale(numbers.to_numpy(dtype=np.float64)) - scale(low)) / span, ends


def short_name(name: str) -> str:
    """A parameter's name without its section, unless its own name says nothing."""
    section, _, short = name.rpartition(".")
    return f"{section} {short}" if short == "kind" else short.replace("_", " ")
