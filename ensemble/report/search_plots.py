"""A run's tables of trials and epochs → the figures of the search."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ensemble.base.wording import percent, plural
from ensemble.evaluation.score_axis import score_limits
from ensemble.report.plots import (
    ENSEMBLE,
    GRID,
    INK,
    MEMBER,
    MUTED,
    PAPER,
    SINGLE,
    WIDTH,
    Drawing,
    draw,
    legend_above,
)

FINISHED = ("COMPLETE", "PRUNED")


def history(trials: pd.DataFrame, members: Sequence[int]) -> Drawing:
    """Validation F1 by trial, and the best so far.

    Args:
        trials: As in `trials.csv`.
        members: Trials that are in the ensemble.
    """
    scored = trials[trials["state"].isin(FINISHED) & trials["val_f1"].notna()].sort_values("trial")
    failed = trials[trials["state"] == "FAIL"]
    number, f1 = scored["trial"].to_numpy(), scored["val_f1"].to_numpy()

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        best = np.maximum.accumulate(f1)
        axes.step(number, best, where="post", color=ENSEMBLE, label="best so far")
        complete = (scored["state"] == "COMPLETE").to_numpy()
        dots: dict[str, Any] = {"s": 34, "linewidth": 1.2, "edgecolor": INK, "zorder": 3}
        axes.scatter(number[complete], f1[complete], color=INK, label="ran to its end", **dots)
        axes.scatter(number[~complete], f1[~complete], color=PAPER, label="stopped early", **dots)
        chosen = np.isin(number, list(members))
        if chosen.any():
            axes.scatter(
                number[chosen],
                f1[chosen],
                s=110,
                facecolor="none",
                edgecolor=SINGLE,
                linewidth=1.8,
                zorder=4,
                label="in the ensemble",
            )
        if len(failed):
            axes.scatter(
                failed["trial"],
                np.full(len(failed), f1.min()),
                marker="x",
                color=SINGLE,
                label="failed (no score)",
            )
        axes.set(xlabel="trial", ylabel="validation F1", ylim=score_limits(*axes.get_ylim()))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend_above(figure, axes)

    top = int(f1.argmax())
    return draw(
        "history",
        paint,
        title="Validation F1 by trial",
        label=f"Validation F1 of {plural(len(f1), 'trial')}; the best is {f1[top]:.3f}, "
        f"trial {number[top]}",
        caption="Each dot is a trial, in the order in which they began. Where the line still rises "
        "at its right end, more trials might help; a long flat end says that the search found "
        "what it could.",
        size=(WIDTH, 3.4),
    )


def epochs_spent(trials: pd.DataFrame, full: np.ndarray) -> Drawing:
    """Epochs that each trial trained, and what it would have had above them."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        width = 0.8
        axes.bar(
            trials["trial"],
            full - trials["epochs"],
            width,
            bottom=trials["epochs"],
            color=MEMBER,
            alpha=0.3,
            label="not trained",
        )
        axes.bar(trials["trial"], trials["epochs"], width, color=ENSEMBLE, label="trained")
        axes.set(xlabel="trial", ylabel="epochs")
        axes.grid(False, axis="x")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend_above(figure, axes)

    spent, whole = int(trials["epochs"].sum()), int(full.sum())
    return draw(
        "epochs",
        paint,
        title="Epochs trained",
        label=f"Epochs of each trial: {spent} trained of {whole} that all trials would have had",
        caption="Blue: epochs that were trained. Grey: what early stopping or a failure left "
        "undone.",
        size=(WIDTH, 3.4),
    )


