"""Facts about batches: equal to torchvision's, drawn by one generator, labels untouched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.transforms import v2

from ensemble.data.batches import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SplitTiles,
    _warp_on_cpu,
    _warp_on_gpu,
    make_batch,
    place_tiles,
)

CPU = torch.device("cpu")


def tiles_of(count: int = 12, size_px: int = 16, seed: int = 0) -> SplitTiles:
    """Noise, each row labelled by its parity."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)
    return place_tiles(pixels, np.arange(count), np.arange(count) % 2, CPU)


def grey(tiles: SplitTiles, value: int) -> SplitTiles:
    return place_tiles(
        np.full(tuple(tiles.pixels.shape), value, np.uint8),
        np.arange(len(tiles)),
        np.arange(len(tiles)) % 2,
        CPU,
    )


def undo(images: torch.Tensor) -> torch.Tensor:
    """Normalised images back to grey levels."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images * std + mean) * 255


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """torchvision's, of uint8 (B, 3, H, W)."""
    scaled = v2.functional.to_dtype(pixels, torch.float32, scale=True)
    return v2.functional.normalize(scaled, list(IMAGENET_MEAN), list(IMAGENET_STD))


def batch(
    tiles: SplitTiles, *, strength: float = 0.0, size_px: int = 16, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(len(tiles))
    return make_batch(
        tiles, index, image_size_px=size_px, augmentation=strength, generator=generator
    )


# Without augmentation


def test_batch_is_torchvisions_normalise_of_the_pixels() -> None:
    tiles = tiles_of()
    images, _ = batch(tiles)
    torch.testing.assert_close(images, normalised(tiles.pixels.permute(0, 3, 1, 2)))


def test_value_of_one_pixel_worked_out_by_hand() -> None:
    images, _ = batch(grey(tiles_of(), 255))
    # (1 − 0.485) / 0.229, (1 − 0.456) / 0.224, (1 − 0.406) / 0.225
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([2.248908, 2.428571, 2.640000]))


@pytest.mark.parametrize("size_px", [16, 24, 48], ids=["half", "three quarters", "larger"])
def test_reduced_batch_is_torchvisions_resize_within_a_grey_level(size_px: int) -> None:
    tiles = tiles_of(size_px=32)
    resized = v2.functional.resize(tiles.pixels.permute(0, 3, 1, 2), [size_px], antialias=True)
    images, _ = batch(tiles, size_px=size_px)
    assert images.shape == (12, 3, size_px, size_px)
    assert (undo(images) - resized).abs().max() < 1.001


def test_reduction_is_antialiased() -> None:
    """Stripes one pixel wide become even grey, not the one or the other stripe."""
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    pixels[:, :, ::2] = 200
    tiles = place_tiles(pixels, np.array([0]), np.array([0]), CPU)
    images, _ = batch(tiles, size_px=8)
    assert (undo(images)[..., 2:-2] - 100).abs().max() <= 5


def test_no_augmentation_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    make_batch(tiles_of(), torch.arange(4), image_size_px=8, augmentation=0, generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_index_chooses_tiles_by_their_row() -> None:
    pixels = tiles_of(size_px=8).pixels.numpy()
    rows, labels = np.array([7, 2, 9]), np.array([1, 0, 1])
    tiles = place_tiles(pixels, rows, labels, CPU)
    images, chosen = make_batch(tiles, torch.tensor([2, 0, 2]), image_size_px=8)
    assert chosen.tolist() == [1, 1, 1]
    expected = torch.from_numpy(pixels[[9, 7, 9]]).permute(0, 3, 1, 2)
    torch.testing.assert_close(images, normalised(expected))


def test_pixels_are_left_as_they_were() -> None:
    tiles = tiles_of()
    before = tiles.pixels.clone()
    batch(tiles, strength=1.0)
    assert torch.equal(tiles.pixels, before)


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("size_px", [16, 8])
def test_batch_is_float32_in_channels_last_memory(strength: float, size_px: int) -> None:
    images, labels = batch(tiles_of(), strength=strength, size_px=size_px)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)


# With augmentation


@settings(max_examples=15, deadline=None)
@given(strength=st.floats(0.01, 1), seed=st.integers(0, 2**31))
def test_same_generator_seed_gives_the_same_batch(strength: float, seed: int) -> None:
    tiles = tiles_of()
    (first, _), (second, _) = (batch(tiles, strength=strength, seed=seed) for _ in range(2))
    assert torch.equal(first, second)


