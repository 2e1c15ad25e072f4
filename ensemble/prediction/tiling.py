"""A photograph → tiles of the size that the ensemble was trained on, and what lies around them.

A network knows cracks at one scale, so a large photograph is not reduced: a regular grid of tiles
covers it, the last row and column shifted inward, so that no pixel is lost and none made up. Only
what shows nothing, such as the transparent frame of an orthomosaic, is painted over or not judged.

A crack on the border of two tiles is whole in neither, so more grids may be laid between: each is
the first one moved by a part of a tile. A tile's name says where it lies, in tiles: `r2.5-c1` is
half a tile below `r2-c1`. So the fractions of a name tell the grid of the tile.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ensemble.base.options import OVERLAPS
from ensemble.data.batches import SplitTiles, place_tiles
from ensemble.data.reading.blank import fill_blank
from ensemble.data.reading.pictures import is_one_tile
from ensemble.data.tiles import resize_picture
from ensemble.data.windows import CENTRE, PLACES


class Box(NamedTuple):
    """One tile's place in its picture; `tile` is empty where it is the whole picture."""

    tile: str
    left_px: int
    top_px: int
    width_px: int
    height_px: int

    def beside(self, down: int, right: int) -> "Box":
        """The place so many tiles further down and to the right."""
        left, top = self.left_px + right * self.width_px, self.top_px + down * self.height_px
        return self._replace(tile="", left_px=left, top_px=top)


def lay_grid(
    picture_size: tuple[int, int], tile_size: tuple[int, int], overlap: float = 0.0
) -> list[Box]:
    """The tiles that cover a picture, row by row; one where the picture is not larger.

    In a picture narrower (or lower) than a tile but longer than one and a half, tiles are as wide
    as the picture, in a tile's proportions.

    Where tiles overlap, the grid that covers the picture comes first and the others follow, one
    after another. A row (or column) between two of the first is there where it is whole; none of
    them is shifted inward.

    Args:
        picture_size: (width, height), as Pillow's.
        tile_size: (height, width), as numpy's.
        overlap: Part of a tile's side by which it overlaps the next one, one of `OVERLAPS`.
    """
    (width, height), (tile_height, tile_width) = picture_size, tile_size
    if is_one_tile(picture_size, tile_size):
        return [Box("", 0, 0, width, height)]
    scale = min(1.0, width / tile_width, height / tile_height)
    box_width, box_height = round(scale * tile_width), round(scale * tile_height)
    return [
        Box(f"r{row}-c{column}", left, top, box_width, box_height)
        for rows in _lay_lines(height, box_height, OVERLAPS[overlap])
        for columns in _lay_lines(width, box_width, OVERLAPS[overlap])
        for row, top in rows.items()
        for column, left in columns.items()
    ]


def _lay_lines(length: int, tile: int, num_grids: int) -> list[dict[str, int]]:
    """Start of each row (or column) by its number, from 1, in each grid."""
    grids = [{str(i + 1): min(i * tile, length - tile) for i in range(math.ceil(length / tile))}]
    for grid in range(1, num_grids):
        moved = grid * tile // num_grids
        num_whole = (length - moved) // tile
        grids.append({str(i + 1 + grid / num_grids): moved + i * tile for i in range(num_whole)})
    return grids


def name_grids(tiles: pd.Series) -> pd.Series:
    """The grid of each tile, as the fractions of its name tell it."""
    return tiles.str.replace(r"[rc]\d+", "", regex=True)


def in_first_grid(tiles: pd.Series) -> np.ndarray:
    """Whether tiles of these names are of the grid that covers their picture: (N,) bool."""
    return ~tiles.str.contains(".", regex=False).to_numpy(dtype=bool)


