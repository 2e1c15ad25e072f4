"""samples.png: training tiles of each surface and class, and one whole photograph with its labels.

It is there to be looked at before anything is trained: wrong labels, a wrong class folder or a
wrong grid show here first.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from ensemble.base.errors import escape
from ensemble.base.wording import plural
from ensemble.data.grid import PLACE, keep_first

SAMPLES_PER_CLASS = 6
SAMPLE_PX = 128
MARGIN_PX = 8
TITLE_PX = 26
NAME_SIZE, NAME_PX = 10, 12  # of a tile's name, and from one of its lines to the next
MOST_NAME_LINES = 6
SHEET_PX = SAMPLES_PER_CLASS * (SAMPLE_PX + MARGIN_PX) + MARGIN_PX  # width
MOST_LINES = 100  # rows or columns of the photograph that are shown
DARK, LIGHT = (0, 0, 0), (255, 225, 0)  # lines side by side: one of them shows on any concrete


def draw_samples(tiles: pd.DataFrame, pixels: np.ndarray, path: Path) -> None:
    """Draw a few tiles of each surface and class, and below them a photograph if grids are known.

    Args:
        tiles: Training tiles: `row` (in `pixels`), `tile`, `photograph`, `surface`, `label`,
            `row_in_photograph` and `column_in_photograph`.
        pixels: (N, H, W, 3) uint8.
        path: Path of the .png to write.
    """
    parts = [_draw_classes(tiles, pixels)]
    shown = _choose_photograph(tiles)
    if shown is not None:
        parts.append(_draw_photograph(shown, pixels))
    sheet = Image.new("RGB", (SHEET_PX, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    sheet.save(path)


def _draw_classes(tiles: pd.DataFrame, pixels: np.ndarray) -> Image.Image:
    """Draw two rows a surface, cracked above uncracked, of as many photographs as there are."""
    groups: list[Any] = sorted(
        tiles.groupby(["surface", "label"]), key=lambda group: (group[0][0], -group[0][1])
    )
    rows = [
        (_title(surface, label, len(group)), _sample(group)) for (surface, label), group in groups
    ]
    names = [[break_name(tile) for tile in sample["tile"]] for _, sample in rows]
    heights = [
        TITLE_PX + SAMPLE_PX + NAME_PX * max(map(len, broken)) + MARGIN_PX for broken in names
    ]
    sheet = Image.new("RGB", (SHEET_PX, MARGIN_PX + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    title_font, name_font = ImageFont.load_default(15), ImageFont.load_default(NAME_SIZE)
    top = MARGIN_PX
    for (title, sample), broken, height in zip(rows, names, heights, strict=True):
        draw.text((MARGIN_PX, top), title, "black", title_font)
        for number, (row, lines) in enumerate(zip(sample["row"], broken, strict=True)):
            x, y = MARGIN_PX + number * (SAMPLE_PX + MARGIN_PX), top + TITLE_PX
            picture = Image.fromarray(np.asarray(pixels[row]))
            sheet.paste(picture.resize((SAMPLE_PX,) * 2, Image.Resampling.BILINEAR), (x, y))
            for line, text in enumerate(lines):
                draw.text((x, y + SAMPLE_PX + line * NAME_PX), text, "black", name_font)
        top += height
    return sheet


def _title(surface: str, label: int, count: int) -> str:
    name = f"surface {surface}, " if surface else ""
    return f"{name}{'cracked' if label else 'uncracked'}: {count:,} training tiles"


def break_name(tile: str) -> list[str]:
    """Break a tile's name, by which `look` finds it, into lines as wide as the tile.

    A line ends behind a slash if it can. Of a very long name the end is shown, which tells more.
    """
    font = ImageFont.load_default(NAME_SIZE)
    lines, rest = [], escape(tile)
    while rest:
        fitting = next(
            n for n in range(len(rest), 0, -1) if n == 1 or font.getlength(rest[:n]) <= SAMPLE_PX
        )
        if fitting < len(rest):
            fitting = rest.rfind("/", 0, fitting) + 1 or fitting
        lines.append(rest[:fitting])
        rest = rest[fitting:]
    if len(lines) > MOST_NAME_LINES:
        lines = ["…", *lines[1 - MOST_NAME_LINES :]]
    return lines


def _sample(group: pd.DataFrame) -> pd.DataFrame:
    """The same few tiles every time, first one of each photograph."""
    lots = group["tile"].map(lambda tile: hashlib.sha256(tile.encode()).hexdigest())
    shuffled = group.assign(lot=lots).sort_values("lot")
    turn = shuffled.groupby("photograph").cumcount()
    return shuffled.assign(turn=turn).sort_values(["turn", "lot"]).head(SAMPLES_PER_CLASS)


def _choose_photograph(tiles: pd.DataFrame) -> pd.DataFrame | None:
    """The tiles of the photograph with the median share of cracks among those that have any.

    Of two halves of photographs a person sees less than of a whole one, so photographs with less
    than half as many tiles as the largest do not count.
    """
    placed = keep_first(tiles[tiles[PLACE[0]] >= 0], PLACE)
    if placed.empty:
        return None
    photographs = placed.groupby("photograph")["label"].agg(["mean", "size"])
    photographs = photographs[photographs["size"] * 2 >= photographs["size"].max()]
    with_cracks = photographs[photographs["mean"] > 0]
    ordered = (photographs if with_cracks.empty else with_cracks).sort_values("mean", kind="stable")
    return placed[placed["photograph"] == ordered.index[len(ordered) // 2]]


def _draw_photograph(tiles: pd.DataFrame, pixels: np.ndarray) -> Image.Image:
    """Put a photograph together from its tiles, as wide as the sheet, and outline cracked ones.

    Args:
        tiles: Tiles of the photograph, no two at one place.
        pixels: (N, H, W, 3) uint8.
    """
    places = tiles[PLACE].to_numpy()
    places = places - places.min(0)
    is_shown = (places < MOST_LINES).all(1)
    tiles, places = tiles[is_shown], places[is_shown]
    num_rows, num_columns = (int(most) + 1 for most in places.max(0))
    width = min(SAMPLE_PX, (SHEET_PX - 2 * MARGIN_PX) // num_columns)
    height = max(1, round(width * pixels.shape[1] / pixels.shape[2]))
    top = MARGIN_PX + TITLE_PX
    sheet = Image.new("RGB", (SHEET_PX, top + num_rows * height + MARGIN_PX), "white")
    draw = ImageDraw.Draw(sheet)
    title = (
        f"photograph {tiles['photograph'].iloc[0]} put together: {plural(len(tiles), 'tile')}, "
        f"{tiles['label'].sum()} cracked (outlined)"
    )
    draw.text((MARGIN_PX, MARGIN_PX), title, "black", ImageFont.load_default(15))
    boxes = [(MARGIN_PX + column * width, top + row * height) for row, column in places]
    for row, place in zip(tiles["row"], boxes, strict=True):
        picture = Image.fromarray(np.asarray(pixels[row]))
        sheet.paste(picture.resize((width, height), Image.Resampling.BOX), place)
    for (x, y), label in zip(boxes, tiles["label"], strict=True):
        if label:
            outline_tile(draw, (x, y, x + width, y + height))
    return sheet


def outline_tile(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int]) -> int:
    """Outline a tile, dark outside and light inside; one that is too small for that is filled.

    Args:
        draw: Picture to draw in.
        box: Left, top, right and bottom of the tile in pixels, the last two outside of it.

    Returns:
        The width of the outline in pixels.
    """
    x1, y1, x2, y2 = box
    side = min(x2 - x1, y2 - y1)
    line = line_px(side)
    if side <= 4 * line:
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), fill=LIGHT)
        return side
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=DARK, width=line)
    inner = x1 + line, y1 + line, x2 - 1 - line, y2 - 1 - line
    draw.rectangle(inner, outline=LIGHT, width=line)
    return 2 * line


def line_px(side_px: int) -> int:
    """Width of each of the two lines around a tile with this shorter side."""
    return max(1, round(side_px / 64))
