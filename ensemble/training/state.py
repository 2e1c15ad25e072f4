"""What a run that is cut goes on from: weights, optimizer and figures of its last epoch, on disk.

`state.json` names the file of tensors (safetensors) and its SHA-256 and is written last, so a
reader sees the state after one epoch or after the next, never a mixture. It also holds a digest of
everything the run depends on: a state of another run, of other workers or of another torch is no
state. What else an epoch depends on (order, augmentation, dropout, learning rate) follows from the
seed and the epoch's number. Nothing here is pickled or unpickled.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ensemble.base.errors import InputError
from ensemble.base.files import read_json, remove_file, write_content_addressed, write_json
from ensemble.training.config import TrialConfig
from ensemble.training.loop import Epoch


class EpochFigures(BaseModel):
    """The fields of an `Epoch` that are no tensors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, from_attributes=True
    )

    number: int = Field(ge=1)
    train_loss: float
    train_accuracy: float
    learning_rate: float
    val_metrics: dict[str, float]
    improved: bool
    best_val_f1: float
    epochs_since_best: int = Field(ge=0)
    train_seconds: float
    val_seconds: float
    images_per_second: float
    last: bool
    precision: Literal["float32", "bfloat16"]


class StateRecord(BaseModel):
    """What `state.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    identity: str
    epoch: EpochFigures
    val_margins: list[float]
    tensors_file: str = Field(pattern=r"^state-[0-9]{1,10}-[0-9a-f]{8}\.safetensors$")
    tensors_sha256: str


@dataclass(frozen=True)
class State:
    """A run after an epoch.

    Attributes:
        epoch: As it was reported, with the optimizer's tensors.
        weights: The network's, as `state_dict` names them.
        sha256: Of all tensors.
    """

    epoch: Epoch
    weights: dict[str, Tensor]
    sha256: str


def identify_run(
    config: TrialConfig,
    *,
    trial: int,
    split_digest: str,
    initial_weights_digest: str,
    num_workers: int,
) -> str:
    """SHA-256 of what must be the same for a run to go on from a state.

    Device, number of threads and versions of other libraries than torch decide its bits, too. They
    may be others where it goes on, so that a cut run is not lost with its machine; `run.json` notes
    them.
    """
    parts = {
        "trial": trial,
        "config": config.model_dump(mode="json"),
        "split_digest": split_digest,
        "initial_weights_digest": initial_weights_digest,
        "num_workers": num_workers,  # they share batches and draw dropout and augmentation
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_tensors(
    folder: Path, model: nn.Module, number: int, optimizer_state: dict[str, Tensor]
) -> tuple[str, str]:
    """Write the large part of a state, which no record names yet.

    Args:
        folder: Of the member; it exists.
        model: After the epoch.
        number: Of the epoch.
        optimizer_state: Its tensors.

    Returns:
        The file's name and its SHA-256.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    tensors = {
        **{f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        **{f"optimizer.{name}": tensor for name, tensor in optimizer_state.items()},
    }
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    return write_content_addressed(folder, f"state-{number}", "safetensors", data)


def save_state(folder: Path, epoch: Epoch, tensors: tuple[str, str], *, identity: str) -> None:
    """Name the state after `epoch`, then remove the one of an earlier epoch.

    Args:
        folder: Of the member.
        epoch: As `fit` just yielded it.
        tensors: As `write_tensors` named them.
        identity: Of the run, see `identify_run`.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    record = StateRecord(
        identity=identity,
        epoch=EpochFigures.model_validate(epoch),
        val_margins=epoch.val_margins.tolist(),
        tensors_file=tensors[0],
        tensors_sha256=tensors[1],
    )
    write_json(folder / "state.json", record.model_dump(mode="json"))
    _remove_tensors(folder, but=record.tensors_file)


def load_state(folder: Path, *, identity: str) -> State | None:
    """Read the state in `folder`; None where it is missing, damaged or of another run.

    It only saves time: without it the run starts again and ends with the same bits.
    """
    try:
        record = StateRecord.model_validate(read_json(folder / "state.json"))
        data = (folder / record.tensors_file).read_bytes()
    except (InputError, ValidationError, OSError):
        return None
    if record.identity != identity or hashlib.sha256(data).hexdigest() != record.tensors_sha256:
        return None
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError:
        return None
    epoch = Epoch(
        **record.epoch.model_dump(),
        val_margins=np.array(record.val_margins, np.float32),
        batch_losses=np.zeros(0, np.float32),
        optimizer_state=_part(tensors, "optimizer."),
    )
    return State(epoch, _part(tensors, "model."), record.tensors_sha256)


def remove_state(folder: Path) -> None:
    """Remove the state in `folder`, if there is one; the member stays."""
    remove_file(folder / "state.json")  # first: it never names what is gone
    _remove_tensors(folder)


def _remove_tensors(folder: Path, *, but: str | None = None) -> None:
    for path in folder.glob("state-*.safetensors"):
        if path.name != but:
            remove_file(path)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
