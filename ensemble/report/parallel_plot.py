"""A run's table of trials → parallel coordinates: a line a trial, an axis a parameter.

Labels stand between the axes, where the lines run too. So each line goes straight down past the
labels of an axis and slants only in the free band below them, and labels lie over the lines.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ensemble.base.wording import plural
from ensemble.report.plots import (
    ENSEMBLE,
    GRID,
    MEMBER,
    MUTED,
    PAPER,
    WIDTH,
    Drawing,
    finish,
    new_panels,
    page_style,
)
from ensemble.report.search_plots import parameter_columns, scored_trials, short_name

# in points of the page, from the top down
TITLE, LINE, BAND = 17.0, 11.0, 17.0
GAP = 5.0  # between an axis and its labels, and between labels
LETTER = 4.6  # width of a label's letter
LENGTH = 72 * WIDTH - 20  # of an axis


@page_style()
def parallel_coordinates(
    trials: pd.DataFrame, space: dict[str, Any], members: Sequence[int]
) -> Drawing | None:
    """Draw every trial as a line through its parameters; None where there are none.

    `space` has the parameters as `run.json` describes them, by their column in `trials`.
    """
    scored = scored_trials(trials)
    names = [name for name in parameter_columns(trials) if scored[name].notna().any()]
    if not names:
        return None
    of_space = list(space)  # in a table, a parameter of some trials alone comes last
    names.sort(key=lambda name: of_space.index(name) if name in of_space else len(of_space))
    places, rows, top = [], [], 0.0  # places: (rows, trials)
    for name in [*names, "val_f1"]:
        values, marks = _place(scored[name], space.get(name, {}))
        places.append(values)
        labels = stagger(marks)
        down = GAP + LINE * (1 + max((line for *_, line in labels), default=0))
        title = "validation F1" if name == "val_f1" else short_name(name)
        rows.append((top, title, labels, down))
        top += TITLE + down + BAND
    height = top - BAND
    [axes] = new_panels(height=(height + 8) / 72)
    for row in rows:
        _draw_axis(axes, *row)
    for rank, i in enumerate(scored["val_f1"].argsort().to_numpy(), 1):
        style: Any = {"color": ENSEMBLE, "linewidth": 1.8, "zorder": 3}
        if scored["trial"].iloc[i] not in members:
            style = {"color": MEMBER, "linewidth": 0.9, "zorder": 2}
            style["alpha"] = 0.35 + 0.5 * rank / len(scored)
        _draw_trial(axes, [values[i] for values in places], rows, **style)
    axes.set(ylim=(height, 0), xlim=(-0.02, 1.02))
    axes.set_axis_off()
    return finish(
        axes,
        "parallel",
        title="Settings of all trials",
        label=f"Settings of {plural(len(scored), 'trial')} along "
        f"{plural(len(names), 'parameter')} and validation F1",
        caption="Each line is a trial, from its settings down to its validation F1; the blue ones "
        "are in the ensemble. A parameter matters where the blue lines meet in one place; where "
        "they scatter, it hardly did. A line has no dot where its trial lacked the parameter.",
    )


def _draw_axis(axes: Axes, top: float, title: str, labels: list[Any], down: float) -> None:
    """Draw an axis with its title above and its labels below, over whatever runs there."""
    box: Any = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    middle = top + TITLE
    axes.plot([0, 1], [middle, middle], color=GRID, linewidth=1, zorder=0)
    over: Any = {"zorder": 5, "bbox": box}
    axes.text(0, middle - GAP, title, ha="left", va="bottom", **over)
    for at, text, side, line in labels:
        below: Any = {"ha": side, "va": "top", "fontsize": 8, "color": MUTED, **over}
        axes.text(at, middle + GAP + line * LINE, text, **below)


def _draw_trial(axes: Axes, values: Sequence[float], rows: list[Any], **style: Any) -> None:
    """Draw a trial's line, and a dot on each axis."""
    size = 4 if style["zorder"] == 3 else 2.5
    axes.plot(
        values, [top + TITLE for top, *_ in rows], "o", markersize=size, **style | {"linewidth": 0}
    )
    passed = pd.Series(values).ffill().bfill()  # straight past an axis without a value
    steps = [
        (value, at)
        for value, (top, _, _, down) in zip(passed, rows, strict=True)
        for at in (top, top + TITLE, top + TITLE + down)
    ]
    steps = steps[1:-1]  # nothing comes before the first axis and behind the last one
    axes.plot([x for x, _ in steps], [y for _, y in steps], solid_joinstyle="round", **style)


def stagger(marks: Sequence[tuple[float, str]]) -> list[tuple[float, str, str, int]]:
    """Spread labels over lines, so that none lies over another.

    Args:
        marks: Place from 0 to 1 and text of each label.

    Returns:
        Place, text, alignment and number of the line of each.
    """
    ends: list[float] = []  # of each line, in points
    placed = []
    for at, text in sorted(marks):
        width = LETTER * len(text)
        left = min(max(at * LENGTH - width / 2, 0), max(LENGTH - width, 0))
        line = next((i for i, end in enumerate(ends) if end + GAP <= left), len(ends))
        ends[line:] = [left + width, *ends[line + 1 :]]
        side = "left" if not left else "right" if left + width >= LENGTH else "center"
        anchor = {"left": left, "right": LENGTH, "center": left + width / 2}[side]
        placed.append((anchor / LENGTH, text, side, line))
    return placed


def _place(values: pd.Series, parameter: dict[str, Any]) -> tuple[np.ndarray, list[Any]]:
    """Places from 0 to 1 of a parameter's values, and what to write where."""
    distribution = parameter.get("distribution", {}).get("attributes", {})
    numbers = pd.to_numeric(values, errors="coerce")
    if "choices" in distribution or (numbers.isna() & values.notna()).any():
        choices = [_name(choice) for choice in distribution.get("choices", [])]
        choices += sorted({_name(value) for value in values.dropna()} - set(choices))
        at = {c: i / max(len(choices) - 1, 1) for i, c in enumerate(choices)}
        places = [at[_name(value)] if pd.notna(value) else np.nan for value in values]
        return np.array(places), [(place, choice) for choice, place in at.items()]
    low = float(distribution.get("low", numbers.min()))
    high = float(distribution.get("high", numbers.max()))
    scale = np.log if distribution.get("log") else np.asarray
    span = (scale(high) - scale(low)) or 1.0
    ends = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    return (scale(numbers.to_numpy(dtype=np.float64)) - scale(low)) / span, ends


def _name(choice: Any) -> str:
    """A choice in words: whole numbers are floats in a column that lacks some."""
    return f"{choice:g}" if isinstance(choice, float) else str(choice)
