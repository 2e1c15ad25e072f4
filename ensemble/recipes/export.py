"""A member → a complete model that runs without this project, and its weights by themselves.

`model.pt2` (torch.export) takes a picture's pixels and gives probabilities, so that nobody has to
know how pixels are normalised; `state_dict.safetensors` has torchvision's or timm's names.
"""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ensemble.base.files import atomic_write, make_folder, write_text
from ensemble.data.view import View
from ensemble.training.backbone_table import TIMM
from ensemble.training.checkpoint import Member
from ensemble.training.initial_weights import name_owner

HOW_TO = """# {name}: {backbone}, epoch {epoch}

`model.pt2` takes {what} and gives the probability of a crack. It needs torch alone
({version} wrote it) and no other file of the project that trained it:

    import torch
    model = torch.export.load("model.pt2").module()
    pixels = torch.zeros(1, 3, {side}, {side}, dtype=torch.uint8)  # RGB, 0 to 255
    probabilities = model(pixels)  # (B,), float32

Any number of {what} at a time, each {side} × {side} pixels. It was trained on {what} of
{height} × {width} pixels, reduced to that by `torch.nn.functional.interpolate(...,
mode="{interpolation}", antialias=True)`. On validation, F1 was best ({f1:.3f}) with "cracked" where
probability >= {threshold:.6g}.
{about_windows}
`state_dict.safetensors` holds the weights of {owner}'s {network} with two outputs, index 1 =
cracked. Its input is (pixels / 255 − mean) / std, with mean {mean} and
std {std}.
"""

WINDOWS = """
A window is a tile of {tile_height} × {tile_width} pixels with the photograph around it:
{down} pixels above and below, {right} to the left and right. The probability is that of a
crack in the tile. At the photograph's rim, and around a tile that comes alone, the margin is the
mirror image of what lies inside:

    window = numpy.pad(tile, (({down}, {down}), ({right}, {right}), (0, 0)), mode="symmetric")

The threshold is that of tiles with their neighbours.
"""


class FromPixels(nn.Module):
    """A network behind the normalisation it was trained with: pixels → probabilities.

    Args:
        model: (B, 3, S, S) float32 → (B, 2) logits.
        view: How its pixels are scaled.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, view: View):
        super().__init__()
        self.model = model
        for name, values in (("mean", view.mean), ("std", view.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 → (B,) probabilities of "cracked"."""
        logits = self.model((pixels.float() - self.mean) / self.std)
        return torch.sigmoid(logits[:, 1] - logits[:, 0])


def export_member(
    member: Member, folder: Path, *, name: str, tile_size_px: tuple[int, int]
) -> None:
    """Write `model.pt2`, `state_dict.safetensors` and how to use them.

    `tile_size_px` is (height, width) of the tiles that the member was trained on.

    Raises:
        InputError: The member is damaged, or the disk is full.
    """
    make_folder(folder)
    model = member.load_model().requires_grad_(False)
    config = member.record.config
    view = member.record.view
    side = view.side_px(min(tile_size_px))
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        FromPixels(model, view).eval(), (example,), dynamic_shapes={"pixels": {0: batch}}
    )
    with atomic_write(folder / "model.pt2") as path, path.open("wb") as file:
        torch.export.save(program, file)
    with atomic_write(folder / "state_dict.safetensors") as path:
        path.write_bytes(safetensors.torch.save(dict(model.state_dict())))
    height, width = tile_size_px
    down, right = (round(view.context_px * n / min(tile_size_px)) for n in tile_size_px)
    about_windows = WINDOWS.format(tile_height=height, tile_width=width, down=down, right=right)
    text = HOW_TO.format(
        name=name,
        backbone=config.model.backbone,
        network=config.model.backbone.removeprefix(TIMM),
        owner=name_owner(config.model.backbone),
        epoch=member.record.epoch,
        version=f"torch {torch.__version__}",
        what="windows" if view.context_px else "tiles",
        side=side,
        height=height + 2 * down,
        width=width + 2 * right,
        about_windows=about_windows if view.context_px else "",
        f1=member.val_f1,
        threshold=member.record.metrics["val_threshold"],
        mean=view.mean,
        std=view.std,
        interpolation=view.interpolation,
    )
    write_text(folder / "README.md", text)
