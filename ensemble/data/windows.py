"""Windows: a tile with a margin of the photograph around it, put together from bricks.

A pack stores a photograph in bricks, one a tile, as image servers and Zarr store large pictures in
chunks: the window of a tile alone is one contiguous copy, and a hole is a brick that is not there.
Where a neighbour is missing, its place is filled by mirrored pixels: beyond the photograph's rim by
the reflected photograph, in a hole by the reflected brick beside it.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ensemble.data.grid import look_around
from ensemble.data.transfer import send

CENTRE = 4  # of the nine places (row by row) around and under a tile
PLACES = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
FLIP_ROWS, FLIP_COLUMNS = 1, 2  # bits of a flip


class Bricks(NamedTuple):
    """Bricks that make the windows of B tiles.

    Attributes:
        rows: (B, 9) int64, on the CPU: row of the brick at each of `PLACES`.
        flips: (B, 9) uint8, on the CPU: how it is mirrored, bits `FLIP_ROWS` and `FLIP_COLUMNS`.
    """

    rows: Tensor
    flips: Tensor

    def take(self, index: Tensor) -> "Bricks":
        """The bricks of some of the windows; `index` is (C,) int64 on the CPU."""
        return Bricks(self.rows[index], self.flips[index])


def find_neighbours(
    rows: np.ndarray,
    photographs: np.ndarray,
    down: np.ndarray,
    right: np.ndarray,
    *,
    names: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of the bricks around and under each tile.

    Args:
        rows: (N,) row of each tile's own brick.
        photographs: (N,) photograph of each tile.
        down: (N,) row of each tile in its photograph's grid, −1 where it is not known.
        right: (N,) its column.
        names: (N,) names of the tiles; see `look_around`.

    Returns:
        (N, 9) int64 rows at `PLACES`, −1 where no tile is. Of several tiles at one place the first
        by name is everybody's neighbour, and each is its own centre.
    """
    around = look_around(photographs, down, right, reach=1, names=names).reshape(-1, len(PLACES))
    return np.where(around < 0, -1, rows[around])


def fill_gaps(neighbours: np.ndarray) -> Bricks:
    """The bricks of each window, with a mirrored brick where a neighbour is missing.

    Args:
        neighbours: (N, 9) as `find_neighbours` returns it.
    """
    rows = neighbours.copy()
    flips = np.zeros(rows.shape, dtype=np.uint8)
    for place, (dy, dx) in enumerate(PLACES):
        missing = neighbours[:, place] < 0
        beside, above = PLACES.index((0, dx)), PLACES.index((dy, 0))
        for source, flip in (
            (beside, FLIP_ROWS * (dy != 0)),
            (above, FLIP_COLUMNS * (dx != 0)),
            (CENTRE, FLIP_ROWS * (dy != 0) + FLIP_COLUMNS * (dx != 0)),
        ):
            filled = missing & (neighbours[:, source] >= 0)
            rows[filled, place], flips[filled, place] = neighbours[filled, source], flip
            missing &= ~filled
    return Bricks(torch.from_numpy(rows), torch.from_numpy(flips))


def hide_neighbours(bricks: Bricks, hidden: Tensor) -> Bricks:
    """The bricks with the neighbours of some tiles replaced by the mirrored tile itself.

    Args:
        bricks: Bricks of B windows.
        hidden: (B,) bool, on the CPU.
    """
    alone = torch.tensor(
        [FLIP_ROWS * (dy != 0) + FLIP_COLUMNS * (dx != 0) for dy, dx in PLACES], dtype=torch.uint8
    )
    return Bricks(
        torch.where(hidden[:, None], bricks.rows[:, CENTRE, None], bricks.rows),
        torch.where(hidden[:, None], alone, bricks.flips),
    )


def cut_windows(pixels: Tensor, bricks: Bricks, margin: tuple[int, int]) -> Tensor:
    """Put windows together.

    Args:
        pixels: (R, H, W, 3) uint8 bricks.
        bricks: Bricks of B windows.
        margin: Pixels above and below, and to the left and right, at most H and W.

    Returns:
        (B, H + 2 · margin, W + 2 · margin, 3) uint8 on the pixels' device.
    """
    if margin == (0, 0):
        return _gather(pixels, bricks.rows[:, CENTRE])
    (height, width), (down, right) = pixels.shape[1:3], margin
    size = (len(bricks.rows), height + 2 * down, width + 2 * right, 3)
    windows = torch.empty(size, dtype=torch.uint8, device=pixels.device)
    cut = _cut_on_cpu if pixels.device.type == "cpu" else _cut_on_gpu
    cut(pixels, bricks, margin, windows)
    return windows


