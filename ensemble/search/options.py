"""The options of scripts/search.py, each with its unit and default."""

import argparse
from pathlib import Path
from typing import Any

from ensemble.base.options import (
    EPOCHS,
    IMAGE_SIZE,
    SEED,
    new_parser,
    positive_number,
    whole_number,
)
from ensemble.data.layout import data_options

OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "data": {
        **data_options(default=None),
        "--leaky-split": {
            "action": "store_true",
            "help": "split tiles, not photographs, only to show what leakage is worth; the results "
            "are marked as such",
        },
    },
    "search": {
        "--space": {
            "default": "sdnet2018",
            "metavar": "FILE",
            "help": "search space: a TOML file, or a name in search_spaces/ (default: sdnet2018)",
        },
        "--start-from": {
            "metavar": "RECIPE|RUN",
            "help": "a recipe (a TOML file or a name in search_spaces/recipes/), whose base is "
            "trial 0, or a run, whose best trials are the first; the space is widened to hold it",
        },
        "--trials": {
            "type": whole_number("--trials", least=1),
            "default": 20,
            "metavar": "N",
            "help": "trials in all, finished or stopped early (default: 20)",
        },
        "--epochs": {"type": EPOCHS, "metavar": "N", "help": "of a trial (default: the space's)"},
        "--image-size": {
            "type": IMAGE_SIZE,
            "metavar": "PX",
            "help": "side of the square input in pixels (default: the space's)",
        },
        "--weights": {
            "action": "append",
            "default": [],
            "metavar": "[BACKBONE=]WHAT",
            "help": "what backbones start from: imagenet, none, or BACKBONE=FILE (.safetensors, or "
            "a state dict or checkpoint of torch's); repeatable (default: the space's)",
        },
        "--seed": {
            "type": SEED,
            "default": 0,
            "metavar": "N",
            "help": "of the study: sampler, heads, order, augmentation (default: 0)",
        },
        "--sampler": {
            "choices": ["tpe", "random", "gp", "qmc"],
            "default": "tpe",
            "help": "who chooses the next trial: TPE, chance, a Gaussian process or a quasi-random "
            "sequence (default: tpe; random with the same --trials shows what the search is worth)",
        },
        "--max-hours": {
            "type": positive_number("--max-hours"),
            "metavar": "H",
            "help": "after so many hours no trial starts and running ones stop; the same command "
            "goes on (default: no limit)",
        },
        "--trial-timeout": {
            "type": positive_number("--trial-timeout"),
            "default": 60.0,
            "metavar": "MINUTES",
            "help": "end a trial that reports nothing for so long; longer than its longest epoch "
            "(default: 60)",
        },
        "--max-failures": {
            "type": whole_number("--max-failures", least=0),
            "default": 10,
            "metavar": "N",
            "help": "failed trials to replace before giving up (default: 10)",
        },
    },
    "machine": {
        "--gpus": {
            "type": whole_number("--gpus", least=0),
            "metavar": "N",
            "help": "GPUs to use in all; 0 trains on the CPU (default: all there are)",
        },
        "--cpus": {
            "type": whole_number("--cpus", least=1),
            "metavar": "N",
            "help": "workers at a time where no GPU is used (default: one a core)",
        },
        "--workers-per-trial": {
            "type": whole_number("--workers-per-trial", least=1),
            "metavar": "N",
            "help": "data-parallel workers of each trial; above 1 on Ray Train (default: the "
            "space's)",
        },
        "--trials-per-gpu": {
            "type": whole_number("--trials-per-gpu", least=1),
            "default": 1,
            "metavar": "N",
            "help": "trials that share a GPU (default: 1)",
        },
        "--address": {
            "metavar": "HOST:PORT",
            "help": "a running Ray cluster; --out must then be a folder that all its nodes share "
            "(default: Ray on this machine alone)",
        },
        "--wait": {
            "type": positive_number("--wait"),
            "metavar": "MINUTES",
            "help": "on a cluster: wait that long until --gpus or --cpus can be placed, and ask it "
            "to grow where it can (default: what cannot be placed is refused)",
        },
        "--storage": {
            "metavar": "PATH|URL",
            "help": "shared folder or URL (s3://bucket/folder, gs://…, any of fsspec's) through "
            "which tiles and members travel between nodes; --out may then be the driver's alone",
        },
    },
    "output": {
        "--keep": {
            "type": whole_number("--keep", least=1),
            "default": 20,
            "metavar": "N",
            "help": "best members that keep their weights; of the others the scores stay "
            "(default: 20)",
        },
        "--mlflow": {
            "metavar": "URI",
            "help": "tell MLflow of each trial, too: http://HOST:PORT or sqlite:///FILE; needs "
            "pip install -e '.[mlflow]' in the clone",
        },
        "--name": {"metavar": "NAME", "help": "of the run (default: the space's name and time)"},
        "--out": {
            "type": Path,
            "default": Path("results"),
            "metavar": "FOLDER",
            "help": "where the run's folder NAME and the packed tiles go (default: results)",
        },
    },
}


def build_parser() -> argparse.ArgumentParser:
    """The options of `scripts/search.py`."""
    parser = new_parser(
        "scripts/search.py",
        "Search hyperparameters for crack classifiers and keep the best epoch of each "
        "trial. The same command with the same --name continues an unfinished search.",
        epilog="A trial with one worker trains inside a process of Ray Tune that is used again for "
        "the next trial; with --workers-per-trial above 1 (or in the space) each trial trains "
        "data-parallel on that many Ray Train workers (NCCL on GPUs, gloo on CPUs).",
    )
    for group, option_lines in OPTIONS.items():
        section = parser.add_argument_group(group)
        for flag, settings in option_lines.items():
            section.add_argument(flag, **settings)
    return parser
