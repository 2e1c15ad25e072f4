"""What makes a training run data-parallel: who is among the workers, and what they share."""

import inspect
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


def rank_and_world_size() -> tuple[int, int]:
    """Rank and number of workers; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def wrap_model(model: nn.Module) -> DistributedDataParallel:
    """DDP that leaves each worker its BatchNorm statistics; torch 2.15 renamed the argument."""
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, **options)


def share_statistics(model: nn.Module) -> None:
    """Make the workers' BatchNorm statistics one, so that all validate the same network.

    The variance of all is the mean of the workers' variances and the variance between their means
    (law of total variance). Frozen layers took no statistics and stay as they are, to the bit.
    """
    num_workers = dist.get_world_size()
    for module in model.modules():
        if not isinstance(module, _BatchNorm) or not module.training:
            continue
        mean, variance = module.running_mean, module.running_var
        assert mean is not None  # no network of ours is without statistics
        assert variance is not None
        own_mean = mean.clone()
        dist.all_reduce(mean)
        mean /= num_workers
        variance += (own_mean - mean) ** 2
        dist.all_reduce(variance)
        variance /= num_workers
