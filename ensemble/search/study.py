"""Optuna's study behind Tune's Searcher: it asks, reports and tells, and the file says the truth.

A trial that early stopping ended is PRUNED, its intermediate values being the best F1 so far; one
that failed is FAIL with its `reason`; one that was interrupted waits, and is taken up again with
the same parameters under the same number. The study is one SQLite file that optuna-dashboard opens.
"""

import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.trial import TrialState
from ray.tune.search import Searcher

from ensemble.errors import InputError
from ensemble.search.space import Space
from ensemble.search.stopping import Stopping
from ensemble.training.config import TrialConfig
from ensemble.training.seeds import derive_seed

FINISHED_STATES = (TrialState.COMPLETE, TrialState.PRUNED)
Sampler = Literal["tpe", "random", "gp", "qmc"]
# what Optuna and SQLAlchemy raise over a file whose bytes or rows are not as they wrote them
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
def _damage_is_said(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        if "disk is full" in str(error):
            raise
        reason = (str(getattr(error, "orig", None) or error).splitlines() or [""])[0]
        raise InputError(
            f"{path} cannot be used ({reason or type(error).__name__}); put back a copy, or search "
            "under another --name"
        ) from None


def open_study(path: Path, space: Space, *, sampler: Sampler, seed: int) -> optuna.Study:
    """Open or create the study; interrupted trials wait again, start points are there once.

    Args:
        path: Of its file.
        space: Gives the start points.
        sampler: Which of Optuna's samplers asks.
        seed: Of the study; a continued one goes on with another seed derived from it.

    Raises:
        InputError: The file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _damage_is_said(path):
        return _open_study(path, space, sampler, seed)


def _open_study(path: Path, space: Space, sampler: Sampler, seed: int) -> optuna.Study:
    if path.exists():
        with closing(sqlite3.connect(path)) as connection:
            [(verdict,)] = connection.execute("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise ValueError(verdict)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    # ten times quicker than SQLite's defaults with one writer, and safe against a crash of it
    sqlalchemy.event.listen(storage.engine, "connect", _set_pragmas)
    storage.engine.dispose()
    study = optuna.create_study(
        storage=storage, study_name=path.parent.name, direction="maximize", load_if_exists=True
    )
    num_asked = 0 if sampler == "qmc" else len(study.trials)  # QMC's sequence is one for all
    study.sampler = _make_sampler(sampler, derive_seed(seed, "sampler", num_asked) % 2**32)
    let_running_wait(study)
    for trial in study.get_trials(deepcopy=False, states=FINISHED_STATES):
        if not trial.intermediate_values:
            raise ValueError(f"trial {trial.number} is finished without a figure")
    for point in space.start_points():
        study.enqueue_trial(point, skip_if_exists=True)
    return study


def _make_sampler(sampler: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():  # that `group`, GP and QMC are experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        if sampler == "qmc":
            return optuna.samplers.QMCSampler(
                scramble=True, seed=seed, warn_independent_sampling=False
            )
        # `group` is for conditional parameters
        return optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)


def _set_pragmas(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def make_durable(path: Path) -> None:
    """Make what a study's file says survive a power cut; until then a crash of ours only."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()


def let_running_wait(study: optuna.Study) -> None:
    """Let trials that nobody trains any more be taken up again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        _let_wait(study, trial._trial_id)


def _let_wait(study: optuna.Study, trial_id: int) -> None:
    study._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)


def count_finished(study: optuna.Study) -> int:
    """Trials that ended by themselves or by early stopping."""
    return len(study.get_trials(deepcopy=False, states=FINISHED_STATES))


def find_best(study: optuna.Study) -> tuple[int, float]:
    """Number and F1 of the best trial, those that were stopped early included.

    Raises:
        ValueError: No trial is finished.
    """
    finished = study.get_trials(deepcopy=False, states=FINISHED_STATES)
    scores = {trial.number: max(trial.intermediate_values.values()) for trial in finished}
    number = max(scores, key=lambda number: (scores[number], -number))
    return number, scores[number]


class StudySearcher(Searcher):
    """Gives Tune one trial after another until the study has as many finished ones as wanted.

    Args:
        study: Of Optuna.
        space: What is asked.
        seed: Of the study.
        num_trials: Finished trials (COMPLETE or PRUNED) the study is to have.
        max_concurrent_trials: Trials at a time.
        max_failures: Failed trials that are replaced before the search gives up.
        stopping: Once it is asked, no new trial starts and running ones shall wait.
        make_task: Number and configuration of a trial → what its process is told.
        explain_death: Tune's trial id → why its processes died; None if Tune gave up too early.
        max_attempts: Times that a trial may be lost in that way before it is FAILED.
        before_end: Called with a trial's number before its end is written to the study.
        after_end: Called afterwards.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        *,
        seed: int,
        num_trials: int,
        max_concurrent_trials: int,
        max_failures: int,
        stopping: Stopping,
        make_task: Callable[[int, TrialConfig], dict[str, Any]],
        explain_death: Callable[[str], str | None],
        max_attempts: int,
        before_end: Callable[[int], None],
        after_end: Callable[[int], None],
    ):
        super().__init__(metric="best_val_f1", mode="max")
        self._study, self._space, self._seed = study, space, seed
        self._num_trials, self._max_concurrent_trials = num_trials, max_concurrent_trials
        self._max_failures, self.num_failures = max_failures, 0
        self._stopping, self._make_task = stopping, make_task
        self._explain_death, self._max_attempts = explain_death, max_attempts
        self._times_lost: Counter[int] = Counter()
        self._before_end, self._after_end = before_end, after_end
        self._running: dict[str, optuna.Trial] = {}
        # what the study says, kept here: each look at it reads its file
        self._num_finished = count_finished(study)
        self._reported: dict[int, set[int]] = {  # epochs, by the trial's number
            trial.number: set(trial.intermediate_values)
            for trial in study.get_trials(deepcopy=False)
            if not trial.state.is_finished()
        }

    @property
    def gave_up(self) -> bool:
        """Whether more trials failed than may be replaced."""
        return self.num_failures > self._max_failures

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's task, None while all slots are taken, or that the search is over."""
        wanted = self._num_trials - self._num_finished - len(self._running)
        if wanted <= 0 or self._stopping.request is not None or self.gave_up:
            return None if self._running else Searcher.FINISHED
        if len(self._running) >= self._max_concurrent_trials:
            return None
        trial = self._study.ask()
        config = self._space.ask(trial, seed=self._seed)
        self._running[trial_id] = trial
        return self._make_task(trial.number, config)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the best F1 so far, once an epoch."""
        trial = self._running[trial_id]
        reported = self._reported.setdefault(trial.number, set())
        if "best_val_f1" in result and result["epoch"] not in reported:
            trial.report(result["best_val_f1"], step=result["epoch"])
            reported.add(result["epoch"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how the trial ended; Tune brings the result that stopped it only here."""
        result = result or {}
        self.on_trial_result(trial_id, result)
        trial = self._running.pop(trial_id)
        if "cannot_save" in result:
            self._stopping.ask(result["cannot_save"], exit_code=2)
        reason = self._explain_death(trial_id) if error else result.get("failure")
        is_lost = error and reason is None
        if is_lost:
            self._times_lost[trial.number] += 1
            if self._times_lost[trial.number] == self._max_attempts:
                reason = f"its process could not be started, {self._max_attempts} times"
        is_cut = self._stopping.request is not None and not result.get("last")
        if reason is None and (is_cut or is_lost):
            _let_wait(self._study, trial._trial_id)
            return
        self._before_end(trial.number)
        if reason is not None:
            self.num_failures += 1
            trial.set_user_attr("reason", reason)
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._num_finished += 1
            if result.get("last"):
                self._study.tell(trial, result["best_val_f1"])
            else:
                self._study.tell(trial, state=TrialState.PRUNED)
        self._after_end(trial.number)

    def save_to_dir(self, *_: Any, **__: Any) -> None:
        """Nothing: the study's file is the state, and Tune's pickles are never read."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for the same reason."""
        return {}
