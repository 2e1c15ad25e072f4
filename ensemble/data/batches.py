"""Batches on a device: cut windows, reduce to the input size, augment each sample, normalise.

Pixels stay uint8 until the batch is made. On a GPU with room the whole split lies in its memory; on
a CPU they come from the mapped pack. A GPU is never waited for while a batch is made.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ensemble.data.augmentation import (
    Changes,
    draw_changes,
    move_on_cpu,
    move_on_gpu,
    turn_all,
    turn_each_on_cpu,
    turn_each_on_gpu,
)
from ensemble.data.pack import Pack
from ensemble.data.resize import resize_pixels
from ensemble.data.transfer import send
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
        folds: (N,) int64 on the CPU: fold of each tile, where it is to be scored by the networks
            that left that fold out; None where all networks score it.
        doubted: (N,) bool on `device`: whether a tile's label is doubted; None where nobody says.
    """

    pixels: Tensor
    neighbours: Tensor
    labels: Tensor
    device: torch.device
    tile_size_px: tuple[int, int]
    folds: Tensor | None = None
    doubted: Tensor | None = None

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
        there = index.to(self.device)
        return replace(
            self,
            neighbours=self.neighbours[index],
            labels=self.labels[there],
            folds=None if self.folds is None else self.folds[index],
            doubted=None if self.doubted is None else self.doubted[there],
        )

    def input_side_px(self, view: View) -> int:
        """Side of a network's input."""
        return view.side_px(min(self.tile_size_px))


