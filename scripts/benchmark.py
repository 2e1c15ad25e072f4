"""How quick are we, and against what? `python scripts/benchmark.py`, or `make bench`.

Ratios, taken side by side in one run: `fit` against the bare floor of the hardware, a whole search
against that floor and against what people use now (scripts/peers/), and the parts around it. Writes
results/benchmarks/<date>.csv and .json, growth.png, and a table in Markdown for docs/speed.md.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import (
    accuracy,
    commands,
    floor,
    gpu,
    growth,
    memory,
    networks,
    packing,
    scoring,
    searcher,
    searches,
    selection,
    training,
    windows,
)
from bench.plan import ROOT, Plan
from bench.report import Report
from bench.row import Row
from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.provenance import describe_code_and_machine
from ensemble.data.packing import pack
from ensemble.data.prepare import is_synthetic, open_data
from ensemble.data.reading.listing import Reader
from ensemble.data.sources import open_source

PARTS = ("commands", "training", "choices", "networks", "scoring", "packing", "windows",
         "selection", "searcher", "memory", "gpu", "accuracy", "growth", "search")  # fmt: skip


def main() -> None:
    """Measure, print a row as soon as it is known, write the files."""
    options = _parse()
    parts = options.part or PARTS
    path = options.out / f"{options.name or f'{datetime.now(UTC):%Y-%m-%d}'}.csv"
    with tempfile.TemporaryDirectory(prefix="crack-bench-", dir=options.scratch) as scratch:
        plan = _plan(options, Path(scratch))
        report = Report(path, PARTS, _describe(plan))
        for row in _measure(plan, parts, options):
            row = replace(row, binds=plan.binds)
            report.add(row)
            told = f"{row.target} {row.verdict}".strip()
            print(f"{row.part:10} {row.what:75} {row.value:10.4g} {row.unit:9} {told}", flush=True)
    print(f"written: {path}, .json and .md")


def _describe(plan: Plan) -> dict[str, Any]:
    """What is measured on."""
    inner = ("scratch", "pack_folder", "source", "weights")
    return {
        "command": shlex.join(Path(word).name if "/" in word else word for word in sys.argv),
        "plan": {name: value for name, value in asdict(plan).items() if name not in inner},
        "weights": plan.weights.name if plan.weights else "none",
        "targets_bind": plan.binds,
        **describe_code_and_machine(),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--data", default="synthetic", help="tiles: a folder, a .zip or synthetic (the default)")
    add(
        "--photographs", type=int, default=10, metavar="N", help="of them to train on (default: 10)"
    )
    add("--backbone", default="squeezenet1_1", help="(default: squeezenet1_1)")
    add("--weights", type=Path, metavar="FILE", help="state dict to start from (default: none)")
    add("--image-size", type=int, default=128, metavar="PX", help="(default: 128)")
    add("--batch-size", type=int, default=64, metavar="N", help="(default: 64)")
    add("--trials", type=int, default=8, metavar="N", help="of each search (default: 8)")
    add("--epochs", type=int, default=4, metavar="N", help="of each trial (default: 4)")
    add("--slots", type=int, metavar="N", help="trials at a time (default: cores, or GPUs)")
    add("--rounds", type=int, default=3, metavar="N", help="of floor and fit (default: 3)")
    add("--peers", default="abc", metavar="LETTERS", help="of scripts/peers/ (default: abc)")
    add("--part", action="append", choices=PARTS, help="only this one; repeatable (default: all)")
    add("--small", action="store_true", help="show in minutes that all of it works")
    add("--out", type=Path, default=ROOT / "results" / "benchmarks", help="(default: …/benchmarks)")
    add("--name", help="of the files (default: the date)")
    add("--scratch", type=Path, help="folder for what is thrown away (default: the system's)")
    return parser.parse_args()


def _plan(options: argparse.Namespace, scratch: Path) -> Plan:
    slots = options.slots or torch.cuda.device_count() or len(os.sched_getaffinity(0))
    data = options.data
    if is_synthetic(data):
        source = open_data(data, packs=scratch / "packs", log=_quiet).path
    else:
        source = _subset(Path(data), scratch / "tiles", options.photographs)
    packed = pack(open_source(source), under=scratch / "packs", log=_quiet)
    return Plan(
        scratch=scratch,
        pack_folder=packed.folder,
        source=source,
        backbone=options.backbone,
        weights=options.weights.resolve() if options.weights else None,
        image_size_px=64 if options.small else options.image_size,
        batch_size=options.batch_size,
        trials=2 if options.small else options.trials,
        epochs=1 if options.small else options.epochs,
        slots=slots,
        rounds=1 if options.small else options.rounds,
        small=options.small,
    )


def _measure(plan: Plan, parts: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    """Row after row, as they become known."""
    everything = plan.source if is_synthetic(options.data) else Path(options.data)
    speeds = None
    if "training" in parts or "search" in parts:
        speeds = training.measure_speeds(plan, plan.config())
        yield from training.measure(plan, speeds)
    if "commands" in parts:
        yield from commands.measure()
    if "choices" in parts:
        yield from floor.measure(plan)
    if "networks" in parts:
        yield from networks.measure(plan)
    if "scoring" in parts:
        yield from scoring.measure(plan)
    if "packing" in parts:
        yield from packing.measure(everything, plan.scratch, plan.image_size_px)
    if "windows" in parts:
        yield from windows.measure(plan)
    if "selection" in parts:
        yield from selection.measure(
            **({"num_members": 20, "num_tiles": 1000} if plan.small else {})
        )
    if "searcher" in parts:
        yield from searcher.measure(num_stored=20 if plan.small else 200, scratch=plan.scratch)
    if "memory" in parts:
        yield from memory.measure(plan.pack_folder, num_slots=2 if plan.small else 8)
    if "gpu" in parts and torch.cuda.is_available():
        yield from gpu.measure(plan)
    if "accuracy" in parts:
        yield from accuracy.measure(plan)
    if "growth" in parts:
        options.out.mkdir(parents=True, exist_ok=True)
        yield from growth.measure(everything, plan.scratch, options.out, small=plan.small)
    if "search" in parts and speeds is not None:
        yield from searches.measure(plan, speeds, options.peers)


def _subset(source: Path, folder: Path, photographs: int) -> Path:
    """The tiles of some photographs, of each surface in turn, in their class folders.

    Raises:
        InputError: The names carry no photograph, or there are not so many.
    """
    found = open_source(source)
    if not found.has_photographs:
        raise InputError(f"--data {source}: its names carry no photograph; give SDNET2018's tiles")
    of_surface = found.tiles.groupby("surface")["photograph"].unique()
    longest = max(len(names) for names in of_surface)
    in_turn = [names[i] for i in range(longest) for names in of_surface if i < len(names)]
    if len(in_turn) < photographs:
        raise InputError(f"--photographs {photographs}: {source} has {len(in_turn)}")
    chosen = found.tiles["photograph"].isin(in_turn[:photographs])
    reader = Reader(source)
    for tile in found.tiles.loc[chosen, "tile"]:
        path = folder / tile
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(reader.read(tile))
    reader.close()
    return folder


def _quiet(line: str) -> None:
    pass


if __name__ == "__main__":
    run_command(main)