def _cut_on_cpu(pixels: Tensor, bricks: Bricks, margin: tuple[int, int], windows: Tensor) -> None:
    """Copy part by part: NumPy mirrors while it copies, and starts a copy in a microsecond."""
    (height, width), (down, right) = pixels.shape[1:3], margin
    rows, columns = _spans(height, down), _spans(width, right)
    source, target = pixels.numpy(), windows.numpy()
    parts = [
        (rows[dy].target, columns[dx].target, [
            (rows[dy].source[flip & FLIP_ROWS > 0], columns[dx].source[flip & FLIP_COLUMNS > 0])
            for flip in range(4)
        ])
        for dy, dx in PLACES
    ]  # fmt: skip
    for window, numbers, flips in zip(
        target, bricks.rows.tolist(), bricks.flips.tolist(), strict=True
    ):
        for number, flip, (y, x, sources) in zip(numbers, flips, parts, strict=True):
            window[y, x] = source[number][sources[flip]]


def _cut_on_gpu(pixels: Tensor, bricks: Bricks, margin: tuple[int, int], windows: Tensor) -> None:
    """Copy all parts of one place at once, mirrored or not."""
    (height, width), (down, right) = pixels.shape[1:3], margin
    rows, flipped_down, flipped_right = send(
        pixels.device,
        bricks.rows.view(-1, 3, 3),
        (bricks.flips // FLIP_ROWS % 2).to(torch.int64).view(-1, 3, 3),
        (bricks.flips // FLIP_COLUMNS % 2).to(torch.int64).view(-1, 3, 3),
    )
    parts, sources = _spans(height, down), _list_sources(height, down, pixels.device)
    ys = {dy: (parts[dy].target, sources[dy][flipped_down[:, dy + 1]]) for dy in parts}
    parts, sources = _spans(width, right), _list_sources(width, right, pixels.device)
    xs = {dx: (parts[dx].target, sources[dx][flipped_right[:, :, dx + 1]]) for dx in parts}
    for dy, dx in PLACES:
        (rows_of_part, y), (columns_of_part, x) = ys[dy], xs[dx]  # y and x: (B, 3, n)
        windows[:, rows_of_part, columns_of_part] = pixels[
            rows[:, dy + 1, dx + 1, None, None], y[:, dx + 1, :, None], x[:, dy + 1, None, :]
        ]


@cache
def _list_sources(size: int, margin: int, device: torch.device) -> dict[int, Tensor]:
    """Places in the brick of what each part shows, as it is and mirrored: (2, n) int64."""
    places = np.arange(size)
    return {
        part: torch.from_numpy(np.stack([places[source] for source in span.source])).to(device)
        for part, span in _spans(size, margin).items()
    }


class _Span(NamedTuple):
    """One of three parts of a window along an axis.

    Attributes:
        target: Place in the window.
        source: Place in the brick as it is, and (a negative step) in the mirrored one.
    """

    target: slice
    source: tuple[slice, slice]


def _spans(size: int, margin: int) -> dict[int, _Span]:
    """The part before the tile (−1), of the tile (0), and behind it (1)."""
    whole = slice(0, size)
    last = slice(size - 1, size - 1 - margin if margin < size else None, -1)
    first = slice(margin - 1, None, -1) if margin else slice(0, 0)
    return {
        -1: _Span(slice(0, margin), (slice(size - margin, size), first)),
        0: _Span(slice(margin, margin + size), (whole, whole)),
        1: _Span(slice(margin + size, size + 2 * margin), (slice(0, margin), last)),
    }


def _gather(pixels: Tensor, rows: Tensor) -> Tensor:
    """Take rows of (R, H, W, 3); on a CPU, copying whole rows is ten times quicker."""
    if pixels.device.type == "cpu":
        return torch.stack([pixels[row] for row in rows.tolist()])
    (rows,) = send(pixels.device, rows)
    return pixels[rows]
