"""The table of the commands, and their command lines.

Nothing here imports what takes seconds, so that help and what is mistyped cost none.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from ensemble.base.door import run_module
from ensemble.base.options import (
    EPOCHS,
    IMAGE_SIZE,
    METHODS,
    NUM_CONVOLUTIONS,
    RECIPES,
    SEED,
    new_parser,
    positive_number,
    whole_number,
)
from ensemble.data.layout import data_options
from ensemble.search.options import build_parser as search_parser


def train_parser() -> argparse.ArgumentParser:
    """The options of `scripts/train.py`."""
    from ensemble.training.config import Backbone  # imports pydantic, which only this one needs

    parser = new_parser(
        "scripts/train.py",
        "Train the configurations of a recipe, one after another, and keep the best "
        "epoch of each. The same command with the same --name continues an unfinished run.",
    )
    add = parser.add_argument
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    add(
        "--recipe",
        required=True,
        metavar="NAME|FILE",
        help=f"a TOML file, or a name in search_spaces/recipes/: {known}",
    )
    for flag, settings in data_options(default="synthetic").items():
        add(flag, **settings)
    add(
        "--backbone",
        choices=Backbone.__args__,  # type: ignore[attr-defined]
        metavar="NAME",
        help=f"another network (default: the recipe's): {', '.join(Backbone.__args__)}",  # type: ignore[attr-defined]
    )
    add(
        "--weights",
        action="append",
        default=[],
        metavar="[BACKBONE=]WHAT",
        help="what it starts from: imagenet, none, or FILE (.safetensors, or a state dict or "
        "checkpoint of torch's) (default: the recipe's)",
    )
    add("--epochs", type=EPOCHS, metavar="N", help="of each configuration (default: the recipe's)")
    add(
        "--image-size",
        type=IMAGE_SIZE,
        metavar="PX",
        help="side of the square input in pixels (default: the recipe's)",
    )
    add("--seed", type=SEED, default=0, metavar="N", help="head, order, augmentation (default: 0)")
    add(
        "--gpus",
        type=int,
        choices=(0, 1),
        help="0 trains on the CPU (default: one GPU if there is one)",
    )
    add("--export", action="store_true", help="write RUN/export/ even if the recipe does not say")
    add(
        "--summary",
        action="store_true",
        help="print layers, parameters, memory and multiply-adds, and train nothing",
    )
    add("--name", metavar="NAME", help="of the run (default: the recipe's name and time)")
    add(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="where the run's folder NAME and the packed tiles go (default: results)",
    )
    return parser


def recall_parser() -> argparse.ArgumentParser:
    """The options of `python -m ensemble.recall`."""
    parser = new_parser(
        "python -m ensemble.recall",
        "Train a run of scripts/train.py again with class weights, with augmentation "
        "at full strength and with both, and compare recall, precision and F1 on validation. The "
        "same command goes on where it was interrupted.",
    )
    _add_last_run(parser)
    parser.add_argument(
        "--gpus", type=int, choices=(0, 1), help="0 trains on the CPU (default: a GPU if any)"
    )
    _add_out(parser)
    return parser


def look_parser() -> argparse.ArgumentParser:
    """The options of `python -m ensemble.look`."""
    parser = new_parser(
        "python -m ensemble.look",
        "Draw the filters and feature maps of a member's convolutions for one tile, "
        "and where it saw a crack.",
    )
    parser.add_argument(
        "member",
        metavar="MEMBER",
        help="its folder, RUN/TRIAL, or RUN for its best one; a run by name under --out, or a path",
    )
    parser.add_argument(
        "tile",
        metavar="TILE",
        help="a picture (of a photograph of several tiles, the one likeliest to be cracked), or a "
        "tile of the run's data set by its name there, as in validation.csv or errors.csv",
    )
    parser.add_argument(
        "--png",
        type=Path,
        metavar="FILE",
        default=Path("look.png"),
        help="what is drawn; an older file is replaced (default: look.png)",
    )
    _add_out(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"every convolution (default: {NUM_CONVOLUTIONS}, spread over the depth)",
    )
    return parser


def report_parser() -> argparse.ArgumentParser:
    """The options of `python -m ensemble.report`."""
    parser = new_parser(
        "python -m ensemble.report",
        "Write a run's report.html: one page that needs no other file and no network.",
    )
    _add_last_run(parser)
    _add_out(parser)
    return parser


def evaluate_parser() -> argparse.ArgumentParser:
    """The options of `python -m ensemble.evaluate`."""
    parser = new_parser(
        "python -m ensemble.evaluate",
        "Choose an ensemble of a run's members on the validation split and test it "
        "once on the held-out photographs.",
    )
    add = parser.add_argument
    _add_last_run(parser)
    add("--method", choices=METHODS, default="mean", help="how members are chosen (default: mean)")
    add(
        "--top-k",
        type=whole_number("--top-k", least=1),
        metavar="K",
        help="members of mean, also within auto (default: 5, or all if fewer)",
    )
    add(
        "--threshold",
        choices=("f1", "f2", "0.5"),
        help="where F1 or F2 is best on validation, or 0.5 (default: f1)",
    )
    add(
        "--min-recall",
        type=positive_number("--min-recall", most=1),
        metavar="R",
        help="in place of --threshold: the highest threshold with this validation recall, 0 to 1",
    )
    add(
        "--tta",
        action="store_true",
        help="average over flips and turns, if validation gains what the threshold is asked for",
    )
    add(
        "--labels",
        type=Path,
        metavar="FILE",
        help="CSV of corrected labels: columns tile, label; rows of other tiles are ignored",
    )
    _add_out(parser)
    return parser


def predict_parser() -> argparse.ArgumentParser:
    """The options of `python -m ensemble.predict`."""
    parser = new_parser(
        "python -m ensemble.predict",
        "Look for cracks in pictures without labels, with the ensemble of a run. "
        "A picture larger than one and a half tiles is cut into tiles of the size that the run "
        "was trained on; it should show concrete at the same scale.",
    )
    parser.add_argument("run", help="name under --out, or a path")
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a picture, or a folder or .zip of some"
    )
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        default=Path("predictions.csv"),
        help="one row a tile; an older file is replaced (default: predictions.csv)",
    )
    parser.add_argument(
        "--overlays",
        type=Path,
        metavar="FOLDER",
        help="of pictures of several tiles (default: beside the CSV, its name and -overlays)",
    )
    _add_out(parser)
    return parser


def _add_last_run(parser: argparse.ArgumentParser) -> None:
    """Let the run be left out: the last one is taken."""
    parser.add_argument(
        "run", nargs="?", help="name under --out, or a path (default: the last run)"
    )


def _add_out(parser: argparse.ArgumentParser) -> None:
    """Say where runs are looked for by name."""
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder of the runs (default: results)"
    )


class Command(NamedTuple):
    """A command: the module whose `main` takes its options, and what makes its parser."""

    module: str
    build_parser: Callable[[], argparse.ArgumentParser]


COMMANDS = {
    "search": Command("ensemble.search.command", search_parser),
    "train": Command("ensemble.train", train_parser),
    "evaluate": Command("ensemble.evaluate", evaluate_parser),
    "predict": Command("ensemble.predict", predict_parser),
    "report": Command("ensemble.report.page", report_parser),
    "look": Command("ensemble.look", look_parser),
    "recall": Command("ensemble.recall", recall_parser),
}


def parse(command: str, words: Sequence[str]) -> argparse.Namespace:
    """The options of a command, from the words behind its name.

    Raises:
        InputError: A number is none, or out of its range.
    """
    return COMMANDS[command].build_parser().parse_args(words)


def start(command: str) -> NoReturn:
    """Run a command with the words of this process; then the process ends."""
    run_module(*COMMANDS[command])
