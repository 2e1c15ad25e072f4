"""Networks: backbones of torchvision's or timm's, or of stacked convolutions, with a dropout head.

Every network ends in dropout and two logits, index 1 = cracked. Which parts are trained, and at
which learning rate, is decided here too.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ensemble.base.errors import InputError
from ensemble.training.backbone_table import BACKBONES, TIMM, find_backbone
from ensemble.training.config import ModelConfig, OptimisationConfig
from ensemble.training.layers import count_layers_to_head

_MAX_POOLINGS = 4  # after four, tiles of 16 px have one place left
STEPS_PX = (14, 16, 32)  # usual sides of patches and of places in the last map


class SmallCNN(nn.Module):
    """Stacked convolutions, each with BatchNorm, ReLU and pooling, then a maximum over places.

    The maximum finds a crack wherever it lies in the tile.

    Args:
        filters: Filters of each convolution; only the first four are followed by a pooling.
        dropout: Probability of dropout before the last layer.
    """

    def __init__(self, filters: tuple[int, ...], *, dropout: float):
        super().__init__()
        blocks: list[nn.Module] = []
        for depth, (inputs, outputs) in enumerate(zip((3, *filters), filters, strict=False)):
            blocks += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            if depth < _MAX_POOLINGS:
                blocks.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(filters[-1], 2))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, 2)."""
        return self.classifier(self.pool(self.features(images)).flatten(1))


def build_model(
    backbone: str, *, dropout: float = 0.0, drop_path_rate: float | None = None
) -> nn.Module:
    """Build a network with random weights from torch's global generator.

    Args:
        backbone: A name that `check_backbone` knows.
        dropout: Probability of dropout before the last layer.
        drop_path_rate: Rate of stochastic depth (Huang et al. 2016,
            https://arxiv.org/abs/1603.09382), as `ModelConfig` describes it; None: the network's
            own.

    Returns:
        A module (B, 3, S, S) → (B, 2) logits.

    Raises:
        InputError: A rate is given, and the network has no stochastic depth.
    """
    if drop_path_rate is not None:
        check_drop_path(backbone)
    if backbone.startswith(TIMM):
        from ensemble.training.timm_networks import build_network

        return build_network(backbone, dropout=dropout, drop_path_rate=drop_path_rate)
    if filters := BACKBONES[backbone].filters:
        return SmallCNN(filters, dropout=dropout)
    from torchvision.models import get_model  # takes seconds, and networks of our own need it not

    model = get_model(backbone, weights=None)
    (last_layer,) = BACKBONES[backbone].last_layers
    _replace_last_layer(model, last_layer, dropout)
    if drop_path_rate is not None:
        blocks = _list_droppable(model)
        for depth, block in enumerate(blocks):
            block.p = drop_path_rate * depth / max(1, len(blocks) - 1)
    return model


def build_configured(config: ModelConfig) -> nn.Module:
    """Build the network that a configuration describes, as `build_model` does."""
    return build_model(
        config.backbone, dropout=config.dropout, drop_path_rate=config.drop_path_rate
    )


def _replace_last_layer(model: nn.Module, name: str, dropout: float) -> None:
    """Put dropout and a layer of two outputs in the place of the last layer (and its dropout)."""
    parent, _, key = name.rpartition(".")
    owner: Any = model.get_submodule(parent)
    last: Any = getattr(owner, key)
    layer: nn.Module
    if isinstance(last, nn.Conv2d):
        layer = nn.Conv2d(last.in_channels, 2, 1)
        del owner[int(key) + 1]  # the ReLU behind it: a logit may be negative
    else:
        layer = nn.Linear(last.in_features, 2)
    if key.isdigit() and isinstance(owner[int(key) - 1], nn.Dropout):
        owner[int(key) - 1] = nn.Dropout(dropout)
    else:
        layer = nn.Sequential(nn.Dropout(dropout), layer)
    setattr(owner, key, layer)


def _list_droppable(model: nn.Module) -> list[Any]:
    """List the modules that leave out blocks of a network of torchvision's, from its input on."""
    from torchvision.ops import StochasticDepth

    return [module for module in model.modules() if isinstance(module, StochasticDepth)]


