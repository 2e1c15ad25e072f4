"""One trial, as Ray Tune sees it: step() is an epoch.

A trial with one worker trains inside Tune's actor, which then trains the next trial, so that torch
is imported, the tiles are placed and the CUDA context is made once a slot. A trial with several
workers runs on Ray Train. Both are a generator of epochs; closing it ends the trial, and nothing is
killed.
"""

import traceback
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from ray import tune

from ensemble.base.errors import CannotWriteError
from ensemble.base.files import make_folder, write_text
from ensemble.search.budget import Budget
from ensemble.search.cluster.heartbeat import Heartbeat
from ensemble.search.task import Task, explain_failure, is_hindrance, open_task_data, run_task
from ensemble.search.workers import TrainingFailedError, WorkerGroup, WorkersLostError
from ensemble.training.member import DevelopmentTiles


class TrialTrainable(tune.Trainable):
    """Trains one task after another.

    A training that fails ends with a last result that has its reason, and so does whatever hinders
    every trial, such as a full disk. Only the death of a process is an exception: Tune then starts
    another one, which goes on from the last saved epoch.
    """

    def setup(self, config: dict[str, Any], storage_url: str | None = None) -> None:
        """Prepare the process for the first task.

        Args:
            config: First task, as a dictionary.
            storage_url: URL of the storage, if there is one; it is not in the task, which Tune
                writes into files.
        """
        self._storage_url = storage_url
        self._tiles: DevelopmentTiles | None = None
        self._workers: WorkerGroup | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next task, and end the last one, which early stopping may have stopped."""
        self._epochs.close()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for one epoch."""
        try:
            return self._result(next(self._epochs))
        except WorkersLostError:
            self._workers = None
            raise
        except Exception as error:
            if is_hindrance(error):
                return self._end_with("hindrance", error)
            folder = Path(self._task.member_folder)
            with suppress(CannotWriteError):
                make_folder(folder)
                write_text(folder / "failure.txt", traceback.format_exc())
            return self._end_with("failure", error)

    def cleanup(self) -> None:
        """End what still runs."""
        self._epochs.close()
        if self._workers is not None:
            self._workers.close()

    def _begin(self, task: dict[str, Any]) -> None:
        self._task = Task.model_validate(task)
        self._epochs = self._train()

    def _train(self) -> Generator[dict[str, Any], None, None]:
        task = self._task
        if task.workers_per_trial > 1:
            self._workers = self._workers or WorkerGroup(task, self._storage_url)
            yield from self._workers.train(task)
            return
        if self._tiles is None:
            device = torch.device("cuda:0" if task.gpus_per_worker else "cpu")
            self._tiles = open_task_data(task, device, self._storage_url)
        heartbeat = Heartbeat(task.number)
        yield from run_task(task, self._tiles, self._storage_url, each_batch=heartbeat)

    def _end_with(self, kind: str, error: Exception) -> dict[str, Any]:
        if self._workers is not None and self._workers.has_ended:
            self._workers = None
        is_told = isinstance(error, TrainingFailedError)  # by a worker, in its own words
        reason = str(error) if is_told else explain_failure(error)
        return {**self._describe_task(), kind: reason, "done": True}

    def _describe_task(self) -> dict[str, Any]:
        return {"number": self._task.number, "backbone": self._task.config.model.backbone}

    def _result(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["last"]:
            self._epochs.close()
        return {**self._describe_task(), **row, "done": row["last"]}


def trial_resources(budget: Budget) -> dict[str, float]:
    """Resources that Tune asks of Ray for one trial.

    A trial on Ray Train workers asks for theirs itself; its own process only waits.
    """
    if budget.workers_per_trial > 1:
        return {"memory": 1}  # a byte: Ray refuses a request for nothing
    return workers_resources(budget)


def workers_resources(budget: Budget) -> dict[str, float]:
    """Resources that all workers of one trial ask of Ray together."""
    resources = {"CPU": budget.workers_per_trial * budget.cpus_per_worker}
    if budget.gpus_per_worker:
        resources["GPU"] = budget.workers_per_trial * budget.gpus_per_worker
    return resources
