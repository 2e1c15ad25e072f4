"""A run of MLflow for each trial, by Tune's own callback; imported only where MLflow is wanted.

Ray's callback sends a request a figure (50 ms an epoch, even on SQLite) and all of a trial's task,
folders included. Here there is one request an epoch, with hyperparameters and figures alone; a
continued trial stays the same run, and the search goes on if MLflow goes away.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy.exc
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from ray.air.integrations.mlflow import MLflowLoggerCallback

from ensemble.base.errors import InputError, one_line
from ensemble.run.events import epoch_figures, hyperparameters
from ensemble.search.task import Task

# Read at each request; settings of the person's own stay.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default it tries for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
}
ERRORS = (MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError)


class MLflowRuns(MLflowLoggerCallback):
    """Logs each trial to the experiment that has the name of our run.

    Args:
        run_folder: Folder of our run.
        uri: URI of MLflow: http://HOST:PORT, or sqlite:///FILE.
        name: Name of our run.

    Raises:
        InputError: It does not answer.
    """

    def __init__(self, run_folder: Path, uri: str, name: str):
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        super().__init__(uri, experiment_name=name)
        # of two runs with the same name, each finds its own trials
        self._place = f"{socket.gethostname()}:{run_folder}"
        self._steps: dict[Any, set[int]] = {}
        self._is_lost = False
        try:
            self.setup()  # type: ignore[no-untyped-call]
        except ERRORS as error:
            raise InputError(f"--mlflow {uri}: MLflow cannot be used there ({error})") from None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune writes its callbacks into a file that is never read."""
        return {}

    def log_trial_start(self, trial: Any) -> None:
        """Begin the trial's run, or go on with it."""
        self._unless_lost(self._start, trial)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Log the figures of an epoch that are not there yet."""
        if "epoch" in result and result["epoch"] not in self._steps.get(trial, ()):
            self._unless_lost(self._log_epoch, trial, result)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """End the trial's run; one that ended with a reason failed, too."""
        failed = failed or (trial.last_result or {}).get("failure") is not None
        self._unless_lost(super().log_trial_end, trial, failed)

    def _start(self, trial: Any) -> None:
        client, task = self.mlflow_util._get_client(), Task.model_validate(trial.config)
        runs = client.search_runs([self.mlflow_util.experiment_id], f"tags.trial = '{task.number}'")
        run = next((run for run in runs if run.data.tags.get("run_folder") == self._place), None)
        self._steps[trial] = set()
        if run is None:
            tags = {"trial": str(task.number), "run_folder": self._place}
            run = self.mlflow_util.start_run(run_name=task.name or f"{task.number:04}", tags=tags)
        else:
            client.update_run(run.info.run_id, status="RUNNING")
            history = client.get_metric_history(run.info.run_id, "val_f1")
            self._steps[trial] = {metric.step for metric in history}
        self._trial_runs[trial] = run.info.run_id
        values = hyperparameters(task.config)
        params = [Param(name, str(value)) for name, value in values.items()]
        client.log_batch(run.info.run_id, params=params)

    def _log_epoch(self, trial: Any, result: dict[str, Any]) -> None:
        now, epoch = int(time.time() * 1000), result["epoch"]
        metrics = [Metric(k, value, now, epoch) for k, value in epoch_figures(result).items()]
        self.mlflow_util._get_client().log_batch(self._trial_runs[trial], metrics=metrics)
        self._steps[trial].add(epoch)

    def _unless_lost(self, log: Callable[..., None], *args: Any) -> None:
        """Log, unless MLflow is lost; the search goes on, and the run's tables have everything."""
        if self._is_lost:
            return
        try:
            log(*args)
        except ERRORS as error:
            self._is_lost = True
            print(
                f"MLflow: {one_line(str(error))}; the search goes on and tells it nothing more",
                file=sys.stderr,
            )
