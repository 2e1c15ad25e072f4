"""Facts about batches: equal to torchvision's, drawn by one generator, labels untouched."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.transforms import v2

from ensemble.data.augmentation import draw_changes, move_on_cpu, move_on_gpu
from ensemble.data.batches import (
    SplitTiles,
    _see_changed_on_cpu,
    _see_changed_on_gpu,
    make_batch,
    place_tiles,
)
from ensemble.data.tiles import resize_picture
from ensemble.data.view import IMAGENET_MEAN, IMAGENET_STD, View
from ensemble.data.windows import find_neighbours

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
    return make_batch(tiles, index, View(size_px), augmentation=strength, generator=generator)


# Without augmentation


def test_batch_is_torchvisions_normalise_of_the_pixels() -> None:
    tiles = tiles_of()
    images, _ = batch(tiles)
    torch.testing.assert_close(images, normalised(tiles.pixels.permute(0, 3, 1, 2)))


def test_value_of_one_pixel_worked_out_by_hand() -> None:
    images, _ = batch(grey(tiles_of(), 255))
    # (1 − 0.485) / 0.229, (1 − 0.456) / 0.224, (1 − 0.406) / 0.225
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([2.248908, 2.428571, 2.640000]))


def test_pixels_are_scaled_as_the_view_says() -> None:
    tiles, index = tiles_of(), torch.arange(12)
    view = View(16, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 0.25))
    pixels = tiles.pixels.permute(0, 3, 1, 2) / 255
    expected = v2.functional.normalize(pixels, [0.5, 0.25, 0.0], [0.5, 1.0, 0.25])
    torch.testing.assert_close(make_batch(tiles, index, view)[0], expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_resized_as_the_view_says(interpolation: str) -> None:
    tiles = tiles_of(size_px=32)
    mode = v2.InterpolationMode(interpolation)
    resized = v2.functional.resize(
        tiles.pixels.permute(0, 3, 1, 2), [20], interpolation=mode, antialias=True
    )
    images, _ = make_batch(tiles, torch.arange(12), View(20, interpolation=interpolation))
    torch.testing.assert_close(images, normalised(resized))


@pytest.mark.parametrize("size_px", [16, 24, 48], ids=["half", "three quarters", "larger"])
def test_reduced_batch_is_torchvisions_resize_within_a_grey_level(size_px: int) -> None:
    tiles = tiles_of(size_px=32)
    resized = v2.functional.resize(tiles.pixels.permute(0, 3, 1, 2), [size_px], antialias=True)
    images, _ = batch(tiles, size_px=size_px)
    assert images.shape == (12, 3, size_px, size_px)
    assert (undo(images) - resized).abs().max() < 1.001


@pytest.mark.parametrize("size_px", [16, 20, 31])
def test_a_tile_reduced_for_the_pack_is_exactly_the_one_that_a_batch_reduces(size_px: int) -> None:
    """So it does not matter to a network whether other trials of its search saw larger tiles."""
    tiles = tiles_of(size_px=32)
    stored = np.stack(
        [
            resize_picture(Image.fromarray(pixels), (size_px, size_px))
            for pixels in tiles.pixels.numpy()
        ]
    )
    small = place_tiles(stored, np.arange(12), np.arange(12) % 2, CPU, tile_size_px=(32, 32))
    assert stored.shape == (12, size_px, size_px, 3)
    assert torch.equal(batch(tiles, size_px=size_px)[0], batch(small, size_px=size_px)[0])


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
    make_batch(tiles_of(), torch.arange(4), View(8), augmentation=0, generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_index_chooses_tiles_by_their_row() -> None:
    pixels = tiles_of(size_px=8).pixels.numpy()
    rows, labels = np.array([7, 2, 9]), np.array([1, 0, 1])
    tiles = place_tiles(pixels, rows, labels, CPU)
    images, chosen = make_batch(tiles, torch.tensor([2, 0, 2]), View(8))
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


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_batch_is_in_channels_last_memory_too(turn: int) -> None:
    plain, _ = batch(tiles_of())
    turned, _ = make_batch(tiles_of(), torch.arange(12), View(16), turn=turn)
    assert turned.is_contiguous(memory_format=torch.channels_last)
    flipped = plain.flip(-1) if turn >= 4 else plain
    assert torch.equal(turned, torch.rot90(flipped, turn % 4, (-2, -1)))


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
        make_batch(tiles_of(), torch.arange(2), View(16), augmentation=0.5)


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
    mapped = torch.zeros(8, 30, 30, 3).permute(0, 3, 1, 2).byte()  # what is seen is larger
    expected = move_on_gpu(images[chosen], matrices[chosen], 30)
    move_on_cpu(images[chosen], matrices[chosen], mapped, chosen)
    assert (mapped[chosen] - expected).abs().max() < 1.5  # of 255
    assert mapped[chosen].float().mean() > 50
    assert not mapped[[0, 3, 4, 5, 7]].any()


@pytest.mark.parametrize("context_px", [0, 5])
@pytest.mark.parametrize("seed", range(6))
def test_a_gpu_changes_images_as_a_cpu_does(seed: int, context_px: int) -> None:
    smooth = np.add.outer(np.arange(48), 2 * np.arange(48))[:, :, None] + 20 * np.arange(3)
    bricks = [smooth[y : y + 16, x : x + 16] for y in (0, 16, 32) for x in (0, 16, 32)]
    down, right = np.arange(9) // 3, np.arange(9) % 3
    neighbours = find_neighbours(np.arange(9), np.full(9, "one"), down, right)
    tiles = place_tiles(np.stack(bricks).astype(np.uint8), np.arange(9), np.arange(9) % 2, CPU,
                        neighbours=neighbours)  # fmt: skip
    view = View(image_size_px=16, context_px=context_px)
    side = tiles.input_side_px(view)
    changes = draw_changes(9, 1.0, 16 / side, torch.Generator().manual_seed(seed))
    expected = _see_changed_on_cpu(tiles, tiles.bricks, side, view, changes)
    changed = _see_changed_on_gpu(tiles, tiles.bricks, side, view, changes)
    assert changed.is_contiguous(memory_format=torch.channels_last)
    assert (changed - expected).abs().max() < 1.5  # of 255
    assert len(changes.moved) not in (0, 9)


class Transfers(TorchDispatchMode):
    """What goes from the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type != "cpu":
            self.sent += [
                (str(operation), each.dtype)
                for each in tree_leaves(args)
                if isinstance(each, torch.Tensor) and each.device.type == "cpu" and each.dim()
            ]
        return result


