"""Train one member: fit, and keep the best epoch on disk, and what a cut run goes on from.

The same for every kind of trial.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ensemble.base.errors import CannotWriteError, InputError
from ensemble.base.files import make_folder, remove_file
from ensemble.base.locks import file_lock
from ensemble.data.batches import SplitTiles, place_tiles
from ensemble.data.pack import open_pack
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import open_member, remove_leftovers, save_member, write_weights
from ensemble.training.config import TrialConfig
from ensemble.training.data_parallel import rank_and_world_size
from ensemble.training.initial_weights import digest_tensors
from ensemble.training.loop import Epoch, fit
from ensemble.training.state import State, identify_run, load_state, save_state, write_tensors

LOCK_WAIT_SECONDS = 60


@dataclass(frozen=True)
class TrainingData:
    """Training and validation tiles on a device; there is no way from here to the test split.

    Attributes:
        train: Training tiles.
        val: Validation tiles.
        split_digest: Of the split they come from.
    """

    train: SplitTiles
    val: SplitTiles
    split_digest: str


def open_training_data(pack_folder: Path, device: torch.device) -> TrainingData:
    """Map the training and validation tiles of a pack and place them for `device`."""
    pack = open_pack(pack_folder, splits=("train", "val"))
    tiles = {}
    for split in ("train", "val"):
        table = pack.table(split)
        rows, labels = table["row"].to_numpy(np.int64), table["label"].to_numpy(np.int64)
        tiles[split] = place_tiles(pack.pixels(split), rows, labels, device)
    return TrainingData(tiles["train"], tiles["val"], pack.record["split_digest"])


def train_member(
    config: TrialConfig,
    data: TrainingData,
    *,
    trial: int,
    initial_weights: Path,
    folder: Path,
    is_writer: bool = True,
    each_epoch: Callable[[nn.Module, Epoch], None] | None = None,
) -> Iterator[Epoch]:
    """Train from `initial_weights`; after each better epoch the member in `folder` is replaced.

    A run that was killed goes on from the state it left in `folder`: its last epoch is yielded
    again, since it may not have been heard of, and all ends as if nothing had happened.

    Args:
        config: Of the training run.
        data: Its tiles.
        trial: Number of the trial.
        initial_weights: As `save_initial_state` wrote them.
        folder: Of the member; made where it is missing.
        is_writer: Whether this process writes (of several workers, rank 0 does).
        each_epoch: Called by the writer with the network as it stands after each epoch.

    Yields:
        Each epoch, after its state and its member are safe on disk.

    Raises:
        InputError: Another process is training this member.
        CannotWriteError: The disk does not take its files.
    """
    initial = safetensors.torch.load_file(initial_weights)
    about: dict[str, Any] = {
        "trial": trial,
        "split_digest": data.split_digest,
        "initial_weights_digest": digest_tensors(initial),
    }
    identity = identify_run(config, **about, num_workers=rank_and_world_size()[1])
    with _only_writer(folder) if is_writer else nullcontext():
        state = load_state(folder, identity=identity) if is_writer else None
        if state and not state.epoch.improved and not _has_best(folder, state.epoch, config, about):
            state = None
        state = _agree(state, folder, identity, data.train.device, is_writer=is_writer)
        model = build_model(config.model.backbone, dropout=config.model.dropout)
        model.load_state_dict(state.weights if state else initial)
        model.to(data.train.device)
        start = state.epoch if state else None
        with _EpochFileWriter(folder, model) as files:
            write = files.write if is_writer else None
            for epoch in fit(
                model, config, data.train, data.val, start=start, after_training=write
            ):
                if is_writer:
                    # the state first: a member never shows an epoch that a run going on may train
                    # anew (and on a GPU with other bits), and the state can still make the member
                    if epoch is not start:
                        save_state(folder, epoch, files.tensors(), identity=identity)
                    if epoch.improved:
                        save_member(folder, model, epoch, config, **about, weights=files.weights())
                    files.drop()
                    if each_epoch is not None:
                        each_epoch(model, epoch)
                yield epoch


class _EpochFileWriter:
    """Writes the large files of an epoch while its validation tiles are scored.

    Nothing names them until the validation is over; then only small files are left to write.
    """

    def __init__(self, folder: Path, model: nn.Module):
        self._folder, self._model = folder, model
        self._thread = ThreadPoolExecutor(1)
        self._tensors: Future[tuple[str, str]] | None = None
        self._weights: Future[tuple[str, str]] | None = None

    def write(self, number: int, optimizer_state: dict[str, Tensor]) -> None:
        """Begin with those of an epoch."""
        self._tensors = self._thread.submit(
            write_tensors, self._folder, self._model, number, optimizer_state
        )
        self._weights = self._thread.submit(write_weights, self._folder, self._model, number)

    def tensors(self) -> tuple[str, str]:
        """Name and digest of the state's; raises what writing them did."""
        assert self._tensors is not None
        return self._tensors.result()

    def weights(self) -> tuple[str, str] | None:
        """Those of the weights, which are then a member's; None if they were not written."""
        weights, self._weights = self._weights, None
        return weights.result() if weights else None

    def drop(self) -> None:
        """Remove weights that became no member's."""
        if self._weights is not None:
            with suppress(CannotWriteError):
                remove_file(self._folder / self._weights.result()[0])
            self._weights = None

    def __enter__(self) -> "_EpochFileWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        with suppress(CancelledError):
            self.drop()


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder: one of a killed search may outlive it for a while."""
    make_folder(folder)
    busy = (
        f"{folder}: another process has been training this member for {LOCK_WAIT_SECONDS} s and "
        "goes on; end it, then run again"
    )
    with file_lock(folder / ".lock", busy=busy, wait_seconds=LOCK_WAIT_SECONDS):
        remove_leftovers(folder)
        yield


def _has_best(folder: Path, epoch: Epoch, config: TrialConfig, about: dict[str, Any]) -> bool:
    """Whether the member in `folder` is the best one of the run that stands after `epoch`."""
    try:
        member = open_member(folder)
        member.val_margins()
        member.load_model()
    except InputError:
        return False
    expected = {**about, "config": config, "epoch": epoch.number - epoch.epochs_since_best}
    found = {name: getattr(member.record, name) for name in expected}
    return found == expected and member.val_f1 == epoch.best_val_f1


def _agree(
    state: State | None, folder: Path, identity: str, device: torch.device, *, is_writer: bool
) -> State | None:
    """The state that all workers go on from: rank 0's, if every other one reads the same."""
    if rank_and_world_size()[1] == 1:
        return state
    wanted = torch.tensor(_number(state), device=device)
    dist.broadcast(wanted, src=0)  # and so the others read after rank 0 has the lock
    if not is_writer and wanted:
        state = load_state(folder, identity=identity)
    agreed = (wanted == _number(state)).int()
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return state if agreed else None


def _number(state: State | None) -> int:
    """A state's digest as a number that fits a tensor; 0 is no state."""
    return int(state.sha256[:15], 16) if state else 0
