"""Resizes pixels, in one way for a pack and for the batches made of it."""

import torch
from torch import Tensor
from torch.nn import functional


def resize_pixels(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images bilinearly, antialiased where they become smaller.

    On a CPU torch computes it in uint8, within a grey level of what Pillow makes, in less than half
    the time; on a GPU in float.

    Args:
        images: (B, C, H, W) uint8.
        size: (height, width) of the result.
    """
    if images.shape[-2:] == size:
        return images
    images = images if images.device.type == "cpu" else images.to(torch.float32)
    return functional.interpolate(
        images, size, mode="bilinear", align_corners=False, antialias=True
    )
