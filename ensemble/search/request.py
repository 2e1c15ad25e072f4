"""A search as a person asks for it: the command line and Python ask in the same words."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from ensemble.data.layout import Layout

Sampler = Literal["tpe", "random", "gp", "qmc"]


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What a search is asked to do; its fields and defaults are those of the command line.

    Attributes:
        data: Folder or .zip of tiles in class folders, or `synthetic`: drawn concrete.
        layout: How the tiles are laid out.
        split_seed: Seed of the split.
        leaky_split: Whether tiles are split rather than photographs, to show what leakage is worth.
        max_bad_tiles: Tiles that may be left out before it is an error.
        space: Search space: a TOML file or the name of a shipped one.
        start_from: Recipe or run whose configurations are the first trials.
        trials: Trials in all, finished or stopped early.
        epochs: Epochs of a trial; by default the space's.
        image_size: Side of the square input in pixels; by default the space's.
        weights: What backbones start from, each `WHAT` or `BACKBONE=WHAT`.
        seed: Seed of the study.
        sampler: Optuna's sampler that chooses the next trial.
        max_hours: Hours after which no trial starts and running ones stop; None is no limit.
        trial_timeout: Minutes after which a trial that reports nothing is ended.
        max_failures: Failed trials that are replaced before the search gives up.
        gpus: GPUs in all; 0 trains on the CPU, None takes all there are.
        cpus: Workers at a time where no GPU is used; None takes one a core.
        workers_per_trial: Data-parallel workers of each trial; by default the space's.
        trials_per_gpu: Trials that share a GPU.
        address: HOST:PORT of a running Ray cluster; None starts Ray on this machine.
        wait: Minutes to wait for nodes of a cluster.
        storage: Folder or URL through which tiles and members travel between nodes.
        keep: Best members that keep their weights.
        mlflow: URI of an MLflow server or file that is told of each trial.
        name: Name of the run; by default the space's name and the time.
        out: Folder in which the run's folder and the packed tiles are made.
    """

    data: str
    layout: Layout = field(default_factory=Layout)
    split_seed: int = 0
    leaky_split: bool = False
    max_bad_tiles: int = 10
    space: str = "sdnet2018"
    start_from: str | None = None
    trials: int = 20
    epochs: int | None = None
    image_size: int | None = None
    weights: Sequence[str] = ()
    seed: int = 0
    sampler: Sampler = "tpe"
    max_hours: float | None = None
    trial_timeout: float = 60.0
    max_failures: int = 10
    gpus: int | None = None
    cpus: int | None = None
    workers_per_trial: int | None = None
    trials_per_gpu: int = 1
    address: str | None = None
    wait: float | None = None
    storage: str | None = None
    keep: int = 20
    mlflow: str | None = None
    name: str | None = None
    out: Path = Path("results")

    def named(self) -> "SearchRequest":
        """The request with a name for its run."""
        leaky = "-leaky" * self.leaky_split
        default = f"{Path(self.space).stem}{leaky}-{datetime.now():%Y%m%d-%H%M%S}"
        return replace(self, name=self.name or default)


@dataclass(frozen=True)
class SearchOutcome:
    """What came of a search.

    Attributes:
        folder: Folder of the run.
        num_finished: Trials that are finished or were stopped early.
        best_trial: Number of the best one; None where none is finished.
        best_val_f1: Its validation F1.
        stopped: Why the search ended before it had all its trials; "" where it has them.
        exit_code: Exit code of the command.
    """

    folder: Path
    num_finished: int
    best_trial: int | None
    best_val_f1: float | None
    stopped: str = ""
    exit_code: int = 0
