"""Batches on a device: gather rows, reduce to the input size, augment each sample, normalise.

Pixels stay uint8 until the batch is made. On a GPU with room the whole split lies in its memory; on
a CPU the rows come from the mapped pack. All random numbers come from a generator on the CPU, so
that one seed gives one augmentation on every device, up to rounding.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GPU_SHARE = 0.4  # of the free memory, which the pixels of one split may take


@dataclass(frozen=True)
class SplitTiles:
    """The tiles of one split.

    Attributes:
        pixels: (R, H, W, 3) uint8, on the device where they fit, else on the host.
        rows: (N,) int64 on the pixels' device: row of each tile in `pixels`.
        labels: (N,) int64 on `device`, 1 = cracked.
        device: Device on which batches are made.
    """

    pixels: Tensor
    rows: Tensor
    labels: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)


def place_tiles(
    pixels: np.ndarray, rows: np.ndarray, labels: np.ndarray, device: torch.device
) -> SplitTiles:
    """Put a split where batches are made from, wholly on the GPU if it leaves room for training.

    Args:
        pixels: (R, H, W, 3) uint8, usually mapped.
        rows: (N,) rows of the tiles in `pixels`.
        labels: (N,) 1 = cracked.
        device: Device of the batches.
    """
    tensor = torch.from_numpy(pixels)
    if device.type == "cuda" and tensor.numel() <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        tensor = tensor.to(device)
    return SplitTiles(
        pixels=tensor,
        rows=torch.tensor(rows, dtype=torch.int64, device=tensor.device),
        labels=torch.tensor(labels, dtype=torch.int64, device=device),
        device=device,
    )


def make_batch(
    tiles: SplitTiles,
    index: Tensor,
    *,
    image_size_px: int,
    turn: int = 0,
    augmentation: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Make one batch.

    Args:
        tiles: Tiles of one split.
        index: (B,) int64 on the CPU: numbers of the tiles.
        image_size_px: Side S of the square input.
        turn: One of the square's eight symmetries, applied to all images; 0 leaves them.
        augmentation: Strength from 0 (none, no random number drawn) to 1.
        generator: Generator on the CPU; needed where `augmentation` is above 0.

    Returns:
        Images (B, 3, S, S) float32, normalised with ImageNet's mean and standard deviation, in
        channels-last memory, and labels (B,) int64.
    """
    rows = tiles.rows[index.to(tiles.rows.device)]
    pixels = _gather(tiles.pixels, rows).to(tiles.device, non_blocking=True)  # (B, H, W, 3)
    labels = tiles.labels[index.to(tiles.device)]
    images = _reduce(pixels.permute(0, 3, 1, 2), image_size_px)  # (B, 3, S, S) 0–255
    images = _turn(images, turn) if turn else images
    contrast, brightness = torch.ones(len(index)), torch.zeros(len(index))
    if augmentation > 0:
        if generator is None:
            raise ValueError("augmentation needs a generator")
        images = _apply_symmetries(images, torch.randint(8, (len(index),), generator=generator))
        contrast = 1 + 0.3 * augmentation * _symmetric(len(index), generator)
        brightness = 255 * 0.15 * augmentation * _symmetric(len(index), generator)
        images = _shift_and_rotate(images, augmentation, generator)
    return _normalise(images, contrast, brightness), labels


