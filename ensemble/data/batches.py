"""Batches on a device: cut windows, reduce to the input size, augment each sample, normalise.

Pixels stay uint8 until the batch is made. On a GPU with room the whole split lies in its memory; on
a CPU they come from the mapped pack. All random numbers come from a generator on the CPU, so that
one seed gives one augmentation on every device, up to rounding.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from ensemble.data.pack import Pack
from ensemble.data.resize import resize_pixels
from ensemble.data.view import View
from ensemble.data.windows import (
    CENTRE,
    PLACES,
    Bricks,
    cut_windows,
    fill_gaps,
    find_neighbours,
    hide_neighbours,
)

NUM_TURNS = 8  # symmetries of a square: flips and quarter turns
GPU_SHARE = 0.4  # of the free memory, which the pixels of one split may take


@dataclass(frozen=True)
class SplitTiles:
    """The tiles of one split.

    Attributes:
        pixels: (R, H, W, 3) uint8, on the device where they fit, else on the host.
        neighbours: (N, 9) int64 on the CPU: rows of the tiles around and under each tile in its
            photograph, −1 where there is none; see `ensemble.data.windows.PLACES`.
        labels: (N,) int64 on `device`, 1 = cracked.
        device: Device on which batches are made.
        tile_size_px: (height, width) of a tile's own pixels, of which H and W may be reduced ones.
    """

    pixels: Tensor
    neighbours: Tensor
    labels: Tensor
    device: torch.device
    tile_size_px: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rows(self) -> Tensor:
        """Row of each tile in `pixels`: (N,) int64 on the CPU."""
        return self.neighbours[:, CENTRE]

    @cached_property
    def bricks(self) -> Bricks:
        """What the window of each tile is made of."""
        return fill_gaps(self.neighbours.numpy())

    @cached_property
    def has_neighbours(self) -> np.ndarray:
        """Whether any neighbour of each tile is known: (N,) bool."""
        return (self.neighbours >= 0).sum(1).numpy() > 1

    def take(self, index: Tensor) -> "SplitTiles":
        """Some of the tiles, which see the same neighbours as before.

        Args:
            index: (K,) int64 on the CPU: numbers of the tiles.
        """
        labels = self.labels[index.to(self.device)]
        return replace(self, neighbours=self.neighbours[index], labels=labels)

    def input_side_px(self, view: View) -> int:
        """Side of a network's input."""
        return view.side_px(min(self.tile_size_px))


def place_tiles(
    pixels: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    device: torch.device,
    *,
    neighbours: np.ndarray | None = None,
    tile_size_px: tuple[int, int] | None = None,
) -> SplitTiles:
    """Put a split where batches are made from, wholly on the GPU if it leaves room for training.

    Args:
        pixels: (R, H, W, 3) uint8, usually mapped.
        rows: (N,) rows of the tiles in `pixels`.
        labels: (N,) 1 = cracked.
        device: Device of the batches.
        neighbours: (N, 9) rows of the tiles around each; None where no photograph's grid is known.
        tile_size_px: (height, width) of the tiles as they were; None where `pixels` are not
            reduced.
    """
    tensor = torch.from_numpy(pixels)
    if device.type == "cuda" and tensor.numel() <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        tensor = tensor.to(device)
    if neighbours is None:
        neighbours = np.full((len(rows), len(PLACES)), -1)
        neighbours[:, CENTRE] = rows
    height, width = pixels.shape[1:3]
    return SplitTiles(
        pixels=tensor,
        neighbours=torch.tensor(neighbours, dtype=torch.int64),
        labels=torch.tensor(labels, dtype=torch.int64, device=device),
        device=device,
        tile_size_px=tile_size_px or (height, width),
    )


def place_split(pack: Pack, split: str, device: torch.device) -> tuple[SplitTiles, pd.DataFrame]:
    """Put a split of a pack where batches are made from.

    Returns:
        The tiles, and their table in the same order.
    """
    table = pack.table(split)
    rows = table["row"].to_numpy(np.int64)
    neighbours = find_neighbours(
        rows,
        table["photograph"].to_numpy(),
        table["row_in_photograph"].to_numpy(),
        table["column_in_photograph"].to_numpy(),
        names=table["tile"].to_numpy(),
    )
    tiles = place_tiles(
        pack.pixels(split),
        rows,
        table["label"].to_numpy(np.int64),
        device,
        neighbours=neighbours,
        tile_size_px=pack.tile_size_px,
    )
    return tiles, table


