"""Cost of a configuration without training it: layers, parameters, memory, multiply-adds.

The network is built on torch's meta device, which has shapes and no numbers.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ensemble.base.errors import InputError
from ensemble.training.backbone_table import find_backbone
from ensemble.training.backbones import (
    build_configured,
    build_model,
    check_input_side,
    choose_trainable,
)
from ensemble.training.config import TrialConfig
from ensemble.training.losses import weighted_loss

OPTIMIZER_TENSORS = {"adam": 2, "adamw": 2, "sgd": 1}  # per parameter, of its size


class Layer(NamedTuple):
    """A module that has parameters of its own, or no modules in it."""

    name: str
    kind: str
    shape: tuple[int, ...] | None  #: of its output for one image; None if it is never called
    num_parameters: int
    num_trainable: int


class Summary(NamedTuple):
    """What a configuration costs."""

    input_side_px: int  #: of the tile and the margin around it, as the network sees them
    layers: list[Layer]  #: in the order of the network
    backbone_parameters: int
    head_parameters: int
    trainable_backbone: int  #: parameters that are trained in the last epoch
    trainable_head: int
    weight_bytes: int  #: of parameters and BatchNorm statistics
    optimizer_bytes: int  #: of gradients, of what the optimizer keeps, and of a moving average
    activation_bytes: int  #: of what a forward pass keeps for the backward pass, in float32
    multiply_adds: int  #: of the forward pass of one image

    @property
    def memory_bytes(self) -> int:
        """Bytes that a training step takes on the device, in float32."""
        return self.weight_bytes + self.optimizer_bytes + self.activation_bytes


def summarise(config: TrialConfig, *, tile_side_px: int) -> Summary:
    """Count what training with `config` takes in its last epoch.

    Args:
        config: Configuration of the training run.
        tile_side_px: Side of a tile in its own pixels, in which a margin around it is measured.
    """
    side = config.view.side_px(tile_side_px)
    with torch.device("meta"):
        model = build_configured(config.model)
    choose_trainable(model, config.model, epoch=config.optimisation.epochs)
    activation_bytes = _count_activations(model, config, side)
    shapes, multiply_adds = _run_once(model, side)
    layers = [
        Layer(name, type(module).__name__, shapes.get(name), *_count(own))
        for name, module in model.named_modules()
        if (own := list(module.parameters(recurse=False))) or not list(module.children())
    ]
    in_head = find_backbone(config.model.backbone).in_head
    head_parameters, trainable_head = _count(
        parameter for name, parameter in model.named_parameters() if in_head(name)
    )
    parameters, trainable = _count(model.parameters())
    tensors = [*model.parameters(), *model.buffers()]
    kept = 1 + OPTIMIZER_TENSORS[config.optimisation.optimizer]
    weight_bytes = sum(t.nbytes for t in tensors)
    return Summary(
        input_side_px=side,
        layers=layers,
        backbone_parameters=parameters - head_parameters,
        head_parameters=head_parameters,
        trainable_backbone=trainable - trainable_head,
        trainable_head=trainable_head,
        weight_bytes=weight_bytes,
        optimizer_bytes=4 * kept * trainable + weight_bytes * (config.optimisation.ema_decay > 0),
        activation_bytes=activation_bytes,
        multiply_adds=multiply_adds,
    )


def _count(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """Count the numbers in parameters, and those of them that are trained."""
    sizes = [(p.numel(), p.numel() * p.requires_grad) for p in parameters]
    return sum(size for size, _ in sizes), sum(trained for _, trained in sizes)


def _count_activations(model: nn.Module, config: TrialConfig, side: int) -> int:
    """Count the bytes that autograd keeps of a training step: each tensor once, no weights."""
    batch = config.optimisation.global_batch_size
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # kept alive, so that no other storage gets the same number

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor
        return tensor

    images = torch.zeros(batch, 3, side, side, device="meta")
    labels = torch.zeros(batch, dtype=torch.int64, device="meta")
    weights = torch.ones(batch, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = weighted_loss(model(images), labels, config.loss, weights)
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _run_once(model: nn.Module, side: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return the output shape of every module that is called, and the multiply-adds of an image."""
    shapes: dict[str, tuple[int, ...]] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):  # some blocks of timm's return several
            shapes[names[module]] = tuple(output.shape[1:])

    hooks = [module.register_forward_hook(note) for module in names]
    counter = FlopCounterMode(display=False)
    with counter:  # with gradients, as without it fails at parameters that are expanded
        model.eval()(torch.zeros(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return shapes, counter.get_total_flops() // 2


class BackboneCost(NamedTuple):
    """What a network costs for any configuration."""

    name: str
    parameters: int  #: with a head of two classes
    multiply_adds: int  #: of the forward pass of one image of `side_px`
    side_px: int
    refusal: str = ""  #: why it cannot be a backbone, in few words


def count_backbone(name: str, side_px: int) -> BackboneCost:
    """Count parameters and multiply-adds of a network.

    Args:
        name: Name of the network.
        side_px: Side of the image; where the network cannot take it, that of its training.
    """
    try:
        about = find_backbone(name)
    except InputError:
        return BackboneCost(name, 0, 0, side_px, "no map of places before its head")
    with torch.device("meta"):
        model = build_model(name)
    parameters, _ = _count(model.parameters())
    try:
        check_input_side(name, side_px)
    except InputError:
        side_px = about.counted_side_px
    _, multiply_adds = _run_once(model, side_px)
    return BackboneCost(name, parameters, multiply_adds, side_px)


def print_layers(summary: Summary, console: Console) -> None:
    """Print a table with a row for each layer."""
    table = Table()
    for title in ("layer", "kind", "output", "parameters", "trainable"):
        right = title in ("parameters", "trainable")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for name, kind, shape, *counts in summary.layers:
        output = " × ".join(map(str, shape or ()))
        table.add_row(name, kind, output, *(f"{count:,}" for count in counts))
    console.print(table)


def print_totals(name: str, config: TrialConfig, summary: Summary, console: Console) -> None:
    """Print what a configuration called `name` costs, in five lines."""
    s, size, side = summary, config.data.describe_size(), summary.input_side_px
    seen = f"{size}: an input of {side} × {side} px" if config.data.context_px else size
    console.print(f"""{name}: {config.model.backbone}, {seen}
  parameters      {s.backbone_parameters + s.head_parameters:,} \
(backbone {s.backbone_parameters:,}, head {s.head_parameters:,})
  trainable       {s.trainable_backbone + s.trainable_head:,} \
(backbone {s.trainable_backbone:,}, head {s.trainable_head:,})
  memory          {s.memory_bytes / 1e6:,.0f} MB in float32: weights {s.weight_bytes / 1e6:,.1f}, \
gradients and optimizer {s.optimizer_bytes / 1e6:,.1f}, activations of a training step of \
{config.optimisation.global_batch_size} tiles {s.activation_bytes / 1e6:,.0f}
  multiply-adds   {s.multiply_adds / 1e6:,.1f} million an image, forwards""")
