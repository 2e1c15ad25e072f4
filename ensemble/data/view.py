"""What a network sees of a tile: its size, and how much of the photograph around it."""

from typing import NamedTuple


class View(NamedTuple):
    """A square window around a tile, as a network sees it.

    Attributes:
        image_size_px: Side of the tile in it.
        context_px: Margin around the tile, in the tile's own pixels; where the tile is not square,
            in those of its shorter side.
    """

    image_size_px: int
    context_px: int = 0

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
