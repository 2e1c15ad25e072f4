"""Optimizer and learning-rate schedule of a configuration; the optimizer's tensors by name."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ensemble.training.backbones import parameter_groups
from ensemble.training.config import OptimisationConfig, TrialConfig


def make_optimizer(model: nn.Module, config: TrialConfig) -> torch.optim.Optimizer:
    """Build the configured optimizer over all parameters, frozen ones included."""
    groups: Any = list(parameter_groups(model, config.model, config.optimisation))
    if config.optimisation.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.optimisation.momentum, fused=True)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[config.optimisation.optimizer](groups, fused=True)


def make_schedule(
    optimizer: torch.optim.Optimizer,
    config: OptimisationConfig,
    steps_per_epoch: int,
    *,
    done_steps: int = 0,
) -> torch.optim.lr_scheduler.LambdaLR:
    """Build the schedule: a linear rise over the warm-up, then a half cosine to 0, or a constant.

    Args:
        optimizer: Optimizer with the peak learning rates.
        config: Settings of the schedule.
        steps_per_epoch: Calls of `step()` in an epoch.
        done_steps: Calls of `step()` before the run was cut.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    total = config.epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if config.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor, last_epoch=done_steps - 1)


def name_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's tensors as `<kind>.<parameter>`; untrained parameters have none."""
    return {
        f"{kind}.{name}": tensor
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }


def restore_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Give a new optimizer copies of the tensors that `name_tensors` returned."""
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        parameter = model.get_parameter(name)
        # in the parameter's memory order, as fused optimizers walk both in the order of memory
        like = parameter if tensor.shape == parameter.shape else tensor
        place = torch.empty_like(like, dtype=tensor.dtype, device=parameter.device)
        optimizer.state[parameter][kind] = place.copy_(tensor)
