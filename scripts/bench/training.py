"""`fit` against the floor, in as many processes at once as the search has slots."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from bench.floor import run_steps
from bench.plan import Plan
from bench.row import Row
from ensemble.base.process import keep_freed_memory
from ensemble.training.backbones import build_configured
from ensemble.training.config import TrialConfig
from ensemble.training.loop import fit
from ensemble.training.member import DevelopmentTiles

SMALL_STEPS = 4  # of a small plan


@dataclass(frozen=True)
class Speeds:
    """Images a second of all slots together, medians over rounds.

    Attributes:
        floor: Images a second of steps on a batch in memory.
        fit: Images a second of `fit`, without validation.
        ratio: Median of the rounds' own ratios.
        precision: Precision that both used.
    """

    floor: float
    fit: float
    ratio: float
    precision: str


def measure_speeds(plan: Plan, config: TrialConfig, *, slots: int | None = None) -> Speeds:
    """Floor and `fit` in turns, in `slots` processes that wait for each other."""
    slots = slots or plan.slots
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(slots), context.SimpleQueue()
    stored = plan.pack_as_in_a_run(config.data.image_size_px)
    arguments = (plan, stored, config.model_dump(mode="json"), barrier, answers)
    multiprocessing.spawn(  # type: ignore[attr-defined]
        _measure_slot, args=arguments, nprocs=slots
    )
    found = [answers.get() for _ in range(slots)]
    # round 0 warms up
    floors = [sum(f[0][i] for f in found) for i in range(1, len(found[0][0]))]
    fits = [sum(f[1][i] for f in found) for i in range(1, len(found[0][1]))]
    ratios = [done / floor for done, floor in zip(fits, floors, strict=True)]
    middle = statistics.median
    return Speeds(middle(floors), middle(fits), middle(ratios), found[0][2])


def _measure_slot(
    rank: int, plan: Plan, stored: Path, values: dict[str, Any], barrier: Any, answers: Any
) -> None:
    keep_freed_memory()
    torch.set_num_threads(plan.threads)
    config = TrialConfig.model_validate(values)
    data = DevelopmentTiles(stored, plan.device).open()
    batch, train = config.optimisation.global_batch_size, data.train
    if plan.small:
        train = train.take(torch.arange(min(len(train), SMALL_STEPS * batch)))
    steps = max(1, len(train) // batch)
    floors, fits, precision = [], [], ""
    for _ in range(plan.rounds + 1):
        barrier.wait()
        floors.append(run_steps(config, plan.device, steps))
        barrier.wait()
        model = build_configured(config.model)
        epoch = next(fit(model.to(plan.device), config, train, data.val))
        fits.append(epoch.images_per_second)
        precision = epoch.precision
    answers.put((floors, fits, precision))


def measure(plan: Plan, speeds: Speeds, *, part: str = "training") -> list[Row]:
    """The rows of `speeds`, which were measured as `plan` says."""
    size = f"{plan.backbone}, {plan.image_size_px} px, {speeds.precision}, {plan.slots} slots"
    target = ">= 0.95" if plan.device.type == "cuda" else ">= 0.92"
    return [
        Row(part, f"floor ({size})", speeds.floor, "images/s"),
        Row(part, f"fit ({size})", speeds.fit, "images/s"),
        Row(part, f"fit ÷ floor ({size})", speeds.ratio, "ratio", target),
    ]
