"""One image → the filters of each convolution of a network, and their maps.

A map is shown as the network passes it on: behind the normalisation and activation that follow the
convolution directly. Gates (squeeze-and-excitation and whatever else sees an image reduced to one
place) have no maps and are left out.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from ensemble.base.files import atomic_write
from ensemble.explanation.activation import HEAT, HEAT_OPACITY, draw_heat_bar

NUM_CHANNELS = 16  # shown of a convolution
CELL_PX, GAP_PX, MARGIN_PX = 72, 4, 16
TILE_PX = 200
CAPTION_PX = 34  # below the tile: what it and the colours are
BAR_PX = (100, 12)
LINE_PX = 18
NAME_PX, NUMBER_PX = 40, 16  # above a convolution's filters, and between them and its maps
HEAT_MAP = LinearSegmentedColormap.from_list("heat", HEAT / 255)
LEGEND = (
    f"Of each convolution, the {NUM_CHANNELS} filters that answer most to this tile, strongest "
    "first.",
    "Above, the filter: in colour where it sees the tile itself, else in grey the mean over",
    "what it sees; of a 1 × 1 filter, its weights row by row. Middle grey is a weight of 0.",
    "Below its number, its map behind normalisation and activation, from dark (the lowest",
    "value, or 0) to yellow (the highest). Each picture is on a scale of its own.",
)

_PASSED_ON = (
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.SiLU,
    nn.GELU,
)


@dataclass(frozen=True)
class Convolution:
    """The strongest channels of a convolution, the strongest first."""

    module: nn.Conv2d
    channels: np.ndarray  # (K,) numbers of the filters
    maps: np.ndarray  # (K, h, w) float32


def find_feature_maps(
    model: nn.Module, image: Tensor, *, most: int = NUM_CHANNELS
) -> dict[str, Convolution]:
    """Run one image and keep each convolution's channels of the largest mean magnitude.

    Args:
        model: A network on the image's device; it is put in eval mode, and nothing else changes.
        image: (1, 3, S, S), normalised, as `make_batch` makes it.
        most: Number of channels to keep.

    Returns:
        Name of the module → its strongest channels, in the order of the flow.
    """
    names = {module: name for name, module in model.named_modules()}
    convolutions: dict[str, Convolution] = {}
    origin: nn.Conv2d | None = None
    passed: tuple[Tensor, int] | None = None  # its version counts what is added to it in place

    def follow(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal origin, passed
        version_before = inputs[0]._version - (output is inputs[0])
        if isinstance(module, nn.Conv2d):
            origin = module if inputs[0].shape[2] * inputs[0].shape[3] > 1 else None
        elif passed is None or inputs[0] is not passed[0] or version_before != passed[1]:
            origin = None  # something else came between
        if origin is not None:
            convolutions[names[origin]] = _strongest(origin, output[0].float().cpu(), most)
        passed = output, output._version

    model.eval()
    kinds = (nn.Conv2d, *_PASSED_ON)
    followed = [module for module in model.modules() if isinstance(module, kinds)]
    # timm's normalisation holds the activation behind it, and is passed on as a whole
    inside = {part for module in followed for part in module.modules() if part is not module}
    hooks = [module.register_forward_hook(follow) for module in followed if module not in inside]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return convolutions


def _strongest(module: nn.Conv2d, maps: Tensor, most: int) -> Convolution:
    strength = maps.abs().mean((1, 2))  # (C,)
    channels = strength.argsort(descending=True, stable=True)[:most]
    return Convolution(module, channels.numpy(), maps[channels].numpy())


def filter_pictures(convolution: Convolution) -> np.ndarray:
    """The filters of the kept channels as small pictures, each on a scale of its own.

    First filters are in colour; later ones in grey, the mean over their inputs; those of 1 × 1 are
    a square of their weights, row by row. Middle grey is a weight of 0.

    Returns:
        (K, h, w, 3) from 0 to 1.
    """
    module = convolution.module
    weights = module.weight.detach().float().cpu()[convolution.channels].numpy()  # (K, I, h, w)
    count, inputs, height, width = weights.shape
    if module.in_channels == 3 and module.groups == 1:
        pictures = weights.transpose(0, 2, 3, 1)
    elif height == width == 1:
        side = math.isqrt(inputs - 1) + 1
        square: np.ndarray = np.zeros((count, side * side), dtype=np.float32)
        square[:, :inputs] = weights[:, :, 0, 0]
        pictures = square.reshape(count, side, side, 1)
    else:
        pictures = weights.mean(1)[..., None]
    largest = np.abs(pictures).max((1, 2, 3), keepdims=True)
    pictures = 0.5 + 0.5 * pictures / np.where(largest > 0, largest, 1)
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3))


def map_levels(convolution: Convolution) -> np.ndarray:
    """The maps, each scaled from 0 (its lowest value, or 0) to 1 (its highest, or 0)."""
    maps = convolution.maps
    low = maps.min((1, 2), keepdims=True).clip(max=0)
    span = maps.max((1, 2), keepdims=True).clip(min=0) - low
    return (maps - low) / np.where(span > 0, span, 1)


def draw_sheet(
    path: Path,
    title: Sequence[str],
    tile: np.ndarray,
    evidence: np.ndarray,
    convolutions: Mapping[str, Convolution],
) -> None:
    """Draw a tile, the same under its activation map, and filters over maps of convolutions.

    Args:
        path: The .png to write.
        title: Lines above the legend.
        tile: (H, W, 3) uint8.
        evidence: (h, w) from 0 to 1.
        convolutions: Name → convolution.
    """
    width = 2 * MARGIN_PX + NUM_CHANNELS * (CELL_PX + GAP_PX) - GAP_PX
    head = MARGIN_PX + TILE_PX + CAPTION_PX
    height = head + MARGIN_PX + len(convolutions) * (NAME_PX + 2 * CELL_PX + NUMBER_PX)
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font lacks a letter of a name
        mpl.rcdefaults()  # nobody's own settings
        mpl.rcParams["text.parse_math"] = False
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # a point is a pixel
        axes = figure.add_axes((0, 0, 1, 1), frameon=False)
        _draw_head(axes, title, tile, evidence)
        top = head
        for name, convolution in convolutions.items():
            _write(axes, f"{name}  {_describe(convolution)}", MARGIN_PX, top + NAME_PX - 20, 12)
            top += NAME_PX
            _put(axes, _in_a_row(filter_pictures(convolution)), MARGIN_PX, top)
            top += CELL_PX
            for place, channel in enumerate(convolution.channels):
                middle = MARGIN_PX + place * (CELL_PX + GAP_PX) + CELL_PX / 2
                _write(axes, str(channel), middle, top + 2, 10, ha="center", color="dimgrey")
            top += NUMBER_PX
            maps = mpl.colormaps["viridis"](map_levels(convolution))[..., :3]
            _put(axes, _in_a_row(maps), MARGIN_PX, top)
            top += CELL_PX
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png")


def _draw_head(axes: Axes, title: Sequence[str], tile: np.ndarray, evidence: np.ndarray) -> None:
    """The tile, plain and under its map, with what the colours say, the title and the legend."""
    beside, size = MARGIN_PX + TILE_PX + GAP_PX, (TILE_PX, TILE_PX)
    _put(axes, tile, MARGIN_PX, MARGIN_PX, size)
    _put(axes, tile, beside, MARGIN_PX, size)
    heat = np.asarray(Image.fromarray(evidence).resize(size, Image.Resampling.BILINEAR))
    _put(axes, HEAT_MAP(heat, alpha=HEAT_OPACITY * heat), beside, MARGIN_PX)
    below, grey = MARGIN_PX + TILE_PX + GAP_PX, {"color": "dimgrey"}
    _write(axes, "the tile", MARGIN_PX, below, 11, **grey)
    if evidence.any():
        _write(axes, "where it sees signs of a crack:", beside, below, 11, **grey)
        _write(axes, "none", beside, below + LINE_PX, 11, **grey)
        _put(axes, draw_heat_bar(*BAR_PX), beside + 34, below + LINE_PX + 1)
        _write(axes, "most", beside + 40 + BAR_PX[0], below + LINE_PX, 11, **grey)
    else:
        _write(axes, "no place in it speaks for a crack", beside, below, 11, **grey)
    left, top = beside + TILE_PX + MARGIN_PX, MARGIN_PX
    for line in title:
        _write(axes, line, left, top, 12, weight="bold" if line is title[0] else "normal")
        top += LINE_PX + 2
    for line in LEGEND:
        top += LINE_PX
        _write(axes, line, left, top, 11, **grey)


def _put(
    axes: Axes, picture: np.ndarray, left: int, top: int, size: tuple[int, int] | None = None
) -> None:
    """Draw a picture with its upper left corner there, at its own size or another."""
    width, height = size or picture.shape[1::-1]
    axes.imshow(picture, extent=(left, left + width, top + height, top), aspect="auto")


def _write(axes: Axes, text: str, left: float, top: float, size: int, **options: Any) -> None:
    axes.text(left, top, text, va="top", size=size, **options)


def _describe(convolution: Convolution) -> str:
    module = convolution.module
    height, width = convolution.maps.shape[1:]
    kernel = " × ".join(map(str, module.kernel_size))
    kind = ", one input each" if module.groups == module.in_channels > 1 else ""
    return (
        f"{module.in_channels} → {module.out_channels} channels, {kernel}{kind}; "
        f"maps of {width} × {height}"
    )


def _in_a_row(pictures: np.ndarray) -> np.ndarray:
    """(K, h, w, 3) from 0 to 1 → one (CELL_PX, …, 3) uint8; small pictures keep their pixels."""
    method = (
        Image.Resampling.BILINEAR
        if max(pictures.shape[1:3]) > CELL_PX
        else Image.Resampling.NEAREST
    )
    cells = [
        np.asarray(Image.fromarray(p).resize((CELL_PX, CELL_PX), method))
        for p in np.rint(pictures * 255).astype(np.uint8)
    ]
    row = np.pad(np.stack(cells), ((0, 0), (0, 0), (0, GAP_PX), (0, 0)), constant_values=255)
    return np.concatenate(row, axis=1)[:, :-GAP_PX]  # (CELL_PX, K · (CELL_PX + GAP_PX) − GAP_PX, 3)
