"""A member → a complete model that runs without this project, and its weights by themselves.

`model.pt2` (torch.export) takes a picture's pixels and gives probabilities, so that nobody has to
know how tiles are normalised; `state_dict.safetensors` has torchvision's names.
"""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ensemble.base.files import atomic_write, make_folder, write_text
from ensemble.data.batches import IMAGENET_MEAN, IMAGENET_STD
from ensemble.training.checkpoint import Member

HOW_TO = """# {name}: {backbone}, epoch {epoch}

`model.pt2` takes tiles and gives the probability of a crack. It needs torch alone
({version} wrote it) and no other file of the project that trained it:

    import torch
    model = torch.export.load("model.pt2").module()
    pixels = torch.zeros(1, 3, {size}, {size}, dtype=torch.uint8)  # RGB, 0 to 255
    probabilities = model(pixels)  # (B,), float32

Any number of tiles at a time, each {size} × {size} pixels. It was trained on tiles of
{height} × {width} pixels, reduced to that by `torch.nn.functional.interpolate(..., mode="bilinear",
antialias=True)`. On validation, F1 was best ({f1:.3f}) with "cracked" where
probability >= {threshold:.6g}.

`state_dict.safetensors` holds the weights of {owner}'s {backbone} with two outputs, index 1 =
cracked. Its input is (pixels / 255 − mean) / std, with mean {mean} and
std {std}.
"""


class FromPixels(nn.Module):
    """A network behind the normalisation it was trained with: pixels → probabilities.

    Args:
        model: (B, 3, S, S) float32 → (B, 2) logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
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
    size = config.data.image_size_px
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        FromPixels(model).eval(), (example,), dynamic_shapes={"pixels": {0: batch}}
    )
    with atomic_write(folder / "model.pt2") as path, path.open("wb") as file:
        torch.export.save(program, file)
    with atomic_write(folder / "state_dict.safetensors") as path:
        path.write_bytes(safetensors.torch.save(dict(model.state_dict())))
    text = HOW_TO.format(
        name=name,
        backbone=config.model.backbone,
        owner="the project" if config.model.backbone.startswith("small_cnn") else "torchvision",
        epoch=member.record.epoch,
        version=f"torch {torch.__version__}",
        size=size,
        height=tile_size_px[0],
        width=tile_size_px[1],
        f1=member.val_f1,
        threshold=member.record.metrics["val_threshold"],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    write_text(folder / "README.md", text)