@pytest.mark.parametrize("resident", [True, False], ids=["pixels there", "pixels here"])
@pytest.mark.parametrize("context_px", [0, 6])
@pytest.mark.parametrize("augmentation", [0.0, 1.0])
def test_a_gpu_is_sent_a_few_buffers_for_each_batch(
    augmentation: float, context_px: int, resident: bool
) -> None:
    """Each of them from page-locked memory, by `send`; any other copy waits for the GPU."""
    _, tiles = photograph_tiles()
    meta = torch.device("meta")  # stands for a GPU
    pixels = tiles.pixels.to(meta) if resident else tiles.pixels
    there = replace(tiles, pixels=pixels, labels=tiles.labels.to(meta), device=meta)
    generator = torch.Generator().manual_seed(0)
    view = View(16, context_px)

    def make() -> torch.Tensor:
        return make_batch(
            there, torch.arange(12), view, augmentation=augmentation, generator=generator,
            context_dropout=0.5 if context_px else 0.0,
        )[0]  # fmt: skip

    make()  # tables that are kept are sent once
    with Transfers() as transfers:
        images = make()
    assert images.device == meta
    assert set(transfers.sent) == {("aten._to_copy.default", torch.uint8)}
    assert len(transfers.sent) <= (4 if augmentation else 2)


# Context


