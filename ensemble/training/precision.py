"""Precision in which a network is trained and scored.

bfloat16 is not always faster on a CPU that has it: with AVX512-BF16, SqueezeNet is 1.75 times as
fast and MobileNetV3-small takes 2.5 times as long. So `auto` times a few steps in both, once per
process and kind of network; every epoch and member records the choice.
"""

import time
from collections.abc import Mapping
from functools import cache

import torch
from torch import nn

from ensemble.training.backbones import build_model, choose_trainable
from ensemble.training.config import ModelConfig, TrialConfig

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TRIED_BATCH, TRIED_STEPS = 16, 3
LEAST_SPEEDUP = 1.1  # of bfloat16; below that, noise would decide


def choose_precision(config: TrialConfig, device: torch.device, input_side_px: int) -> torch.dtype:
    """Choose the precision that `config.optimisation.precision` means on `device`.

    `auto` means bfloat16 on a GPU that computes in it, the faster one on a CPU that does, and
    float32 elsewhere.
    """
    wanted = config.optimisation.precision
    if wanted != "auto":
        return PRECISIONS[wanted]
    if not has_bfloat16(device):
        return torch.float32
    if device.type != "cpu":
        return torch.bfloat16
    model = config.model
    trained = ModelConfig(  # without what a search varies and what takes no time
        backbone=model.backbone,
        fine_tuning=model.fine_tuning,
        trainable_from=model.trainable_from,
    )
    return _faster_on_cpu(trained, input_side_px, torch.get_num_threads())


def scoring_precision(recorded: str, device: torch.device) -> torch.dtype:
    """Return the precision in which a member was scored, or float32 if `device` lacks it."""
    return PRECISIONS[recorded] if has_bfloat16(device) else torch.float32


def describe_scoring(recorded: Mapping[int, str], device: torch.device) -> str:
    """Say that `device` scores members in another precision than they were validated in.

    Args:
        recorded: Trial → precision in which its member was validated.
        device: Device that scores the members.

    Returns:
        A line, or "" if all precisions are the same.
    """
    others = [
        str(trial)
        for trial, precision in recorded.items()
        if PRECISIONS[precision] != scoring_precision(precision, device)
    ]
    if not others:
        return ""
    return (
        f"scored in float32: this machine does not compute in bfloat16, in which trial"
        f"{'s' * (len(others) > 1)} {', '.join(others)} and the thresholds were validated; a tile "
        "close to a threshold may get another verdict than on a machine that does"
    )


def describe_graph(recorded: Mapping[int, str]) -> str:
    """Say that a graph, which computes in float32, scores members that were validated otherwise.

    Args:
        recorded: Trial → precision in which its member was validated.

    Returns:
        A line, or "" if all were validated in float32.
    """
    others = [str(trial) for trial, precision in recorded.items() if precision != "float32"]
    if not others:
        return ""
    return (
        f"scored in float32, in which an exported graph computes: trial{'s' * (len(others) > 1)} "
        f"{', '.join(others)} and the thresholds were validated in bfloat16; a tile close to a "
        "threshold may get another verdict than the run gives it on a machine that computes in that"
    )


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 and does not only emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported())


def name_precision(precision: torch.dtype) -> str:
    """Return `float32` or `bfloat16`."""
    return str(precision).removeprefix("torch.")


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return a context in which a network computes in `precision`; its weights stay float32."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


@cache
def _faster_on_cpu(model: ModelConfig, input_side_px: int, threads: int) -> torch.dtype:
    """Time training steps in both precisions and return the faster one."""
    with torch.random.fork_rng(devices=[]):
        network = build_model(model.backbone).to(memory_format=torch.channels_last)
    choose_trainable(network, model, epoch=model.frozen_epochs + 1)
    images = torch.ones(TRIED_BATCH, 3, input_side_px, input_side_px)
    images = images.contiguous(memory_format=torch.channels_last)
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(TRIED_STEPS):  # by turns, so that other load slows both down
        for precision in seconds:
            started = time.perf_counter()
            _step(network, images, precision)
            seconds[precision] = min(seconds[precision], time.perf_counter() - started)
    is_worth = seconds[torch.float32] > LEAST_SPEEDUP * seconds[torch.bfloat16]
    return torch.bfloat16 if is_worth else torch.float32


def _step(network: nn.Module, images: torch.Tensor, precision: torch.dtype) -> None:
    with autocast(images.device, precision):
        logits = network(images)
    network.zero_grad(set_to_none=True)
    logits.float().square().sum().backward()
