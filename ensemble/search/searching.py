"""The search: tiles, space and budget in; a run's folder with a study, tables and members out.

Continuing is the normal way in: the study's file says what is done, and the same command goes on
from there. Tune's own state is written to a scratch folder, never read, and thrown away.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from ray import tune
from rich.console import Console

from ensemble.base.errors import InputError
from ensemble.data.pack import open_pack
from ensemble.run.members import member_folder
from ensemble.search.budget import Budget
from ensemble.search.cluster.lifeline import Lifeline, RayLostError, look_after_ray
from ensemble.search.cluster.reservations import count_places
from ensemble.search.cluster.scratch import scratch_folder
from ensemble.search.cluster.storage import Storage
from ensemble.search.finished import describe_continuation, describe_outcome, settle
from ensemble.search.live_table import Finished, Progress
from ensemble.search.request import SearchOutcome, SearchRequest
from ensemble.search.retention import Retention
from ensemble.search.searcher import StudyScheduler, StudySearcher
from ensemble.search.space import Space
from ensemble.search.stopping import (
    StopByErrors,
    Stopping,
    StopTrials,
    stop_on_signals,
)
from ensemble.search.study import (
    StudyTables,
    finished_trials,
    interrupted_trials,
    let_running_wait,
    make_durable,
    open_study,
)
from ensemble.search.task import StorageLayout, Task
from ensemble.search.trainable import TrialTrainable, trial_resources, workers_resources
from ensemble.search.watch import ATTEMPTS, Watch
from ensemble.training.checkpoint import remove_state
from ensemble.training.config import TrialConfig


class Search:
    """A search in its folder, on the Ray cluster we are connected to; continues what is there.

    Args:
        folder: Folder of the run, which holds `initial/` already.
        space: Search space.
        budget: Trials at a time and what each may use.
        request: Request, for all other settings.
        pack_folder: Folder of the tiles.
        storage: Storage through which tiles and members travel between nodes, if any.
        layout: Layout of that storage.
        trackers: Callbacks that show the run in other tools.
        console: Terminal or log of the person.

    Raises:
        InputError: The run is damaged.
        CannotWriteError: The disk refuses the run's files.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        budget: Budget,
        request: SearchRequest,
        *,
        pack_folder: Path,
        storage: Storage | None,
        layout: StorageLayout | None,
        trackers: list[tune.Callback],
        console: Console,
    ):
        self._folder, self._space, self._budget = folder, space, budget
        self._request, self._pack_folder, self._layout = request, pack_folder, layout
        self._trackers = trackers
        self._storage = storage
        self._log = log = console.print
        max_seconds = None if request.max_hours is None else 3600 * request.max_hours
        self._study = open_study(
            folder / "study.db", space, sampler=request.sampler, seed=request.seed, log=log
        )
        self._tables = StudyTables(folder, space.name_of)
        self._retention = Retention(folder, request.keep, log)
        self._stopping = Stopping(log)
        self._watch = Watch(
            self._stopping,
            log,
            trial_timeout_seconds=60 * request.trial_timeout,
            max_seconds=max_seconds,
            workers_need=workers_resources(budget) if budget.workers_per_trial > 1 else {},
            check_data=partial(open_pack, pack_folder, splits=("train", "val")),
        )
        self._progress = Progress(
            self._tables,
            console,
            self._stopping,
            self._watch.explain,
            self._watch.beat_of,
            count_places,
            num_trials=request.trials,
            stored=self._stored(),
            interrupted=interrupted_trials(self._study),
            max_concurrent_trials=budget.max_concurrent_trials,
            max_seconds=max_seconds,
        )
        self._searcher = StudySearcher(
            self._study,
            space,
            seed=request.seed,
            num_trials=request.trials,
            max_concurrent_trials=budget.max_concurrent_trials,
            max_failures=request.max_failures,
            stopping=self._stopping,
            make_task=self._begin,
            explain_death=self._watch.explain,
            max_attempts=ATTEMPTS,
            before_end=self._collect,
            after_end=self._end,
        )

    def run(self) -> SearchOutcome:
        """Train until the study has its trials, or something asks to stop.

        Returns:
            The outcome; where the search ended before it had all its trials, what was finished is
            written and the rest waits in the study.

        Raises:
            InputError: More trials failed than may be replaced.
            KeyboardInterrupt: A second Ctrl-C.
        """
        for trial in self._study.get_trials(deepcopy=False):  # a killed search may not have
            if trial.state.is_finished():
                self._forget(trial.number)
        settle(self._study, self._tables, self._retention)
        if where := describe_continuation(self._study, self._space, self._request):
            self._log(where)
        lifeline = Lifeline(
            look_after_ray(),
            lambda: self._request.describe_way_on(self._progress.num_finished),
        )
        with scratch_folder() as scratch:
            tuner = self._make_tuner(scratch, lifeline)
            try:
                with self._progress, stop_on_signals(self._stopping), lifeline:
                    tuner.fit()
            except RayLostError as error:
                self._stopping.note(str(error))
        with self._stopping.nothing_escapes():
            let_running_wait(self._study)
            self._tables.write_epochs()
            self._tables.write_trials(self._study)
        if self._stopping.error is not None:
            raise self._stopping.error
        if self._searcher.gave_up:
            trials = self._study.get_trials(deepcopy=False)
            reasons = [trial.user_attrs.get("reason", "") for trial in trials]
            raise InputError(
                f"{self._searcher.num_failures} trials failed, more than --max-failures "
                f"{self._request.max_failures}; the last: {[r for r in reasons if r][-1]}"
            )
        return self._describe_outcome()

    def _make_tuner(self, scratch: Path, lifeline: Lifeline) -> tune.Tuner:
        url = self._storage.url if self._storage else None
        watchers = (self._progress, self._watch, *self._trackers)
        return tune.Tuner(
            tune.with_resources(
                tune.with_parameters(TrialTrainable, storage_url=url),  # no file shall hold it
                tune.PlacementGroupFactory([trial_resources(self._budget)]),
            ),
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=self._searcher,
                scheduler=StudyScheduler(self._space, self._study),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                verbose=0,
                callbacks=[lifeline, *(StopByErrors(each, self._stopping) for each in watchers)],
                stop=StopTrials(self._stopping, self._watch.is_idle),
                failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )

    def _describe_outcome(self) -> SearchOutcome:
        outcome = describe_outcome(self._folder, self._study)
        stop = self._stopping.request
        if stop is None or (stop.exit_code != 2 and outcome.num_finished >= self._request.trials):
            return outcome
        return replace(outcome, stopped=stop.words, exit_code=stop.exit_code)

    def _stored(self) -> list[Finished]:
        """The finished trials that the study holds already."""
        return [
            Finished(
                number=trial.number,
                backbone=self._tables.backbone_of(trial.number),
                best_val_f1=max(trial.intermediate_values.values()),
                stopped_early=trial.state == TrialState.PRUNED,
                name=self._space.name_of(trial.params),
            )
            for trial in finished_trials(self._study)
        ]

    def _begin(self, number: int, config: TrialConfig, params: Mapping[str, Any]) -> dict[str, Any]:
        """Write into the table that a trial begins, and make its task."""
        self._tables.write_trials(self._study)
        return self._make_task(number, config, params)

    def _make_task(
        self, number: int, config: TrialConfig, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        budget = self._budget
        task = Task(
            number=number,
            config=config,
            pack_folder=str(self._pack_folder),
            initial_folder=str(self._folder / "initial"),
            member_folder=str(member_folder(self._folder, number)),
            workers_per_trial=budget.workers_per_trial,
            cpus_per_worker=budget.cpus_per_worker,
            gpus_per_worker=budget.gpus_per_worker,
            threads_per_worker=budget.threads_per_worker,
            fold=self._space.fold_of(params),
            storage=self._layout,
            name=self._space.name_of(params),
        )
        return task.model_dump()

    def _collect(self, number: int) -> None:
        """Bring a trial's member from the storage, before the study says that it ended."""
        if self._storage is not None and self._layout is not None:
            self._storage.fetch(self._layout.member(number), member_folder(self._folder, number))

    def _end(self, number: int) -> None:
        """Tidy up after a trial whose end the study knows."""
        make_durable(
            self._folder / "study.db", self._log
        )  # before what it could go on from is removed
        self._forget(number)
        settle(self._study, self._tables, self._retention)

    def _forget(self, number: int) -> None:
        """Remove the files that only a trial that goes on needs."""
        remove_state(member_folder(self._folder, number))
        if self._storage is not None and self._layout is not None:
            self._storage.delete(self._layout.member(number))
