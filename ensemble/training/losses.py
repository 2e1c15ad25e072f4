"""Cross-entropy or focal loss, with weights of classes and doubted labels, and label smoothing."""

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.base.errors import InputError
from ensemble.training.config import LossConfig


def tile_weights(config: LossConfig, labels: Tensor, doubted: Tensor | None = None) -> Tensor:
    """Return the weight of each training tile, (N,) float32; their mean is 1.

    So the learning rate means the same for every `crack_weight` and `doubted_weight`, and the mean
    over a batch is unbiased however workers share the batch.

    Args:
        config: Settings of the loss.
        labels: (N,) int64 labels of all training tiles.
        doubted: (N,) bool, whether a label is doubted; None where nobody says.

    Raises:
        InputError: Doubted labels shall count less, and nobody says which these are.
    """
    weights = torch.where(labels == 1, config.crack_weight, 1.0).double()
    if config.needs_doubted:
        if doubted is None:
            raise InputError(
                f"loss.doubted_weight = {config.doubted_weight:g}: only a refit says which labels "
                "are doubted, by its --try; leave it at 1 elsewhere"
            )
        weights = torch.where(doubted, config.doubted_weight * weights, weights)
    return (weights / weights.mean()).float()


def weighted_loss(logits: Tensor, labels: Tensor, config: LossConfig, weights: Tensor) -> Tensor:
    """Compute the mean loss of a batch.

    The focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002) multiplies the cross-entropy
    of each tile by (1 − p of its class)^gamma.

    Args:
        logits: (B, 2) logits.
        labels: (B,) int64 labels.
        config: Settings of the loss.
        weights: (B,) weights of the tiles.
    """
    losses = functional.cross_entropy(
        logits, labels, reduction="none", label_smoothing=config.label_smoothing
    )
    if config.kind == "focal":
        prob_true_class = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        losses = losses * (1 - prob_true_class).clamp_min(1e-6) ** config.focal_gamma
    return (losses * weights).mean()
