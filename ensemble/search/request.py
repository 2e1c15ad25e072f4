"""A search as a person asks for it: the command line and Python ask in the same words."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ensemble.base.wording import plural
from ensemble.data.layout import Layout


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What a search is asked to do; its fields are the options of the command line.

    Attributes:
        data: Folder or .zip of tiles in class folders, or `synthetic`: drawn concrete.
        layout: How the tiles are laid out.
        split_seed: Seed of the split.
        leaky_split: Whether tiles are split rather than photographs, to show what leakage is worth.
        max_bad_tiles: Tiles that may be left out before it is an error.
        space: Search space: a TOML file or the name of a shipped one.
        start_from: Recipe or run whose configurations are the first trials.
        trials: Trials in all, finished or stopped early.
        epochs: Epochs of a trial; None takes the space's.
        image_size: Side of the square input in pixels; None takes the space's.
        backbone: Names of the backbones to search among; none takes the space's.
        weights: What backbones start from, each `WHAT` or `BACKBONE=WHAT`.
        seed: Seed of the study.
        sampler: Name of the sampler that chooses the next trial; see `SAMPLERS`.
        max_hours: Hours after which no trial starts and running ones stop; None is no limit.
        trial_timeout: Minutes after which a trial that reports nothing is ended.
        max_failures: Failed trials that are replaced before the search gives up.
        gpus: GPUs in all; 0 trains on the CPU, None takes all there are.
        cpus: Cores to use where no GPU is used, one for each worker; None takes all.
        workers_per_trial: Data-parallel workers of each trial; None takes the space's.
        trials_per_gpu: Trials that share a GPU.
        address: HOST:PORT of a running Ray cluster; None starts Ray on this machine.
        wait: Minutes to wait for nodes of a cluster.
        storage: Folder or URL through which tiles and members travel between nodes.
        keep: Best members that keep their weights.
        mlflow: URI of an MLflow server or file that is told of each trial.
        name: Name of the run; None makes one of the space's name and the time.
        out: Folder in which the run's folder and the packed tiles are made.
    """

    data: str
    layout: Layout
    split_seed: int
    leaky_split: bool
    max_bad_tiles: int
    space: str
    start_from: str | None
    trials: int
    epochs: int | None
    image_size: int | None
    backbone: Sequence[str]
    weights: Sequence[str]
    seed: int
    sampler: str
    max_hours: float | None
    trial_timeout: float
    max_failures: int
    gpus: int | None
    cpus: int | None
    workers_per_trial: int | None
    trials_per_gpu: int
    address: str | None
    wait: float | None
    storage: str | None
    keep: int
    mlflow: str | None
    name: str | None
    out: Path

    def named(self) -> "SearchRequest":
        """The request with a name for its run."""
        leaky = "-leaky" * self.leaky_split
        default = f"{Path(self.space).stem}{leaky}-{datetime.now():%Y%m%d-%H%M%S}"
        return replace(self, name=self.name or default)

    def describe_way_on(self, num_finished: int | None = None) -> str:
        """How the search goes on, after the number of its finished trials where that is known."""
        command = f"the same command with --name {shlex.quote(self.name or '')} goes on"
        return (
            command if num_finished is None else f"{self.describe_state(num_finished)}; {command}"
        )

    def describe_state(self, num_finished: int) -> str:
        """How many trials are finished, of how many."""
        are = "is" if self.trials == 1 else "are"
        return f"{num_finished} of {plural(self.trials, 'trial')} {are} finished"


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
