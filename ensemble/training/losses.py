"""Cross-entropy or focal loss, with class weights and label smoothing."""

import torch
from torch import Tensor
from torch.nn import functional

from ensemble.training.config import LossConfig


def class_weights(config: LossConfig, labels: Tensor) -> Tensor:
    """Return the weights (2,) of uncracked and cracked; their mean over the training tiles is 1.

    So the learning rate means the same for every `crack_weight`, and the mean over a batch is
    unbiased however workers share the batch.
    """
    cracked = labels.double().mean()
    mean = 1 + cracked * (config.crack_weight - 1)
    weights = torch.tensor([1.0, config.crack_weight], dtype=mean.dtype, device=mean.device)
    return (weights / mean).float()


def weighted_loss(logits: Tensor, labels: Tensor, config: LossConfig, weights: Tensor) -> Tensor:
    """Compute the mean loss of a batch.

    The focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002) multiplies the cross-entropy
    of each tile by (1 − p of its class)^gamma.

    Args:
        logits: (B, 2) logits.
        labels: (B,) int64 labels.
        config: Settings of the loss.
        weights: (2,) weights of the classes.
    """
    losses = functional.cross_entropy(
        logits, labels, reduction="none", label_smoothing=config.label_smoothing
    )
    if config.kind == "focal":
        prob_true_class = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        losses = losses * (1 - prob_true_class).clamp_min(1e-6) ** config.focal_gamma
    return (losses * weights[labels]).mean()
