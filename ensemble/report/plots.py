"""Matplotlib figures → SVG to stand in a page, whose colours are the page's.

A figure is drawn in stand-in colours, each of which becomes a CSS variable, so that one drawing
reads on light and on dark. Text stays text, in the page's font. Names of elements begin with the
figure's name: several SVGs in one page share one name space.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ensemble.base.wording import percent

_NAMES = ("ink", "muted", "grid", "ensemble", "single", "member", "third", "paper")
_STAND_INS = {name: f"#0a0a0{i}" for i, name in enumerate(_NAMES)}
INK, MUTED, GRID, ENSEMBLE, SINGLE, MEMBER, THIRD, PAPER = _STAND_INS.values()
WIDTH, HEIGHT = 4.5, 3.1  # inches: 324 x 223 units, about the width of a telephone
STYLE: Any = {  # its keys are known to matplotlib alone
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "hatch.color": MUTED,
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the page."""

    name: str
    title: str
    svg: Markup
    caption: str


def draw(
    name: str,
    paint: Callable[[Figure], None],
    *,
    title: str,
    label: str,
    caption: str,
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> Drawing:
    """Draw one figure.

    Args:
        name: Of the figure, unique on the page; letters, digits and hyphens.
        paint: Puts axes and curves into an empty figure.
        title: Stands above it.
        label: What a reader who cannot see it is told.
        caption: What to see in it.
        size: Width and height in inches; a unit of the SVG is 1/72 inch.
    """
    with mpl.rc_context():
        mpl.rcdefaults()  # nobody's own settings
        mpl.rcParams.update({**STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        file = io.StringIO()
        unnamed = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=unnamed)
    return Drawing(name, title, _inline(file.getvalue(), name, label), caption)


def _inline(svg: str, name: str, label: str) -> Markup:
    """The SVG element alone, with the page's colours, names of its own, and its label."""
    svg = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    body = svg[svg.index(">") + 1 :]
    for junk in (r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>", r"<!--.*?-->"):
        body = re.sub(junk, "", body, flags=re.DOTALL)
    body = re.sub(r'(?<=[ <])id="', f'id="{name}-', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for colour, stand_in in _STAND_INS.items():
        body = re.sub(rf"((?:fill|stroke): ){stand_in}", rf"\1var(--{colour})", body)
    body = re.sub(r"\n\s*", "\n", body)
    opening = f'<svg {view[0]} role="img" aria-label="{escape(label)}">'
    return Markup(opening + body.strip())


def matrix(
    name: str, values: list[list[float | None]], names: list[str], *, title: str, caption: str
) -> Drawing:
    """A square of numbers, the larger the darker; `names` of its rows and columns."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        largest = max(
            (v for i, row in enumerate(values) for j, v in enumerate(row) if v and i != j),
            default=1.0,
        )
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                alpha = 0.0 if value is None or i == j else 0.45 * max(value, 0) / largest
                _cell(axes, i, j, alpha)
                text = "–" if i == j else "n/a" if value is None else f"{value:.2f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=9 if len(names) < 8 else 7)
        _bare(axes, names, names)

    pairs = [
        f"{names[i]} and {names[j]} {value:.2f}"
        for i, row in enumerate(values)
        for j, value in enumerate(row)
        if j < i and value is not None
    ]
    side = max(WIDTH * 0.75, 0.42 * len(names) + 0.9)
    return draw(
        name,
        paint,
        title=title,
        label=f"{title}: {'; '.join(pairs)}",
        caption=caption,
        size=(max(WIDTH, side), side * 0.85),
    )


def confusion(name: str, counts: dict[str, int], *, title: str, caption: str) -> Drawing:
    """Tiles by label (rows) and verdict (columns), with the share of the row."""
    cells = [
        [counts["true_positive"], counts["false_negative"]],
        [counts["false_positive"], counts["true_negative"]],
    ]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for i, row in enumerate(cells):
            for j, count in enumerate(row):
                share = count / max(sum(row), 1)
                _cell(axes, i, j, 0.05 + 0.4 * share, colour=ENSEMBLE if i == j else SINGLE)
                axes.text(
                    j, i, f"{count:,}\n{percent(share)}", ha="center", va="center", fontsize=12
                )
        _bare(axes, ["called cracked", "called uncracked"], ["cracked", "uncracked"])
        axes.set_ylabel("label")

    (found, missed), (false, right) = cells
    label = (
        f"{title}: {found} cracked tiles found, {missed} missed, {false} false alarms, "
        f"{right} uncracked tiles left alone"
    )
    return draw(name, paint, title=title, label=label, caption=caption, size=(WIDTH, 2.4))


def _cell(axes: Axes, row: int, column: int, alpha: float, colour: str = ENSEMBLE) -> None:
    corner = (column - 0.5, row - 0.5)
    patch = mpl.patches.Rectangle(corner, 1, 1, facecolor=colour, alpha=alpha, linewidth=0)
    axes.add_patch(patch)
    axes.add_patch(mpl.patches.Rectangle(corner, 1, 1, fill=False, edgecolor=GRID, linewidth=1))


def _bare(axes: Axes, columns: list[str], rows: list[str]) -> None:
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns, rotation=0 if len(columns) < 5 else 45)
    axes.set_yticks(range(len(rows)), rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def legend_above(figure: Figure, axes: Axes) -> None:
    """A legend of what `axes` shows, over the whole figure."""
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=2,
        borderpad=0,
        handlelength=1.6,
        columnspacing=1.2,
    )
