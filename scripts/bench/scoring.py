"""Tiles scored on a CPU: in batches that stay in its cache, and in those that a GPU is given."""

import time
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import torch

from bench.plan import Plan
from bench.row import Row
from ensemble.data.view import View
from ensemble.training import loop
from ensemble.training.backbones import build_configured
from ensemble.training.loop import EVALUATION_BATCH, predict_margins
from ensemble.training.member import DevelopmentTiles

PART = "scoring"
SIZE_PX = 224
NUM_TILES = 128


def measure(plan: Plan) -> Iterator[Row]:
    """For each network tiles a second in float32, in turns; the best of each."""
    size = 64 if plan.small else SIZE_PX
    tiles = DevelopmentTiles(plan.pack_as_in_a_run(size), torch.device("cpu")).open().train
    tiles = tiles.take(torch.arange(min(len(tiles), 16 if plan.small else NUM_TILES)))
    for backbone in (plan.backbone, *plan.networks):
        model = build_configured(replace(plan, backbone=backbone).config().model)
        model = model.to(memory_format=torch.channels_last)
        speeds: dict[str, list[float]] = {"in the cache": [], "large": []}
        for _ in range(plan.rounds + 1):  # the first one warms up
            for way, pixels in (("in the cache", loop.CACHED_PIXELS), ("large", 2**62)):
                with patch.object(loop, "CACHED_PIXELS", pixels):
                    began = time.perf_counter()
                    predict_margins(model, tiles, View(size))
                    speeds[way].append(len(tiles) / (time.perf_counter() - began))
        best = {way: max(found[1:]) for way, found in speeds.items()}
        of = f"{backbone}, {size} px"
        yield Row(PART, f"tiles scored ({of})", best["in the cache"], "tiles/s")
        what = f"tiles scored ÷ in batches of {EVALUATION_BATCH} ({of})"
        yield Row(PART, what, best["in the cache"] / best["large"], "ratio")
