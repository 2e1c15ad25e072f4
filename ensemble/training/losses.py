"""What is minimised: cross-entropy or focal loss, with class weights and label smoothing."""

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.training.config import LossConfig


def class_weights(config: LossConfig, labels: Tensor) -> Tensor:
    """Weights (2,) of uncracked and cracked, whose mean over the training tiles is 1.

    So the learning rate means the same for every `crack_weight`, and a plain mean over a batch is
    unbiased however the batch is divided among workers.
    """
    cracked = labels.double().mean()
    mean = 1 + cracked * (config.crack_weight - 1)
    weights = torch.tensor([1.0, config.crack_weight], dtype=mean.dtype, device=mean.device)
    return (weights / mean).float()


def weighted_loss(logits: Tensor, labels: Tensor, config: LossConfig, weights: Tensor) -> Tensor:
    """Mean loss of a batch.

    Cross-entropy with label smoothing, or the focal loss (Lin et al. 2017,
    https://arxiv.org/abs/1708.02002), which multiplies each tile's by (1 − p of its class)^gamma.

    Args:
        logits: (B, 2).
        labels: (B,) int64.
        config: Of the loss.
        weights: (2,) of the classes.
    """
    losses = functional.cross_entropy(
        logits, labels, reduction="none", label_smoothing=config.label_smoothing
    )
    if config.kind == "focal":
        given = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        losses = losses * (1 - given).clamp_min(1e-6) ** config.focal_gamma
    return (losses * weights[labels]).mean()
