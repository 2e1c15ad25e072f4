"""Maps of where a network saw a crack: images → maps of the evidence, and a sheet of them.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) on the last map that still has
places, for the logit of "cracked" minus that of "uncracked". All our heads but one average over
places, so that the gradient is the same everywhere and the map is CAM's and HiResCAM's too (Draelos
and Carin 2020, https://arxiv.org/abs/2011.08891): it adds up to the evidence. The two
small_cnn take a maximum over places: their map is what the head would say of each place alone.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn
from torch.nn import functional

from ensemble.base.files import atomic_write
from ensemble.training.backbone_table import Backbone, find_backbone
from ensemble.training.fold_networks import FoldNetworks

MAP_PX = 64  # side of an ensemble's map

SHEET_KEY = "crack-ensemble sheet"
TILE_PX = 160
GAP_PX = 2  # between a tile and the same under its map
MARGIN_PX = 8
LINE_PX = 15
TITLE_PX = 28
HEADING_PX = 26  # above the tiles of a group that has one
LEGEND_PX = (690, 22)
BAR_PX = (110, 14)
CONCRETE = 180  # grey that the legend's colours lie on
HEAT = np.array([(255, 235, 60), (255, 140, 0), (215, 0, 20)])  # little, some, most evidence
HEAT_OPACITY = 0.6  # of the most evidence; none is left clear


def class_activation_map(model: nn.Module, backbone: str, images: Tensor) -> np.ndarray:
    """Evidence of a crack by place, as a share of the largest in the same image.

    Places that speak against a crack are 0, and an image without any that speaks for it is 0
    everywhere. Two images' maps do not compare: the probability says how much evidence there is.
    A place is right to about half a cell: strides without symmetric padding shift what a cell sees.

    Args:
        model: As built for `backbone`, on the images' device; it is put in eval mode, and nothing
            else of it changes. The maps of several folds' networks are averaged.
        backbone: Name of its backbone.
        images: (B, 3, S, S), normalised, as `make_batch` makes them.

    Returns:
        (B, h, w) float32 from 0 to 1 at the resolution of the last map, from S / 8 to S / 32.
    """
    if isinstance(model, FoldNetworks):
        of_networks = [class_activation_map(each, backbone, images) for each in model.networks]
        mean: np.ndarray = np.mean(of_networks, axis=0)
        return mean / np.maximum(mean.max((1, 2), keepdims=True), 1e-12)
    kept: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_())
        return kept[-1]

    model.eval()
    about = find_backbone(backbone)
    hook = model.get_submodule(about.last_map).register_forward_hook(cut)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            # detached parameters: the graph is that of the head alone, and no gradient is left
            frozen = {name: p.detach() for name, p in model.named_parameters()}
            logits = torch.func.functional_call(model, frozen, (images,))
            (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), kept[0])
    finally:
        hook.remove()
    activation, gradient = _by_place(kept[0].detach(), about), _by_place(gradient, about)
    weights = gradient.float().sum((2, 3), keepdim=True)  # (B, C, 1, 1)
    evidence = (weights * activation.float()).sum(1).clamp(min=0)  # (B, h, w)
    largest = evidence.amax((1, 2), keepdim=True)
    maps = evidence / torch.where(largest > 0, largest, 1)
    return maps.cpu().numpy()


def _by_place(output: Tensor, about: Backbone) -> Tensor:
    """The last map, or its gradient, as (B, C, h, w)."""
    if about.layout == "NCHW":
        return output
    if about.layout == "NLC":
        output = output[:, about.num_prefix_tokens :]
        side = math.isqrt(output.shape[1])
        output = output.unflatten(1, (side, side))
    return output.movedim(-1, 1)


def average_maps(
    models: Iterable[nn.Module],
    backbones: Sequence[str],
    images: Tensor | Sequence[Tensor],
    weights: Sequence[float] | np.ndarray,
    *,
    tile_sides: Sequence[int] | None = None,
) -> np.ndarray:
    """The ensemble's map of the tiles: the weighted mean of its members' maps.

    Args:
        models: M networks.
        backbones: (M,) names of their backbones.
        images: (B, 3, S, S) for all members, or M such batches where members differ in S.
        weights: (M,) weights on any positive scale.
        tile_sides: (M,) sides of the tile in the middle of each image; None where there is nothing
            around it.

    Returns:
        (B, MAP_PX, MAP_PX) float32 from 0 to 1; near 1 only where all members agree.
    """
    batches = [images] * len(backbones) if isinstance(images, Tensor) else images
    shares = np.asarray(weights, dtype=np.float64)
    total: np.ndarray = np.zeros(())
    sides = tile_sides or [batch.shape[-1] for batch in batches]
    members = zip(models, backbones, batches, sides, shares / shares.sum(), strict=True)
    for model, backbone, batch, side, share in members:
        maps = class_activation_map(model, backbone, batch)
        total = total + share * crop_to_tile(maps, side / batch.shape[-1])
    return np.clip(total, 0, 1).astype(np.float32)


def crop_to_tile(maps: np.ndarray, part: float) -> np.ndarray:
    """What lies over the tile in maps of a window around it.

    Args:
        maps: (B, h, w) maps of the window.
        part: Part of the window's side that the tile takes, in its middle.

    Returns:
        (B, MAP_PX, MAP_PX), interpolated.
    """
    whole = round(MAP_PX / part)
    larger = functional.interpolate(
        torch.from_numpy(maps)[:, None], (whole, whole), mode="bilinear"
    )
    rim = (whole - MAP_PX) // 2
    return larger[:, 0, rim : rim + MAP_PX, rim : rim + MAP_PX].numpy()


class Group(NamedTuple):
    """Tiles of a sheet that belong together."""

    heading: str  # empty for none
    tiles: np.ndarray  # (K, H, W, 3) uint8; K may be 0
    maps: np.ndarray  # (K, h, w) from 0 (left clear) to 1 (red)
    captions: Sequence[str]  # (K,) wrapped at spaces, line feeds kept


def draw_gallery(path: Path, title: str, groups: Sequence[Group], *, columns: int = 6) -> None:
    """Draw every tile twice, plain and under its map as heat, over its caption, with a legend.

    The sheet carries its title and each tile's place and caption as text (`SHEET_KEY`), so that a
    page can lay the tiles out anew. Groups stand one below another, `columns` tiles in a row.
    """
    for _, tiles, maps, captions in groups:
        if not len(tiles) == len(maps) == len(captions):
            raise ValueError(
                "as many tiles as maps and captions must hold, but got "
                f"{len(tiles)}, {len(maps)} and {len(captions)}"
            )
    parts = [_draw_group(group, columns) for group in groups]
    has_tiles = any(group.captions for group in groups)
    font, legend_width, legend_height = ImageFont.load_default(16), *LEGEND_PX
    widths = [round(font.getlength(title)) + 2 * MARGIN_PX, *(part.width for part, _ in parts)]
    top = TITLE_PX + has_tiles * legend_height + MARGIN_PX
    height = top + sum(part.height for part, _ in parts) + MARGIN_PX
    sheet = Image.new("RGB", (max(*widths, has_tiles * legend_width), height), "white")
    ImageDraw.Draw(sheet).text((MARGIN_PX, MARGIN_PX), title, "black", font)
    if has_tiles:
        _draw_legend(sheet, TITLE_PX)
    shown = []
    for group, (part, corners) in zip(groups, parts, strict=True):
        sheet.paste(part, (0, top))
        for (left, down), caption in zip(corners, group.captions, strict=True):
            box = left, top + down, left + 2 * TILE_PX + GAP_PX, top + down + TILE_PX
            shown.append({"box": box, "caption": caption})
        top += part.height
    text = PngInfo()
    text.add_itxt(SHEET_KEY, json.dumps({"title": title, "tiles": shown}))
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=text)


def _draw_legend(sheet: Image.Image, top: int) -> None:
    """Say what the colours mean."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    before = "right of each tile: where signs of a crack were seen, from none"
    draw.text((MARGIN_PX, top + 4), before, "dimgrey", font)
    left = 2 * MARGIN_PX + round(font.getlength(before))
    sheet.paste(Image.fromarray(draw_heat_bar(*BAR_PX)), (left, top + 4))
    after = "to the most in that tile, however little"
    draw.text((left + BAR_PX[0] + MARGIN_PX, top + 4), after, "dimgrey", font)


