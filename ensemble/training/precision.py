"""In which precision a network is trained and scored.

bfloat16 is not always quicker on a CPU that has it: with AVX512-BF16 it is 1.75 times as quick for
SqueezeNet and takes 2.5 times as long for MobileNetV3-small. So `auto` tries both for a moment,
once a process and kind of network, and the choice is recorded with every epoch and member.
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
WORTH = 1.1  # bfloat16 must be so many times as quick, or noise decides


def choose_precision(config: TrialConfig, device: torch.device) -> torch.dtype:
    """What `config.optimisation.precision` means on `device`.

    Args:
        config: Of the training run.
        device: Where it trains.

    Returns:
        As asked. `auto` is bfloat16 on a GPU that computes in it, the quicker one on a CPU that
        does, and float32 elsewhere.
    """
    wanted = config.optimisation.precision
    if wanted != "auto":
        return PRECISIONS[wanted]
    if not has_bfloat16(device):
        return torch.float32
    if device.type != "cpu":
        return torch.bfloat16
    return _quicker_on_cpu(config.model, config.data.image_size_px, torch.get_num_threads())


def scoring_precision(recorded: str, device: torch.device) -> torch.dtype:
    """That in which a member was scored, if `device` computes in it; else float32."""
    return PRECISIONS[recorded] if has_bfloat16(device) else torch.float32


def describe_scoring(recorded: Mapping[int, str], device: torch.device) -> str:
    """A line where `device` scores members in another precision than their thresholds came from.

    Args:
        recorded: Trial → precision in which its member was validated.
        device: Where it is scored now.

    Returns:
        The line, or "" where there is nothing to say.
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


def has_bfloat16(device: torch.device) -> bool:
    """Whether it computes in bfloat16, and does not only emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported())


def name_precision(precision: torch.dtype) -> str:
    """`float32` or `bfloat16`."""
    return str(precision).removeprefix("torch.")


@cache
def _quicker_on_cpu(model: ModelConfig, image_size_px: int, threads: int) -> torch.dtype:
    """The quicker precision of a training step, by trying; remembered by what decides it."""
    with torch.random.fork_rng(devices=[]):
        network = build_model(model.backbone).to(memory_format=torch.channels_last)
    choose_trainable(network, model, epoch=model.frozen_epochs + 1)
    images = torch.ones(TRIED_BATCH, 3, image_size_px, image_size_px)
    images = images.contiguous(memory_format=torch.channels_last)
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(TRIED_STEPS):  # in turns: what else runs slows both down
        for precision in seconds:
            began = time.perf_counter()
            _step(network, images, precision)
            seconds[precision] = min(seconds[precision], time.perf_counter() - began)
    is_worth = seconds[torch.float32] > WORTH * seconds[torch.bfloat16]
    return torch.bfloat16 if is_worth else torch.float32


def _step(network: nn.Module, images: torch.Tensor, precision: torch.dtype) -> None:
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        logits = network(images)
    network.zero_grad(set_to_none=True)
    logits.float().square().sum().backward()
