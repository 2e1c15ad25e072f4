"""What a network sees of a tile: its size, how much lies around it, and how pixels are scaled."""

from typing import Literal, NamedTuple

Interpolation = Literal["bilinear", "bicubic"]
Colour = tuple[float, float, float]

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)


class View(NamedTuple):
    """A square window around a tile, as a network sees it.

    Attributes:
        image_size_px: Side of the tile in it.
        context_px: Margin around the tile, in the tile's own pixels; where the tile is not square,
            in those of its shorter side.
        mean: Red, green and blue that become 0, of pixels from 0 to 1.
        std: Distances from `mean` that become 1.
        interpolation: Antialiased resize from the pixels that are stored; one to the size at which
            they are stored was done before.
    """

    image_size_px: int
    context_px: int = 0
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    interpolation: Interpolation = "bilinear"

    def margin_px(self, tile_side_px: int) -> int:
        """Pixels of the network's input beyond each side of the tile.

        Args:
            tile_side_px: Side of the tile in its own pixels; of one that is not square, the
                shorter.
        """
        return round(self.context_px * self.image_size_px / tile_side_px)

    def side_px(self, tile_side_px: int) -> int:
        """Side of the network's input; see `margin_px`."""
        return self.image_size_px + 2 * self.margin_px(tile_side_px)

    def margins_of(self, side_px: int, size_px: tuple[int, int]) -> tuple[int, int]:
        """Pixels around a tile, above and below and to the left and right, that an input shows.

        Args:
            side_px: Side of the input, with the margin around the tile.
            size_px: (height, width) of the tile in the pixels that the margin is cut from.
        """
        margin = (side_px - self.image_size_px) / 2
        down, right = (round(margin * n / self.image_size_px) for n in size_px)
        return down, right
