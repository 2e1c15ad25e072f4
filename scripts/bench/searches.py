"""A whole search of ours, and the same one of each peer: seconds against seconds.

Same tiles, network, batch, epochs and number of trials; nobody stops a trial early.
"""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from bench.plan import ROOT, Plan
from bench.row import Row
from bench.training import Speeds
from ensemble.data.pack import open_pack

SPACE = """question = "How quick is a search?"
weights = "none"

[default.model]
backbone = "{backbone}"
dropout = 0.2

[default.optimisation]
epochs = {epochs}
global_batch_size = {batch_size}

[default.data]
image_size_px = {image_size_px}
augmentation = 0.5

[search.model]
dropout = {{ low = 0.0, high = 0.6 }}

[search.optimisation]
learning_rate = {{ low = 1e-4, high = 2e-3, log = true }}
weight_decay = {{ low = 1e-5, high = 1e-1, log = true }}

[search.loss]
crack_weight = {{ low = 0.5, high = 6.0, log = true }}

[early_stopping]
grace_epochs = 10000
"""
PEER_SECONDS = 3 * 3600
PEERS = {
    "a": ("ray_recipe", "Ray's recipe (Tune + Train, ImageFolder, DataLoader)"),
    "b": ("optuna_loop", "a hand-written Optuna loop"),
    "c": ("lightning_optuna", "Lightning + Optuna"),
}


@dataclass(frozen=True)
class Search:
    """What a search of ours took.

    Attributes:
        wall_seconds: Seconds of the whole command.
        search_seconds: From the first trial's first batch to the last trial's end.
        trial_extra_seconds: Beyond a trial's own epochs, from a slot's second trial on; median.
        train_images: Trained, all epochs of all trials.
        val_share: Share of the epochs' time that went into validation.
    """

    wall_seconds: float
    search_seconds: float
    trial_extra_seconds: float
    train_images: int
    val_share: float


def measure_search(plan: Plan, name: str, *options: str) -> Search:
    """Run scripts/search.py and read its log as it comes."""
    space = plan.scratch / "bench.toml"
    space.write_text(SPACE.format(**vars(plan)))
    command = [sys.executable, str(ROOT / "scripts" / "search.py"), "--space", str(space)]
    command += ["--data", str(plan.source), "--out", str(plan.scratch), "--name", name]
    command += ["--trials", str(plan.trials), *options]
    if plan.weights:
        command += ["--weights", f"{plan.backbone}={plan.weights}"]
    if plan.device.type == "cpu":
        command += ["--gpus", "0", "--cpus", str(plan.slots)]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "TERM": "dumb"}
    )
    assert process.stdout is not None
    lines = [(time.perf_counter(), line) for line in process.stdout]
    if process.wait() != 0:
        raise RuntimeError("the search failed:\n" + "".join(line for _, line in lines[-20:]))
    wall_seconds = time.perf_counter() - began
    return _read_log(lines, pd.read_csv(plan.scratch / name / "epochs.csv"), plan, wall_seconds)