def make_batch(
    tiles: SplitTiles,
    index: Tensor,
    view: View,
    *,
    alone: bool = False,
    turn: int = 0,
    augmentation: float = 0.0,
    context_dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Make one batch.

    Args:
        tiles: Tiles of one split.
        index: (B,) int64 on the CPU: numbers of the tiles.
        view: What the network sees of a tile.
        alone: Whether the margin is the mirrored tile instead of its neighbours.
        turn: One of the square's eight symmetries, applied to all images; 0 leaves them.
        augmentation: Strength from 0 (none, no random number drawn) to 1; shifts and rotations
            bring in what lies around the tile.
        context_dropout: Share of images whose neighbours are hidden, as by `alone`.
        generator: Generator on the CPU; needed where `augmentation` or `context_dropout` is above
            0.

    Returns:
        Images (B, 3, S, S) float32, normalised as `view` says, in channels-last memory, and labels
        (B,) int64.
    """
    batch, bricks = len(index), tiles.bricks.take(index)
    if generator is None and (augmentation > 0 or context_dropout > 0):
        raise ValueError("augmentation needs a generator")
    if view.context_px > 0 and context_dropout > 0:
        hidden = torch.rand(batch, generator=generator) < context_dropout
        bricks = hide_neighbours(bricks, hidden)
    elif alone:
        bricks = hide_neighbours(bricks, torch.ones(batch, dtype=torch.bool))
    side = tiles.input_side_px(view)
    contrast, brightness = torch.ones(batch), torch.zeros(batch)
    if generator is None or augmentation == 0:
        images = _see(tiles, bricks, side, view)
        images = _turn(images, turn) if turn else images
    else:
        turns = torch.randint(NUM_TURNS, (batch,), generator=generator)
        contrast = 1 + 0.3 * augmentation * _symmetric(batch, generator)
        brightness = 255 * 0.15 * augmentation * _symmetric(batch, generator)
        moves = _draw_moves(batch, augmentation, view.image_size_px / side, generator)
        images = _apply_symmetries(_see_moved(tiles, bricks, side, view, moves), turns)
    labels = tiles.labels[index.to(tiles.device)]
    return _normalise(images, view, contrast, brightness), labels


def _see(tiles: SplitTiles, bricks: Bricks, side: int, view: View) -> Tensor:
    """Windows around tiles at the scale of `view`: (B, 3, side, side) from 0 to 255."""
    tile_side = view.image_size_px
    margin = (side - tile_side) / 2
    down, right = (round(margin * n / tile_side) for n in tiles.pixels.shape[1:3])
    pixels = cut_windows(tiles.pixels, bricks, (down, right)).to(tiles.device, non_blocking=True)
    return resize_pixels(pixels.permute(0, 3, 1, 2), (side, side), view.interpolation)


def _normalise(images: Tensor, view: View, contrast: Tensor, brightness: Tensor) -> Tensor:
    """Change the light of (B, 3, S, S) from 0 to 255 by (B,) each, and scale as `view` says.

    One multiply-add over the batch is quick; each image and channel has factors of its own, which
    are repeated along a row of pixels, as torch computes over long runs of memory only.
    """
    row = (-1, -1, 1, images.shape[-1])
    mean = 255 * torch.tensor(view.mean).view(1, 3, 1, 1)
    std = 255 * torch.tensor(view.std).view(1, 3, 1, 1)
    middle = 127.5 * (1 - contrast) + brightness
    scale, shift = (
        factor.to(images.device).expand(row).contiguous(memory_format=torch.channels_last)
        for factor in (contrast.view(-1, 1, 1, 1) / std, (middle.view(-1, 1, 1, 1) - mean) / std)
    )  # (B, 3, 1, S)
    scaled = images.to(torch.float32, copy=True, memory_format=torch.channels_last)
    return torch.addcmul(shift, scaled, scale, out=scaled)


def _turn(images: Tensor, turn: int) -> Tensor:
    """Apply one of the square's eight symmetries, 0 to 7: a flip from 4 on, then quarter turns."""
    return torch.rot90(images.flip(-1) if turn >= 4 else images, turn % 4, (-2, -1))


def _apply_symmetries(images: Tensor, turns: Tensor) -> Tensor:
    """Apply a symmetry of its own to each image; `turns` (B,) from 0 to 7."""
    result = torch.empty_like(images)
    if images.device.type == "cpu":
        _turn_on_cpu(images, turns, result)
        return result
    for turn in range(NUM_TURNS):
        chosen = (turns == turn).nonzero().flatten().to(images.device)
        result[chosen] = _turn(images[chosen], turn)
    return result


def _turn_on_cpu(images: Tensor, turns: Tensor, result: Tensor) -> None:
    """Write what `_turn` makes of each uint8 image; OpenCV takes a fifth of the time."""
    cv2 = _open_cv()
    quarters = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)
    source, target = (batch.permute(0, 2, 3, 1).numpy() for batch in (images, result))
    for image, turned, turn in zip(source, target, turns.tolist(), strict=True):
        flipped = cv2.flip(image, 1) if turn >= 4 else image
        if turn % 4:
            cv2.rotate(flipped, quarters[turn % 4 - 1], dst=turned)
        else:
            turned[...] = flipped


