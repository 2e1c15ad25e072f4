"""A backbone of torchvision's (or the small network of stacked convolutions) with a dropout head.

Every network ends in dropout and two logits, index 1 = cracked. The state a backbone starts from is
made once a search: ImageNet's weights, a file's, or random ones, and a head drawn from the study's
seed, the same for all trials of that backbone.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from ensemble.errors import InputError
from ensemble.training.config import ModelConfig, OptimisationConfig
from ensemble.training.seeds import derive_seed

# where torchvision keeps its last layer; everything else is the backbone
_LAST_LAYER = {
    "squeezenet1_1": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "mobilenet_v3_large": "classifier.3",
    "resnet18": "fc",
    "resnet50": "fc",
    "efficientnet_b0": "classifier.1",
    "efficientnet_v2_s": "classifier.1",
    "convnext_tiny": "classifier.2",
    "swin_v2_t": "head",
    "small_cnn": "classifier.1",
}


class SmallCNN(nn.Module):
    """Three convolutions, each with BatchNorm, ReLU and pooling, then a maximum over places.

    A crack is a local thing: the maximum asks whether it is anywhere.
    """

    def __init__(self, *, dropout: float, channels: tuple[int, ...] = (32, 64, 128)):
        super().__init__()
        blocks: list[nn.Module] = []
        for inputs, outputs in zip((3, *channels), channels, strict=False):
            blocks += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels[-1], 2))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, 2)."""
        return self.classifier(self.pool(self.features(images)).flatten(1))


def build_model(backbone: str, *, dropout: float = 0.0) -> nn.Module:
    """Build a network with random weights from torch's global generator.

    Args:
        backbone: A name of `ensemble.training.config.Backbone`.
        dropout: Probability before the last layer.

    Returns:
        A module (B, 3, S, S) → (B, 2) logits.
    """
    if backbone == "small_cnn":
        return SmallCNN(dropout=dropout)
    model: Any = torchvision.models.get_model(backbone, weights=None)
    if backbone == "squeezenet1_1":
        head = nn.Conv2d(512, 2, 1)  # and no ReLU behind it: a logit may be negative
        model.classifier = nn.Sequential(nn.Dropout(dropout), head, nn.AdaptiveAvgPool2d(1))
    elif backbone.startswith("resnet"):
        model.fc = nn.Sequential(nn.Dropout(dropout), nn.Linear(model.fc.in_features, 2))
    elif backbone.startswith("swin"):
        model.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(model.head.in_features, 2))
    elif backbone.startswith("convnext"):
        norm, flatten, last = model.classifier
        last = nn.Sequential(nn.Dropout(dropout), nn.Linear(last.in_features, 2))
        model.classifier = nn.Sequential(norm, flatten, last)
    else:  # classifier = […, dropout, linear]
        *inner, _, last = model.classifier
        last = nn.Linear(last.in_features, 2)
        model.classifier = nn.Sequential(*inner, nn.Dropout(dropout), last)
    return model


def head_prefix(backbone: str) -> str:
    """Name of the module whose parameters are the head's."""
    return _LAST_LAYER[backbone]


@dataclass(frozen=True)
class InitialState:
    """What all trials of one backbone start from.

    Attributes:
        tensors: Complete state of the network, head included.
        origin: For people: where the weights come from.
        digest: SHA-256 of names, shapes and bytes.
    """

    tensors: dict[str, Tensor]
    origin: str
    digest: str


