"""The floor: forward, backward and step on a batch that lies in the device's memory, no more.

Also what single choices are worth: the same steps without one of them, each in processes of its
own. `python scripts/bench/floor.py '{"backbone": …}'` measures one process and prints images/s.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run as a process of its own

from bench.plan import ROOT, Plan
from bench.row import Row
from ensemble.base.process import keep_freed_memory
from ensemble.training.backbones import build_configured, choose_trainable
from ensemble.training.config import TrialConfig
from ensemble.training.losses import weighted_loss
from ensemble.training.optimiser import make_optimizer
from ensemble.training.precision import choose_precision

CHANNELS_LAST = {"channels last (against contiguous)": {"channels_last": False}}
PRECISION = {"precision by trying (against the other one)": {"other_precision": True}}
CHOICES: dict[str, dict[str, Any]] = {
    "freed memory is kept (against glibc's default)": {"keep_memory": False},
    **CHANNELS_LAST,
    "fused optimizer (against a loop over parameters)": {"fused": False},
    "no torch.compile (against torch.compile)": {"compile": True},
}


def run_steps(
    config: TrialConfig,
    device: torch.device,
    steps: int,
    *,
    channels_last: bool = True,
    fused: bool = True,
    compiled: bool = False,
) -> float:
    """Train `steps` steps on one batch, after two that are not counted.

    Returns:
        Images a second.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    size, batch = config.data.image_size_px, config.optimisation.global_batch_size
    model = build_configured(config.model)
    model = model.to(device).to(memory_format=layout)
    choose_trainable(model, config.model, epoch=1)
    optimizer = make_optimizer(model, config)
    for group in optimizer.param_groups:
        group["fused"] = fused
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=layout)
    labels = torch.arange(batch, device=device) % 2
    precision = choose_precision(config, device, size)
    module = torch.compile(model) if compiled else model
    weights = torch.ones(batch, device=device)
    began = 0.0
    for step in range(steps + 2):
        if step == 2:
            _wait_for(device)
            began = time.perf_counter()
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = module(images)
        loss = weighted_loss(logits.float(), labels, config.loss, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    _wait_for(device)
    return batch * steps / (time.perf_counter() - began)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(plan: Plan) -> Iterator[Row]:
    """What single choices are worth to the network of the plan."""
    choices = dict(CHOICES)
    if plan.device.type == "cpu":
        choices["one thread a slot (against one process with all)"] = {
            "processes": 1,
            "threads": plan.threads * plan.slots,
        }
        choices |= PRECISION
    for what, ratio in compare(plan, choices):
        yield Row("choices", what, ratio, "ratio")


def compare(plan: Plan, choices: dict[str, dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """What each choice is worth: images/s with it ÷ without it, in turns; a small plan has one."""
    usual = {"threads": plan.threads, "processes": plan.slots}
    for what, changes in list(choices.items())[: 1 if plan.small else None]:
        ratios = []
        for _ in range(1 if plan.small else plan.rounds):
            with_it = _images_per_second(plan, usual)
            ratios.append(with_it / _images_per_second(plan, {**usual, **changes}))
        yield what, statistics.median(ratios)


def _images_per_second(plan: Plan, settings: dict[str, Any]) -> float:
    """Images a second of all processes together."""
    processes = settings["processes"]
    task = {
        **settings,
        "config": plan.config().model_dump(mode="json"),
        "device": plan.device.type,
        "steps": 2 if plan.small else 12,
    }
    running = [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps(task)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(processes)
    ]
    return sum(float(process.communicate()[0].split()[-1]) for process in running)


def main() -> None:
    """One process of `measure`."""
    task = json.loads(sys.argv[1])
    if task.get("keep_memory", True):
        keep_freed_memory()
    torch.set_num_threads(task["threads"])
    config, device = TrialConfig.model_validate(task["config"]), torch.device(task["device"])
    if task.get("other_precision"):
        chosen = choose_precision(config, device, config.data.image_size_px)
        other = "float32" if chosen == torch.bfloat16 else "bfloat16"
        config = config.model_copy(
            update={"optimisation": config.optimisation.model_copy(update={"precision": other})}
        )
    print(
        run_steps(
            config,
            device,
            task["steps"],
            channels_last=task.get("channels_last", True),
            fused=task.get("fused", True),
            compiled=task.get("compile", False),
        )
    )


if __name__ == "__main__":
    main()
