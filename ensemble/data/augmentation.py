"""Augmentation: how the images of a batch are turned, moved and lit.

All random numbers come from a generator on the CPU, so that one seed gives one augmentation on
every device, up to rounding. On a CPU, OpenCV changes uint8 images one by one; on a GPU each step
is one operation over the batch, as the GPU is quicker than the CPU can tell it what to do.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NUM_TURNS = 8  # symmetries of a square: flips and quarter turns


class Changes(NamedTuple):
    """What is changed in the B images of a batch.

    Attributes:
        turns: (B,) int64 symmetries of the square.
        contrast: (B,) factor of the distance from mid-grey.
        brightness: (B,) levels, of 255, that are added.
        moved: (C,) int64 numbers of the images that are moved.
        others: (B − C,) int64 numbers of the others.
        matrices: (C, 2, 3) for `affine_grid`, from the result to the image.
        reach: Part of the image's side by which a map may look beyond each side.
    """

    turns: Tensor
    contrast: Tensor
    brightness: Tensor
    moved: Tensor
    others: Tensor
    matrices: Tensor
    reach: float


def draw_changes(
    batch: int, strength: float, tile_part: float, generator: torch.Generator
) -> Changes:
    """Draw how all images are turned and lit, and half of them are moved.

    They are moved by up to ± 15°, ± 10 % in scale and ± 6 % of the tile in place.

    Args:
        batch: Number of images.
        strength: Above 0; at 1 the changes go as far as above.
        tile_part: Side of the tile, as a part of the image's.
        generator: Generator on the CPU.
    """
    turns = torch.randint(NUM_TURNS, (batch,), generator=generator)
    contrast = 1 + 0.3 * strength * _symmetric(batch, generator)
    brightness = 255 * 0.15 * strength * _symmetric(batch, generator)
    is_moved = torch.rand(batch, generator=generator) < 0.5
    moved = is_moved.nonzero().flatten()
    angle = math.radians(15) * strength * _symmetric(batch, generator)[moved]
    zoom = 1 + 0.10 * strength * _symmetric(batch, generator)[moved]
    most_shift = 0.12 * strength * tile_part  # an image is 2 long, from −1 to 1
    shift = most_shift * _symmetric(batch * 2, generator).view(batch, 2)[moved]
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    matrices = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    most_angle = math.radians(15) * strength
    corner = (1 + 0.10 * strength) * (math.cos(most_angle) + math.sin(most_angle)) + most_shift
    others = (~is_moved).nonzero().flatten()
    return Changes(turns, contrast, brightness, moved, others, matrices, (corner - 1) / 2)


def _symmetric(count: int, generator: torch.Generator) -> Tensor:
    """Draw from the uniform distribution on (−1, 1)."""
    return 2 * torch.rand(count, generator=generator) - 1


def turn_all(images: Tensor, turn: int) -> Tensor:
    """Apply one of the square's eight symmetries, 0 to 7: a flip from 4 on, then quarter turns."""
    if turn == 0:
        return images
    return torch.rot90(images.flip(-1) if turn >= 4 else images, turn % 4, (-2, -1))


def turn_each_on_cpu(images: Tensor, turns: Tensor) -> Tensor:
    """Return what `turn_all` makes of each image.

    Args:
        images: (B, C, S, S) uint8, in channels-last memory.
        turns: (B,) symmetries.
    """
    cv2 = _open_cv()
    quarters = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)
    result = torch.empty_like(images)
    source, target = (batch.permute(0, 2, 3, 1).numpy() for batch in (images, result))
    for image, turned, turn in zip(source, target, turns.tolist(), strict=True):
        flipped = cv2.flip(image, 1) if turn >= 4 else image
        if turn % 4:
            cv2.rotate(flipped, quarters[turn % 4 - 1], dst=turned)
        else:
            turned[...] = flipped
    return result


def turn_each_on_gpu(images: Tensor, places: Tensor, turns: Tensor) -> Tensor:
    """Do what `turn_each_on_cpu` does with images of any type that lie in another order.

    Args:
        images: (B, S, S, C).
        places: (B,) int64 on their device: number, in `images`, of each image of the result.
        turns: (B,) int64 on their device: symmetries of the result's images.

    Returns:
        (B, C, S, S), in channels-last memory.
    """
    side, channels = images.shape[1], images.shape[-1]
    source = places[:, None] * side**2 + _turned_pixels(side, images.device)[turns]  # (B, S²)
    turned = images.reshape(-1, channels).index_select(0, source.flatten())
    return turned.view(images.shape).permute(0, 3, 1, 2)


@cache
def _turned_pixels(side: int, device: torch.device) -> Tensor:
    """Pixel of an image from which each pixel comes under each symmetry: (8, side²) int64."""
    numbers = torch.arange(side**2).view(side, side)
    turned = [turn_all(numbers, turn).flatten() for turn in range(NUM_TURNS)]
    return torch.stack(turned).to(device)


def move_on_cpu(seen: Tensor, matrices: Tensor, images: Tensor, moved: Tensor) -> None:
    """Map images, and write them to those places of a batch.

    Args:
        seen: (C, 3, R, R) uint8, in channels-last memory.
        matrices: (C, 2, 3) for `affine_grid`.
        images: (B, 3, S, S) uint8, in channels-last memory, to write to.
        moved: (C,) places.
    """
    cv2 = _open_cv()
    side = images.shape[-1]
    source = seen.permute(0, 2, 3, 1).numpy()  # (C, R, R, 3)
    target = images.permute(0, 2, 3, 1).numpy()
    to_pixels, to_unit = _unit_to_pixels(seen.shape[-1]), np.linalg.inv(_unit_to_pixels(side))
    for image, place, matrix in zip(source, moved.tolist(), matrices.double().numpy(), strict=True):
        target[place] = cv2.warpAffine(
            np.ascontiguousarray(image),
            (to_pixels @ np.vstack([matrix, (0, 0, 1)]) @ to_unit)[:2],
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )


def move_on_gpu(seen: Tensor, matrices: Tensor, side: int) -> Tensor:
    """Return what `move_on_cpu` writes, as (C, 3, side, side) float32; OpenCV rounds it.

    Args:
        seen: (C, 3, R, R).
        matrices: (C, 2, 3), on their device.
        side: Side of the results.
    """
    size = [len(seen), 3, side, side]
    grid = functional.affine_grid(matrices, size, align_corners=False)
    return functional.grid_sample(
        seen.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _unit_to_pixels(size: int) -> np.ndarray:
    """The (3, 3) map from −1 … 1, as `affine_grid` has it, to pixels."""
    return np.array([[size / 2, 0, (size - 1) / 2], [0, size / 2, (size - 1) / 2], [0, 0, 1]])


def _open_cv() -> Any:
    """OpenCV, which is not needed where batches are made on a GPU, with one thread."""
    import cv2

    cv2.setNumThreads(1)  # the other cores have slots of their own
    return cv2
