"""A photograph → tiles of the trained size; verdicts → a picture of where.

A network knows cracks at one scale, so a large photograph is not reduced: a regular grid of tiles
covers it, the last row and column shifted inward, so that no pixel is lost and none made up.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from ensemble.data.pictures import is_one_tile

OVERLAY_PX = 2000  # long side
LEGEND_PX = (560, 84)  # width and height of the strip under the picture
RED = np.array([255.0, 20.0, 40.0]) / 255  # a filter: cracks stay dark behind it
MARGIN_PX, BAR_PX, TEXT_PX = 12, 16, 17


class Box(NamedTuple):
    """One tile's place in its picture; `tile` is empty where it is the whole picture."""

    tile: str
    left_px: int
    top_px: int
    width_px: int
    height_px: int


def lay_grid(picture_size: tuple[int, int], tile_size: tuple[int, int]) -> list[Box]:
    """The tiles that cover a picture, row by row; one where the picture is not larger.

    In a picture narrower (or lower) than a tile but longer than one and a half, tiles are as wide
    as the picture, in a tile's proportions.

    Args:
        picture_size: (width, height), as Pillow's.
        tile_size: (height, width), as numpy's.
    """
    (width, height), (tile_height, tile_width) = picture_size, tile_size
    if is_one_tile(picture_size, tile_size):
        return [Box("", 0, 0, width, height)]
    scale = min(1.0, width / tile_width, height / tile_height)
    box_width, box_height = round(scale * tile_width), round(scale * tile_height)
    return [
        Box(f"r{row}-c{column}", left, top, box_width, box_height)
        for row, top in enumerate(_starts(height, box_height), 1)
        for column, left in enumerate(_starts(width, box_width), 1)
    ]


def _starts(length: int, tile: int) -> list[int]:
    return [min(i * tile, length - tile) for i in range(math.ceil(length / tile))]


def cut_tile(picture: Image.Image, box: Box, tile_size: tuple[int, int]) -> np.ndarray:
    """The pixels of one tile, (H, W, 3) uint8; a picture of another size is resized."""
    right, bottom = box.left_px + box.width_px, box.top_px + box.height_px
    tile = picture.crop((box.left_px, box.top_px, right, bottom))
    height, width = tile_size
    if tile.size != (width, height):
        tile = tile.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(tile)


def draw_overlay(picture: Image.Image, tiles: pd.DataFrame, *, threshold: float) -> Image.Image:
    """The picture, at most 2000 px long, with cracked tiles in red, a grid and a legend.

    Args:
        picture: Upright, RGB, of any scale.
        tiles: All of its tiles: `left_px`, `top_px`, `width_px`, `height_px`, `calibrated` (the
            redder, the surer) and `verdict`.
        threshold: On the calibrated scale; for the legend.
    """
    right, bottom = tiles["left_px"] + tiles["width_px"], tiles["top_px"] + tiles["height_px"]
    width, height = int(right.max()), int(bottom.max())
    scale = min(1.0, OVERLAY_PX / width, (OVERLAY_PX - LEGEND_PX[1]) / height)
    shown_width, shown_height = max(1, round(width * scale)), max(1, round(height * scale))
    redness = np.zeros((shown_height, shown_width, 1))
    grid = np.zeros((shown_height, shown_width, 1), dtype=bool)
    edges = np.stack([tiles["left_px"], tiles["top_px"], right, bottom], axis=1) * scale
    for (x1, y1, x2, y2), probability, verdict in zip(
        np.rint(edges).astype(int), tiles["calibrated"], tiles["verdict"], strict=True
    ):
        grid[y1:y2, x1] = grid[y1, x1:x2] = True
        if verdict == "cracked":
            place = redness[y1:y2, x1:x2]
            np.maximum(place, _redness(probability), out=place)
    resized = picture.resize(
        (shown_width, shown_height), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    pixels = np.asarray(resized, dtype=np.float64)
    pixels *= 1 - redness * (1 - RED)
    pixels = np.where(grid, pixels * 0.75 + 255 * 0.25, pixels)
    sheet_size = max(shown_width, LEGEND_PX[0]), shown_height + LEGEND_PX[1]
    sheet = Image.new("RGB", sheet_size, "white")
    sheet.paste(Image.fromarray(np.rint(pixels).astype(np.uint8)), (0, 0))
    _draw_legend(sheet, shown_height, threshold)
    return sheet


def _redness(probability: float) -> float:
    return 0.2 + 0.5 * probability


def _draw_legend(sheet: Image.Image, top: int, threshold: float) -> None:
    """A bar from 0 to 1, painted as tiles are on grey concrete, with the threshold marked."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    draw.text((MARGIN_PX, top + 4), "probability of a crack, calibrated", "black", font)
    left, length, bar_top = MARGIN_PX, LEGEND_PX[0] - 2 * MARGIN_PX, top + 30
    for x in range(length):
        probability = x / (length - 1)
        redness = _redness(probability) if probability >= threshold else 0.0
        colour = np.rint(180 * (1 - redness * (1 - RED))).astype(int)
        draw.line((left + x, bar_top, left + x, bar_top + BAR_PX), tuple(colour.tolist()))
    place = left + round(threshold * (length - 1))
    draw.line((place, bar_top - 3, place, bar_top + BAR_PX + 3), "black", 2)
    text_top = bar_top + BAR_PX + 6
    draw.text((left, text_top), "0", "black", font)
    draw.text((left + length, text_top), "1", "black", font, anchor="ra")
    label = f"cracked from {threshold:.3g}"
    half = draw.textlength(label, font) / 2
    middle = min(max(place, left + 24 + half), left + length - 24 - half)
    draw.text((middle, text_top), label, "black", font, anchor="ma")
