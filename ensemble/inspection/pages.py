"""The pages of a visit: an index with a card for each photograph, and a page for each of them.

They open in any browser from the folder itself, without a server or a network.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from ensemble.base.files import table_rows, write_text
from ensemble.base.wording import percent, plural
from ensemble.inspection.photograph import Photograph
from ensemble.viewer.figures import Figures
from ensemble.viewer.page import make_environment

INSPECTION = Path(__file__).parent
ASSETS = (INSPECTION / "pages.css", INSPECTION / "index.js")
MOST_NAME = 60  # characters of a picture's name in the sentence


@dataclass(frozen=True)
class Visit:
    """The photographs of a visit, judged.

    Attributes:
        run_name: Name of the run that judged.
        overlap: Part of a tile's side by which tiles overlap.
        mm_per_px: Millimetres of concrete that a pixel shows, where a person said so.
        photographs: Photographs, the worst first.
        table: Their table, in the same order.
        unread: `picture` and `reason` of what was not read.
        num_unreadable: Number of pictures among them, which cannot be decoded.
    """

    run_name: str
    overlap: float
    mm_per_px: float | None
    photographs: list[Photograph]
    table: pd.DataFrame
    unread: pd.DataFrame
    num_unreadable: int

    @property
    def num_tiles(self) -> int:
        """Number of tiles of the grids that cover the photographs."""
        return int(self.table["num_tiles"].sum())

    @property
    def num_called(self) -> int:
        """Number of these tiles that are called cracked."""
        return int(self.table["num_called"].sum())

    @property
    def num_not_judged(self) -> int:
        """Number of these tiles that show nothing."""
        return int(self.table["num_not_judged"].sum())

    @property
    def num_cracked(self) -> int:
        """Number of photographs with a called tile, also one of a grid between."""
        return sum(photograph.num_called_in_all > 0 for photograph in self.photographs)

    @property
    def share(self) -> float:
        """Part of the surface of all photographs that called tiles cover."""
        figures = [photograph.figures for photograph in self.photographs]
        judged = sum(each.judged_px for each in figures)
        return sum(each.called_px for each in figures) / judged if judged else 0.0

    @cached_property
    def longest(self) -> Photograph:
        """The photograph with the longest chain of called tiles; in metres, if there is a scale."""
        unit = "chain_tiles" if self.mm_per_px is None else "chain_px"
        return max(self.photographs, key=lambda photograph: getattr(photograph.figures, unit))

    @cached_property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        counted, not_read = plural(len(self.photographs), "photograph"), ""
        if self.num_unreadable:
            not_read = f"; {plural(self.num_unreadable, 'picture')} could not be read"
        judged = self.num_tiles - self.num_not_judged
        if not self.num_cracked:
            return f"No tile of {counted} is called cracked ({judged:,} tiles judged){not_read}."
        name = self.longest.picture
        name = name if len(name) <= MOST_NAME else f"…{name[-MOST_NAME:]}"
        verb = "has" if self.num_cracked == 1 else "have"
        return (
            f"{self.num_cracked:,} of {counted} {verb} tiles that are called cracked, "
            f"{percent(self.share)} of the surface; the longest chain of them, "
            f"{describe_chain(self.longest.figures, self.mm_per_px)}, is in {name}{not_read}."
        )


def describe_chain(figures: Figures, mm_per_px: float | None) -> str:
    """The length of the longest chain in tiles, and in metres where the scale is known."""
    if not figures.chain_px:
        return "none"
    metres = "" if mm_per_px is None else f", {figures.chain_px * mm_per_px / 1000:.2f} m"
    return f"{figures.chain_tiles:.1f} tiles{metres}"


def describe_called(photograph: Photograph) -> str:
    """How many tiles are called cracked, of how many; those of the grids between by themselves."""
    num_between = int(photograph.tiles["is_between"].sum())
    called = f"{photograph.figures.num_called:,} of {plural(photograph.num_tiles, 'tile')}"
    if not num_between:
        return called
    return (
        f"{called} and {photograph.figures.num_called_between:,} of {num_between:,} "
        "overlapping ones"
    )


def write_pages(visit: Visit, folder: Path, *, has_points: bool) -> None:
    """Write `index.html` and `pages/` into the folder of an inspection.

    Args:
        visit: The photographs.
        folder: Folder with `assets/`, `photographs/` and `thumbnails/`.
        has_points: Whether it holds points for a map.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    environment = make_environment(INSPECTION)
    environment.filters |= {"share": percent, "plural": plural, "address": quote}
    environment.globals |= {"describe_called": describe_called, "describe_chain": describe_chain}
    rows = table_rows(visit.table)
    cards = list(zip(visit.photographs, rows, strict=True))
    index = environment.get_template("index.html.jinja")
    photographs = [{"picture": each.picture, "key": each.sha256} for each in visit.photographs]
    unread = table_rows(visit.unread)
    shared: dict[str, Any] = {"visit": visit, "has_points": has_points}
    write_text(
        folder / "index.html",
        index.render(**shared, cards=cards, photographs=photographs, unread=unread),
    )
    page = environment.get_template("photograph.html.jinja")
    for number, (photograph, row) in enumerate(cards):
        url = f"../photographs/{quote(photograph.shown)}"
        shown = photograph.for_viewer(url, mm_per_px=visit.mm_per_px)
        before = visit.photographs[number - 1] if number else None
        after = visit.photographs[number + 1] if number + 1 < len(cards) else None
        write_text(
            folder / row["page"],
            page.render(
                **shared,
                photograph=photograph,
                row=row,
                shown=shown,
                before=before,
                after=after,
                number=number + 1,
            ),
        )
