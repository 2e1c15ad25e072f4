"""A soup: the weights of members averaged into one network, where that helps on validation.

Members are tried from the best on, and each is kept that does not lower the validation F1 (the
greedy soup of Wortsman et al. 2022, https://arxiv.org/abs/2203.05482). Only members of one backbone
and one input size that started from the same weights are mixed: elsewhere the mean of two good
networks is useless. BatchNorm statistics belong to weights, so they are estimated again on training
tiles, except in layers that were frozen in training: those are as all members started.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ensemble.data.batches import SplitTiles, make_batch
from ensemble.data.view import View
from ensemble.training.backbones import choose_trainable
from ensemble.training.checkpoint import Member, open_member, write_member
from ensemble.training.loop import predict_margins
from ensemble.training.member import TrainingData
from ensemble.training.metrics import best_threshold, margins_to_probabilities, validation_metrics
from ensemble.training.precision import name_precision, scoring_precision

NUM_BATCH_NORM_TILES = 4096
BATCH = 128


class Soup(NamedTuple):
    """Averaged weights, and what they reach on the validation tiles."""

    model: nn.Module  # in eval mode
    ingredients: list[Member]  # members whose weights are in it, the best first
    val_margins: np.ndarray  # (N,) float32
    val_f1: float  # at the threshold that is best on these tiles
    precision: str  # that the tiles were scored in


def make_soup(members: Sequence[Member], train: SplitTiles, val: SplitTiles) -> Soup:
    """Mix the best member, the first one, with those that do not lower the validation F1."""
    best, *others = members
    soup = _average_members([best], train, val)
    for member in others:
        if _kind(member) != _kind(best):
            continue
        trial = _average_members([*soup.ingredients, member], train, val)
        if trial.val_f1 >= soup.val_f1:
            soup = trial
    return soup


def write_soup(
    members: Sequence[Member], data: TrainingData, folder: Path
) -> tuple[Member, list[Member]]:
    """Make a soup and write it to `folder` as a member, under the best ingredient's number.

    Where no mixture helps, the best member is the soup, and nothing is written.

    Returns:
        The member, and the members whose weights are in it.
    """
    soup = make_soup(members, data.train, data.val)
    first = soup.ingredients[0]
    if len(soup.ingredients) == 1:
        return first, soup.ingredients
    metrics = validation_metrics(data.val.labels.cpu().numpy(), soup.val_margins)
    write_member(
        folder,
        soup.model.state_dict(),
        soup.val_margins,
        **first.record.describe_training(
            metrics={f"val_{name}": value for name, value in metrics.items()},
            precision=soup.precision,
        ),
    )
    return open_member(folder), soup.ingredients


def _kind(member: Member) -> tuple[str, View, str]:
    record = member.record
    return record.config.model.backbone, record.view, record.initial_weights_digest


def _average_members(ingredients: list[Member], train: SplitTiles, val: SplitTiles) -> Soup:
    model = ingredients[0].load_model()
    if len(ingredients) > 1:
        states = [member.load_model().state_dict() for member in ingredients]
        model.load_state_dict(average_states(states))
    view = ingredients[0].record.view
    precision = scoring_precision(ingredients[0].record.precision, val.device)
    model = model.to(val.device).to(memory_format=torch.channels_last)
    if len(ingredients) > 1:
        estimate_batch_norm(model, _trained_batch_norm(model, ingredients), _images(train, view))
    margins = predict_margins(model.eval(), val, view, precision=precision)
    _, f1 = best_threshold(val.labels.cpu().numpy(), margins_to_probabilities(margins))
    return Soup(model, ingredients, margins, f1, name_precision(precision))


def _trained_batch_norm(model: nn.Module, ingredients: Sequence[Member]) -> list[_BatchNorm]:
    """The BatchNorm layers of `model` that were in training mode in the training of any member."""
    trained: set[str] = set()
    for member in ingredients:
        choose_trainable(model, member.record.config.model, epoch=member.record.epoch)
        trained |= {name for name, module in model.named_modules() if module.training}
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and name in trained
    ]


@torch.no_grad()
def estimate_batch_norm(
    model: nn.Module, layers: Sequence[_BatchNorm], batches: Iterable[Tensor]
) -> None:
    """Estimate the statistics of these BatchNorm layers anew, as the mean over batches.

    The model is left in eval mode; its other layers keep their statistics.
    """
    model.eval()
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    for images in batches:
        model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


def average_states(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of every floating-point tensor by name; counters are taken from the first."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


def _images(tiles: SplitTiles, view: View) -> Iterator[Tensor]:
    """Batches spread evenly over the tiles, without augmentation.

    They are of one size, or one tile apart: each counts alike, and BatchNorm takes no lone tile.
    """
    chosen = torch.arange(0, len(tiles), max(1, len(tiles) // NUM_BATCH_NORM_TILES))
    for index in chosen.tensor_split(-(-len(chosen) // BATCH)):
        yield make_batch(tiles, index, view)[0]