@settings(max_examples=15, deadline=None)
@given(strength=st.floats(0.01, 1), seed=st.integers(0, 2**31))
def test_augmentation_changes_images_and_never_labels(strength: float, seed: int) -> None:
    tiles = tiles_of()
    plain, labels = batch(tiles)
    images, same = batch(tiles, strength=strength, seed=seed)
    assert torch.equal(labels, same)
    assert not torch.allclose(images, plain, atol=1e-3)
    assert torch.isfinite(images).all()


def test_other_generator_seeds_give_other_batches() -> None:
    tiles = tiles_of()
    assert not torch.equal(batch(tiles, strength=0.5)[0], batch(tiles, strength=0.5, seed=1)[0])


def test_each_sample_is_augmented_by_itself() -> None:
    pixels = tiles_of(count=1).pixels.numpy()
    tiles = place_tiles(pixels, np.zeros(8, int), np.zeros(8, int), CPU)
    images, _ = batch(tiles, strength=0.5)
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_augmentation_without_a_generator_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        make_batch(tiles_of(), torch.arange(2), image_size_px=16, augmentation=0.5)


def test_turns_are_the_eight_symmetries_of_the_square() -> None:
    """At a vanishing strength only the turns are left: all eight, and nothing else."""
    pixels = tiles_of(count=1, size_px=6).pixels.numpy()
    tiles = place_tiles(pixels, np.zeros(200, int), np.zeros(200, int), CPU)
    images, _ = batch(tiles, strength=1e-9, size_px=6)
    levels = undo(images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    symmetries = {
        np.rot90(side, quarter).tobytes()
        for side in (pixels[0], np.fliplr(pixels[0]))
        for quarter in range(4)
    }
    assert len(symmetries) == 8
    assert {image.tobytes() for image in levels} == symmetries


@settings(max_examples=15, deadline=None)
@given(
    strength=st.floats(0.01, 1), level=st.integers(0, 255), seed=st.integers(0, 2**31)
)  # fmt: skip
def test_light_changes_within_bounds(strength: float, level: int, seed: int) -> None:
    """Even grey stays even; contrast ± 30 % about the middle and brightness ± 15 %, at most."""
    images, _ = batch(grey(tiles_of(size_px=8), level), strength=strength, size_px=8, seed=seed)
    levels = undo(images)
    bound = strength * (0.3 * abs(level - 127.5) + 0.15 * 255)
    assert (levels - level).abs().max() <= bound + 0.01
    assert (levels.amax((1, 2, 3)) - levels.amin((1, 2, 3))).max() < 0.01


def test_place_is_shifted_within_bounds() -> None:
    """A spot in the middle moves by 6 % of the side along each axis at most, before it is turned.

    By at most 15° and zoomed by at least 0.9: 0.06 · (cos 15° + sin 15°) / 0.9 along one axis.
    """
    pixels = np.zeros((1, 65, 65, 3), np.uint8)
    pixels[0, 31:34, 31:34] = 255
    tiles = place_tiles(pixels, np.zeros(64, int), np.zeros(64, int), CPU)
    images, _ = batch(tiles, strength=1.0, size_px=65)
    bright = images.sum(1) - images.sum(1).amin((1, 2), keepdim=True)  # (B, H, W)
    place = torch.arange(65.0) - 32
    total = bright.sum((1, 2))
    for offsets in (bright.sum(2) @ place / total, bright.sum(1) @ place / total):
        assert offsets.abs().max() <= 65 * 0.0817 + 0.2
        assert offsets.abs().max() > 0.5


def test_pixels_on_the_host_are_shared_not_copied() -> None:
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    tiles = place_tiles(pixels, np.arange(4), np.zeros(4, int), CPU)
    pixels[2] = 255
    assert tiles.pixels[2].min() == 255
    assert len(tiles) == 4


def test_the_affine_map_of_a_cpu_is_that_of_a_gpu():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 9, 9, generator=generator) * 255
    images = functional.interpolate(coarse, (40, 40), mode="bicubic").clamp(0, 255).byte()
    images = images.contiguous(memory_format=torch.channels_last)
    matrices = torch.tensor([[0.98, -0.2, 0.1], [0.2, 0.98, -0.12]]).repeat(8, 1, 1)
    matrices += 0.1 * (torch.rand(8, 2, 3, generator=generator) - 0.5)
    chosen = torch.tensor([1, 2, 6])
    expected = _warp_on_gpu(images, chosen, matrices[chosen])
    mapped = _warp_on_cpu(images.clone(), chosen, matrices[chosen])
    assert (mapped[chosen] - expected[chosen]).abs().max() < 1.5  # of 255
    others = [0, 3, 4, 5, 7]
    assert torch.equal(mapped[others], images[others])
