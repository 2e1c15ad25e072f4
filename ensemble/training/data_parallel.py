"""Workers of a data-parallel training run: ranks, gradients and BatchNorm statistics."""

import inspect
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


def rank_and_world_size() -> tuple[int, int]:
    """Return rank and number of workers; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def wrap_model(model: nn.Module) -> DistributedDataParallel:
    """Wrap a model in DDP that leaves each worker its BatchNorm statistics."""
    known = inspect.signature(DistributedDataParallel).parameters
    # torch 2.15 renamed the argument
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, **options)


def share_statistics(model: nn.Module, *, like: nn.Module | None = None) -> None:
    """Average the workers' BatchNorm statistics, so that all validate the same network.

    The variance over all tiles is the mean of the workers' variances plus the variance of their
    means (law of total variance). Frozen layers are left as they are, to the bit.

    Args:
        model: The network.
        like: The network whose layers in training mode were trained; `model` itself without it.
    """
    num_workers = dist.get_world_size()
    for module, trained in zip(model.modules(), (like or model).modules(), strict=True):
        if not isinstance(module, _BatchNorm) or not trained.training:
            continue
        mean, variance = module.running_mean, module.running_var
        assert mean is not None  # every network here tracks statistics
        assert variance is not None
        own_mean = mean.clone()
        dist.all_reduce(mean)
        mean /= num_workers
        variance += (own_mean - mean) ** 2
        dist.all_reduce(variance)
        variance /= num_workers
