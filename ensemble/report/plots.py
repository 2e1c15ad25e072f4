"""Matplotlib figures → SVG for a page, in the colours of the page.

A figure is drawn in stand-in colours, each of which becomes a CSS variable, so that one drawing
reads on light and on dark. Text stays text, in the page's font. Names of elements begin with the
figure's name, because all SVGs of a page share one name space.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_NAMES = ("ink", "muted", "grid", "ensemble", "single", "member", "third", "paper")
_STAND_INS = {name: f"#0a0a0{i}" for i, name in enumerate(_NAMES)}
INK, MUTED, GRID, ENSEMBLE, SINGLE, MEMBER, THIRD, PAPER = _STAND_INS.values()
WIDTH = 4.5  # inches: 324 units, about the width of a telephone
TRIVIAL = "every tile called cracked"
SMALL_WIDTH = 3.2  # of one figure of many
STYLE: Any = {  # its keys are known to matplotlib alone
    "svg.fonttype": "none",
    "text.parse_math": False,
    "legend.frameon": False,
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 9.5),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9),
    **dict.fromkeys(("text.color", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
}
DOTTED: Any = {"color": MUTED, "linewidth": 1, "linestyle": ":"}
FAINT: Any = {"color": MEMBER, "linewidth": 0.9, "alpha": 0.7}


@dataclass(frozen=True)
class Drawing:
    """A figure of the page."""

    name: str
    title: str
    svg: Markup
    caption: str


@contextmanager
def page_style() -> Iterator[None]:
    """Draw in the page's style, whatever the person's own settings are; a decorator, too."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def new_panels(count: int = 1, *, width: float = WIDTH, height: float) -> list[Axes]:
    """Make empty panels of one figure, one below the other; sizes are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return list(figure.subplots(count, sharex=True, squeeze=False)[:, 0])


def finish(axes: Axes, name: str, *, title: str, label: str, caption: str) -> Drawing:
    """Turn a figure into SVG, with a legend above it where a curve of `axes` has a label.

    Args:
        axes: The figure's first panel.
        name: Name of the figure, unique on the page; letters, digits and hyphens.
        title: Title above it.
        label: Description for a reader who cannot see it.
        caption: Text below it.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=2,
            borderpad=0,
            handlelength=1.6,
            columnspacing=1.2,
        )
    file = io.StringIO()
    unnamed = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=unnamed)
    return Drawing(name, title, _inline(file.getvalue(), name, label), caption)


def _inline(svg: str, name: str, label: str) -> Markup:
    """Cut out the SVG element, with the page's colours, names of its own, and its label."""
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


@page_style()
def matrix(
    name: str, values: list[list[float | None]], names: list[str], *, title: str, caption: str
) -> Drawing:
    """Draw a square of numbers, the larger the darker; `names` are those of rows and columns."""
    pairs = [(i, j, value) for i, row in enumerate(values) for j, value in enumerate(row)]
    largest = max((value for i, j, value in pairs if value and i != j), default=1.0)
    side = max(WIDTH * 0.75, 0.42 * len(names) + 0.9)
    [axes] = new_panels(width=max(WIDTH, side), height=side * 0.85)
    for i, j, value in pairs:
        alpha = 0.0 if value is None or i == j else 0.45 * max(value, 0) / largest
        text = "–" if i == j else "n/a" if value is None else f"{value:.2f}"
        _draw_cell(axes, i, j, text, alpha=alpha, fontsize=9 if len(names) < 8 else 7)
    _label_cells(axes, names, names)
    cells = [
        f"{names[i]} and {names[j]} {value:.2f}"
        for i, j, value in pairs
        if j < i and value is not None
    ]
    return finish(axes, name, title=title, label=f"{title}: {'; '.join(cells)}", caption=caption)


def _draw_cell(
    axes: Axes, row: int, column: int, text: str, *, alpha: float, fontsize: float
) -> None:
    corner = (column - 0.5, row - 0.5)
    patch = mpl.patches.Rectangle(corner, 1, 1, facecolor=ENSEMBLE, alpha=alpha, linewidth=0)
    axes.add_patch(patch)
    axes.add_patch(mpl.patches.Rectangle(corner, 1, 1, fill=False, edgecolor=GRID, linewidth=1))
    axes.text(column, row, text, ha="center", va="center", fontsize=fontsize)


def _label_cells(axes: Axes, columns: list[str], rows: list[str]) -> None:
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns, rotation=0 if len(columns) < 5 else 45)
    axes.set_yticks(range(len(rows)), rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def count_in_whole_numbers(*axes: Axis) -> None:
    """Put the ticks of axes on whole numbers."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