def photograph_tiles(
    rows: int = 3, columns: int = 4, side: int = 16, missing: tuple[int, ...] = ()
) -> tuple[np.ndarray, SplitTiles]:
    """A photograph of noise (H, W, 3) and its tiles, row by row, without the missing ones."""
    photograph = np.random.default_rng(0).integers(
        0, 256, (rows * side, columns * side, 3), dtype=np.uint8
    )
    numbers = np.array([n for n in range(rows * columns) if n not in missing])
    down, right = numbers // columns, numbers % columns
    pixels = np.stack(
        [
            photograph[y * side : (y + 1) * side, x * side : (x + 1) * side]
            for y, x in zip(down, right, strict=True)
        ]
    )
    row = np.arange(len(numbers))
    neighbours = find_neighbours(row, np.full(len(row), "one"), down, right)
    return photograph, place_tiles(pixels, row, row % 2, CPU, neighbours=neighbours)


@pytest.mark.parametrize(("context_px", "size_px", "side"), [(4, 16, 24), (4, 8, 12), (3, 8, 12)])
def test_context_adds_a_margin_at_the_scale_of_the_tile(context_px, size_px, side):
    _, tiles = photograph_tiles()
    images, _ = make_batch(tiles, torch.arange(5), View(size_px, context_px))
    assert images.shape == (5, 3, side, side)
    assert tiles.input_side_px(View(size_px, context_px)) == side


def test_margin_shows_the_photograph_and_alone_the_mirrored_tile() -> None:
    photograph, tiles = photograph_tiles()
    middle = torch.tensor([5])  # row 1, column 1
    images, _ = make_batch(tiles, middle, View(16, 6))
    expected = torch.from_numpy(photograph[16 - 6 : 32 + 6, 16 - 6 : 32 + 6]).permute(2, 0, 1)[None]
    torch.testing.assert_close(images, normalised(expected))
    images, _ = make_batch(tiles, middle, View(16, 6), alone=True)
    tile = np.pad(photograph[16:32, 16:32], ((6, 6), (6, 6), (0, 0)), mode="symmetric")
    torch.testing.assert_close(images, normalised(torch.from_numpy(tile).permute(2, 0, 1)[None]))


def test_size_of_stored_pixels_does_not_change_the_margin() -> None:
    """Context is measured in the tile's own pixels, of which a pack may hold fewer."""
    _, tiles = photograph_tiles()
    doubled = replace(tiles, tile_size_px=(32, 32))
    assert doubled.input_side_px(View(16, 8)) == 24
    seen = [
        make_batch(each, torch.arange(3), View(16, context_px))[0]
        for each, context_px in ((tiles, 4), (doubled, 8))
    ]
    assert torch.equal(*seen)


def test_shifts_bring_in_what_lies_around_the_tile_and_not_its_mirror_image() -> None:
    """A black tile in a white photograph: at the rim of moved images there is white."""
    pixels = np.full((9, 16, 16, 3), 255, np.uint8)
    pixels[4] = 0
    row = np.arange(9)
    neighbours = find_neighbours(row, np.full(9, "one"), row // 3, row % 3)
    for around, brightest in ((neighbours, 255), (None, 0)):
        tiles = place_tiles(pixels, row, row % 2, CPU, neighbours=around)
        images, _ = make_batch(
            tiles,
            torch.full((32,), 4),
            View(16),
            augmentation=0.5,
            generator=torch.Generator().manual_seed(0),
        )
        spread = undo(images).amax((1, 2, 3)) - undo(images).amin((1, 2, 3))
        assert (spread.max() > 100) == (brightest == 255)


def test_context_dropout_hides_the_neighbours_of_its_share() -> None:
    _, tiles = photograph_tiles(rows=10, columns=10)
    index = torch.arange(100)
    with_context, _ = make_batch(tiles, index, View(16, 4))
    alone, _ = make_batch(tiles, index, View(16, 4), alone=True)
    images, _ = make_batch(
        tiles,
        index,
        View(16, 4),
        context_dropout=0.3,
        generator=torch.Generator().manual_seed(0),
    )
    is_alone = (images == alone).flatten(1).all(1)
    is_whole = (images == with_context).flatten(1).all(1)
    assert (is_alone | is_whole).all()
    assert 15 <= int(is_alone.sum()) <= 45


def test_tiles_without_a_grid_have_no_neighbours() -> None:
    _, tiles = photograph_tiles()
    assert tiles.has_neighbours.all()
    assert not tiles_of().has_neighbours.any()