def _read_log(
    lines: list[tuple[float, str]], epochs: pd.DataFrame, plan: Plan, wall_seconds: float
) -> Search:
    epochs["seconds"] = epochs["train_seconds"] + epochs["val_seconds"]
    seconds = epochs.set_index(["trial", "epoch"])["seconds"]
    first: dict[int, float] = {}  # when a trial's first batch began
    last: dict[int, float] = {}
    ended: list[int] = []  # trials whose slot is free, in that order
    extra = []
    starts: list[int] = []
    before: dict[int, int] = {}  # a trial → the one that had its slot
    for at, line in lines:
        if found := re.search(r"trial (\d+) starts", line):
            number = int(found[1])
            starts.append(number)
            if ended:
                before[number] = ended.pop(0)
        elif found := re.search(r"trial (\d+) epoch (\d+)/", line):
            number, epoch = int(found[1]), int(found[2])
            last[number] = at
            if epoch == 1:
                first[number] = at - seconds[number, 1]
        elif found := re.search(r"trial (\d+) finished", line):
            ended.append(int(found[1]))
    for number, earlier in before.items():
        own = sum(seconds[number, e] for e in range(1, plan.epochs + 1))
        extra.append(last[number] - last[earlier] - own)
    return Search(
        wall_seconds=wall_seconds,
        search_seconds=max(last.values()) - min(first.values()),
        trial_extra_seconds=sorted(extra)[len(extra) // 2] if extra else float("nan"),
        train_images=_images_per_epoch(plan) * len(epochs),
        val_share=epochs["val_seconds"].sum() / epochs["seconds"].sum(),
    )


def _images_per_epoch(plan: Plan) -> int:
    tiles = open_pack(plan.pack_folder).record["num_tiles"]["train"]
    return tiles // plan.batch_size * plan.batch_size


def write_image_folder(plan: Plan) -> Path:
    """The pack's training and validation tiles as JPEG files in class folders, for peers."""
    folder, pack = plan.scratch / "image_folder", open_pack(plan.pack_folder)
    for split in ("train", "val"):
        pixels, table = pack.pixels(split), pack.table(split)
        for number, (row, label) in enumerate(zip(table["row"], table["label"], strict=True)):
            place = folder / split / ("Cracked" if label else "Non-cracked") / f"{number:06}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(place, quality=95)
    return folder


def measure_peer(plan: Plan, name: str, folder: Path, precision: str) -> dict[str, Any]:
    """Run a peer; its own account of what it did."""
    out = plan.scratch / f"{name}-{precision}.json"
    command = [sys.executable, str(ROOT / "scripts" / "peers" / f"{name}.py")]
    for option, value in {
        "data": folder,
        "trials": plan.trials,
        "epochs": plan.epochs,
        "image-size": plan.image_size_px,
        "batch-size": plan.batch_size,
        "weights": plan.weights or "none",
        "backbone": plan.backbone,
        "slots": plan.slots,
        "precision": precision,
        "out": out,
    }.items():
        command += [f"--{option}", str(value)]
    began = time.perf_counter()
    log = plan.scratch / f"{name}-{precision}.log"
    with log.open("w") as file:
        done = subprocess.run(
            command, cwd=plan.scratch, stdout=file, stderr=subprocess.STDOUT, timeout=PEER_SECONDS
        )
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{log.read_text()[-3000:]}")
    if "Failed to stop PlacementGroupCleaner" in log.read_text() and not plan.small:
        raise RuntimeError(
            f"{name} waited for Ray's PlacementGroupCleaner, which another Ray on this machine "
            "confuses: its time would not be fair; run it with no other Ray around"
        )
    return {**json.loads(out.read_text()), "wall_seconds": time.perf_counter() - began}


def measure(plan: Plan, speeds: Speeds, peers: str) -> list[Row]:
    """Our search against the floor, then against each of `peers` ("abc").

    The floor is in float32 for the peers' usual form; where ours uses another precision, a second
    row gives them that.
    """
    gpu = plan.device.type == "cuda"
    what = f"{plan.trials} trials × {plan.epochs} epochs"
    ours = measure_search(plan, "ours")
    floor_seconds = ours.train_images / speeds.floor

    def row(what: str, value: float, unit: str, target: str = "") -> Row:
        return Row("search", what, value, unit, target)

    rows = [
        row(f"ours, {what}, all of the command", ours.wall_seconds, "s"),
        row("images/s ÷ floor, start and imports included", floor_seconds / ours.wall_seconds,
            "ratio", ">= 0.75" if gpu else ">= 0.65"),
        row("images/s ÷ floor, start and imports not included",
            floor_seconds / ours.search_seconds, "ratio", ">= 0.85" if gpu else ">= 0.80"),
        row("validation's share of the epochs' time, which the floor has not", ours.val_share,
            "ratio"),
        row("a trial beyond its own epochs, from the second on", ours.trial_extra_seconds, "s",
            "<= 1" if gpu else "<= 0.5"),
    ]  # fmt: skip
    folder = write_image_folder(plan)
    for letter in peers:
        name, title = PEERS[letter]
        target = {"a": ">= 5" if gpu else ">= 4"}.get(letter, ">= 3" if gpu else ">= 3.5")
        usual = "float32"
        for precision in dict.fromkeys((usual, speeds.precision)):
            theirs = measure_peer(plan, name, folder, precision)
            seconds, label = theirs["wall_seconds"], f"({letter}) {title}, {precision}"
            rows.append(row(f"{label}, all of the command", seconds, "s"))
            search_ratio = theirs["search_seconds"] / ours.search_seconds
            rows.append(row(f"{label}: its seconds ÷ ours, start not included", search_ratio,
                            "ratio"))  # fmt: skip
            rows.append(
                row(f"{label}: its seconds ÷ ours", seconds / ours.wall_seconds, "ratio",
                    target if precision == usual else "")
            )  # fmt: skip
    return rows