@cache
def check_drop_path(backbone: str) -> None:
    """Refuse stochastic depth for a network that has none, which torch's meta device tells quickly.

    Args:
        backbone: A name that `check_backbone` knows.

    Raises:
        InputError: None of its blocks can be left out.
    """
    if backbone.startswith(TIMM):
        from ensemble.training.timm_networks import has_drop_path

        can_drop = has_drop_path(backbone)
    else:
        with torch.device("meta"):
            can_drop = bool(_list_droppable(build_model(backbone)))
    if not can_drop:
        raise InputError(
            f"{backbone} takes no drop_path_rate, as none of its blocks can be left out; "
            "leave the setting out"
        )


@cache
def check_input_side(backbone: str, side_px: int) -> None:
    """Refuse an input that a network cannot take, which torch's meta device tells quickly.

    Args:
        backbone: A name that `check_backbone` knows.
        side_px: Side of the input: that of the tile, and of the margin around it.

    Raises:
        InputError: It is too small, or the network has position embeddings or windows of a fixed
            size, or patches that do not divide it.
    """
    find_backbone(backbone)
    with torch.device("meta"):
        model = build_model(backbone)
    if not (reason := _why_not(model, side_px)):
        return
    raise InputError(
        f"{backbone} takes no input of {side_px} × {side_px} px ({reason}); "
        f"{_name_sides(backbone, model, side_px)}"
    )


def _why_not(model: nn.Module, side_px: int) -> str:
    """Say why a network on the meta device cannot take an input; "" where it can."""
    try:
        with torch.inference_mode():
            model(torch.zeros(2, 3, side_px, side_px, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        return (str(error).splitlines() or ["its windows do not fit"])[0][:100]
    return ""


def _name_sides(backbone: str, model: nn.Module, side_px: int) -> str:
    """Name inputs that a network takes, near one that it does not."""
    sides = {step * (side_px // step + more) for step in STEPS_PX for more in (0, 1)} - {0}
    taken = [side for side in sorted(sides) if not _why_not(model, side)]
    if not taken and backbone.startswith(TIMM):
        trained_px = find_backbone(backbone).counted_side_px
        taken = [trained_px] if not _why_not(model, trained_px) else []
    if not taken:
        return "give larger images"
    return f"it takes {' or '.join(map(str, taken))} px"


def choose_trainable(model: nn.Module, config: ModelConfig, *, epoch: int) -> None:
    """Set `requires_grad` and train/eval modes for `epoch` as `config.fine_tuning` says.

    Frozen parts are in eval mode, so that their BatchNorm statistics stay.

    Args:
        model: Network that was built for `config.backbone`.
        config: Settings of the model.
        epoch: Number of the epoch, from 1.

    Raises:
        InputError: There is no module called `config.trainable_from` in the backbone.
    """
    in_head = find_backbone(config.backbone).in_head
    frozen = config.fine_tuning == "frozen" or (
        config.fine_tuning == "unfreeze_later" and epoch <= config.frozen_epochs
    )
    reached = not frozen
    start = config.trainable_from
    if start is not None:
        reached = False
        modules = [
            name.rpartition(".")[0]
            for name, _ in model.named_parameters()
            if "." in name and not in_head(name)
        ]
        if not any(f"{module}.".startswith(f"{start}.") for module in modules):
            raise InputError(
                f"trainable_from = {start!r}: {config.backbone} has no such module with weights; "
                f"its first is {modules[0]!r}, its last {modules[-1]!r}"
            )
    for name, parameter in model.named_parameters():
        reached = reached or (start is not None and name.startswith(start + "."))
        parameter.requires_grad = reached or in_head(name)
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def parameter_groups(
    model: nn.Module, config: ModelConfig, optimisation: OptimisationConfig
) -> Iterator[dict[str, object]]:
    """Yield groups for a torch optimizer: head and backbone, with and without weight decay.

    With `config.layer_decay` below 1 each layer of the backbone has groups of its own, from the
    head down. Biases and normalisation (tensors of one dimension) get no weight decay, nor does
    what a network of timm's says, such as position embeddings.
    """
    in_head = find_backbone(config.backbone).in_head
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    layers = count_layers_to_head(model, config.backbone) if config.layer_decay < 1 else {}
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_spared = parameter.ndim <= 1 or name in spared
        key = (not in_head(name), layers.get(name, 0), is_spared)
        groups.setdefault(key, []).append(parameter)
    for is_backbone, distance, is_spared in sorted(groups):
        rate = optimisation.learning_rate
        if is_backbone:
            rate *= config.backbone_learning_rate_factor * config.layer_decay**distance
        yield {
            "params": groups[is_backbone, distance, is_spared],
            "lr": rate,
            "weight_decay": 0.0 if is_spared else optimisation.weight_decay,
        }
