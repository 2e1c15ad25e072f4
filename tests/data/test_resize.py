"""The whole numbers by which pixels are resized are those that torch weighs them by."""

import pytest
import torch

from ensemble.data.resize import resize_pixels, resize_weights
from ensemble.data.view import Interpolation


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((64, 64), (56, 56)),  # SDNET2018's tiles at 224 px, by four
        ((64, 64), (32, 24)),
        ((64, 48), (8, 6)),
        ((57, 57), (56, 56)),
        ((16, 20), (32, 32)),
        ((25, 16), (16, 16)),
    ],
)
def test_whole_numbers_give_the_pixels_that_torch_gives(
    size: tuple[int, int], resized: tuple[int, int], interpolation: Interpolation
):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    images[0] = (images[0] > 127) * 255  # which cubic weights go beyond
    pixels = images.to(torch.int64)
    for axis in (1, 0):  # rows first
        weights, bits = resize_weights(size[axis], resized[axis], interpolation)
        matrix = torch.from_numpy(weights).to(torch.int64)
        sums = pixels @ matrix.T if axis else matrix @ pixels
        pixels = ((sums + 2 ** (bits - 1)) >> bits).clamp(0, 255)
    assert torch.equal(pixels, resize_pixels(images, resized, interpolation).to(torch.int64))
