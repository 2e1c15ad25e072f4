"""Batches of windows against whole tiles that are gathered and reduced, as without any context."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.plan import Plan
from bench.row import Row
from ensemble.data.batches import SplitTiles, make_batch
from ensemble.data.view import IMAGENET_MEAN, IMAGENET_STD, View
from ensemble.training.member import DevelopmentTiles

PART = "windows"
NUM_BATCHES, ROUNDS = 20, 5
AUGMENTATION = 0.5
SHARE = 4  # a tile's side ÷ the margin that is measured


def measure(plan: Plan) -> list[Row]:
    """Batches a second on the CPU in each way, in turns; the best of each.

    The plain way has tiles of full size, as `plan.pack_folder` stores them. Windows come from tiles
    that are stored at the size at which they are seen, too, as in a run. Augmented windows are not
    compared with anything: they show pixels that a tile does not have.
    """
    size, device = plan.image_size_px, torch.device("cpu")
    full = DevelopmentTiles(plan.pack_folder, device).open().train
    small = DevelopmentTiles(plan.pack_as_in_a_run(size), device).open().train
    margin = min(full.tile_size_px) // SHARE
    tile, wider = View(size), View(size, context_px=margin)
    augmented: dict[str, Any] = {
        "augmentation": AUGMENTATION,
        "generator": torch.Generator().manual_seed(0),
    }
    ways: dict[str, Callable[[Tensor], object]] = {
        "plain": partial(gather_and_reduce, full, image_size_px=size),
        "full": partial(make_batch, full, view=tile),
        "small": partial(make_batch, small, view=tile),
        "margin": partial(make_batch, small, view=wider),
        "augmented": partial(make_batch, small, view=tile, **augmented),
        "augmented margin": partial(make_batch, small, view=wider, **augmented),
    }
    speeds = _batches_per_second(ways, len(full), plan.batch_size, small=plan.small)
    of = f"{plan.batch_size} tiles, {size} px"
    plain = "÷ gathering and reducing whole tiles"
    with_margin = f"batches with a margin of {margin} px of the photograph"
    return [
        Row(PART, f"whole tiles gathered and reduced, one batch after another ({of})",
            speeds["plain"], "batches/s"),
        Row(PART, f"batches of tiles stored at their full size {plain}",
            speeds["full"] / speeds["plain"], "ratio", ">= 0.95"),
        Row(PART, f"batches of tiles stored at {size} px {plain}",
            speeds["small"] / speeds["plain"], "ratio", ">= 0.95"),
        Row(PART, f"{with_margin} {plain}", speeds["margin"] / speeds["plain"], "ratio"),
        Row(PART, "augmented batches", speeds["augmented"], "batches/s"),
        Row(PART, f"augmented {with_margin}", speeds["augmented margin"], "batches/s"),
    ]  # fmt: skip


def gather_and_reduce(
    tiles: SplitTiles, index: Tensor, *, image_size_px: int
) -> tuple[Tensor, Tensor]:
    """Make the batch that `make_batch` makes without context, from nothing but rows of pixels."""
    rows = tiles.rows[index].tolist()
    pixels = torch.stack([tiles.pixels[row] for row in rows]).permute(0, 3, 1, 2)
    if pixels.shape[-2:] != (image_size_px, image_size_px):
        pixels = functional.interpolate(
            pixels,
            (image_size_px, image_size_px),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
    mean = 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return torch.addcmul(-mean / std, pixels.float(), 1 / std), tiles.labels[index]


def _batches_per_second(
    ways: dict[str, Callable[[Tensor], object]], num_tiles: int, batch: int, *, small: bool
) -> dict[str, float]:
    """The best of several rounds, after one that is not counted, over the same drawn tiles."""
    order = torch.randperm(num_tiles, generator=torch.Generator().manual_seed(0))
    batches = order.split(batch)[: 2 if small else NUM_BATCHES]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + (1 if small else ROUNDS)):
        for name, make in ways.items():
            started = time.perf_counter()
            for index in batches:
                make(index)
            seconds[name].append(time.perf_counter() - started)
    return {name: len(batches) / min(taken[1:]) for name, taken in seconds.items()}