def place_pixels(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Put (R, H, W, 3) uint8 wholly on the GPU if it leaves room for training, else nowhere new."""
    tensor = torch.from_numpy(pixels)
    if device.type == "cuda" and tensor.numel() <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        return tensor.to(device)
    return tensor


def place_tiles(
    pixels: np.ndarray | Tensor,
    rows: np.ndarray,
    labels: np.ndarray,
    device: torch.device,
    *,
    neighbours: np.ndarray | None = None,
    tile_size_px: tuple[int, int] | None = None,
) -> SplitTiles:
    """Put tiles where batches are made from.

    Args:
        pixels: (R, H, W, 3) uint8, usually mapped, or a tensor of them that is placed already.
        rows: (N,) rows of the tiles in `pixels`.
        labels: (N,) 1 = cracked.
        device: Device of the batches.
        neighbours: (N, 9) rows of the tiles around each; None where no photograph's grid is known.
        tile_size_px: (height, width) of the tiles as they were; None where `pixels` are not
            reduced.
    """
    if neighbours is None:
        neighbours = np.full((len(rows), len(PLACES)), -1)
        neighbours[:, CENTRE] = rows
    height, width = pixels.shape[1:3]
    return SplitTiles(
        pixels=pixels if isinstance(pixels, Tensor) else place_pixels(pixels, device),
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
    return place_table(pack, table, pack.pixels(split), device), table


def place_table(
    pack: Pack, table: pd.DataFrame, pixels: np.ndarray | Tensor, device: torch.device
) -> SplitTiles:
    """Put some tiles of a pack where batches are made from; only these are each other's neighbours.

    Args:
        pack: The pack.
        table: Tiles of one of its arrays, as `pack.table` returns them.
        pixels: The array, or a tensor of it that is placed already.
        device: Device of the batches.
    """
    rows = table["row"].to_numpy(np.int64)
    neighbours = find_neighbours(
        rows,
        table["photograph"].to_numpy(),
        table["row_in_photograph"].to_numpy(),
        table["column_in_photograph"].to_numpy(),
        names=table["tile"].to_numpy(),
    )
    return place_tiles(
        pixels,
        rows,
        table["label"].to_numpy(np.int64),
        device,
        neighbours=neighbours,
        tile_size_px=pack.tile_size_px,
    )


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
    if generator is None or augmentation == 0:
        images = turn_all(_see(tiles, bricks, side, view), turn)
        contrast, brightness = torch.ones(batch), torch.zeros(batch)
    else:
        changes = draw_changes(batch, augmentation, view.image_size_px / side, generator)
        see = _see_changed_on_cpu if tiles.device.type == "cpu" else _see_changed_on_gpu
        images = see(tiles, bricks, side, view, changes)
        contrast, brightness = changes.contrast, changes.brightness
    scale, shift = _scale_and_shift(view, contrast, brightness)
    index, scale, shift = send(tiles.device, index, scale, shift)
    return _normalise(images, scale, shift), tiles.labels[index]


def _see(tiles: SplitTiles, bricks: Bricks, side: int, view: View) -> Tensor:
    """Windows around tiles at the scale of `view`: (B, 3, side, side) from 0 to 255."""
    height, width = tiles.pixels.shape[1:3]
    pixels = cut_windows(tiles.pixels, bricks, view.margins_of(side, (height, width)))
    if pixels.device.type == "cpu":
        (pixels,) = send(tiles.device, pixels)
    return resize_pixels(pixels.permute(0, 3, 1, 2), (side, side), view.interpolation)


def _see_changed_on_cpu(
    tiles: SplitTiles, bricks: Bricks, side: int, view: View, changes: Changes
) -> Tensor:
    """Windows as `_see` returns them, changed in all but their light: uint8."""
    batch = len(bricks.rows)
    images = torch.empty((batch, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    if len(changes.others):
        seen = _see(tiles, bricks.take(changes.others), side, view)
        for image, place in zip(seen, changes.others.tolist(), strict=True):
            images[place] = image  # five times quicker than by an index
    if len(changes.moved):
        wider = _wider_side(side, view, changes)
        seen = _see(tiles, bricks.take(changes.moved), wider, view)
        move_on_cpu(seen, changes.matrices * (side / wider), images, changes.moved)
    return turn_each_on_cpu(images, changes.turns)


def _see_changed_on_gpu(
    tiles: SplitTiles, bricks: Bricks, side: int, view: View, changes: Changes
) -> Tensor:
    """Do with float32 what `_see_changed_on_cpu` does, and never wait for the GPU."""
    wider = _wider_side(side, view, changes)
    places, turns, matrices = send(
        tiles.device,
        torch.cat([changes.others, changes.moved]).argsort(),
        changes.turns,
        changes.matrices * (side / wider),
    )
    images = torch.empty((len(places), side, side, 3), device=tiles.device)
    num_others = len(changes.others)
    if num_others:
        seen = _see(tiles, bricks.take(changes.others), side, view)
        images[:num_others] = seen.permute(0, 2, 3, 1)
    if len(changes.moved):
        seen = _see(tiles, bricks.take(changes.moved), wider, view)
        images[num_others:] = move_on_gpu(seen, matrices, side).permute(0, 2, 3, 1)
    return turn_each_on_gpu(images, places, turns)


def _wider_side(side: int, view: View, changes: Changes) -> int:
    """Side of the windows that moved images are cut from; none goes beyond a tile's neighbours."""
    tile_side = view.image_size_px
    return side + 2 * min(math.ceil(changes.reach * side), tile_side - (side - tile_side) // 2)


def _scale_and_shift(view: View, contrast: Tensor, brightness: Tensor) -> tuple[Tensor, Tensor]:
    """What `_normalise` needs, (B, 3, 1, 1) each, to change the light by (B,) as `view` says."""
    mean = 255 * torch.tensor(view.mean).view(1, 3, 1, 1)
    std = 255 * torch.tensor(view.std).view(1, 3, 1, 1)
    middle = 127.5 * (1 - contrast) + brightness
    return contrast.view(-1, 1, 1, 1) / std, (middle.view(-1, 1, 1, 1) - mean) / std


def _normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift (B, 3, S, S) in float32.

    One multiply-add over the batch is quick; each image and channel has factors of its own, which
    are repeated along a row of pixels, as torch computes over long runs of memory only.
    """
    row = (-1, -1, 1, images.shape[-1])
    scale, shift = (
        factor.expand(row).contiguous(memory_format=torch.channels_last)
        for factor in (scale, shift)
    )  # (B, 3, 1, S)
    scaled = images.to(torch.float32, copy=True, memory_format=torch.channels_last)
    return torch.addcmul(shift, scaled, scale, out=scaled)
