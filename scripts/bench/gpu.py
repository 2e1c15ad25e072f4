"""What only a GPU can show: larger networks at 224 px, and several trials on one card."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from bench.plan import Plan
from bench.row import Row
from bench.searches import measure_search
from bench.training import measure_speeds
from ensemble.training.backbone_table import BACKBONES

NETWORKS = ("resnet50", "efficientnet_v2_s", "convnext_tiny")
# dense bfloat16 FLOP/s of the makers' data sheets, by a part of the card's name
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


def measure(plan: Plan) -> Iterator[Row]:
    """Images/s, share of floor and of the card's peak; a search with 1, 2 and 4 trials a GPU."""
    name = torch.cuda.get_device_name()
    peak = next((flops for part, flops in PEAKS.items() if part in name), None)
    for network in NETWORKS:
        config = plan.config(backbone=network, image_size_px=224)
        speeds = measure_speeds(plan, config, slots=1)
        label = f"{network}, 224 px, batch {plan.batch_size}, {speeds.precision}"
        yield Row("gpu", f"floor ({label})", speeds.floor, "images/s")
        yield Row("gpu", f"fit ({label})", speeds.fit, "images/s")
        yield Row("gpu", f"fit ÷ floor ({label})", speeds.ratio, "ratio", ">= 0.95")
        if peak is not None:
            # two operations each, and twice those of the forward pass for the backward pass
            training_flops = 6e6 * BACKBONES[network].million_multiply_adds
            share = speeds.fit * training_flops / peak
            yield Row("gpu", f"share of {name}'s bf16 peak ({label})", share, "ratio")
    alone = None
    for together in (1, 2, 4):
        part = replace(plan, slots=together)
        found = measure_search(part, f"gpu-{together}", "--gpus", "1", "--trials-per-gpu",
                               str(together))  # fmt: skip
        speed = found.train_images / found.search_seconds
        alone = alone or speed
        what = f"a search with --trials-per-gpu {together}"
        yield Row("gpu", what, speed, "images/s")
        yield Row("gpu", f"{what} ÷ with 1", speed / alone, "ratio")
