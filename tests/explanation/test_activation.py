"""Facts about the maps: against CAM worked out from the heads, and on planted patches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ensemble.explanation.activation import (
    GAP_PX,
    HEADING_PX,
    HEAT,
    LEGEND_PX,
    LINE_PX,
    MAP_PX,
    MARGIN_PX,
    SHEET_KEY,
    TILE_PX,
    TITLE_PX,
    Group,
    average_maps,
    class_activation_map,
    draw_gallery,
    draw_heat_bar,
)
from ensemble.training.backbone_table import BACKBONES
from ensemble.training.backbones import build_model

SIDES = {
    "small_cnn": 8,
    "small_cnn_deep": 4,
    "squeezenet1_1": 3,
}  # of the map of 64 pixels; 2 in all others
TOP_PX = TITLE_PX + LEGEND_PX[1] + MARGIN_PX  # of a gallery's first group


def make_images(count: int = 2, side: int = 64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def make_model(backbone: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(backbone, dropout=0.5).eval()


def make_brightness_model() -> nn.Module:
    """A small_cnn made by hand: the margin is the largest brightness above 0."""
    model: Any = make_model("small_cnn")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.zero_()
        model.features[0].weight[0, :, 1, 1] = 1 / 3
        model.features[4].weight[0, 0, 1, 1] = 1
        model.features[8].weight[0, 0, 1, 1] = 1
        model.classifier[1].weight[1, 0] = 1
    return model


def make_two_patches() -> Tensor:
    """Dark, with a patch of 2 in cell (2, 5) of the 8 × 8 map and one of 1 in cell (6, 0)."""
    images = torch.full((1, 3, 64, 64), -1.0)
    images[:, :, 16:24, 40:48] = 2.0
    images[:, :, 48:56, 0:8] = 1.0
    return images


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_has_a_map_and_stays_as_it_was(backbone: str) -> None:
    model = make_model(backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    maps = class_activation_map(model, backbone, make_images())
    side = SIDES.get(backbone, 2)
    assert maps.shape == (2, side, side)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert set(maps.max((1, 2)).round(6)) <= {0.0, 1.0}
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("squeezenet1_1", "classifier.1"),
        ("mobilenet_v2", "classifier.1"),
        ("resnet18", "fc.1"),
        ("efficientnet_b0", "classifier.1"),
        ("swin_v2_t", "head.1"),
    ],
)
def test_behind_a_linear_head_the_map_is_that_of_cam(backbone: str, head: str) -> None:
    model = make_model(backbone)
    images = make_images()
    with torch.no_grad():
        if backbone == "resnet18":
            features = nn.Sequential(*list(model.children())[:-2])(images)
        elif backbone == "swin_v2_t":
            features = model.norm(model.features(images)).permute(0, 3, 1, 2)
        else:
            features = model.features(images)
    weight = model.get_submodule(head).weight
    total = 0.0
    for _ in range(2):  # for a crack, then against it: one of the two has evidence somewhere
        for_a_crack = (weight[1] - weight[0]).detach().flatten()
        evidence = torch.einsum("c,bchw->bhw", for_a_crack, features).clamp(min=0).numpy()
        largest = evidence.max((1, 2), keepdims=True)
        maps = class_activation_map(model, backbone, images)
        np.testing.assert_allclose(
            maps, evidence / np.where(largest > 0, largest, 1), rtol=0, atol=1e-4
        )
        total += float(maps.sum())
        weight.data.neg_()
    assert total > 0


def test_the_map_is_the_brightness_of_each_place_not_only_of_the_largest() -> None:
    maps = class_activation_map(make_brightness_model(), "small_cnn", make_two_patches())
    expected = np.zeros((1, 8, 8))
    expected[0, 2, 5], expected[0, 6, 0] = 1.0, 0.5
    np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_without_evidence_of_a_crack_the_map_is_empty() -> None:
    model: Any = make_brightness_model()
    with torch.no_grad():
        model.classifier[1].weight.neg_()  # brightness now speaks against a crack
    assert not class_activation_map(model, "small_cnn", make_two_patches()).any()


@pytest.mark.parametrize("backbone", ["small_cnn", "resnet18", "mobilenet_v3_small"])
def test_the_map_is_the_same_for_frozen_weights_in_training_and_in_inference_mode(
    backbone: str,
) -> None:
    model, images = make_model(backbone), make_images()
    expected = class_activation_map(model, backbone, images)
    model.train()
    np.testing.assert_array_equal(class_activation_map(model, backbone, images), expected)
    model.requires_grad_(False)
    with torch.inference_mode():
        maps = class_activation_map(model, backbone, images.clone())
    np.testing.assert_array_equal(maps, expected)
    assert not any(p.requires_grad for p in model.parameters())


def test_an_image_has_the_same_map_alone_and_in_a_batch() -> None:
    model, images = make_model("squeezenet1_1"), make_images(3)
    together = class_activation_map(model, "squeezenet1_1", images)
    alone = [class_activation_map(model, "squeezenet1_1", image[None])[0] for image in images]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)


def test_no_hook_is_left_after_an_error() -> None:
    model = make_model("small_cnn")
    with pytest.raises(RuntimeError):
        class_activation_map(model, "small_cnn", torch.zeros(1, 5, 64, 64))
    assert not any(module._forward_hooks for module in model.modules())


def test_an_average_is_the_weighted_mean_of_the_members_maps() -> None:
    images = make_two_patches()
    bright, blind = make_brightness_model(), make_brightness_model()
    blind.get_parameter("classifier.1.weight").data.zero_()
    one = average_maps([bright], ["small_cnn"], images, [2.0])
    assert one.shape == (1, MAP_PX, MAP_PX)
    assert 0.8 < one.max() <= 1  # the cell's peak lies between two pixels of the larger map
    row, column = np.unravel_index(one[0].argmax(), one[0].shape)
    assert (row * 8 // MAP_PX, column * 8 // MAP_PX) == (2, 5)
    both = average_maps([bright, blind], ["small_cnn"] * 2, images, [3.0, 1.0])
    np.testing.assert_allclose(both, 0.75 * one, atol=1e-6)
    turned = average_maps([blind, bright], ["small_cnn"] * 2, images, [1.0, 3.0])
    np.testing.assert_allclose(turned, both, atol=1e-6)


def test_members_of_several_input_sizes_and_backbones_are_averaged() -> None:
    backbones = ["small_cnn", "squeezenet1_1"]
    batches = [make_images(2, 32), make_images(2, 64)]
    maps = average_maps(map(make_model, backbones), backbones, batches, np.array([0.5, 0.5]))
    assert maps.shape == (2, MAP_PX, MAP_PX)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_a_gallery_shows_each_tile_plain_and_under_its_heat(tmp_path: Path) -> None:
    tiles = np.full((7, 32, 32, 3), 100, dtype=np.uint8)
    maps = np.zeros((7, 4, 4), dtype=np.float32)
    maps[1] = 1.0
    path = tmp_path / "gallery.png"
    draw_gallery(
        path, "Tiles", [Group("", tiles, maps, [f"tile {n}" for n in range(7)])], columns=3
    )
    across = 2 * TILE_PX + GAP_PX + 2 * MARGIN_PX
    down = TILE_PX + MARGIN_PX + LINE_PX
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.size == (3 * across + MARGIN_PX, TOP_PX + 3 * down + MARGIN_PX)
        pixels = np.asarray(sheet)
    assert [file.name for file in tmp_path.iterdir()] == ["gallery.png"]
    middle = TOP_PX + TILE_PX // 2
    plain, heat = MARGIN_PX + TILE_PX // 2, MARGIN_PX + TILE_PX // 2 + TILE_PX + GAP_PX
    assert pixels[middle, plain].tolist() == [100] * 3
    assert pixels[middle, heat].tolist() == [100] * 3  # no evidence leaves the tile clear
    assert pixels[middle, across + plain].tolist() == [100] * 3
    assert pixels[middle, across + heat].tolist() == (0.4 * 100 + 0.6 * HEAT[2]).round().tolist()
    assert (pixels[TOP_PX + TILE_PX :][:LINE_PX] < 128).any()  # a caption's ink


def test_a_gallery_says_what_its_colours_mean(tmp_path: Path) -> None:
    bar = draw_heat_bar(110, 14)
    assert bar[0, 0].tolist() == [180] * 3  # none of a colour lies on what has no evidence
    assert bar[0, -1].tolist() == (0.4 * 180 + 0.6 * HEAT[2]).round().tolist()
    group = Group("", np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 2, 2)), ["a"])
    draw_gallery(tmp_path / "a.png", "One", [group])
    with Image.open(tmp_path / "a.png") as sheet:
        legend = np.asarray(sheet)[TITLE_PX : TITLE_PX + LEGEND_PX[1]]
    (left,) = np.flatnonzero((legend[10] == bar[0, -1]).all(axis=1))[:1]
    assert (legend[4:18, left - 109 : left + 1] == bar).all()
    for words in (legend[:, : left - 109], legend[:, left + 1 : LEGEND_PX[0] - 1]):
        assert (words < 128).any()  # a word before the bar and one behind it
    assert (legend[:, LEGEND_PX[0] - 1 :] == 255).all()  # none is cut off


def test_groups_lie_one_below_another_each_under_its_heading(tmp_path: Path) -> None:
    groups = [
        Group("dark", np.full((2, 8, 8, 3), 50, np.uint8), np.zeros((2, 2, 2)), ["a", "b"]),
        Group("", np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 2, 2)), []),
        Group("bright", np.full((1, 8, 8, 3), 170, np.uint8), np.zeros((1, 2, 2)), ["c"]),
    ]
    draw_gallery(tmp_path / "a.png", "Two", groups)
    with Image.open(tmp_path / "a.png") as sheet:
        pixels = np.asarray(sheet)
    down = HEADING_PX + TILE_PX + MARGIN_PX + LINE_PX
    assert len(pixels) == TOP_PX + 2 * down + MARGIN_PX
    for number, grey in enumerate((50, 170)):
        top = TOP_PX + number * down
        assert (pixels[top : top + HEADING_PX] < 128).any()
        assert (pixels[top + HEADING_PX :][:TILE_PX, MARGIN_PX : MARGIN_PX + TILE_PX] == grey).all()


def test_long_captions_are_wrapped_and_stay_below_their_tile(tmp_path: Path) -> None:
    tiles = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    caption = "D/CD/" + 90 * "7" + "-12.jpg false alarm, p = 0.93\nlabel uncracked"
    draw_gallery(tmp_path / "one.png", "One", [Group("", tiles, np.zeros((1, 2, 2)), [caption])])
    with Image.open(tmp_path / "one.png") as sheet:
        assert sheet.size == (
            LEGEND_PX[0],
            TOP_PX + TILE_PX + 3 * LINE_PX + 2 * MARGIN_PX,
        )
        right_of_the_tile = np.asarray(sheet)[TOP_PX:, MARGIN_PX + 2 * TILE_PX + GAP_PX :]
        assert (right_of_the_tile == 255).all()


def test_a_gallery_says_in_its_own_text_where_each_tile_is_and_what_it_is(tmp_path: Path) -> None:
    groups = [
        Group("dark", np.full((2, 8, 8, 3), 50, np.uint8), np.zeros((2, 2, 2)), ["a\nb", "Riß"]),
        Group("bright", np.full((1, 8, 8, 3), 170, np.uint8), np.zeros((1, 2, 2)), ["c"]),
    ]
    draw_gallery(tmp_path / "a.png", "Two", groups, columns=1)
    with Image.open(tmp_path / "a.png") as sheet:
        sheet.load()
        about = json.loads(sheet.info[SHEET_KEY])
        tiles = [np.asarray(sheet.crop(tile["box"])) for tile in about["tiles"]]
    assert about["title"] == "Two"
    assert [tile["caption"] for tile in about["tiles"]] == ["a\nb", "Riß", "c"]
    for pixels, grey in zip(tiles, (50, 50, 170), strict=True):
        assert pixels.shape == (TILE_PX, 2 * TILE_PX + GAP_PX, 3)
        assert (pixels[:, :TILE_PX] == grey).all()
        assert (pixels[:, TILE_PX + GAP_PX :] == grey).all()


def test_a_gallery_of_nothing_is_its_title(tmp_path: Path) -> None:
    nothing = Group("", np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 2, 2)), [])
    draw_gallery(tmp_path / "a.png", "None", [nothing])
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.height == TITLE_PX + 2 * MARGIN_PX


def test_every_tile_needs_a_map_and_a_caption(tmp_path: Path) -> None:
    group = Group("", np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 2, 2)), [])
    with pytest.raises(ValueError, match="got 1, 1 and 0"):
        draw_gallery(tmp_path / "a.png", "", [group])
    assert not list(tmp_path.iterdir())
