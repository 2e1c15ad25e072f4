"""A photograph → tiles of the size that the ensemble was trained on.

A network knows cracks at one scale, so a large photograph is not reduced: a regular grid of tiles
covers it, the last row and column shifted inward, so that no pixel is lost and none made up. Only
what shows nothing, such as the transparent frame of an orthomosaic, is painted over or not judged.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from ensemble.data.reading.blank import fill_blank
from ensemble.data.reading.pictures import is_one_tile
from ensemble.data.tiles import resize_picture


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


def cut_tile(picture: Image.Image, box: Box, size: tuple[int, int]) -> np.ndarray | None:
    """The pixels of one tile, (H, W, 3) uint8 of this size; one of another size is resized.

    Returns:
        None where more than half of it is blank.
    """
    right, bottom = box.left_px + box.width_px, box.top_px + box.height_px
    tile = fill_blank(picture.crop((box.left_px, box.top_px, right, bottom)))
    if tile is None:
        return None
    return np.asarray(resize_picture(tile, size))
