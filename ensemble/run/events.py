"""Figures of a training run → event files for TensorBoard; nothing in this project reads them.

tensorboardX's `SummaryWriter` hands events to a thread, and its flush does not wait for that. The
writer beneath it does: the events of a finished epoch survive if the process is killed.
"""

import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams

from ensemble.base.errors import writing
from ensemble.base.files import make_folder
from ensemble.training.config import TrialConfig, flatten
from ensemble.training.loop import Epoch, EpochFigures

FIGURES = {name for name, field in EpochFigures.model_fields.items() if field.annotation is float}


def epoch_figures(row: dict[str, Any]) -> dict[str, float]:
    """Return the figures of an epoch's row, without the other columns."""
    return {
        name: float(value)
        for name, value in row.items()
        if name in FIGURES or name.startswith("val_")
    }


def hyperparameters(config: TrialConfig) -> dict[str, float | str]:
    """Flatten a configuration to `section.name: value`; unset settings are left out."""
    return {name: value for name, value in flatten(config).items() if value is not None}


class TrialEvents:
    """Writes a trial's hyperparameters, and its figures by epoch.

    Args:
        folder: Folder of the trial; made at its first epoch.
        config: Configuration that is trained.
    """

    def __init__(self, folder: Path, config: TrialConfig):
        self._folder, self._config = folder, config
        self._epochs: EventsWriter | None = None
        self._batches: EventsWriter | None = None

    def add_epoch(self, row: dict[str, Any]) -> None:
        """Write the figures in the row of an epoch."""
        with writing(self._folder):
            if self._epochs is None:
                self._epochs = _open(self._folder, row["epoch"])
                # not the list of all hyperparameters: TensorBoard would apply it to every trial
                _, start, _ = hparams(hyperparameters(self._config), {})
                _write(self._epochs, summary=start)
            _write_figures(self._epochs, row["epoch"], epoch_figures(row))
            self._epochs.flush()

    def add_batches(self, epoch: Epoch) -> None:
        """Write the loss of each batch of an epoch by the number of batches so far.

        They have a folder of their own, as TensorBoard hides the steps of a cut run file by file.
        """
        losses = epoch.batch_losses.tolist()
        if not losses:
            return  # read from disk: the losses were written before
        first = (epoch.number - 1) * len(losses) + 1
        with writing(self._folder):
            if self._batches is None:
                self._batches = _open(self._folder / "batches", first)
            for step, loss in enumerate(losses, first):
                _write_figures(self._batches, step, {"batch_loss": loss})
            self._batches.flush()

    def close(self, *, finished: bool) -> None:
        """End the files, and mark a finished trial as such."""
        epochs, batches = self._epochs, self._batches
        self._epochs = self._batches = None
        with writing(self._folder):
            if batches is not None:
                batches.close()
            if epochs is not None:
                if finished:
                    _write(epochs, summary=hparams({}, {})[2])
                epochs.close()


def _open(folder: Path, first_step: int) -> EventsWriter:
    """Begin an event file whose first step is `first_step`."""
    make_folder(folder)
    # the default name has the second only, and a file of the same name would be overwritten
    writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
    # hides what an interrupted process wrote for this step and later ones
    _write(writer, step=first_step, session_log=SessionLog(status=SessionLog.START))
    return writer


def _write_figures(writer: EventsWriter, step: int, figures: dict[str, float]) -> None:
    values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
    _write(writer, step=step, summary=Summary(value=values))


def _write(writer: EventsWriter, **content: Any) -> None:
    writer.write_event(Event(wall_time=time.time(), **content))
