"""Optuna's study of a run: one SQLite file that optuna-dashboard opens.

A trial's intermediate values are its best F1 so far. A trial that early stopping ended is PRUNED; a
failed one is FAIL with its `reason`; an interrupted one waits and is continued with the same
parameters under the same number.
"""

import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import TrialState

from ensemble.base.errors import InputError
from ensemble.base.options import SAMPLERS
from ensemble.run.members import FINISHED_STATES
from ensemble.run.tables import RunTables
from ensemble.search.database import connect
from ensemble.search.space import Space
from ensemble.training.config import derive_seed

STUDY_NAME = "search"  # never the folder's: a run may be renamed, and its study is still its own
# what Optuna and SQLAlchemy raise where bytes or rows of a file are not as they wrote them
DAMAGED = (
    sqlite3.Error,
    sqlalchemy.exc.SQLAlchemyError,
    optuna.exceptions.OptunaError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def _damage_as_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        reason = (str(getattr(error, "orig", None) or error).splitlines() or [""])[0]
        raise InputError(
            f"{path} cannot be used ({reason or type(error).__name__}); put back a copy, or search "
            "under another --name"
        ) from None


def open_study(
    path: Path,
    space: Space,
    *,
    sampler: str,
    seed: int,
    log: Callable[[str], None] = print,
) -> optuna.Study:
    """Open or create the study, with its interrupted trials waiting and each start point once.

    Args:
        path: Path of the study's file.
        space: Search space, which has the start points.
        sampler: Name of Optuna's sampler.
        seed: Seed of the study; a continued study uses another seed, derived from it.
        log: Takes a line for the person where another program has locked the file.

    Raises:
        InputError: The file is damaged, or holds the studies of two runs.
        CannotWriteError: The disk refuses the file, or another program does not let go of it.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _damage_as_input_error(path):
        study = _open_study(path, space, sampler, seed, log)
    make_durable(path, log)
    return study


def _open_study(
    path: Path, space: Space, sampler: str, seed: int, log: Callable[[str], None]
) -> optuna.Study:
    if path.exists():
        with closing(connect(path, log)) as connection:
            [(verdict,)] = connection.execute("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise ValueError(verdict)
    # the path is not part of the URL, where ?, # and { would mean something
    storage = optuna.storages.RDBStorage(
        "sqlite:///study.db", engine_kwargs={"creator": lambda: connect(path, log)}
    )
    study = optuna.create_study(
        storage=storage,
        study_name=_find_name(storage, path),
        direction="maximize",
        load_if_exists=True,
    )
    if study.metric_names is None:
        with _experimental():
            study.set_metric_names(["validation F1"])
    num_asked = 0 if sampler == "qmc" else len(study.trials)  # QMC's sequence is one for all
    study.sampler = _make_sampler(sampler, derive_seed(seed, "sampler", num_asked) % 2**32)
    let_running_wait(study)
    for trial in finished_trials(study):
        if not trial.intermediate_values:
            raise ValueError(f"trial {trial.number} is finished without a figure")
    for point in space.start_points():
        study.enqueue_trial(point, skip_if_exists=True)
    if not space.can_grow:
        enqueue_failed(study)
    return study


def enqueue_failed(study: optuna.Study) -> None:
    """Let a study train again what failed, as no other trial stands in for it."""
    trials = study.get_trials(deepcopy=False)
    others = [
        trial.params or trial.system_attrs.get("fixed_params")
        for trial in trials
        if trial.state != TrialState.FAIL
    ]
    for trial in trials:
        if trial.state == TrialState.FAIL and trial.params not in others:
            study.enqueue_trial(trial.params)
            others.append(trial.params)


def _find_name(storage: optuna.storages.RDBStorage, path: Path) -> str:
    """Find the name of the file's one study; earlier versions named it after the run's folder."""
    names = optuna.get_all_study_names(storage)
    if len(names) > 1:
        raise InputError(
            f"{path} holds {len(names)} studies ({', '.join(names)}), but a run has one; put back "
            "a copy, or search under another --name"
        )
    return names[0] if names else STUDY_NAME


@contextmanager
def _experimental() -> Iterator[None]:
    """Within, Optuna does not warn that something may change in a later version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    kind, settings = SAMPLERS[name]
    with _experimental():  # `group`, GP and QMC are
        sampler: optuna.samplers.BaseSampler = getattr(optuna.samplers, kind)(seed=seed, **settings)
    return sampler


def make_durable(path: Path, log: Callable[[str], None] = print) -> None:
    """Make the study's file survive a power cut; before, it survives a crash of ours only."""
    with closing(connect(path, log)) as connection:
        connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()


def let_running_wait(study: optuna.Study) -> None:
    """Make trials that nobody trains any more wait to be continued."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        let_wait(study, trial._trial_id)


def let_wait(study: optuna.Study, trial_id: int) -> None:
    """Make a trial wait to be continued; `trial_id` is the one inside the study's file."""
    study._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)


def finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that ended by themselves or by early stopping."""
    states = [TrialState[name] for name in FINISHED_STATES]
    return study.get_trials(deepcopy=False, states=states)


def interrupted_trials(study: optuna.Study) -> dict[int, int]:
    """Numbers of the trials that wait to go on, each with its last epoch; 0 is before the first."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return {
        trial.number: max(trial.intermediate_values, default=0)
        for trial in waiting
        if trial.params or trial.intermediate_values  # else a start point that nobody began
    }


def count_finished(study: optuna.Study) -> int:
    """Count the trials that ended by themselves or by early stopping."""
    return len(finished_trials(study))


def find_best(study: optuna.Study) -> tuple[int, float]:
    """Find the number and F1 of the best trial, those that were stopped early included.

    Raises:
        ValueError: No trial is finished.
    """
    scores = {
        trial.number: max(trial.intermediate_values.values()) for trial in finished_trials(study)
    }
    number = max(scores, key=lambda number: (scores[number], -number))
    return number, scores[number]


class StudyTables(RunTables):
    """Writes `epochs.csv`, and `trials.csv` from a study.

    Args:
        folder: Folder of the run; epochs in its table are read.
        name_of: Returns the name of a trial by its parameters, "" for none.
    """

    def __init__(self, folder: Path, name_of: Callable[[dict[str, Any]], str] = lambda params: ""):
        super().__init__(folder)
        self._name_of = name_of

    def write_trials(self, study: optuna.Study) -> None:
        """One row a trial of the study: state, reason, best F1, cost and parameters."""
        self.write_trial_rows(self._describe(study))

    def _describe(self, study: optuna.Study) -> Iterator[dict[str, Any]]:
        for trial in study.get_trials(deepcopy=False):
            if not trial.params:
                continue  # a start point that waits for its turn
            row = self.describe_trial(
                trial.number,
                trial.state.name,
                reason=trial.user_attrs.get("reason", ""),
                settings=trial.params,
            )
            best = trial.intermediate_values  # so far, after each epoch that the study was told of
            if len(best) > row["epochs"]:  # epochs.csv was lost: what it cost is not known any more
                row["val_f1"] = max(best.values())
                row["best_epoch"] = min(epoch for epoch in best if best[epoch] == row["val_f1"])
                row |= {"epochs": len(best), "seconds": None}
                row["backbone"] = row["backbone"] or trial.params.get("model.backbone")
            name = self._name_of(trial.params)
            yield {"trial": trial.number, "name": name, **row} if name else row