def _open_cv() -> Any:
    """OpenCV, which is not needed where batches are made on a GPU, with one thread."""
    import cv2

    cv2.setNumThreads(1)  # the other cores have slots of their own
    return cv2


class _Moves(NamedTuple):
    """Affine maps of some images of a batch.

    Attributes:
        chosen: (C,) int64 numbers of the images.
        matrices: (C, 2, 3) for `affine_grid`, from the result to the image.
        reach: Part of the image's side by which a map may look beyond each side.
    """

    chosen: Tensor
    matrices: Tensor
    reach: float


def _draw_moves(
    batch: int, strength: float, tile_part: float, generator: torch.Generator
) -> _Moves:
    """Map half of the images by up to ± 15°, ± 10 % in scale and ± 6 % of the tile in place.

    `tile_part` is the side of the tile, as a part of the image's.
    """
    chosen = (torch.rand(batch, generator=generator) < 0.5).nonzero().flatten()
    angle = math.radians(15) * strength * _symmetric(batch, generator)[chosen]
    zoom = 1 + 0.10 * strength * _symmetric(batch, generator)[chosen]
    most_shift = 0.12 * strength * tile_part  # an image is 2 long, from −1 to 1
    shift = most_shift * _symmetric(batch * 2, generator).view(batch, 2)[chosen]
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    matrices = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    most_angle = math.radians(15) * strength
    corner = (1 + 0.10 * strength) * (math.cos(most_angle) + math.sin(most_angle)) + most_shift
    return _Moves(chosen, matrices, (corner - 1) / 2)


def _see_moved(tiles: SplitTiles, bricks: Bricks, side: int, view: View, moves: _Moves) -> Tensor:
    """Windows as `_see` returns them, some of them moved over what lies around them."""
    is_moved = torch.zeros(len(bricks.rows), dtype=torch.bool)
    is_moved[moves.chosen] = True
    others = (~is_moved).nonzero().flatten()
    tile_side = view.image_size_px
    # a window goes no further than the tile's neighbours
    wider = side + 2 * min(math.ceil(moves.reach * side), tile_side - (side - tile_side) // 2)
    images = torch.empty(
        (len(is_moved), side, side, 3),
        dtype=torch.uint8 if tiles.device.type == "cpu" else torch.float32,
        device=tiles.device,
    ).permute(0, 3, 1, 2)
    if len(others):
        seen = _see(tiles, bricks.take(others), side, view)
        if tiles.device.type == "cpu":  # five times quicker than by an index
            for image, place in zip(seen, others.tolist(), strict=True):
                images[place] = image
        else:
            images[others.to(tiles.device)] = seen.to(images.dtype)
    if len(moves.chosen):
        seen = _see(tiles, bricks.take(moves.chosen), wider, view)
        warp = _warp_on_cpu if tiles.device.type == "cpu" else _warp_on_gpu
        warp(seen, moves.matrices * (side / wider), images, moves.chosen)
    return images


def _warp_on_gpu(seen: Tensor, matrices: Tensor, images: Tensor, chosen: Tensor) -> None:
    """Write (C, 3, R, R), mapped by (C, 2, 3), to the `chosen` of (B, 3, S, S) float32."""
    size = [len(seen), 3, *images.shape[-2:]]
    grid = functional.affine_grid(matrices.to(seen.device), size, align_corners=False)
    images[chosen.to(images.device)] = functional.grid_sample(
        seen.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _warp_on_cpu(seen: Tensor, matrices: Tensor, images: Tensor, chosen: Tensor) -> None:
    """Do with uint8 images what `_warp_on_gpu` does; OpenCV takes a quarter of the time."""
    cv2 = _open_cv()
    side = images.shape[-1]
    source = seen.permute(0, 2, 3, 1).numpy()  # (C, R, R, 3)
    target = images.permute(0, 2, 3, 1).numpy()
    to_pixels, to_unit = _unit_to_pixels(seen.shape[-1]), np.linalg.inv(_unit_to_pixels(side))
    for image, place, matrix in zip(
        source, chosen.tolist(), matrices.double().numpy(), strict=True
    ):
        target[place] = cv2.warpAffine(
            np.ascontiguousarray(image),
            (to_pixels @ np.vstack([matrix, (0, 0, 1)]) @ to_unit)[:2],
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )


def _unit_to_pixels(size: int) -> np.ndarray:
    """The (3, 3) map from −1 … 1, as `affine_grid` has it, to pixels."""
    return np.array([[size / 2, 0, (size - 1) / 2], [0, size / 2, (size - 1) / 2], [0, 0, 1]])


def _symmetric(count: int, generator: torch.Generator) -> Tensor:
    """Draw from the uniform distribution on (−1, 1)."""
    return 2 * torch.rand(count, generator=generator) - 1
