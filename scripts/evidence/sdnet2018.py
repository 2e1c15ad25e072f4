"""Make the table of all SDNET2018 from the data set alone: `sdnet2018.py --data SDNET2018`.

The stages are commands that anybody can type, and they are printed as such: a search; its best
configurations trained anew on folds of all photographs but the test's; the best one on a split by
tile, without each surface, and on METU. Only when all of them are trained are test photographs
opened: once by the search's ensembles, once by those of the folds, and once by each of the others.
A search of the same split that was made elsewhere, such as on a GPU, is told beside it (`--also`).
Nothing is chosen by what they show.

`sdnet2018/` in the folder of the runs gets the table, where it came from, and a page. The same
command goes on where it was stopped, trains and tests nothing twice, and `--plan` says what it
would do and how long that would take.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.files import find_toml, read_object, read_table
from ensemble.base.options import RECIPES, SPACES
from ensemble.base.process import count_cores
from ensemble.base.wording import clock, plural
from ensemble.data.sources import open_source
from ensemble.evaluation.mistakes import read_labels
from ensemble.search.space import Space
from ensemble.search.space_file import load_space
from record import is_tested
from sdnet2018_table import Runs, write_results

ROOT = Path(__file__).parents[2]
TRAINED_SHARE, DEVELOPMENT_SHARE = 0.70, 0.85  # of the tiles, by the split
LEAST_TILE_PX = 256  # of SDNET2018
LABELS = "--labels"


@dataclass(frozen=True)
class Stage:
    """One command of the way to the table.

    Attributes:
        command: Name of the command.
        words: What is typed behind it.
        run: Folder of the run that it makes or tests.
        result: File whose presence says that it need not run again; None where the command itself
            sees that it is done, as `search` and `refit` do.
        num_images: Tiles that it trains on, over all epochs, at most; 0 where it trains nothing.
    """

    command: str
    words: list[str]
    run: Path
    result: Path | None = None
    num_images: int = 0

    @property
    def is_done(self) -> bool:
        """Whether its result is there, of the ensemble that the run has and of all its trials."""
        if self.result is None or not is_tested(self.run, self.result):
            return False
        return LABELS not in self.words or "relabelled" in read_object(self.result)


def main() -> None:
    """Run what is missing, stage by stage, and write the table."""
    options = _parse()
    if options.labels:
        read_labels(Path(options.labels))  # refused here, and not by a test after hours
    tiles = open_source(Path(options.data)).tiles
    runs = _name_runs(options, tiles)
    trained = list_trained(options, runs, len(tiles))
    tested = list_tested(options, runs)
    _tell(options, [*trained, *tested])
    if options.plan:
        return
    for stage in trained:
        _run(stage)
    check_splits(runs)
    for stage in tested:
        _run(stage)
    write_results(runs, options.out / "sdnet2018", _spell_own(sys.argv[1:]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    add = parser.add_argument
    add("--data", required=True, metavar="PATH", help="folder or .zip of SDNET2018")
    add("--metu", metavar="PATH", help="folder or .zip of METU; without it, its rows are left out")
    add("--space", default="cpu", metavar="FILE", help="search space (default: cpu)")
    add("--backbone", nargs="+", default=[], metavar="NAME", help="as `search` takes them")
    add("--weights", nargs="+", default=[], metavar="X", help="as `search` takes them")
    for name, default, what in (
        ("trials", 6, "trials of the search"),
        ("epochs", 5, "epochs of each training"),
        ("top-k", 2, "configurations that are trained on the folds"),
        ("folds", 5, "folds"),
        ("seeds", 1, "seeds of the best configuration on the folds"),
    ):
        what = f"{what} (default: {default})"
        add(f"--{name}", type=int, default=default, metavar="N", help=what)
    for name in ("gpus", "cpus", "trials-per-gpu"):
        add(f"--{name}", metavar="N", help="as `search` takes it")
    add("--search", metavar="RUN", help="a search to go on from, in place of one of its own")
    what = "corrected labels, as `evaluate` takes them: rows on these stand beside the others"
    add(LABELS, metavar="FILE", help=what)
    what = "other searches with the same split, such as one on a GPU, to test and tell beside it"
    add("--also", nargs="+", metavar="RUN", default=[], help=what)
    add(
        "--without",
        nargs="+",
        choices=("leaky", "surfaces", "metu"),
        default=[],
        help="stages to leave out",
    )
    add("--plan", action="store_true", help="say what would run, and how long; run nothing")
    add("--out", type=Path, default=Path("results"), help="folder of the runs (default: results)")
    return parser.parse_args()


def _name_runs(options: argparse.Namespace, tiles: pd.DataFrame) -> Runs:
    """The folders of all runs; those of stages that are left out are none.

    Args:
        options: What was typed.
        tiles: Tiles of the data, as `open_source` lists them.

    Raises:
        InputError: A run that `--search` or `--also` names is missing.
    """
    out: Path = options.out
    given = {"--search": [options.search] if options.search else [], "--also": options.also}
    for option, names in given.items():
        for name in names:
            if not (out / name / "run.json").exists():
                raise InputError(f"{option} {name}: no run of that name in {out}")
    surfaces = [] if "surfaces" in options.without else _find_surfaces(tiles)
    return Runs(
        search=out / (options.search or "sdnet2018-search"),
        also=[out / name for name in options.also],
        refit=out / "sdnet2018-refit",
        leaky=None if "leaky" in options.without else out / "sdnet2018-leaky",
        without={folder: out / f"sdnet2018-without-{_name(folder)}" for folder in surfaces},
        metu=None if options.metu is None or "metu" in options.without else out / "sdnet2018-metu",
    )


def check_splits(runs: Runs) -> None:
    """Make sure that the search and those beside it are tested on the same photographs.

    Raises:
        InputError: One of them has another split.
    """
    wanted = read_object(runs.search / "run.json", split_digest=str)["split_digest"]
    for run in runs.also:
        if read_object(run / "run.json", split_digest=str)["split_digest"] != wanted:
            raise InputError(f"--also {run.name}: its split is not that of {runs.search.name}")


def _find_surfaces(tiles: pd.DataFrame) -> list[str]:
    """The folders of the surfaces, such as D, P and W."""
    folders = tiles["tile"].map(os.path.dirname).groupby(tiles["surface"])
    return [os.path.commonpath(of_one.unique()) for surface, of_one in folders if surface]


def _name(folder: str) -> str:
    """A surface's folder as part of a name."""
    return Path(folder).name.lower()


