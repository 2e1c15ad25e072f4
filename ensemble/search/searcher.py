"""An Optuna study behind Tune's searcher and scheduler.

The searcher asks the study for trials and tells it their epochs and ends; the scheduler ends trials
early by asynchronous successive halving, across interruptions of the search. Nothing that is raised
in the searcher reaches Tune, which would take it for the death of a trial's process: the search is
asked to stop, and trials whose end the study was not told of wait in it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from ensemble.search.space import Space
from ensemble.search.stopping import Stopping
from ensemble.search.study import count_finished, finished_trials, let_wait
from ensemble.training.config import TrialConfig

NO_CONTROLLER: Any = None  # Tune's, which the scheduler does not ask


class StudySearcher(Searcher):
    """Gives Tune one trial after another until the study has as many finished ones as wanted.

    Args:
        study: Optuna's study.
        space: Search space.
        seed: Seed of the study.
        num_trials: Finished trials (COMPLETE or PRUNED) that the study is to have.
        max_concurrent_trials: Trials at a time.
        max_failures: Failed trials that are replaced before the search gives up.
        stopping: Request to stop; once there is one, no trial starts and running ones wait.
        make_task: Makes a trial's task from its number, its configuration and its parameters.
        explain_death: Says why the processes of a trial (Tune's id) died; None where Tune gave up
            too early.
        max_attempts: Number of times that Tune may give up a trial before it counts as failed.
        before_end: Called with a trial's number before its end is written to the study.
        after_end: Called with a trial's number when its end is written.
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
        make_task: Callable[[int, TrialConfig, Mapping[str, Any]], dict[str, Any]],
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

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next trial's task, None while all slots are taken, or FINISHED."""
        wanted = self._num_trials - self._num_finished - len(self._running)
        if wanted <= 0 or self._stopping.request is not None or self.gave_up:
            return None if self._running else Searcher.FINISHED
        if len(self._running) >= self._max_concurrent_trials:
            return None
        with self._stopping.nothing_escapes():
            trial = self._study.ask()
            config = self._space.ask(trial, seed=self._seed)
            task = self._make_task(trial.number, config, trial.params)
            self._running[trial_id] = trial
            return task
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the best F1 so far, once an epoch."""
        with self._stopping.nothing_escapes():
            self._report(self._running[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how the trial ended; the result that stopped it comes only here."""
        trial = self._running.pop(trial_id)
        with self._stopping.nothing_escapes():
            self._report(trial, result or {})
            self._tell(trial_id, trial, result or {}, error)

    def _report(self, trial: optuna.Trial, result: dict[str, Any]) -> None:
        reported = self._reported.setdefault(trial.number, set())
        if "best_val_f1" in result and result["epoch"] not in reported:
            trial.report(result["best_val_f1"], step=result["epoch"])
            reported.add(result["epoch"])

    def _tell(
        self, trial_id: str, trial: optuna.Trial, result: dict[str, Any], error: bool
    ) -> None:
        if "hindrance" in result:
            self._stopping.fail(result["hindrance"])
        reason = self._explain_death(trial_id) if error else result.get("failure")
        is_lost = error and reason is None
        if is_lost:
            self._times_lost[trial.number] += 1
            if self._times_lost[trial.number] == self._max_attempts:
                reason = f"its process could not be started, {self._max_attempts} times"
        is_cut = self._stopping.request is not None and not result.get("last")
        if reason is None and (is_cut or is_lost):
            let_wait(self._study, trial._trial_id)
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
        """Save nothing: the study's file is the state, and Tune's pickles are never read."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing."""
        return {}


class StudyScheduler(ASHAScheduler):
    """Asynchronous successive halving that goes on from the epochs that a study holds.

    Args:
        space: Search space, with the settings of early stopping.
        study: Optuna's study.
    """

    def __init__(self, space: Space, study: optuna.Study):
        epochs = int(space.largest("optimisation.epochs"))
        super().__init__(
            time_attr="epoch",
            metric="best_val_f1",
            mode="max",
            max_t=epochs,
            grace_period=min(space.early_stopping.grace_epochs, epochs),
            reduction_factor=space.early_stopping.reduction_factor,
        )
        self._stored = {
            stored.number: sorted(stored.intermediate_values.items())
            for stored in study.get_trials(deepcopy=False)
        }
        for stored in finished_trials(study):
            trial: Any = SimpleNamespace(trial_id=f"stored-{stored.number}")
            super().on_trial_add(NO_CONTROLLER, trial)
            self._repeat(trial, self._stored[stored.number])

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Begin with the epochs of an interrupted trial, which was judged by them already.

        It tells its last one again.
        """
        super().on_trial_add(tune_controller, trial)
        self._repeat(trial, self._stored.get(trial.config["number"], [])[:-1])

    def _repeat(self, trial: Any, epochs: list[tuple[int, float]]) -> None:
        for epoch, best in epochs:
            self.on_trial_result(NO_CONTROLLER, trial, {"epoch": epoch, "best_val_f1": best})

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune writes its scheduler into a file that is never read."""
        return {}