@dataclass
class CutTiles:
    """Tiles cut out of pictures, and what lies around each of them.

    What lies around a tile is cut in bricks of its size, each reduced by itself, as packing reduces
    tiles: so a photograph that is put together from its tiles looks as these do.

    Attributes:
        size_px: (height, width) of a brick.
        has_surroundings: Whether anybody looks at what lies around a tile.
        bricks: Pixels (H, W, 3) uint8 of tiles and what lies around them, each once.
        neighbours: Nine rows of `bricks` for each tile, as `find_neighbours` returns them.
    """

    size_px: tuple[int, int]
    has_surroundings: bool
    bricks: list[np.ndarray] = field(default_factory=list)
    neighbours: list[list[int]] = field(default_factory=list)
    _rows: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def cut(self, picture: Image.Image, number: int, box: Box) -> np.ndarray | None:
        """Cut one brick, unless it was cut before; None where more than half of it is blank.

        Args:
            picture: RGB or RGBA picture from `read_picture`.
            number: Number of the picture among those that are cut.
            box: Place of the brick.
        """
        row = self._cut(picture, number, box)
        return self.bricks[row] if row >= 0 else None

    def add(self, picture: Image.Image, number: int, box: Box) -> None:
        """Take a tile that `cut` returned among those that are scored, with what lies around it."""
        self.neighbours.append(
            [
                self._cut(picture, number, box.beside(down, right))
                if self.has_surroundings or (down, right) == (0, 0)
                else -1
                for down, right in PLACES
            ]
        )

    def place(self, device: torch.device, tile_size_px: tuple[int, int]) -> SplitTiles:
        """Put the tiles that were added where batches are made from; nobody knows their labels."""
        neighbours = np.array(self.neighbours)  # (N, 9)
        return place_tiles(
            np.stack(self.bricks),
            neighbours[:, CENTRE],
            np.zeros(len(neighbours), dtype=np.int64),
            device,
            neighbours=neighbours,
            tile_size_px=tile_size_px,
        )

    def _cut(self, picture: Image.Image, number: int, box: Box) -> int:
        """Row of a brick, −1 where there is none."""
        key = number, box.left_px, box.top_px
        if key not in self._rows:
            pixels = cut_tile(picture, box, self.size_px)
            self._rows[key] = -1 if pixels is None else len(self.bricks)
            if pixels is not None:
                self.bricks.append(pixels)
        return self._rows[key]


def cut_tile(picture: Image.Image, box: Box, size: tuple[int, int]) -> np.ndarray | None:
    """The pixels of a place, (H, W, 3) uint8 of this size; one of another size is resized.

    Where a place lies partly outside, the picture is reflected at its rim.

    Returns:
        None where more than half of it is blank, or all of it lies outside.
    """
    right, bottom = box.left_px + box.width_px, box.top_px + box.height_px
    width, height = picture.size
    if box.left_px >= width or box.top_px >= height or right <= 0 or bottom <= 0:
        return None
    if box.left_px >= 0 and box.top_px >= 0 and right <= width and bottom <= height:
        part = picture.crop((box.left_px, box.top_px, right, bottom))
    else:
        part = _crop_reflected(picture, box)
    tile = fill_blank(part)
    return None if tile is None else resize_picture(tile, size)


def _crop_reflected(picture: Image.Image, box: Box) -> Image.Image:
    columns = _reflect(np.arange(box.left_px, box.left_px + box.width_px), picture.width)
    rows = _reflect(np.arange(box.top_px, box.top_px + box.height_px), picture.height)
    left, top = int(columns.min()), int(rows.min())
    part = picture.crop((left, top, int(columns.max()) + 1, int(rows.max()) + 1))
    pixels = np.asarray(part).take(rows - top, axis=0).take(columns - left, axis=1)
    return Image.fromarray(pixels)  # which an index would leave in an order that is slow to read


def _reflect(places: np.ndarray, length: int) -> np.ndarray:
    """Places less than `length` outside of 0 … `length` − 1, reflected into it."""
    places = np.where(places < 0, -1 - places, places)
    return np.where(places >= length, 2 * length - 1 - places, places)