def list_trained(options: argparse.Namespace, runs: Runs, num_tiles: int) -> list[Stage]:
    """The stages that train, in order."""
    machine = _machine(options)
    own = ["--epochs", str(options.epochs), *_optional("--weights", options.weights), *machine]
    own += ["--out", str(options.out)]
    per_training = int(num_tiles * TRAINED_SHARE) * options.epochs
    stages = []
    if not options.search:
        words = ["--data", options.data, "--space", options.space, *own]
        words += ["--trials", str(options.trials), *_optional("--backbone", options.backbone)]
        stages.append(_search(runs.search, words, options.trials * per_training))
    num_folds = (options.top_k + options.seeds - 1) * options.folds
    share = DEVELOPMENT_SHARE * (options.folds - 1) / options.folds
    words = [str(runs.search), "--top-k", str(options.top_k), "--folds", str(options.folds)]
    words += ["--seeds", str(options.seeds)] if options.seeds > 1 else []
    words += ["--name", runs.refit.name, "--out", str(options.out), *machine]
    num_images = num_folds * int(num_tiles * share) * options.epochs
    stages.append(Stage("refit", words, runs.refit, num_images=num_images))
    like = ["--space", options.space, "--start-from", str(runs.search), "--trials", "1", *own]
    like += _optional("--backbone", options.backbone)
    if runs.leaky:
        words = ["--data", options.data, "--leaky-split", *like]
        stages.append(_search(runs.leaky, words, per_training))
    for surface, run in runs.without.items():
        words = ["--data", options.data, "--exclude", surface, *like]
        share = 1 - 1 / len(runs.without)
        stages.append(_search(run, words, int(per_training * share)))
    if runs.metu:
        num_metu = len(open_source(Path(options.metu)).tiles)
        num_images = int(num_metu * TRAINED_SHARE) * options.epochs
        stages.append(_search(runs.metu, ["--data", options.metu, *like], num_images))
    return stages


def list_tested(options: argparse.Namespace, runs: Runs) -> list[Stage]:
    """The stages that open test photographs; those that judge other data come last."""
    words = ["--method", "auto", "--compare"]
    words += [LABELS, options.labels] if options.labels else []
    stages = [_evaluate(run, *words) for run in (runs.search, *runs.also, runs.refit)]
    stages += [_evaluate(run) for run in runs.others]
    for surface, run in runs.without.items():
        others = [word for name in runs.without if name != surface for word in ("--exclude", name)]
        stages.append(_judge(run, options.data, _name(surface), *others))
    if runs.metu:
        stages.append(_judge(runs.metu, options.data, "sdnet2018"))
        stages.append(_judge(runs.refit, options.metu, "metu"))
    return stages


