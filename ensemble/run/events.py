"""A training run's figures → TensorBoard's event files; nothing in this project reads them.

tensorboardX's `SummaryWriter` hands events to a thread and its flush does not wait for that, so the
writer beneath it is used: what a finished epoch wrote outlives a process that is killed.
"""

import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams

from ensemble.base.files import make_folder
from ensemble.training.config import TrialConfig, flatten
from ensemble.training.loop import Epoch

FIGURES = (  # of an epoch's row, beside those of the validation split
    "train_loss",
    "train_accuracy",
    "learning_rate",
    "best_val_f1",
    "train_seconds",
    "images_per_second",
)


def epoch_figures(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of an epoch's row, without whatever else it holds."""
    return {
        name: float(value)
        for name, value in row.items()
        if name in FIGURES or name.startswith("val_")
    }


def hyperparameters(config: dict[str, Any]) -> dict[str, float | str]:
    """A `TrialConfig` as nested dictionaries → `section.name: value`; unset ones are left out."""
    settings = flatten(TrialConfig.model_validate(config))
    return {name: value for name, value in settings.items() if value is not None}


class TrialEvents:
    """Writes a trial's hyperparameters and, against the epoch, its figures.

    Args:
        folder: Folder of the trial; made at its first epoch.
        config: A `TrialConfig` as nested dictionaries.
    """

    def __init__(self, folder: Path, config: dict[str, Any]):
        self._folder, self._config = folder, config
        self._epochs: EventsWriter | None = None
        self._batches: EventsWriter | None = None

    def add_epoch(self, row: dict[str, Any]) -> None:
        """Write the figures of an epoch, `epoch` being its number."""
        if self._epochs is None:
            self._epochs = _open(self._folder, row["epoch"])
            # without the list of all hyperparameters, which TensorBoard would believe of every
            # trial
            _, start, _ = hparams(hyperparameters(self._config), {})
            _write(self._epochs, summary=start)
        _write_figures(self._epochs, row["epoch"], epoch_figures(row))
        self._epochs.flush()

    def add_batches(self, epoch: Epoch) -> None:
        """Write the loss of each batch of an epoch against the number of batches so far.

        Batches have a folder of their own: what a cut run wrote is hidden by step, in a whole file.
        """
        losses = epoch.batch_losses.tolist()
        if not losses:
            return  # a cut run starts from this epoch, and wrote them before
        first = (epoch.number - 1) * len(losses) + 1
        if self._batches is None:
            self._batches = _open(self._folder / "batches", first)
        for step, loss in enumerate(losses, first):
            _write_figures(self._batches, step, {"batch_loss": loss})
        self._batches.flush()

    def close(self, *, finished: bool) -> None:
        """End the files; a finished trial is shown as such."""
        if self._epochs is not None:
            if finished:
                _write(self._epochs, summary=hparams({}, {})[2])
            self._epochs.close()
        if self._batches is not None:
            self._batches.close()
        self._epochs = self._batches = None


def _open(folder: Path, first_step: int) -> EventsWriter:
    """A new event file in which `first_step` comes first."""
    make_folder(folder)
    # named by the second otherwise, and one of the same name would be overwritten
    writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
    # what an interrupted process wrote of this step and later ones is not shown any more
    _write(writer, step=first_step, session_log=SessionLog(status=SessionLog.START))
    return writer


def _write_figures(writer: EventsWriter, step: int, figures: dict[str, float]) -> None:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
    _write(writer, step=step, summary=Summary(value=values))


def _write(writer: EventsWriter, **content: Any) -> None:
    writer.write_event(Event(wall_time=time.time(), **content))