def _normalise(images: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    """Change the light of (B, 3, S, S) from 0 to 255 by (B,) each, and scale as ImageNet's.

    One multiply-add over the batch is quick; each image and channel has factors of its own.
    """
    mean = 255 * torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = 255 * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    middle = 127.5 * (1 - contrast) + brightness
    scale = (contrast.view(-1, 1, 1, 1) / std).to(images.device)  # (B, 3, 1, 1)
    shift = ((middle.view(-1, 1, 1, 1) - mean) / std).to(images.device)
    return torch.addcmul(shift, images.float(), scale)


def _gather(pixels: Tensor, rows: Tensor) -> Tensor:
    """Take rows of (R, H, W, 3); on a CPU, copying whole rows is ten times quicker."""
    if pixels.device.type == "cpu":
        return torch.stack([pixels[row] for row in rows.tolist()])
    return pixels[rows]


def _reduce(images: Tensor, size: int) -> Tensor:
    """Antialiased bilinear resize of uint8 (B, 3, H, W); a CPU does it in uint8, a GPU in float."""
    if images.shape[-2:] == (size, size):
        return images
    images = images if images.device.type == "cpu" else images.float()
    return functional.interpolate(
        images, (size, size), mode="bilinear", align_corners=False, antialias=True
    )


def _turn(images: Tensor, turn: int) -> Tensor:
    """Apply one of the square's eight symmetries, 0 to 7: a flip from 4 on, then quarter turns."""
    return torch.rot90(images.flip(-1) if turn >= 4 else images, turn % 4, (-2, -1))


def _apply_symmetries(images: Tensor, turns: Tensor) -> Tensor:
    """Apply a symmetry of its own to each image; `turns` (B,) from 0 to 7."""
    result = torch.empty_like(images)
    if images.device.type == "cpu":  # three times quicker than by turn
        for image, turned, turn in zip(images, result, turns.tolist(), strict=True):
            turned.copy_(_turn(image, turn))
        return result
    for turn in range(8):
        chosen = (turns == turn).nonzero().flatten().to(images.device)
        result[chosen] = _turn(images[chosen], turn)
    return result


def _shift_and_rotate(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Map half of the images by up to ± 15°, ± 10 % in scale and ± 6 % in place."""
    batch = len(images)
    chosen = (torch.rand(batch, generator=generator) < 0.5).nonzero().flatten()
    angle = math.radians(15) * strength * _symmetric(batch, generator)[chosen]
    zoom = 1 + 0.10 * strength * _symmetric(batch, generator)[chosen]
    shift = 0.12 * strength * _symmetric(batch * 2, generator).view(batch, 2)[chosen]
    if len(chosen) == 0:
        return images
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    matrix = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    warp = _warp_on_cpu if images.device.type == "cpu" else _warp_on_gpu
    return warp(images, chosen, matrix)


def _warp_on_gpu(images: Tensor, chosen: Tensor, matrices: Tensor) -> Tensor:
    """Map the `chosen` (C,) of (B, 3, S, S) by `matrices` (C, 2, 3) for `affine_grid`; float32."""
    chosen, matrices = chosen.to(images.device), matrices.to(images.device)
    images = images.float()
    part = images[chosen]
    grid = functional.affine_grid(matrices, list(part.shape), align_corners=False)
    images[chosen] = functional.grid_sample(
        part, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return images


def _warp_on_cpu(images: Tensor, chosen: Tensor, matrices: Tensor) -> Tensor:
    """Map uint8 images as `_warp_on_gpu`, in place; OpenCV takes a quarter of the time."""
    import cv2  # not needed where batches are made on a GPU

    cv2.setNumThreads(1)  # the other cores have slots of their own
    size = images.shape[-1]
    view = images.permute(0, 2, 3, 1).numpy()  # (B, S, S, 3)
    # from pixels to affine_grid's −1 … 1 and back
    to_pixels = np.array([[size / 2, 0, (size - 1) / 2], [0, size / 2, (size - 1) / 2], [0, 0, 1]])
    to_unit = np.linalg.inv(to_pixels)
    for place, matrix in zip(chosen.tolist(), matrices.double().numpy(), strict=True):
        view[place] = cv2.warpAffine(
            np.ascontiguousarray(view[place]),
            (to_pixels @ np.vstack([matrix, (0, 0, 1)]) @ to_unit)[:2],
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
    return images


def _symmetric(count: int, generator: torch.Generator) -> Tensor:
    """Draw from the uniform distribution on (−1, 1)."""
    return 2 * torch.rand(count, generator=generator) - 1