def _search(run: Path, words: Sequence[str], num_images: int) -> Stage:
    return Stage("search", [*words, "--name", run.name], run, num_images=num_images)


def _evaluate(run: Path, *words: str) -> Stage:
    return Stage("evaluate", [str(run), *words], run, run / "evaluation" / "metrics.json")


def _judge(run: Path, data: str, name: str, *words: str) -> Stage:
    result = run / "judged" / name / "metrics.json"
    return Stage("judge", [str(run), "--data", data, "--name", name, *words], run, result)


def _machine(options: argparse.Namespace) -> list[str]:
    """Options of the machine, as they were given."""
    words = []
    for name in ("gpus", "cpus", "trials_per_gpu"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", value]
    return words


def _optional(option: str, values: list[str]) -> list[str]:
    return [option, *values] if values else []


def _tell(options: argparse.Namespace, stages: list[Stage]) -> None:
    """Print each stage, and how long those that train will take at most."""
    missing = [stage for stage in stages if not stage.is_done]
    pace = _find_pace(options)
    for stage in stages:
        state = "done: " if stage.is_done else ""
        about = f"  # {_about(stage.num_images, pace)}" if stage.num_images and not state else ""
        print(f"{state}{_spell(stage)}{about}", flush=True)
    num_images = sum(stage.num_images for stage in missing)
    print(f"all that trains takes {_about(num_images, pace)}, less what is trained already")


def _about(num_images: int, pace: float) -> str:
    return f"at most {plural(num_images, 'image')}, about {clock(num_images / pace)}"


def _spell(stage: Stage) -> str:
    return shlex.join(["python", "-m", f"ensemble.{stage.command}", *stage.words])


def _spell_own(words: Sequence[str]) -> str:
    """This command as it was typed, with names of files in place of their paths."""
    named = []
    for word in words:
        name, sign, path = word.rpartition("=")
        named.append(f"{name}{sign}{Path(path).name if '/' in path else path}")
    return shlex.join(["python", "scripts/evidence/sdnet2018.py", *named])


def _find_pace(options: argparse.Namespace) -> float:
    """Images a second: of the search, or of a few training steps of the space's default network."""
    epochs = options.out / (options.search or "sdnet2018-search") / "epochs.csv"
    if epochs.exists():
        table = read_table(epochs, columns=("train_seconds", "val_seconds"))
        about = read_object(epochs.parent / "run.json", data_summary=dict)
        seconds = (table["train_seconds"] + table["val_seconds"]).mean()
        slots = _num_slots(options)
        return float(about["data_summary"]["num_tiles"]["train"] / seconds * slots)
    space = load_space(
        find_toml(options.space, SPACES, what="--space", other=(RECIPES, "a recipe"))
    )
    return _measure_pace(options, space)


def _num_gpus(options: argparse.Namespace) -> int:
    import torch

    return torch.cuda.device_count() if options.gpus is None else int(options.gpus)


def _num_slots(options: argparse.Namespace) -> int:
    """Trainings at a time."""
    if gpus := _num_gpus(options):
        return gpus * int(options.trials_per_gpu or 1)
    return int(options.cpus or count_cores())


def _measure_pace(options: argparse.Namespace, space: Space) -> float:
    """Images a second of bare training steps of all processes that train at a time."""
    config = space.default
    data = config.data.model_copy(
        update={"image_size_px": config.view.side_px(LEAST_TILE_PX), "context_px": 0}
    )
    config = config.model_copy(update={"data": data})
    gpus, num_slots = _num_gpus(options), _num_slots(options)
    num_devices = max(1, gpus)  # of which one is measured
    task = {
        "config": config.model_dump(mode="json"),
        "device": "cuda" if gpus else "cpu",
        "threads": 1,
        "steps": 12,
    }
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "floor.py"), json.dumps(task)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        for _ in range(num_slots // num_devices)
    ]
    return num_devices * sum(float(each.communicate()[0].split()[-1]) for each in running)


def _run(stage: Stage) -> None:
    """Run a stage that is not done; a stage that fails ends the whole, with its exit code."""
    if stage.is_done:
        return
    print(f"\n$ {_spell(stage)}", flush=True)
    command = [sys.executable, "-m", f"ensemble.{stage.command}", *stage.words]
    code = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode
    if code:
        print("stopped there; the same command goes on", flush=True)
        sys.exit(code)


if __name__ == "__main__":
    run_command(main)
