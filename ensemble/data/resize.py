"""Resizes pixels, in one way for a pack and for the batches made of it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ensemble.data.view import Interpolation


def resize_pixels(
    images: Tensor, size: tuple[int, int], interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Resize images, antialiased where they become smaller.

    On a CPU torch computes it in uint8, within a grey level of what Pillow makes, in less than half
    the time; on a GPU in float.

    Args:
        images: (B, C, H, W) uint8.
        size: (height, width) of the result.
        interpolation: Kind of interpolation.
    """
    if images.shape[-2:] == size:
        return images
    on_cpu = images.device.type == "cpu"
    resized = functional.interpolate(
        images if on_cpu else images.to(torch.float32),
        size,
        mode=interpolation,
        align_corners=False,
        antialias=True,
    )
    return resized if on_cpu else resized.clamp(0, 255)  # bicubic goes beyond what it is given


def resize_weights(
    size_px: int, resized_px: int, interpolation: Interpolation = "bilinear"
) -> tuple[np.ndarray, int]:
    """The whole numbers by which `resize_pixels` weighs pixels of an axis on a CPU.

    A resized pixel is sum(weights · pixels) / 2**bits, rounded to a whole number from 0 to 255. An
    image is resized along its rows first, and then, rounded, along its columns. The antialiased
    filters are Pillow's (https://github.com/python-pillow/Pillow, src/libImaging/Resample.c), in 16
    bits as torch computes them (aten/src/ATen/native/cpu/UpSampleKernel.cpp).

    Args:
        size_px: I, pixels of the axis.
        resized_px: O, pixels that it is resized to.
        interpolation: Kind of interpolation.

    Returns:
        (O, I) float64, all whole, and the number of bits.
    """
    scale = size_px / resized_px
    stretch = max(scale, 1.0)
    support = stretch * (1.0 if interpolation == "bilinear" else 2.0)
    weights = np.zeros((resized_px, size_px))
    for row in range(resized_px):
        centre = scale * (row + 0.5)
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), size_px)
        distances = np.abs((np.arange(first, last) - centre + 0.5) / stretch)
        weights[row, first:last] = _FILTERS[interpolation](distances)
    weights /= weights.sum(axis=1, keepdims=True)
    bits = 0
    while bits < _MAX_BITS and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2**15:
        bits += 1
    return np.trunc(weights * 2**bits + np.copysign(0.5, weights)), bits


def _weigh_cubic(distances: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = −0.5 (1981, doi 10.1109/TASSP.1981.1163711)."""
    near = (1.5 * distances - 2.5) * distances**2 + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    return np.where(distances < 1, near, np.where(distances < 2, far, 0))


_MAX_BITS = 22
_FILTERS: dict[Interpolation, Callable[[np.ndarray], np.ndarray]] = {
    "bilinear": lambda distances: np.clip(1 - distances, 0, None),
    "bicubic": _weigh_cubic,
}
