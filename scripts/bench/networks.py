"""Whether what holds for the network of the plan holds for others: floor, `fit` and choices."""

from collections.abc import Iterator
from dataclasses import replace

from bench.floor import CHANNELS_LAST, PRECISION, compare
from bench.plan import Plan
from bench.row import Row
from bench.training import measure as describe_speeds
from bench.training import measure_speeds
from ensemble.training.precision import has_bfloat16

PART = "networks"


def measure(plan: Plan) -> Iterator[Row]:
    """For each network `fit` against the floor, and what memory format and precision are worth."""
    choices = dict(CHANNELS_LAST)
    if plan.device.type == "cpu" and has_bfloat16(plan.device):
        choices |= PRECISION
    for backbone in plan.networks:
        one = replace(plan, backbone=backbone)
        yield from describe_speeds(one, measure_speeds(one, one.config()), part=PART)
        for what, ratio in compare(one, choices):
            yield Row(PART, f"{what}, {backbone}", ratio, "ratio")