def make_initial_state(backbone: str, weights: str | Path, *, seed: int) -> InitialState:
    """Make the state that trials of `backbone` start from.

    Args:
        backbone: Its name.
        weights: `imagenet` (torchvision's own download), `none`, or a file of tensors in
            torchvision's names (.safetensors, or a state dict that `torch.load` reads with
            `weights_only=True`).
        seed: Of the study; draws the head, and the rest where `weights` is `none`.

    Raises:
        InputError: There is no network, there are no such weights, or the file does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initial weights", backbone))
        model = build_model(backbone)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if weights == "none":
        origin = "random weights"
    elif weights == "imagenet":
        _fit(tensors, _download(backbone), backbone, "torchvision's weights")
        origin = f"ImageNet weights ({torchvision.models.get_model_weights(backbone).DEFAULT})"
    else:
        _fit(tensors, read_tensors(Path(weights)), backbone, str(weights))
        origin = f"weights of {weights}"
    return InitialState(tensors, origin, digest_tensors(tensors))


def _download(backbone: str) -> Mapping[str, Tensor]:
    if backbone == "small_cnn":
        raise InputError("small_cnn has no ImageNet weights; say --weights small_cnn=none")
    try:
        weights = torchvision.models.get_model_weights(backbone).DEFAULT
        return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"cannot download the ImageNet weights of {backbone} ({error}); without a network say "
            f"--weights {backbone}=FILE, or --weights none to start from random ones"
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors without unpickling anything but tensors.

    Raises:
        InputError: The file is missing or is no file of tensors.
    """
    if not path.is_file():
        raise InputError(f"weights file {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"weights file {path}: not readable ({error})") from None
    except Exception as error:  # torch.load raises whatever its parsers do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"weights file {path}: not a file of tensors ({reason[:120]})") from None
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(f"weights file {path}: expected a state dict (names → tensors)")
    return loaded


def _fit(
    tensors: dict[str, Tensor], loaded: Mapping[str, Tensor], backbone: str, where: str
) -> None:
    """Put `loaded` into `tensors`; all of the backbone must be there, the head need not."""
    head = head_prefix(backbone) + "."
    unknown = [name for name in loaded if name not in tensors and not name.startswith(head)]
    missing = [
        name
        for name in tensors
        if name not in loaded
        and not name.startswith(head)
        and not name.endswith("num_batches_tracked")
    ]
    if unknown or missing:
        what = f"has no {missing[0]!r}" if missing else f"has an unknown tensor {unknown[0]!r}"
        raise InputError(f"{where}: does not fit {backbone}: it {what}")
    for name, tensor in loaded.items():
        if name not in tensors:
            continue
        if tensor.shape != tensors[name].shape:
            if name.startswith(head):
                continue  # a head for other classes
            raise InputError(
                f"{where}: does not fit {backbone}: {name!r} has the shape {tuple(tensor.shape)}, "
                f"expected {tuple(tensors[name].shape)}"
            )
        tensors[name] = tensor.to(tensors[name].dtype).contiguous()


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def choose_trainable(model: nn.Module, config: ModelConfig, *, epoch: int) -> None:
    """Set `requires_grad` and train/eval modes as `config.fine_tuning` wants them in `epoch`.

    Frozen parts are in eval mode, so that their BatchNorm statistics stay.

    Args:
        model: As built for `config.backbone`.
        config: Of the model.
        epoch: From 1.

    Raises:
        InputError: There is no module called `config.trainable_from` in the backbone.
    """
    head = head_prefix(config.backbone)
    in_head = {id(p) for p in model.get_submodule(head).parameters()}
    frozen = config.fine_tuning == "frozen" or (
        config.fine_tuning == "unfreeze_later" and epoch <= config.frozen_epochs
    )
    reached = not frozen
    start = config.trainable_from
    if start is not None:
        reached = False
        names = [
            name for name, parameter in model.named_parameters() if id(parameter) not in in_head
        ]
        if not any(name.startswith(start + ".") for name in names):
            raise InputError(
                f"trainable_from = {start!r}: {config.backbone} has no such module with weights; "
                f"its first is {names[0].rpartition('.')[0]!r}, its last "
                f"{names[-1].rpartition('.')[0]!r}"
            )
    for name, parameter in model.named_parameters():
        reached = reached or (start is not None and name.startswith(start + "."))
        parameter.requires_grad = reached or id(parameter) in in_head
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def parameter_groups(
    model: nn.Module, config: ModelConfig, optimisation: OptimisationConfig
) -> Iterator[dict[str, object]]:
    """Groups for a torch optimizer: head and backbone, with and without weight decay.

    Biases and normalisation (tensors of one dimension) are not decayed.
    """
    head = {id(p) for p in model.get_submodule(head_prefix(config.backbone)).parameters()}
    rate = optimisation.learning_rate
    for in_head, learning_rate in (
        (True, rate),
        (False, rate * config.backbone_learning_rate_factor),
    ):
        for decayed in (True, False):
            parameters = [
                p
                for p in model.parameters()
                if (id(p) in head) == in_head and (p.ndim > 1) == decayed
            ]
            if parameters:
                decay = optimisation.weight_decay if decayed else 0.0
                yield {"params": parameters, "lr": learning_rate, "weight_decay": decay}