def importance(shares: dict[str, float], by_chance: dict[str, float]) -> Drawing:
    """A bar a parameter, and what a shuffle of the scores reaches."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = np.arange(len(shares))
        axes.barh(places, list(shares.values()), 0.6, color=ENSEMBLE, label="importance")
        chance = [by_chance[name] for name in shares]
        axes.scatter(
            chance,
            places,
            marker="|",
            s=170,
            color=SINGLE,
            linewidth=2.2,
            zorder=3,
            label="reached by chance (95 %)",
        )
        axes.set_yticks(places, [short_name(name) for name in shares])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel("share of the importance")
        legend_above(figure, axes)

    told = ", ".join(f"{short_name(name)} {percent(share, 0)}" for name, share in shares.items())
    return draw(
        "importance",
        paint,
        title="Importance of each parameter",
        label=f"Importance of the parameters: {told}",
        caption="How much each parameter decides whether a trial is in the best quarter "
        "(PED-ANOVA, arXiv 2304.10255). A bar that does not pass its orange mark is no more than "
        "what shuffled scores give: nothing can be said about that parameter.",
        size=(WIDTH, 1.1 + 0.3 * len(shares)),
    )


def parallel_coordinates(
    trials: pd.DataFrame, space: dict[str, Any], members: Sequence[int]
) -> Drawing | None:
    """Every trial as a line through its parameters; None where there are none.

    Args:
        trials: As in `trials.csv`.
        space: `parameters` of the space as `run.json` describes them, by column.
        members: Trials that are in the ensemble.
    """
    names = parameter_columns(trials)
    scored = trials[trials["state"].isin(FINISHED) & trials["val_f1"].notna()]
    if not names or scored.empty:
        return None
    places, ticks = {}, {}
    for name in [*names, "val_f1"]:
        places[name], ticks[name] = _place(scored[name], space.get(name, {}))
    order = scored["val_f1"].argsort().to_numpy()

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows = np.arange(len(places))
        for row, (name, marks) in zip(rows, ticks.items(), strict=True):
            axes.plot([0, 1], [row, row], color=GRID, linewidth=1, zorder=0)
            shown = "validation F1" if name == "val_f1" else short_name(name)
            axes.text(0, row - 0.17, shown, ha="left", va="bottom", zorder=5)
            for at, text in marks:
                side = "left" if at < 0.05 else "right" if at > 0.95 else "center"
                axes.text(
                    at, row + 0.14, text, ha=side, va="top", fontsize=8, color=MUTED, zorder=5
                )
        for rank, i in enumerate(order, 1):
            line = [places[name][i] for name in places]
            member = scored["trial"].iloc[i] in members
            axes.plot(
                line,
                rows,
                marker="o",
                markersize=4 if member else 2.5,
                color=ENSEMBLE if member else MEMBER,
                linewidth=1.8 if member else 0.9,
                alpha=1.0 if member else 0.35 + 0.5 * rank / len(order),
                zorder=3 if member else 2,
            )
        axes.set(ylim=(len(rows) - 0.5, -0.6), xlim=(-0.02, 1.02))
        axes.set_axis_off()

    return draw(
        "parallel",
        paint,
        title="Settings of all trials",
        label=f"Settings of {plural(len(scored), 'trial')} along "
        f"{plural(len(names), 'parameter')} and validation F1",
        caption="Each line is a trial, from its settings down to its validation F1; the blue ones "
        "are in the ensemble. A parameter matters where the blue lines meet in one place; where "
        "they scatter, it hardly did. A line breaks at a parameter that its trial did not have.",
        size=(WIDTH, 0.62 * len(places)),
    )


def parameter_columns(trials: pd.DataFrame) -> list[str]:
    """The columns of `trials.csv` that are parameters: `section.name`, with more than one value."""
    return [name for name in trials.columns if "." in str(name) and trials[name].nunique() > 1]


def _place(values: pd.Series, described: dict[str, Any]) -> tuple[np.ndarray, list]:
    """Places from 0 to 1 of a parameter's values, and what to write where."""
    distribution = described.get("distribution", {}).get("attributes", {})
    numbers = pd.to_numeric(values, errors="coerce")
    if "choices" in distribution or (numbers.isna() & values.notna()).any():
        choices = [str(choice) for choice in distribution.get("choices", [])]
        choices += sorted({str(value) for value in values.dropna()} - set(choices))
        at = {c: i / max(len(choices) - 1, 1) for i, c in enumerate(choices)}
        found = [at[str(value)] if pd.notna(value) else np.nan for value in values]
        return np.array(found), [(place, choice) for choice, place in at.items()]
    low = float(distribution.get("low", numbers.min()))
    high = float(distribution.get("high", numbers.max()))
    scale = np.log if distribution.get("log") else np.asarray
    span = (scale(high) - scale(low)) or 1.0
    ends = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    return (scale(numbers.to_numpy(dtype=np.float64)) - scale(low)) / span, ends


def short_name(name: str) -> str:
    """A parameter's name without its section, where that tells."""
    section, _, short = name.rpartition(".")
    return f"{section} {short}" if short == "kind" else short.replace("_", " ")
