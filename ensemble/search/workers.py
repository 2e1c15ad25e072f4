"""Data-parallel trials: a group of Ray Train workers, and one generator that speaks for them.

Rank 0 hands each message (ready for a trial, or the row of an epoch) to a mailbox and waits for the
answer: a task, go on, stop this trial, or end. The answer is broadcast, so that all ranks do the
same, and in the end `TorchTrainer.fit()` returns by itself. Nothing is killed, so nothing waits for
Ray to notice a death (ray-project/ray issue 54305). A group trains one trial after another, because
starting it takes many times as long as a short trial.

A group of which something else kills a process is replaced; `reservations` gives back what it had
reserved, from the search's own process.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import ray
import torch
from ray import train
from ray.exceptions import RayActorError, RayError
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from ensemble.search.cluster.heartbeat import Heartbeat
from ensemble.search.cluster.scratch import scratch_folder
from ensemble.search.relay import Mailbox
from ensemble.search.task import Task, explain_failure, is_hindrance, open_task_data, run_task
from ensemble.training.loop import DivergedError

READY = {"ready": True}
# Read by Train where `fit` is called, on whatever node that is, and handed on from there.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process fewer for each trial
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a trial ends that much sooner
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # it would give up after a minute without a place; the search waits and says so
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1000000",
}


class TrainingFailedError(RuntimeError):
    """A worker failed; the message is its own exception's, in one line."""


class WorkersLostError(RuntimeError):
    """A process of the group died; another group can go on from the last saved epoch."""


class WorkerGroup:
    """Ray Train workers that train one task after another.

    Args:
        task: First task; later ones ask for the same workers.
        storage_url: URL of the storage, if there is one.
    """

    def __init__(self, task: Task, storage_url: str | None):
        self._storage_url = ray.put(storage_url)  # a reference in what Train may write down
        self._mailbox: Any = ray.remote(num_cpus=0, max_restarts=0)(Mailbox).remote()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(task,), daemon=True)
        self._thread.start()

    def _run(self, task: Task) -> None:
        resources = {"CPU": task.cpus_per_worker}
        if task.gpus_per_worker:
            resources["GPU"] = task.gpus_per_worker
        for name, value in TRAIN_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            with scratch_folder() as scratch:
                _Trainer(
                    _serve,
                    train_loop_config={
                        "task": task.model_dump(),
                        "mailbox": self._mailbox,
                        "storage_url": self._storage_url,
                    },
                    torch_config=TorchConfig(backend="nccl" if task.gpus_per_worker else "gloo"),
                    scaling_config=train.ScalingConfig(
                        num_workers=task.workers_per_trial,
                        use_gpu=task.gpus_per_worker > 0,
                        resources_per_worker=resources,
                    ),
                    run_config=train.RunConfig(
                        name="workers",
                        storage_path=str(scratch),
                        failure_config=train.FailureConfig(  # mypy sees an older Train's
                            max_failures=0,
                            controller_failure_limit=0,  # type: ignore[call-arg]
                        ),
                        logging_config=train.LoggingConfig(log_level="ERROR"),
                    ),
                ).fit()
        except BaseException as error:
            self._errors.append(error)
        finally:
            with suppress(RayActorError):  # the mailbox may be what died
                ray.get(self._mailbox.end.remote())

    def train(self, task: Task) -> Iterator[dict[str, Any]]:
        """Train a task and yield the rows of `run_task`.

        Raises:
            CannotWriteError, StorageError or OSError: Something hinders a worker.
            TrainingFailedError: A worker failed.
            WorkersLostError: One of the group's processes died.
        """
        self._next_message()  # ready
        self._mailbox.answer.remote(task.model_dump())
        is_last = False
        while not is_last:
            row = self._next_message()
            is_last = "failure" in row or row["last"]
            go_on = False  # where this generator is closed early
            try:
                if "failure" in row:
                    raise TrainingFailedError(row["failure"])
                yield row
                go_on = not is_last
            finally:
                self._mailbox.answer.remote(go_on)

    def _next_message(self) -> dict[str, Any]:
        try:
            message: dict[str, Any] | None = ray.get(self._mailbox.next_message.remote())
        except RayActorError:
            raise WorkersLostError("the process between the workers and their trial died") from None
        if message is None:
            self._thread.join()
            raise explain_train_error(self._errors[0] if self._errors else None)
        return message

    @property
    def has_ended(self) -> bool:
        """Whether the workers are gone, and another group is needed."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """End the workers and wait until they are gone; no task may be in training."""
        self._mailbox.answer.remote(None)
        self._thread.join()
        ray.kill(self._mailbox)


class _Trainer(TorchTrainer):
    """A trainer without two processes that Train starts for each group.

    One watches over Train's reservation through Ray's state API, and waits for ever without a
    dashboard or beside a second Ray; `reservations` does its work. The other hands out parts of
    data sets of Ray's, of which there are none.
    """

    _WITHOUT = ("PlacementGroupCleanerCallback", "DatasetsCallback")

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [each for each in callbacks if type(each).__name__ not in self._WITHOUT]


def _serve(config: dict[str, Any]) -> None:
    """Train one task after another on one worker, within the process group of Ray Train."""
    device = get_device()
    storage_url = ray.get(config["storage_url"])
    tiles = open_task_data(Task.model_validate(config["task"]), device, storage_url)
    rank = train.get_context().get_world_rank()

    def ask(message: dict[str, Any]) -> Any:
        answer = [ray.get(config["mailbox"].report.remote(message)) if rank == 0 else None]
        torch.distributed.broadcast_object_list(answer, src=0, device=device)
        return answer[0]

    while (answer := ask(READY)) is not None:
        task = Task.model_validate(answer)
        heartbeat = Heartbeat(task.number) if rank == 0 else None
        try:
            for row in run_task(task, tiles, storage_url, rank=rank, each_batch=heartbeat):
                if not ask(row):
                    break
        except DivergedError as error:  # on all ranks alike: they stay together
            ask({"failure": explain_failure(error)})


def explain_train_error(error: BaseException | None) -> Exception:
    """Find what went wrong on the workers in what Ray wraps around it.

    When one worker dies the others report a broken connection: an exception of this project, or
    else the death, is the better reason.
    """
    # attributes of ray.train.WorkerGroupError and ray.train.ControllerError
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    if not failures:
        inner = getattr(error, "controller_failure", None) or error
        if inner is None or isinstance(inner, RayError):
            return WorkersLostError("the process that leads the workers died")
        return TrainingFailedError(explain_failure(inner))
    lost = "the workers lost each other"
    for rank, failure in sorted(failures.items()):
        if is_hindrance(failure):
            return failure
        if type(failure).__module__.startswith("ray."):  # of Ray's core or of Train itself
            lost = f"worker {rank} died (killed, or out of memory)"
        elif "onnection" not in str(failure):
            return TrainingFailedError(explain_failure(failure))
    return WorkersLostError(lost)
