"""What other tools show of a run while it goes on: TensorBoard's event files, MLflow's runs.

Both are callbacks of Tune that take each epoch's figures. Neither is ever read by this project: the
run's own tables are what counts.
"""

import time
from pathlib import Path
from typing import Any

from ray import tune
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams

from ensemble.errors import InputError

FIGURES = (  # of an epoch's row, beside those of the validation split
    "train_loss",
    "train_accuracy",
    "learning_rate",
    "best_val_f1",
    "train_seconds",
    "images_per_second",
)


def make_trackers(run_folder: Path, mlflow_uri: str | None) -> list[tune.Callback]:
    """The callbacks of a run; writes nothing into its folder yet.

    Args:
        run_folder: Of the run.
        mlflow_uri: Of MLflow's server or database, or None.

    Raises:
        InputError: MLflow is not installed, or cannot be reached.
    """
    trackers: list[tune.Callback] = [TensorBoardEvents(run_folder)]
    if mlflow_uri is not None:
        try:
            from ensemble.search.mlflow_runs import MLflowRuns
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("mlflow"):
                raise
            raise InputError(
                "--mlflow: MLflow is not installed; pip install 'crack-ensemble[mlflow]'"
            ) from None
        trackers.append(MLflowRuns(run_folder, mlflow_uri))
    return trackers


def epoch_figures(result: dict[str, Any]) -> dict[str, float]:
    """The numbers of an epoch's result, without what Tune adds to it."""
    return {
        name: float(value)
        for name, value in result.items()
        if name in FIGURES or name.startswith("val_")
    }


def hyperparameters(config: dict[str, Any]) -> dict[str, float | str]:
    """A `TrialConfig` as nested dictionaries → `section.name: value`; unset ones are left out."""
    flat: dict[str, float | str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in hyperparameters(value).items()}
        elif value is not None:
            flat[name] = value
    return flat


class TensorBoardEvents(tune.Callback):
    """Writes `tensorboard/<trial>/`: hyperparameters, and each figure against the epoch.

    tensorboardX's `SummaryWriter` hands events to a thread and its flush does not wait for that, so
    the writer beneath it is used: what a finished epoch wrote outlives the driver.

    Args:
        run_folder: Of the run.
    """

    def __init__(self, run_folder: Path):
        self._folder = run_folder / "tensorboard"
        self._writers: dict[str, EventsWriter] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks into a file that is never read."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended."""
        if "epoch" not in result:
            return
        if trial.trial_id not in self._writers:
            self._writers[trial.trial_id] = self._open(trial.config, result["epoch"])
        writer = self._writers[trial.trial_id]
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in epoch_figures(result).items()
        ]
        _write(writer, step=result["epoch"], summary=Summary(value=values))
        writer.flush()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial ended by itself, by early stopping, or with a failure it could name."""
        failed = (trial.last_result or {}).get("failure") is not None
        self._close(trial.trial_id, finished=not failed)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial's process died."""
        self._close(trial.trial_id, finished=False)

    def _open(self, task: dict[str, Any], epoch: int) -> EventsWriter:
        """A new event file of a trial, in which `epoch` comes first."""
        folder = self._folder / f"{task['number']:04}"
        folder.mkdir(parents=True, exist_ok=True)
        # named by the second otherwise, and one of the same name would be overwritten
        writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        # what an interrupted process wrote of this epoch and later ones is not shown any more
        _write(writer, step=epoch, session_log=SessionLog(status=SessionLog.START))
        # without the list of all hyperparameters, which TensorBoard would believe of every trial
        _, start, _ = hparams(hyperparameters(task["config"]), {})
        _write(writer, summary=start)
        return writer

    def _close(self, trial_id: str, *, finished: bool) -> None:
        writer = self._writers.pop(trial_id, None)
        if writer is None:
            return  # it failed before its first epoch
        if finished:
            _write(writer, summary=hparams({}, {})[2])
        writer.close()


def _write(writer: EventsWriter, **content: Any) -> None:
    writer.write_event(Event(wall_time=time.time(), **content))
