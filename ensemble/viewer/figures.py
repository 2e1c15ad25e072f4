"""Tiles of a photograph that are called cracked → how much of it they cover, and how far they go.

`figures.js` counts the same in the browser, where the threshold moves; tests hold the two together.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components, dijkstra  # type: ignore[import-untyped]
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

DECIMALS = 6  # to which lengths are rounded before they are compared, so that ties are ties


class Figures(NamedTuple):
    """What the called tiles of a photograph come to.

    Attributes:
        num_called: Called tiles of the grid that covers the photograph.
        num_called_between: Called tiles of the grids between, which show the same cracks once more.
        called_px: Area in pixels that called tiles cover, each pixel once.
        judged_px: Area in pixels that judged tiles cover.
        chain_px: Length in pixels of the longest chain, from the outer end of its first tile to
            that of its last one; 0 without a called tile.
        chain_tiles: The same in sides of a tile.
    """

    num_called: int
    num_called_between: int
    called_px: int
    judged_px: int
    chain_px: float
    chain_tiles: float

    @property
    def share(self) -> float:
        """Part of what was judged that called tiles cover, 0 to 1."""
        return self.called_px / self.judged_px if self.judged_px else 0.0


def measure_tiles(
    boxes: np.ndarray, called: np.ndarray, judged: np.ndarray, in_first_grid: np.ndarray
) -> Figures:
    """Count called tiles, their area, and the longest chain of them.

    Args:
        boxes: (N, 4) left, top, width and height of tiles in pixels, all of one size.
        called: (N,) whether each is called cracked.
        judged: (N,) whether each was judged.
        in_first_grid: (N,) whether each is of the grid that covers the photograph.
    """
    chain_px, chain_tiles = measure_chain(boxes[called])
    return Figures(
        num_called=int((called & in_first_grid).sum()),
        num_called_between=int((called & ~in_first_grid).sum()),
        called_px=measure_area(boxes[called]),
        judged_px=measure_area(boxes[judged]),
        chain_px=chain_px,
        chain_tiles=chain_tiles,
    )


def measure_area(boxes: np.ndarray) -> int:
    """Area in pixels of boxes (K, 4), where they overlap counted once."""
    if not len(boxes):
        return 0
    left, top = boxes[:, 0], boxes[:, 1]
    right, bottom = left + boxes[:, 2], top + boxes[:, 3]
    xs, ys = np.unique([left, right]), np.unique([top, bottom])
    covered = np.zeros((len(ys) - 1, len(xs) - 1), dtype=bool)
    edges = [np.searchsorted(*pair) for pair in ((ys, top), (ys, bottom), (xs, left), (xs, right))]
    for y1, y2, x1, x2 in zip(*edges, strict=True):
        covered[y1:y2, x1:x2] = True
    return int((covered * np.diff(ys)[:, None] * np.diff(xs)).sum())


def measure_chain(boxes: np.ndarray) -> tuple[float, float]:
    """Length of the longest chain of tiles that touch, also at a corner, or overlap.

    Within each group of connected tiles, a chain is the shortest way from tile to tile between the
    two that lie furthest apart, centre to centre, and a tile's side more. The two are found as in
    a tree: the tile furthest from the first one, and the one furthest from that. Where tiles form
    rings, a longer chain may be missed; none is made up.

    Args:
        boxes: (K, 4) left, top, width and height of tiles in pixels, all of one size.

    Returns:
        Length in pixels, and in sides of a tile; 0 without tiles.
    """
    if not len(boxes):
        return 0.0, 0.0
    sizes = boxes[0, 2:]
    side = float(np.sqrt(sizes.prod()))
    pairs = cKDTree(boxes[:, :2] / sizes).query_pairs(1 + 1e-9, p=np.inf, output_type="ndarray")
    steps = np.sqrt(np.square(boxes[pairs[:, 0], :2] - boxes[pairs[:, 1], :2]).sum(axis=1))
    graph = coo_array((steps, pairs.T), shape=(len(boxes), len(boxes))).tocsr()
    num_groups, groups = connected_components(graph, directed=False)
    starts = np.array([int((groups == group).argmax()) for group in range(num_groups)])
    for _ in range(2):
        distances = dijkstra(graph, directed=False, indices=starts, min_only=True)
        distances = np.round(distances, DECIMALS)
        order = np.lexsort((np.arange(len(boxes)), -distances, groups))
        starts = order[np.unique(groups[order], return_index=True)[1]]  # the furthest of each
    chain_px = float(distances.max()) + side
    return chain_px, chain_px / side
