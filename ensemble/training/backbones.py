"""Networks: backbones of torchvision's, or of stacked convolutions, with a dropout head.

Every network ends in dropout and two logits, index 1 = cracked. Which parts are trained, and at
which learning rate, is decided here too.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ensemble.base.errors import InputError
from ensemble.training.backbone_table import BACKBONES
from ensemble.training.config import ModelConfig, OptimisationConfig

_MAX_POOLINGS = 4  # after four, tiles of 16 px have one place left


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


def build_model(backbone: str, *, dropout: float = 0.0) -> nn.Module:
    """Build a network with random weights from torch's global generator.

    Args:
        backbone: A name of `BACKBONES`.
        dropout: Probability of dropout before the last layer.

    Returns:
        A module (B, 3, S, S) → (B, 2) logits.
    """
    if filters := BACKBONES[backbone].filters:
        return SmallCNN(filters, dropout=dropout)
    from torchvision.models import get_model  # takes seconds, and networks of our own need it not

    model = get_model(backbone, weights=None)
    _replace_last_layer(model, BACKBONES[backbone].last_layer, dropout)
    return model


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
    head = BACKBONES[config.backbone].last_layer
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
    """Yield groups for a torch optimizer: head and backbone, with and without weight decay.

    Biases and normalisation (tensors of one dimension) get no weight decay.
    """
    head = {id(p) for p in model.get_submodule(BACKBONES[config.backbone].last_layer).parameters()}
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
