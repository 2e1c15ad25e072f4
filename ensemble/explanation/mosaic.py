"""A photograph → tiles of the trained size; verdicts → a picture of where.

A network knows cracks at one scale, so a large photograph is not reduced: a regular grid of tiles
covers it, the last row and column shifted inward, so that no pixel is lost and none made up. Only
what shows nothing, such as the transparent frame of an orthomosaic, is painted over or not judged.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from ensemble.data.reading.blank import fill_blank
from ensemble.data.reading.pictures import is_one_tile

NOT_JUDGED = "not judged"  # verdict on a tile that shows nothing
OVERLAY_PX = 2000  # long side
LEGEND_PX = (560, 110)  # width and height of the strip under the picture
DARK, LIGHT = (0, 0, 0), (255, 225, 0)  # lines side by side: one of them shows on any concrete
GRID_STEP = 30  # by which the grid is lighter than dark concrete and darker than bright
LEAST_TEXT_PX, TEXT_PX = 9, 17
MARGIN_PX, SAMPLE_PX = 12, 60


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


def cut_tile(picture: Image.Image, box: Box, tile_size: tuple[int, int]) -> np.ndarray | None:
    """The pixels of one tile, (H, W, 3) uint8; a picture of another size is resized.

    Returns:
        None where more than half of it is blank.
    """
    right, bottom = box.left_px + box.width_px, box.top_px + box.height_px
    tile = fill_blank(picture.crop((box.left_px, box.top_px, right, bottom)))
    if tile is None:
        return None
    height, width = tile_size
    if tile.size != (width, height):
        tile = tile.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(tile)


def draw_overlay(picture: Image.Image, tiles: pd.DataFrame, *, threshold: float) -> Image.Image:
    """The picture, at most 2000 px long, with cracked tiles outlined, a grid and a legend.

    Within the outline and its number the pixels stay as they are, so that the crack can be judged.

    Args:
        picture: Upright, RGB, of any scale.
        tiles: All of its tiles: `left_px`, `top_px`, `width_px`, `height_px`, `calibrated` (written
            into those that are cracked, where there is room) and `verdict`; those that were not
            judged are crossed out.
        threshold: On the calibrated scale; for the legend.
    """
    right, bottom = tiles["left_px"] + tiles["width_px"], tiles["top_px"] + tiles["height_px"]
    width, height = int(right.max()), int(bottom.max())
    scale = min(1.0, OVERLAY_PX / width, (OVERLAY_PX - LEGEND_PX[1]) / height)
    shown_width, shown_height = max(1, round(width * scale)), max(1, round(height * scale))
    grid = np.zeros((shown_height, shown_width, 1), dtype=bool)
    edges = np.stack([tiles["left_px"], tiles["top_px"], right, bottom], axis=1) * scale
    boxes = np.rint(edges).astype(int)
    for x1, y1, x2, y2 in boxes:
        grid[y1:y2, x1] = grid[y1, x1:x2] = True
    shown_size = (shown_width, shown_height)
    resized = picture.convert("RGB").resize(shown_size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    pixels = np.asarray(resized).astype(np.int16)  # (H, W, 3)
    step = np.where(pixels.mean(axis=2, keepdims=True) < 128, GRID_STEP, -GRID_STEP)
    pixels = np.where(grid, pixels + step, pixels).clip(0, 255)
    sheet_size = max(shown_width, LEGEND_PX[0]), shown_height + LEGEND_PX[1]
    sheet = Image.new("RGB", sheet_size, "white")
    sheet.paste(Image.fromarray(pixels.astype(np.uint8)), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for box in boxes[(tiles["verdict"] == NOT_JUDGED).to_numpy()].tolist():
        _cross_out(draw, box)
    cracked = (tiles["verdict"] == "cracked").to_numpy()
    probabilities = tiles["calibrated"].to_numpy()
    for place in np.argsort(probabilities, kind="stable"):  # the surest on top
        if cracked[place]:
            _mark(draw, boxes[place].tolist(), f"{probabilities[place]:.2f}")
    _draw_legend(draw, shown_height, threshold)
    return sheet


def _mark(draw: ImageDraw.ImageDraw, box: list[int], text: str) -> None:
    """Outline a tile, dark outside and light inside, and write its probability in a corner."""
    x1, y1, x2, y2 = box
    side = min(x2 - x1, y2 - y1)
    line = max(1, round(side / 64))
    if side <= 4 * line:
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), fill=LIGHT)
        return
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=DARK, width=line)
    inner = x1 + line, y1 + line, x2 - 1 - line, y2 - 1 - line
    draw.rectangle(inner, outline=LIGHT, width=line)
    size = min(TEXT_PX, side // 4)
    if size < LEAST_TEXT_PX:
        return
    font = ImageFont.load_default(size)
    left, top = x1 + 2 * line, y1 + 2 * line
    length = math.ceil(draw.textlength(text, font))
    draw.rectangle((left, top, left + length + 4, top + size + 3), fill=DARK)
    draw.text((left + 2, top + 1 + size // 2), text, LIGHT, font, anchor="lm")


def _cross_out(draw: ImageDraw.ImageDraw, box: list[int]) -> None:
    """Draw the diagonals of a tile, light on dark."""
    x1, y1, x2, y2 = box
    for colour, width in ((DARK, 3), (LIGHT, 1)):
        draw.line((x1, y1, x2 - 1, y2 - 1), fill=colour, width=width)
        draw.line((x1, y2 - 1, x2 - 1, y1), fill=colour, width=width)


def _draw_legend(draw: ImageDraw.ImageDraw, top: int, threshold: float) -> None:
    """A tile as it is marked, and what the mark and the lines say."""
    font = ImageFont.load_default(TEXT_PX)
    sample = [MARGIN_PX, top + MARGIN_PX, MARGIN_PX + SAMPLE_PX, top + MARGIN_PX + SAMPLE_PX]
    draw.rectangle((sample[0], sample[1], sample[2] - 1, sample[3] - 1), fill=(150, 150, 150))
    _mark(draw, sample, "0.87")
    for number, line in enumerate(
        (
            f"called cracked, with its calibrated probability (from {threshold:.3f})",
            "thin lines alone: called uncracked",
            "crossed out: not judged, as most of it is blank",
        )
    ):
        place = 2 * MARGIN_PX + SAMPLE_PX, top + MARGIN_PX + 6 + 26 * number
        draw.text(place, line, "black", font)
