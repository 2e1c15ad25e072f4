"""What a configuration costs, without training it: layers, parameters, memory, multiply-adds.

The network is built on torch's meta device, which has shapes and no numbers, so that no weights are
needed and the largest one takes a second.
"""

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ensemble.training.backbones import build_model, choose_trainable, head_prefix
from ensemble.training.config import TrialConfig
from ensemble.training.losses import weighted_loss

OPTIMIZER_TENSORS = {"adam": 2, "adamw": 2, "sgd": 1}  # of a parameter's size, for each parameter


@dataclass(frozen=True)
class Layer:
    """A module that has parameters of its own, or no modules in it.

    Attributes:
        name: Of the module.
        kind: Of the module.
        shape: Of its output for one image, without the batch; None where it is not called itself.
        num_parameters: Its own.
        num_trainable: Those of them that are trained.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    num_parameters: int
    num_trainable: int


@dataclass(frozen=True)
class Summary:
    """What a configuration costs.

    Attributes:
        layers: In the order of the network.
        backbone_parameters: Of the backbone.
        head_parameters: Of the head.
        trainable_backbone: Parameters of the backbone that are trained in the last epoch.
        trainable_head: Likewise of the head.
        weight_bytes: Of the network: parameters and BatchNorm statistics.
        optimizer_bytes: Of gradients and of what the optimizer keeps.
        activation_bytes: Kept of a forward pass for the backward pass, in float32.
        multiply_adds: Of one image, forwards.
    """

    layers: list[Layer]
    backbone_parameters: int
    head_parameters: int
    trainable_backbone: int
    trainable_head: int
    weight_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    multiply_adds: int


def summarise(config: TrialConfig) -> Summary:
    """Count what training `config` takes, as its last epoch trains it."""
    with torch.device("meta"):
        model = build_model(config.model.backbone, dropout=config.model.dropout)
    choose_trainable(model, config.model, epoch=config.optimisation.epochs)
    size = config.data.image_size_px
    activation_bytes = _count_activations(model, config)
    shapes, multiply_adds = _run_once(model, size)
    layers = [
        Layer(
            name=name,
            kind=type(module).__name__,
            shape=shapes.get(name),
            num_parameters=sum(p.numel() for p in own),
            num_trainable=sum(p.numel() for p in own if p.requires_grad),
        )
        for name, module in model.named_modules()
        if (own := list(module.parameters(recurse=False))) or not list(module.children())
    ]
    head = model.get_submodule(head_prefix(config.model.backbone))
    head_parameters, trainable_head = _count(head)
    parameters, trainable = _count(model)
    tensors = [*model.parameters(), *model.buffers()]
    kept = 1 + OPTIMIZER_TENSORS[config.optimisation.optimizer]
    return Summary(
        layers=layers,
        backbone_parameters=parameters - head_parameters,
        head_parameters=head_parameters,
        trainable_backbone=trainable - trainable_head,
        trainable_head=trainable_head,
        weight_bytes=sum(t.numel() * t.element_size() for t in tensors),
        optimizer_bytes=4 * kept * trainable,
        activation_bytes=activation_bytes,
        multiply_adds=multiply_adds,
    )


def _count(module: nn.Module) -> tuple[int, int]:
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def _count_activations(model: nn.Module, config: TrialConfig) -> int:
    """Bytes that autograd keeps of one training step, each tensor once, without the weights."""
    size, batch = config.data.image_size_px, config.optimisation.global_batch_size
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # held, so that no number is given to another storage

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor
        return tensor

    images = torch.zeros(batch, 3, size, size, device="meta")
    labels = torch.zeros(batch, dtype=torch.int64, device="meta")
    weights = torch.ones(2, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = weighted_loss(model(images), labels, config.loss, weights)
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _run_once(model: nn.Module, size: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """The output shape of every module that is called, and the multiply-adds of one image."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            shapes[name] = tuple(output.shape[1:])

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    try:
        counter = FlopCounterMode(display=False)
        with torch.inference_mode(), counter:
            model.eval()(torch.zeros(1, 3, size, size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes, counter.get_total_flops() // 2


def print_layers(summary: Summary, console: Console) -> None:
    """Print a row a layer."""
    table = Table()
    for title in ("layer", "kind", "output", "parameters", "trainable"):
        right = title in ("parameters", "trainable")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for layer in summary.layers:
        table.add_row(
            layer.name,
            layer.kind,
            "" if layer.shape is None else " × ".join(str(n) for n in layer.shape),
            f"{layer.num_parameters:,}",
            f"{layer.num_trainable:,}",
        )
    console.print(table)


def print_totals(name: str, config: TrialConfig, summary: Summary, console: Console) -> None:
    """Print what a configuration called `name` costs, in four lines."""
    s, size = summary, config.data.image_size_px
    trainable = s.trainable_backbone + s.trainable_head
    memory = s.weight_bytes + s.optimizer_bytes + s.activation_bytes
    console.print(f"{name}: {config.model.backbone}, {size} × {size} px")
    console.print(
        f"  parameters      {s.backbone_parameters + s.head_parameters:,} "
        f"(backbone {s.backbone_parameters:,}, head {s.head_parameters:,})"
    )
    console.print(
        f"  trainable       {trainable:,} "
        f"(backbone {s.trainable_backbone:,}, head {s.trainable_head:,})"
    )
    console.print(
        f"  memory          {memory / 1e6:,.0f} MB in float32: "
        f"weights {s.weight_bytes / 1e6:,.1f}, "
        f"gradients and optimizer {s.optimizer_bytes / 1e6:,.1f}, activations of a training step "
        f"of {config.optimisation.global_batch_size} tiles {s.activation_bytes / 1e6:,.0f}"
    )
    console.print(f"  multiply-adds   {s.multiply_adds / 1e6:,.1f} million an image, forwards")
