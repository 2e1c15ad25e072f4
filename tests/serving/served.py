"""An evaluated run of small networks, whose ensemble tests serve, and photographs for it."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from runs import make_choice, make_evaluated, make_searched

from ensemble.base.files import read_object, write_json
from ensemble.training.checkpoint import Member

TILE = 32
SPLIT_SIZES = {"train": 700, "val": 150, "test": 80}
DATA = {
    "num_tiles": SPLIT_SIZES,
    "num_cracked": {name: count // 4 for name, count in SPLIT_SIZES.items()},
    "num_photographs": {"train": 70, "val": 15, "test": 16},
    "split_by": "photograph",
    "split_seed": 3,
}


def make_run(run: Path, write_member: Callable[..., Member]) -> Path:
    """Make the folder of a run with an ensemble of two members."""
    make_searched(run)
    metrics = make_evaluated(run)
    members = {
        trial: write_member(run / "members" / f"{trial:04}", trial=trial) for trial in (2, 0)
    }
    choice = make_choice({n: str(each.record.weights_sha256) for n, each in members.items()})
    write_json(run / "ensemble.json", choice)
    write_json(run / "evaluation" / "metrics.json", metrics | {"choice": choice})
    about = {"data": "SDNET2018.zip", "tile_size_px": [TILE, TILE], "data_summary": DATA}
    write_json(run / "run.json", read_object(run / "run.json") | about)
    return run


def draw_photograph(columns: int, seed: int) -> bytes:
    """PNG of noise, three tiles high."""
    noise = np.random.default_rng(seed).integers(0, 255, (3 * TILE, columns * TILE, 3))
    file = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