def draw_heat_bar(width: int, height: int) -> np.ndarray:
    """The colours of maps from 0 to 1, as they lie on grey concrete: (height, width, 3) uint8."""
    plain = Image.new("RGB", (width, height), (CONCRETE,) * 3)
    return np.asarray(_overlay(plain, np.linspace(0, 1, width)[None]))


def _draw_group(group: Group, columns: int) -> tuple[Image.Image, list[tuple[int, int]]]:
    """The part of a sheet that shows a group, and the left and upper edge of each tile in it."""
    font = ImageFont.load_default(12)
    texts = [_wrap(caption, font, 2 * TILE_PX + GAP_PX) for caption in group.captions]
    across = 2 * TILE_PX + GAP_PX + 2 * MARGIN_PX
    down = TILE_PX + MARGIN_PX + LINE_PX * max((len(lines) for lines in texts), default=0)
    head = HEADING_PX if group.heading else 0
    heading_font = ImageFont.load_default(14)
    width = max(
        MARGIN_PX + max(1, min(columns, len(texts))) * across,
        round(heading_font.getlength(group.heading)) + 2 * MARGIN_PX,
    )
    sheet = Image.new("RGB", (width, head + -(-len(texts) // columns) * down), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, 4), group.heading, "black", heading_font)
    corners = []
    for number, (tile, evidence, lines) in enumerate(
        zip(group.tiles, group.maps, texts, strict=True)
    ):
        left = MARGIN_PX + number % columns * across
        top = head + number // columns * down
        corners.append((left, top))
        size = (TILE_PX, TILE_PX)
        plain = Image.fromarray(np.asarray(tile)).resize(size, Image.Resampling.BILINEAR)
        sheet.paste(plain, (left, top))
        sheet.paste(_overlay(plain, evidence), (left + TILE_PX + GAP_PX, top))
        for line, text in enumerate(lines):
            draw.text((left, top + TILE_PX + line * LINE_PX), text, "black", font)
    return sheet, corners


def _overlay(picture: Image.Image, evidence: np.ndarray) -> Image.Image:
    """Lay the map over the picture, the more opaque the more evidence."""
    small = Image.fromarray(np.asarray(evidence, dtype=np.float32))
    heat = np.asarray(small.resize(picture.size, Image.Resampling.BILINEAR)).clip(0, 1)  # (H, W)
    stops = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(heat, stops, channel) for channel in HEAT.T], axis=-1)
    opacity = HEAT_OPACITY * heat[..., None]
    blended = (1 - opacity) * np.asarray(picture) + opacity * colour  # (H, W, 3)
    return Image.fromarray(blended.round().astype(np.uint8))


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Break text at spaces; of a word that is too long, such as a path, the end is kept."""
    lines = []
    for part in text.split("\n"):
        line = ""
        for word in part.split(" "):
            while font.getlength(word) > width:
                word = "…" + word.removeprefix("…")[1:]
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines
