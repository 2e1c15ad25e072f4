"""The commands: their table, their options, and how a process becomes one of them.

Nothing here imports what takes seconds, so that help and what is mistyped cost none.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ensemble.base.door import run_command, run_module, spell_command
from ensemble.base.errors import short_repr
from ensemble.base.options import (
    COUNT,
    COUNT_OR_NONE,
    DEFAULT_IMAGE_PX,
    DEFAULT_OUT,
    EPOCHS,
    FOLDS,
    FORMS,
    IMAGE_SIZE,
    METHODS,
    NUM_CONVOLUTIONS,
    RECIPES,
    SAMPLERS,
    SEED,
    TILE_SIDE,
    Parser,
    add_option,
    positive_number,
    read_overlap,
    read_setting,
    whole_number,
)
from ensemble.training.backbone_table import BACKBONES, check_backbone

Group = argparse._ActionsContainer  # a parser, or a group of one
RUN = "name under --out, or path"
EXPORTED = "a file that `export` wrote does as well"
LAST_RUN = "the last one with a finished trial"


def add_search_options(parser: Parser) -> None:
    """Add what is searched, on what, where, and what is kept of it."""
    data = parser.add_argument_group("data")
    _add_data(data, required=True)
    data.add_argument(
        "--leaky-split",
        action="store_true",
        help="split tiles, not photographs, only to show what leakage is worth; the results are "
        "marked as such",
    )
    _add_search(parser.add_argument_group("search"))
    _add_machine(parser.add_argument_group("machine"), workers="the space's")
    output = parser.add_argument_group("output")
    keep = "best members that keep their weights; of the others the scores stay"
    add_option(output, "--keep", "N", keep, type=COUNT, default=20)
    _add_mlflow(output)
    _add_new_run(output, name="the space's name and the time")


def add_refit_options(parser: Parser) -> None:
    """Add which configurations of which run are trained again, on how many folds, and where."""
    what = parser.add_argument_group("refit")
    _add_run(what)
    add_option(what, "--top-k", "K", "best configurations of the run", type=COUNT, default=2)
    folds = "folds of the training and validation photographs, each left out once"
    add_option(what, "--folds", "F", folds, type=FOLDS, default=5)
    epochs = "epochs of each training"
    add_option(what, "--epochs", "N", epochs, type=EPOCHS, otherwise="the configuration's")
    seeds = "seeds that the best configuration is trained with in all, each a member of its own"
    add_option(what, "--seeds", "S", seeds, type=COUNT, default=1)
    what.add_argument(
        "--try",
        dest="tries",
        metavar="SETTING=VALUE",
        help="train also the best configuration with these settings changed, on the same folds; "
        "repeatable, and tried.csv compares each with the best configuration",
        type=read_setting,
        nargs="+",
        action="append",
        default=[],
    )
    _add_weights(what, whose="the run's")
    _add_limits(what)
    _add_machine(parser.add_argument_group("machine"), workers="1")
    output = parser.add_argument_group("output")
    _add_mlflow(output)
    add_option(output, "--name", "NAME", "name of the new run", otherwise="RUN-refit")
    _add_runs(output)


def _add_mlflow(group: Group) -> None:
    add_option(
        group,
        "--mlflow",
        "URI",
        "MLflow server that each trial is logged to as well: http://HOST:PORT or sqlite:///FILE; "
        "needs the extra [mlflow]",
    )


def _add_search(group: Group) -> None:
    """Add what is searched, how, and when it ends."""
    add = partial(add_option, group)
    space = "search space: a TOML file, or a name that `spaces` lists"
    add("--space", "FILE", space, default="sdnet2018")
    add(
        "--start-from",
        "RECIPE|RUN",
        "a recipe (a TOML file, or a name that `spaces` lists), whose base is trial 0, or a run, "
        "whose best trials are the first; the space is widened to hold it",
    )
    trials = "trials in all, finished or stopped early"
    add("--trials", "N", trials, type=COUNT, default=20)
    add(
        "--backbone",
        "NAME",
        "networks to search among, in place of the space's; repeatable, and `backbones` lists them",
        type=_backbone,
        nargs="+",
        action="extend",
        default=[],
        otherwise="the space's",
    )
    _add_training(group, whose="the space's", of="each trial")
    add(
        "--sampler",
        None,
        "what chooses the next trial: TPE, chance, a Gaussian process or a quasi-random sequence",
        choices=SAMPLERS,
        default="tpe",
        otherwise="tpe; random with the same --trials shows what the search is worth",
    )
    _add_limits(group)
    failures = "failed trials to replace before giving up"
    add("--max-failures", "N", failures, type=COUNT_OR_NONE, default=10)


def _add_limits(group: Group) -> None:
    """Add how long a search and its trials may take."""
    add_option(
        group,
        "--max-hours",
        "H",
        "time limit, counted from when trials may start: no trial starts after it and running ones "
        "stop after their epoch; the same command goes on",
        type=positive_number(),
        otherwise="no limit",
    )
    timeout = "end a trial of which no batch ends for so long"
    add_option(group, "--trial-timeout", "MINUTES", timeout, type=positive_number(), default=60)


def _add_machine(group: Group, *, workers: str) -> None:
    """Add where a search computes; `workers` says how many a trial has by default."""
    add = partial(add_option, group)
    gpus = "GPUs to use in all; 0 trains on the CPU"
    add("--gpus", "N", gpus, type=COUNT_OR_NONE, otherwise="all there are")
    cpus = "cores to use where no GPU is used: one a worker, or several if workers are fewer"
    add("--cpus", "N", cpus, type=COUNT, otherwise="all there are")
    about = "data-parallel workers of each trial; above 1 on Ray Train"
    add("--workers-per-trial", "N", about, type=COUNT, otherwise=workers)
    add("--trials-per-gpu", "N", "trials that share a GPU", type=COUNT, default=1)
    add(
        "--address",
        "HOST:PORT",
        "a running Ray cluster; --out must then be a folder that all its nodes share",
        otherwise="Ray on this machine alone",
    )
    add(
        "--wait",
        "MINUTES",
        "on a cluster: wait that long until --gpus or --cpus can be placed, and ask it to grow "
        "where it can",
        type=positive_number(),
        otherwise="what cannot be placed is refused",
    )
    add(
        "--storage",
        "PATH|URL",
        "shared folder or URL (s3://bucket/folder, gs://…, any of fsspec's) through which tiles "
        "and members travel between nodes; --out may then be the driver's alone",
    )


def add_train_options(parser: Parser) -> None:
    """Add which recipe is trained, on what, and how it differs from its file."""
    recipes = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    add_option(parser, "--recipe", "NAME|FILE", f"a TOML file, or one of {recipes}", required=True)
    _add_data(parser, required=False)
    backbone = f"another network: {', '.join(BACKBONES)}, or timm/MODEL; `backbones` lists them"
    add_option(parser, "--backbone", "NAME", backbone, type=_backbone, otherwise="the recipe's")
    _add_training(parser, whose="the recipe's", of="each configuration")
    _add_gpu(parser)
    export = "write RUN/export/ even if the recipe does not say"
    parser.add_argument("--export", action="store_true", help=export)
    summary = "print layers, parameters, memory and multiply-adds, and train nothing"
    parser.add_argument("--summary", action="store_true", help=summary)
    _add_new_run(parser, name="the recipe's name and the time")


def add_recall_options(parser: Parser) -> None:
    """Add the run, and the device that trains."""
    _add_last_run(parser)
    _add_runs(parser)
    _add_gpu(parser)


def add_look_options(parser: Parser) -> None:
    """Add the member, the picture that it looks at, and the picture that is drawn."""
    add = partial(add_option, parser)
    add(
        "tile",
        "TILE",
        "a picture (of a photograph of several tiles, the one likeliest to be cracked), or a tile "
        "of the run's data set by its name there, as in validation.csv or errors.csv",
    )
    add(
        "--member",
        "MEMBER",
        f"its folder, RUN/TRIAL, or RUN for its best one; RUN is a {RUN}; {EXPORTED}",
        otherwise=f"the best one of {LAST_RUN}",
    )
    drawn = "what is drawn; an older file is replaced"
    add("--png", "FILE", drawn, type=Path, default=Path("look.png"))
    every = f"every convolution (default: {NUM_CONVOLUTIONS}, spread over the depth)"
    parser.add_argument("--all", action="store_true", help=every)
    _add_runs(parser)


def add_evaluate_options(parser: Parser) -> None:
    """Add the run, and how its ensemble is chosen."""
    add = partial(add_option, parser)
    _add_last_run(parser)
    _add_runs(parser)
    add("--method", None, "how members are chosen", choices=(*METHODS, "auto"), default="mean")
    top_k = "number of members of mean, also within auto"
    add("--top-k", "K", top_k, type=COUNT, otherwise="5, or all if fewer")
    threshold = "where F1 or F2 is best on validation, or 0.5"
    add("--threshold", None, threshold, choices=("f1", "f2", "0.5"), otherwise="f1")
    add(
        "--min-recall",
        "R",
        "in place of --threshold: the highest threshold with this validation recall, 0 to 1",
        type=positive_number(1),
    )
    tta = "average over flips and turns, if validation gains what the threshold is asked for"
    parser.add_argument("--tta", action="store_true", help=tta)
    compare = "test other methods and the best member of each backbone beside it, in one opening"
    parser.add_argument("--compare", action="store_true", help=compare)
    budget = "forward passes that a tile may cost, before --tta; one for each network that is kept"
    add("--budget-members", "M", budget, type=COUNT, otherwise="as many as the method takes")
    labels = "CSV of corrected labels: columns tile, label; rows of other tiles are ignored"
    add("--labels", "FILE", labels, type=Path)


def add_judge_options(parser: Parser) -> None:
    """Add the run, and the data set that its ensemble judges."""
    _add_run(parser)
    _add_tiles(parser, required=True)
    name = "name of the folder in RUN/judged; an older one's figures are replaced"
    add_option(parser, "--name", "NAME", name, otherwise="that of the data")
    _add_runs(parser)


def add_predict_options(parser: Parser) -> None:
    """Add the run, the pictures, and where the verdicts go."""
    add = partial(add_option, parser)
    _add_run(parser, EXPORTED)
    _add_photographs(parser)
    _add_overlap(parser)
    csv = "one row a tile; an older file is replaced"
    add("--csv", "FILE", csv, type=Path, default=Path("predictions.csv"))
    add(
        "--overlays",
        "FOLDER",
        "pictures of several tiles, drawn with what was found",
        type=Path,
        otherwise="beside the CSV, its name and -overlays",
    )
    _add_runs(parser)


def add_inspect_options(parser: Parser) -> None:
    """Add the run, the photographs of a visit, and the folder of pages."""
    add = partial(add_option, parser)
    _add_run(parser, EXPORTED)
    _add_photographs(parser)
    _add_overlap(parser)
    scale = "millimetres of concrete that a pixel shows, for lengths in metres"
    add("--mm-per-px", "MM", scale, type=positive_number(), otherwise="lengths in tiles alone")
    add(
        "--folder",
        "FOLDER",
        "folder of the pages and tables; those of an older inspection in it are replaced",
        type=Path,
        otherwise="the first PHOTOS' name and -inspection, in the current folder",
    )
    _add_runs(parser)


def add_cut_options(parser: Parser) -> None:
    """Add the photographs, how large their tiles are, where they go, and labels of them."""
    add = partial(add_option, parser)
    _add_photographs(parser, nargs="*")
    add("--tile", "PX", "side of a tile in pixels", type=TILE_SIDE, default=256)
    folder = "folder of the pages and tiles; photographs that it has stay in it"
    add("--folder", "FOLDER", folder, type=Path, default=Path("cut"))
    add(
        "--labels",
        "CSV",
        "labels that the pages saved: their tiles are written into class folders",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        otherwise="none",
    )


def add_learn_from_options(parser: Parser) -> None:
    """Add the run that judged, what a person corrected, and the data set that it goes into."""
    add = partial(add_option, parser)
    _add_run(parser, "a file that `export` wrote does, without tiles")
    corrections = "CSV that the pages of `inspect` saved; others may stand among PHOTOS"
    add("corrections", "CORRECTIONS", corrections, type=Path)
    photographs = "the photographs that were judged: pictures, and folders or .zip of some"
    add("photographs", "PHOTOS", photographs, nargs="+", type=Path)
    folder = "folder of the data set; that of an earlier call for the run is added to"
    otherwise = "the run's name and -learned, in the current folder"
    add("--folder", "FOLDER", folder, type=Path, otherwise=otherwise)
    data = "folder or .zip that the run was made from, where it was moved"
    add("--data", "PATH", data, type=Path, otherwise="where the run's record says")
    _add_runs(parser)


def add_serve_options(parser: Parser) -> None:
    """Add the run, where the server listens, on what it judges, and what it takes."""
    _add_last_run(parser, EXPORTED)
    _add_runs(parser)
    listens = partial(add_option, parser.add_argument_group("where it listens"))
    host = "address; of another than the loopback, each photograph needs a token"
    listens("--host", "ADDRESS", host, type=_address, default="127.0.0.1")
    listens("--port", "N", "port", type=whole_number(1, 65535), default=8000)
    machine = partial(add_option, parser.add_argument_group("machine"))
    gpus = "GPUs in all, one for each replica; 0 judges on the CPU"
    machine("--gpus", "N", gpus, type=COUNT_OR_NONE, otherwise="all there are")
    cpus = "cores in all, divided among the replicas, where no GPU is used"
    machine("--cpus", "N", cpus, type=COUNT, otherwise="all there are")
    replicas = "processes that judge"
    machine("--replicas", "N", replicas, type=COUNT, otherwise="one a GPU, or one a machine")
    machine("--address", "HOST:PORT", "Ray cluster to join", otherwise="RAY_ADDRESS, or none")
    takes = partial(add_option, parser.add_argument_group("what it takes"))
    queue = "photographs that may wait for a replica; a further one is told to try again"
    takes("--queue", "N", queue, type=COUNT, default=32)
    size = "largest file in MiB"
    takes("--max-megabytes", "X", size, type=positive_number(1024), default=64.0)
    pixels = "largest photograph in millions of pixels"
    takes("--max-megapixels", "X", pixels, type=positive_number(250), default=100.0)


def _address(text: str) -> str:
    """A `type` of argparse: an address to listen on."""
    try:
        return text if text == "localhost" else str(ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{short_repr(text)}: must be an IP address, such as 127.0.0.1 or 0.0.0.0"
        ) from None


def add_export_options(parser: Parser) -> None:
    """Add the run, and the file that its ensemble goes to, in which form."""
    add = partial(add_option, parser)
    about = "the file to write; an older export is replaced"
    name = "the run's name and its form, in the current folder"
    add("--file", "FILE", about, type=Path, otherwise=name)
    add(
        "--format",
        None,
        "networks for this program (zip), or one graph for others: ONNX or torch.export",
        choices=FORMS,
        otherwise="that of the name of --file, or zip",
    )
    _add_last_run(parser)
    _add_runs(parser)


def add_report_options(parser: Parser) -> None:
    """Add the run that is told of."""
    _add_last_run(parser)
    _add_runs(parser)


def add_backbones_options(parser: Parser) -> None:
    """Add which networks are listed, and for which size of image they are counted."""
    add = partial(add_option, parser)
    about = "part of a name, or a pattern such as 'timm/convnext*'; one with a dot lists tags, too"
    add("pattern", "PATTERN", about, nargs="?")
    add("--size", "PX", "side of the image", type=IMAGE_SIZE, default=DEFAULT_IMAGE_PX)


def add_spaces_options(parser: Parser) -> None:
    """Add the name of the one that is printed."""
    about = "space or recipe to print as a whole, to copy and change it"
    add_option(parser, "name", "NAME", about, nargs="?")


def _backbone(name: str) -> str:
    """Take the name of a network as a `type` of argparse does."""
    if "," in name:
        raise argparse.ArgumentTypeError(
            f"{short_repr(name)}: no network's name has a comma; a search takes several names, "
            "with spaces between them"
        )
    try:
        return check_backbone(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{short_repr(name)}: {error}") from None


def _add_data(group: Group, *, required: bool) -> None:
    """Add which tiles there are and how they are split.

    Args:
        group: Parser, or group of one.
        required: Whether --data must be given; else it is 'synthetic'.
    """
    _add_tiles(group, required=required)
    add = partial(add_option, group)
    add(
        "--split",
        None,
        "keep the folders train, val and test as the split; without val it is drawn from train",
        choices=["folders"],
        otherwise="drawn by photograph",
    )
    seed = "seed of the split; keep it: it decides which photographs are held out"
    add("--split-seed", "N", seed, type=COUNT_OR_NONE, default=0)


def _add_tiles(group: Group, *, required: bool) -> None:
    """Add which tiles there are, with what a person states about them.

    Args:
        group: Parser, or group of one.
        required: Whether --data must be given; else it is 'synthetic'.
    """
    add = partial(add_option, group)
    data = "folder or .zip of tiles in class folders, or 'synthetic': drawn concrete"
    add("--data", "PATH", data, required=required, default=None if required else "synthetic")
    add(
        "--positive",
        "FOLDER",
        "folder of the cracked tiles",
        otherwise="told by its name, such as Cracked, Positive, or SDNET2018's C?",
    )
    add(
        "--photographs",
        "CSV|folders|none",
        "which photograph a tile belongs to: a CSV file with columns tile, photograph and perhaps "
        "row, column; 'folders': tiles in equal folders, class folders aside, are of one "
        "photograph; 'none': not known",
        otherwise="names such as 7001-12, if there are any",
    )
    add(
        "--photograph-pattern",
        "REGEX",
        "the photograph by a regular expression that is searched in each tile's path: its group "
        "'photograph', and perhaps 'row', 'column' or 'tile', as in '(?P<photograph>IMG_[0-9]+)_'",
    )
    exclude = "a folder inside the data to leave out; repeatable"
    group.add_argument("--exclude", action="append", default=[], metavar="FOLDER", help=exclude)
    labels = "corrected labels: columns tile, label (1 = cracked); other tiles keep theirs"
    add("--labels", "CSV", labels, type=Path)
    add(
        "--max-bad-tiles",
        "N",
        "tiles to leave out before it is an error: unreadable ones, and such without a photograph "
        "among others with one",
        type=COUNT_OR_NONE,
        default=10,
    )


def _add_training(group: Group, *, whose: str, of: str) -> None:
    """Add what overrides a space or a recipe.

    Args:
        group: Parser, or group of one.
        whose: What the default is.
        of: What is trained.
    """
    add = partial(add_option, group)
    add("--epochs", "N", f"epochs of {of}", type=EPOCHS, otherwise=whose)
    size = "side of the tile in pixels, as networks see it; a margin around it is added"
    add("--image-size", "PX", size, type=IMAGE_SIZE, otherwise=whose)
    _add_weights(group, whose=whose)
    seed = "seed of heads, order, augmentation and, in a search, the sampler"
    add("--seed", "N", seed, type=SEED, default=0)


def _add_weights(group: Group, *, whose: str) -> None:
    add_option(
        group,
        "--weights",
        "[BACKBONE=]WHAT",
        "what backbones start from: imagenet, none, or BACKBONE=FILE (.safetensors, or a state "
        "dict or checkpoint of torch's); several, or repeated",
        action="extend",
        nargs="+",
        default=[],
        otherwise=whose,
    )


def _add_gpu(group: Group) -> None:
    add_option(
        group,
        "--gpus",
        None,
        "0 trains on the CPU",
        type=int,
        choices=(0, 1),
        otherwise="a GPU if any",
    )


def _add_new_run(group: Group, *, name: str) -> None:
    add_option(group, "--name", "NAME", "name of the run", otherwise=name)
    _add_runs(group, "folder in which the run's folder NAME and the packed tiles are made")


def _add_overlap(group: Group) -> None:
    share = (
        "part of a tile's side by which tiles overlap: 0, 0.5 or 0.75; a crack on the border of "
        "two tiles lies in the middle of a third; 0.5 takes 4 times as long, 0.75 16 times"
    )
    add_option(group, "--overlap", "PART", share, type=read_overlap, default=0.0, otherwise="0")


def _add_photographs(group: Group, nargs: str = "+") -> None:
    about = "a picture, or a folder or .zip of some"
    add_option(group, "photographs", "PHOTOS", about, nargs=nargs, type=Path)


def _add_run(group: Group, more: str = "", **settings: Any) -> None:
    """Add the run that a command takes.

    Args:
        group: Parser, or group of one.
        more: What does as well, for people.
        settings: Further settings of `add_option`.
    """
    about = f"the run: its {RUN}{more and f'; {more}'}"
    add_option(group, "run", "RUN", about, **settings)


def _add_last_run(group: Group, more: str = "") -> None:
    _add_run(group, more, nargs="?", otherwise=LAST_RUN)


def _add_runs(group: Group, about: str = "folder of the runs") -> None:
    add_option(group, "--out", "FOLDER", about, type=Path, default=DEFAULT_OUT)


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
    "refit": Command(
        "ensemble.search.refit",
        add_refit_options,
        "Train the best configurations of a run anew on folds of all but the test photographs.",
        "So every photograph that is not the test's has a score of networks that never saw it, and "
        "evaluate chooses on all of them. The same command continues an unfinished refit.",
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
    "judge": Command(
        "ensemble.judge",
        add_judge_options,
        "Judge another labelled data set by the ensemble of an evaluated run.",
        "Every tile is judged and nothing is fitted. Tiles that the run was trained or chosen on, "
        "and others of their photographs, are left out and counted.",
    ),
    "predict": Command(
        "ensemble.predict",
        add_predict_options,
        "Look for cracks in pictures without labels, with the ensemble of a run.",
        "A picture larger than one and a half tiles is cut into tiles of the size that the run was "
        "trained on; it should show concrete at the same scale.",
    ),
    "inspect": Command(
        "ensemble.inspection.command",
        add_inspect_options,
        "Look for cracks in the photographs of a visit, and write pages to look through them.",
        "The folder opens in any browser, without a server or a network: an index, a page for each "
        "photograph with its heat map, tables, points for a map and boxes in COCO's format.",
    ),
    "export": Command(
        "ensemble.export",
        add_export_options,
        "Write the ensemble of an evaluated run, with its card, to one file to give away.",
        "`predict`, `inspect`, `serve` and `look` take that file in place of a run; README.md in "
        "it is its card.",
    ),
    "cut": Command(
        "ensemble.cut",
        add_cut_options,
        "Cut photographs into tiles and label them in a browser, as data for a search.",
        "The pages need no network; with --labels the labelled tiles are written into class "
        "folders.",
    ),
    "learn-from": Command(
        "ensemble.learn_from",
        add_learn_from_options,
        "Put tiles that were corrected on the pages of `inspect` into data for the next search.",
        "The run's tiles keep their split, the corrected ones are for training, and corrections of "
        "photographs that the run is tested on are left out.",
    ),
    "serve": Command(
        "ensemble.serve",
        add_serve_options,
        "Judge photographs that are sent over HTTP, with the ensemble of a run, on Ray Serve.",
        "It listens on the loopback unless --host says otherwise; Ctrl-C ends it. Needs the extra "
        "[serve].",
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
    "backbones": Command(
        "ensemble.backbones",
        add_backbones_options,
        "List the networks that can be trained, with what they cost and whether weights are here.",
        "Without a pattern they are the project's own and torchvision's.",
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
        ["commands:", *(f"  {name:12}{about.summary}" for name, about in COMMANDS.items())]
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.parse_args(words or ["--help"])
