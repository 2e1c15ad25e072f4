"""The commands: their table, their options, and how a process becomes one of them.

Nothing here imports what takes seconds, so that help and what is mistyped cost none.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from ensemble.base.door import run_command, run_module, spell_command
from ensemble.base.options import (
    EPOCHS,
    IMAGE_SIZE,
    METHODS,
    NUM_CONVOLUTIONS,
    RECIPES,
    SEED,
    Parser,
    positive_number,
    whole_number,
)
from ensemble.training.backbone_table import BACKBONES

Add = Callable[..., object]  # `add_argument` of a parser or of a group of one


def add_search_options(parser: Parser) -> None:
    """Add what is searched, on what, where, and what is kept of it."""
    add = parser.add_argument_group("data").add_argument
    _add_data(add, required=True)
    add(
        "--leaky-split",
        action="store_true",
        help="split tiles, not photographs, only to show what leakage is worth; the results are "
        "marked as such",
    )
    _add_search(parser.add_argument_group("search").add_argument)
    _add_machine(parser.add_argument_group("machine").add_argument)
    add = parser.add_argument_group("output").add_argument
    add(
        "--keep",
        type=whole_number(1),
        default=20,
        metavar="N",
        help="best members that keep their weights; of the others the scores stay (default: 20)",
    )
    add(
        "--mlflow",
        metavar="URI",
        help="MLflow server that each trial is logged to as well: http://HOST:PORT or "
        "sqlite:///FILE; needs the extra [mlflow]",
    )
    _add_new_run(add, name="the space's name and the time")


def _add_search(add: Add) -> None:
    """Add what is searched, how, and when it ends."""
    add(
        "--space",
        default="sdnet2018",
        metavar="FILE",
        help="search space: a TOML file, or a name that `spaces` lists (default: sdnet2018)",
    )
    add(
        "--start-from",
        metavar="RECIPE|RUN",
        help="a recipe (a TOML file, or a name that `spaces` lists), whose base is trial 0, or a "
        "run, whose best trials are the first; the space is widened to hold it",
    )
    add(
        "--trials",
        type=whole_number(1),
        default=20,
        metavar="N",
        help="trials in all, finished or stopped early (default: 20)",
    )
    _add_training(add, whose="the space's", of="each trial")
    add(
        "--sampler",
        choices=["tpe", "random", "gp", "qmc"],
        default="tpe",
        help="what chooses the next trial: TPE, chance, a Gaussian process or a quasi-random "
        "sequence (default: tpe; random with the same --trials shows what the search is worth)",
    )
    add(
        "--max-hours",
        type=positive_number(),
        metavar="H",
        help="time limit: no trial starts after it and running ones stop; the same command goes on "
        "(default: no limit)",
    )
    add(
        "--trial-timeout",
        type=positive_number(),
        default=60.0,
        metavar="MINUTES",
        help="end a trial that reports nothing for so long; longer than its longest epoch "
        "(default: 60)",
    )
    add(
        "--max-failures",
        type=whole_number(0),
        default=10,
        metavar="N",
        help="failed trials to replace before giving up (default: 10)",
    )


def _add_machine(add: Add) -> None:
    """Add where a search computes."""
    add(
        "--gpus",
        type=whole_number(0),
        metavar="N",
        help="GPUs to use in all; 0 trains on the CPU (default: all there are)",
    )
    add(
        "--cpus",
        type=whole_number(1),
        metavar="N",
        help="workers at a time where no GPU is used (default: one a core)",
    )
    add(
        "--workers-per-trial",
        type=whole_number(1),
        metavar="N",
        help="data-parallel workers of each trial; above 1 on Ray Train (default: the space's)",
    )
    add(
        "--trials-per-gpu",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="trials that share a GPU (default: 1)",
    )
    add(
        "--address",
        metavar="HOST:PORT",
        help="a running Ray cluster; --out must then be a folder that all its nodes share "
        "(default: Ray on this machine alone)",
    )
    add(
        "--wait",
        type=positive_number(),
        metavar="MINUTES",
        help="on a cluster: wait that long until --gpus or --cpus can be placed, and ask it to "
        "grow where it can (default: what cannot be placed is refused)",
    )
    add(
        "--storage",
        metavar="PATH|URL",
        help="shared folder or URL (s3://bucket/folder, gs://…, any of fsspec's) through which "
        "tiles and members travel between nodes; --out may then be the driver's alone",
    )


def add_train_options(parser: Parser) -> None:
    """Add which recipe is trained, on what, and how it differs from its file."""
    add = parser.add_argument
    add(
        "--recipe",
        required=True,
        metavar="NAME|FILE",
        help=f"a TOML file, or one of {', '.join(sorted(path.stem for path in _recipes()))}",
    )
    _add_data(add, required=False)
    add(
        "--backbone",
        choices=list(BACKBONES),
        metavar="NAME",
        help=f"another network (default: the recipe's): {', '.join(BACKBONES)}",
    )
    _add_training(add, whose="the recipe's", of="each configuration")
    _add_gpu(add)
    add("--export", action="store_true", help="write RUN/export/ even if the recipe does not say")
    add(
        "--summary",
        action="store_true",
        help="print layers, parameters, memory and multiply-adds, and train nothing",
    )
    _add_new_run(add, name="the recipe's name and the time")


def add_recall_options(parser: Parser) -> None:
    """Add the run, and the device that trains."""
    _add_last_run(parser.add_argument)
    _add_gpu(parser.add_argument)


def add_look_options(parser: Parser) -> None:
    """Add the member, the picture that it looks at, and the picture that is drawn."""
    add = parser.add_argument
    add(
        "tile",
        metavar="TILE",
        help="a picture (of a photograph of several tiles, the one likeliest to be cracked), or a "
        "tile of the run's data set by its name there, as in validation.csv or errors.csv",
    )
    add(
        "--member",
        metavar="MEMBER",
        help="its folder, RUN/TRIAL, or RUN for its best one; a run by name under --out, or a path "
        "(default: the best one of the last run)",
    )
    add(
        "--png",
        type=Path,
        metavar="FILE",
        default=Path("look.png"),
        help="what is drawn; an older file is replaced (default: look.png)",
    )
    add(
        "--all",
        action="store_true",
        help=f"every convolution (default: {NUM_CONVOLUTIONS}, spread over the depth)",
    )
    _add_runs(add)


def add_report_options(parser: Parser) -> None:
    """Add the run."""
    _add_last_run(parser.add_argument)


def add_evaluate_options(parser: Parser) -> None:
    """Add the run, and how its ensemble is chosen."""
    add = parser.add_argument
    _add_last_run(add)
    add(
        "--method",
        choices=(*METHODS, "auto"),
        default="mean",
        help="how members are chosen (default: mean)",
    )
    add(
        "--top-k",
        type=whole_number(1),
        metavar="K",
        help="number of members of mean, also within auto (default: 5, or all if fewer)",
    )
    add(
        "--threshold",
        choices=("f1", "f2", "0.5"),
        help="where F1 or F2 is best on validation, or 0.5 (default: f1)",
    )
    add(
        "--min-recall",
        type=positive_number(1),
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


def add_predict_options(parser: Parser) -> None:
    """Add the pictures, the run, and where the verdicts go."""
    add = parser.add_argument
    add(
        "paths", nargs="+", type=Path, metavar="PATH", help="a picture, or a folder or .zip of some"
    )
    add("--run", help="name under --out, or a path (default: the last run)")
    add(
        "--csv",
        type=Path,
        metavar="FILE",
        default=Path("predictions.csv"),
        help="one row a tile; an older file is replaced (default: predictions.csv)",
    )
    add(
        "--overlays",
        type=Path,
        metavar="FOLDER",
        help="pictures of several tiles, drawn with what was found (default: beside the CSV, its "
        "name and -overlays)",
    )
    _add_runs(add)


def add_spaces_options(parser: Parser) -> None:
    """Add the name of the one that is printed."""
    parser.add_argument(
        "name", nargs="?", help="space or recipe to print as a whole, to copy and change it"
    )


def _recipes() -> list[Path]:
    return list(RECIPES.glob("*.toml"))


def _add_data(add: Add, *, required: bool) -> None:
    """Add which tiles there are and how they are split.

    Args:
        add: Takes an option.
        required: Whether --data must be given; else it is 'synthetic'.
    """
    add(
        "--data",
        metavar="PATH",
        help="folder or .zip of tiles in class folders, or 'synthetic': drawn concrete"
        + " (default: synthetic)" * (not required),
        **({"required": True} if required else {"default": "synthetic"}),
    )
    add(
        "--positive",
        metavar="FOLDER",
        help="folder of the cracked tiles (default: told by its name, such as Cracked, Positive, "
        "or SDNET2018's C?)",
    )
    add(
        "--photographs",
        metavar="CSV|folders|none",
        help="which photograph a tile belongs to: a CSV file with columns tile, photograph and "
        "perhaps row, column; 'folders': tiles in equal folders, class folders aside, are of one "
        "photograph; 'none': not known (default: names such as 7001-12, if there are any)",
    )
    add(
        "--photograph-pattern",
        metavar="REGEX",
        help="the photograph by a regular expression that is searched in each tile's path: its "
        "group 'photograph', and perhaps 'row', 'column' or 'tile', as in "
        "'(?P<photograph>IMG_[0-9]+)_'",
    )
    add(
        "--exclude",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder inside the data to leave out; repeatable",
    )
    add(
        "--labels",
        type=Path,
        metavar="CSV",
        help="corrected labels: columns tile, label (1 = cracked); other tiles keep theirs",
    )
    add(
        "--split",
        choices=["folders"],
        help="keep the folders train, val and test as the split (without val it is drawn from "
        "train; default: drawn by photograph)",
    )
    add(
        "--max-bad-tiles",
        type=whole_number(0),
        default=10,
        metavar="N",
        help="tiles to leave out before it is an error: unreadable ones, and such without a "
        "photograph among others with one (default: 10)",
    )
    add(
        "--split-seed",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="seed of the split; keep it: it decides which photographs are held out (default: 0)",
    )


def _add_training(add: Add, *, whose: str, of: str) -> None:
    """Add what overrides a space or a recipe.

    Args:
        add: Takes an option.
        whose: What the default is.
        of: What is trained.
    """
    add("--epochs", type=EPOCHS, metavar="N", help=f"epochs of {of} (default: {whose})")
    add(
        "--image-size",
        type=IMAGE_SIZE,
        metavar="PX",
        help=f"side of the square input in pixels (default: {whose})",
    )
    add(
        "--weights",
        action="append",
        default=[],
        metavar="[BACKBONE=]WHAT",
        help="what backbones start from: imagenet, none, or BACKBONE=FILE (.safetensors, or a "
        f"state dict or checkpoint of torch's); repeatable (default: {whose})",
    )
    add(
        "--seed",
        type=SEED,
        default=0,
        metavar="N",
        help="seed of heads, order, augmentation and, in a search, the sampler (default: 0)",
    )


def _add_gpu(add: Add) -> None:
    add("--gpus", type=int, choices=(0, 1), help="0 trains on the CPU (default: a GPU if any)")


def _add_new_run(add: Add, *, name: str) -> None:
    add("--name", metavar="NAME", help=f"name of the run (default: {name})")
    _add_runs(add, "folder in which the run's folder NAME and the packed tiles are made")


def _add_last_run(add: Add) -> None:
    add("run", nargs="?", help="name under --out, or a path (default: the last run)")
    _add_runs(add)


def _add_runs(add: Add, what: str = "folder of the runs") -> None:
    default = Path("results")
    add("--out", type=Path, default=default, metavar="FOLDER", help=f"{what} (default: results)")


class Command(NamedTuple):
    """A command: the module whose `main` takes its options, and what its help says."""

    module: str
    add_options: Callable[[Parser], None]
    summary: str
    more: str = ""
    epilog: str | None = None


COMMANDS = {
    "search": Command(
        "ensemble.search.command",
        add_search_options,
        "Search hyperparameters for crack classifiers and keep the best epoch of each trial.",
        "The same command with the same --name continues an unfinished search.",
        "A trial with one worker trains inside a process of Ray Tune that is used again for the "
        "next trial; with --workers-per-trial above 1 (or in the space) each trial trains "
        "data-parallel on that many Ray Train workers (NCCL on GPUs, gloo on CPUs).",
    ),
    "train": Command(
        "ensemble.train",
        add_train_options,
        "Train the configurations of a recipe and keep the best epoch of each.",
        "The same command with the same --name continues an unfinished run.",
    ),
    "evaluate": Command(
        "ensemble.evaluate",
        add_evaluate_options,
        "Choose an ensemble of a run's members and test it on the held-out photographs.",
        "It is chosen on the validation split and tested once.",
    ),
    "predict": Command(
        "ensemble.predict",
        add_predict_options,
        "Look for cracks in pictures without labels, with the ensemble of a run.",
        "A picture larger than one and a half tiles is cut into tiles of the size that the run was "
        "trained on; it should show concrete at the same scale.",
    ),
    "report": Command(
        "ensemble.report.page",
        add_report_options,
        "Write a run's report.html: one page that needs no other file and no network.",
    ),
    "look": Command(
        "ensemble.look",
        add_look_options,
        "Draw the filters and feature maps of a member's convolutions for one tile.",
        "Beside them it draws where the member saw a crack.",
    ),
    "recall": Command(
        "ensemble.recall",
        add_recall_options,
        "Train a recipe's run again with what may raise its recall, and compare.",
        "It is trained with class weights, with augmentation at full strength and with both; "
        "recall, precision and F1 are compared on validation. The same command goes on where it "
        "was interrupted.",
    ),
    "spaces": Command(
        "ensemble.spaces",
        add_spaces_options,
        "List the search spaces and recipes that are installed, or print one.",
    ),
}


def new_parser(command: str) -> Parser:
    """The parser of a command."""
    about = COMMANDS[command]
    description = f"{about.summary} {about.more}".strip()
    parser = Parser(spell_command(command), description, about.epilog)
    about.add_options(parser)
    add = parser.add_argument_group("what is printed").add_argument
    add("--quiet", action="store_true", help="only the result, and what is wrong")
    add("--json", action="store_true", help="the result as JSON on stdout, and the rest on stderr")
    return parser


def parse(command: str, words: Sequence[str]) -> argparse.Namespace:
    """The options of a command, from the words behind its name.

    Raises:
        InputError: They are not its options.
    """
    return new_parser(command).parse_args(words)


def start(command: str, words: Sequence[str] | None = None) -> NoReturn:
    """Run a command; then the process ends.

    Args:
        command: Its name.
        words: What is typed behind the name; those of this process where it is None.
    """
    typed = sys.argv[1:] if words is None else words
    is_quick = command == "spaces"
    run_module(COMMANDS[command].module, lambda: parse(command, typed), is_quick=is_quick)


def main() -> None:
    """Run what is typed as `crack-ensemble COMMAND …`."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        start(words[0], words[1:])
    run_command(lambda: _print_overview(words))


def _print_overview(words: Sequence[str]) -> None:
    """Print the commands with a line each, or refuse what is none of them."""
    parser = Parser("crack-ensemble", "Find cracks in concrete with ensembles of networks.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(
        ["commands:", *(f"  {name:10}{about.summary}" for name, about in COMMANDS.items())]
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.parse_args(words or ["--help"])
