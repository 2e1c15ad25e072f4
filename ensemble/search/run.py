"""The search: tiles, space and budget in; a run's folder with a study, tables and members out.

Continuing is the normal way in: the study's file says what is done, and the same command goes on
from there. Tune's own state is written to a scratch folder, never read, and thrown away.
"""

import signal
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from rich.console import Console

from ensemble.errors import InputError
from ensemble.search.budget import Budget
from ensemble.search.progress import Progress
from ensemble.search.space import Space
from ensemble.search.study import StudySearcher, count_finished, open_study
from ensemble.search.tables import RunTables
from ensemble.search.task import Task
from ensemble.search.trial import Trial
from ensemble.training.config import TrialConfig


class _StopWhen(tune.Stopper):
    """Ends each trial at its next result once the event is set."""

    def __init__(self, event: threading.Event | None):
        self._event = event

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._event is not None and self._event.is_set()

    def stop_all(self) -> bool:
        return False

    def __reduce__(self) -> tuple[type, tuple[None]]:  # Tune pickles it; an Event cannot be
        return _StopWhen, (None,)


def run_search(
    folder: Path,
    space: Space,
    budget: Budget,
    *,
    pack_folder: Path,
    seed: int,
    num_trials: int,
    max_failures: int,
    console: Console,
) -> optuna.Study:
    """Run or continue the search in `folder`, on the Ray cluster we are connected to.

    Args:
        folder: Of the run; holds `initial/` already.
        space: What is searched.
        budget: Trials at a time and what each may use.
        pack_folder: Of the tiles.
        seed: Of the study.
        num_trials: Finished trials it is to have.
        max_failures: Failed trials that are replaced.
        console: Of the person.

    Returns:
        The study; it has fewer finished trials than wanted where Ctrl-C ended the search: what was
        finished is written, the rest waits in the study.

    Raises:
        InputError: More trials failed than may be replaced.
        KeyboardInterrupt: A second Ctrl-C.
    """
    study = open_study(folder / "study.db", space, seed=seed)
    tables = RunTables(folder)
    interrupted = threading.Event()

    def make_task(number: int, config: TrialConfig) -> dict[str, Any]:
        task = Task(
            number=number,
            config=config.model_dump(),
            pack_folder=str(pack_folder),
            initial_folder=str(folder / "initial"),
            member_folder=str(folder / "members" / f"{number:04}"),
            workers_per_trial=budget.workers_per_trial,
            cpus_per_worker=budget.cpus_per_worker,
            gpus_per_worker=budget.gpus_per_worker,
            threads_per_worker=budget.threads_per_worker,
        )
        return asdict(task)

    searcher = StudySearcher(
        study,
        space,
        seed=seed,
        num_trials=num_trials,
        max_concurrent_trials=budget.max_concurrent_trials,
        max_failures=max_failures,
        interrupted=interrupted,
        make_task=make_task,
        on_end=lambda: tables.write_trials(study),
    )
    epochs = space.default.optimisation.epochs
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric="best_val_f1",
        mode="max",
        max_t=epochs,
        grace_period=min(space.early_stopping.grace_epochs, epochs),
        reduction_factor=space.early_stopping.reduction_factor,
    )
    progress = Progress(tables, console, num_trials, count_finished(study))
    with tempfile.TemporaryDirectory(prefix="crack-ensemble-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(Trial, tune.PlacementGroupFactory([trial_resources(budget)])),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=searcher,
                scheduler=scheduler,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                callbacks=[progress],
                stop=_StopWhen(interrupted),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        with progress, _ctrl_c_sets(interrupted, progress):
            tuner.fit()
    tables.write_trials(study)
    if searcher.gave_up:
        reasons = [trial.user_attrs.get("reason", "") for trial in study.get_trials(deepcopy=False)]
        raise InputError(
            f"{searcher.num_failures} trials failed, more than --max-failures {max_failures}; the "
            f"last: {[reason for reason in reasons if reason][-1]}"
        )
    return study


def trial_resources(budget: Budget) -> dict[str, float]:
    """What Tune asks Ray for on behalf of one trial.

    A trial on Ray Train workers asks for them itself; its own process only waits.
    """
    if budget.workers_per_trial > 1:
        return {"memory": 1}  # a byte: Ray refuses a request for nothing
    resources = {"CPU": budget.cpus_per_worker}
    if budget.gpus_per_worker:
        resources["GPU"] = budget.gpus_per_worker
    return resources


class _ctrl_c_sets:
    """The first Ctrl-C sets the event; the second is a KeyboardInterrupt."""

    def __init__(self, event: threading.Event, progress: Progress):
        self._event, self._progress = event, progress

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGINT, self._first)

    def _first(self, *_: object) -> None:
        self._event.set()
        self._progress.say("stopping: running trials end after this epoch; Ctrl-C again ends now")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
