"""Callbacks of Tune that hand each epoch's figures to TensorBoard and MLflow.

This project never reads them back: its own tables count.
"""

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from ensemble.run.events import TrialEvents
from ensemble.search.task import Task


def make_trackers(
    run_folder: Path, mlflow_uri: str | None, *, name: str | None = None
) -> list[tune.Callback]:
    """Make the callbacks of a run; nothing is written into its folder yet.

    Args:
        run_folder: Folder of the run.
        mlflow_uri: URI of MLflow's server or database, or None.
        name: Name of the run in MLflow; None takes that of the folder.

    Raises:
        InputError: MLflow cannot be used there.
    """
    trackers: list[tune.Callback] = [TensorBoardEvents(run_folder)]
    if mlflow_uri is not None:
        from ensemble.search.trackers.mlflow_runs import MLflowRuns  # an extra

        trackers.append(MLflowRuns(run_folder, mlflow_uri, name or run_folder.name))
    return trackers


class TensorBoardEvents(tune.Callback):
    """Writes `tensorboard/<trial>/`: hyperparameters, and each figure against the epoch.

    Args:
        run_folder: Folder of the run.
    """

    def __init__(self, run_folder: Path):
        self._folder = run_folder / "tensorboard"
        self._events: dict[str, TrialEvents] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune writes its callbacks into a file that is never read."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended."""
        if "epoch" not in result:
            return
        if trial.trial_id not in self._events:
            task = Task.model_validate(trial.config)
            folder = self._folder / f"{task.number:04}"
            self._events[trial.trial_id] = TrialEvents(folder, task.config)
        self._events[trial.trial_id].add_epoch(result)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial ended by itself, by early stopping, or with a failure it could name."""
        failed = (trial.last_result or {}).get("failure") is not None
        self._close(trial.trial_id, finished=not failed)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial's process died."""
        self._close(trial.trial_id, finished=False)

    def _close(self, trial_id: str, *, finished: bool) -> None:
        events = self._events.pop(trial_id, None)
        if events is not None:  # None where it failed before its first epoch
            events.close(finished=finished)
