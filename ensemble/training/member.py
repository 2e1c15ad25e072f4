"""Train one member; its best epoch and the state after the latest epoch are kept on disk."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ensemble.base.errors import CannotWriteError, InputError
from ensemble.base.files import make_folder, read_table, remove_file
from ensemble.base.locks import file_lock
from ensemble.data.batches import SplitTiles, place_pixels, place_table
from ensemble.data.pack import Pack, open_pack
from ensemble.data.split import assign_folds
from ensemble.training.backbones import build_configured
from ensemble.training.checkpoint import (
    State,
    identify_run,
    load_state,
    open_member,
    remove_leftovers,
    save_state,
    write_member,
    write_state_tensors,
    write_tensors,
)
from ensemble.training.config import TrialConfig
from ensemble.training.data_parallel import rank_and_world_size
from ensemble.training.initial_weights import digest_tensors
from ensemble.training.loop import EachBatch, Epoch, fit

LOCK_WAIT_SECONDS = 60


@dataclass(frozen=True)
class TrainingData:
    """Training and validation tiles on a device, and the digest of the split they come from."""

    train: SplitTiles
    val: SplitTiles
    split_digest: str


class Fold(NamedTuple):
    """One of several folds of the training and validation photographs, on which is validated.

    Attributes:
        number: From 0.
        num_folds: Number of folds.
    """

    number: int
    num_folds: int


class DevelopmentTiles:
    """The training and validation tiles of a pack, never its test tiles, placed on a device once.

    Args:
        pack_folder: Folder of the pack.
        device: Device of the batches.

    Raises:
        PackError: The pack is missing or damaged.
    """

    def __init__(self, pack_folder: Path, device: torch.device):
        self._pack = open_pack(pack_folder, splits=("train", "val"))
        self._pixels = place_pixels(self._pack.pixels("train"), device)
        self._device = device
        self._opened: dict[Fold | None, TrainingData] = {}
        self._tables: dict[int, pd.DataFrame] = {}  # with the folds, by their number

    def open(self, fold: Fold | None = None, doubted: Path | None = None) -> TrainingData:
        """The pack's own split, or all other folds to train on and one to validate on.

        Args:
            fold: The fold to validate on; None takes the split.
            doubted: Table of the tiles whose label is doubted, in its column `tile`; None where
                nobody says.

        Raises:
            InputError: There are too few photographs for that many folds, or the table is damaged.
        """
        if fold not in self._opened:
            self._opened[fold] = self._open(fold)
        data = self._opened[fold]
        if fold is None or doubted is None:
            return data
        return replace(data, train=self._doubt(data.train, fold, doubted))

    def _open(self, fold: Fold | None) -> TrainingData:
        digest = self._pack.record["split_digest"]
        if fold is None:
            train, val = (self._place(self._pack.table(split)) for split in ("train", "val"))
            return TrainingData(train, val, digest)
        table = self._read(fold.num_folds)
        is_held_out = table["fold"] == fold.number
        return TrainingData(
            self._place(table[~is_held_out]),
            self._place(table[is_held_out]),
            hashlib.sha256(
                f"{digest}, fold {fold.number} of {fold.num_folds}".encode()
            ).hexdigest(),
        )

    def _doubt(self, train: SplitTiles, fold: Fold, doubted: Path) -> SplitTiles:
        """The training tiles of a fold, with what a table says of their labels."""
        table = self._read(fold.num_folds)
        names = table.loc[table["fold"] != fold.number, "tile"]
        doubts = names.isin(read_table(doubted, columns=("tile",), text=("tile",))["tile"])
        return replace(train, doubted=torch.tensor(doubts.to_numpy(), device=self._device))

    def open_all(self, num_folds: int) -> TrainingData:
        """All tiles to train on, and all to score, each by the network that left out its fold."""
        table = self._read(num_folds)
        # tiles of other folds are no neighbours, where a split by tile tears photographs
        torn = table.assign(photograph=table["photograph"] + "/" + table["fold"].astype(str))
        folds = torch.tensor(table["fold"].to_numpy(np.int64))
        val = replace(self._place(torn), folds=folds)
        return TrainingData(self._place(table), val, self._pack.record["split_digest"])

    def _read(self, num_folds: int) -> pd.DataFrame:
        if num_folds not in self._tables:
            self._tables[num_folds] = read_development(self._pack, num_folds)
        return self._tables[num_folds]

    def _place(self, table: pd.DataFrame) -> SplitTiles:
        return place_table(self._pack, table, self._pixels, self._device)


def read_development(pack: Pack, num_folds: int) -> pd.DataFrame:
    """Training and validation tiles of a pack, by name, each with its `fold`.

    Raises:
        InputError: There are too few photographs for that many folds.
    """
    table = pd.concat([pack.table(split) for split in ("train", "val")])
    table = table.sort_values("tile", ignore_index=True)
    return table.assign(fold=assign_folds(table, count=num_folds, leaky=pack.record["leaky_split"]))


def train_member(
    config: TrialConfig,
    data: TrainingData,
    *,
    trial: int,
    initial_weights: Path,
    folder: Path,
    is_writer: bool = True,
    each_epoch: Callable[[Epoch], None] | None = None,
    each_batch: EachBatch | None = None,
) -> Iterator[Epoch]:
    """Train from `initial_weights`; after each better epoch the member in `folder` is replaced.

    A run that was killed is continued from the state it left in `folder` and ends with the same
    bits. Its last epoch is yielded again, as the caller may not have received it.

    Args:
        config: Configuration of the training run.
        data: Tiles to train and validate on.
        trial: Number of the trial.
        initial_weights: File that `save_initial_state` wrote.
        folder: Folder of the member; made if missing.
        is_writer: Whether this process writes (of several workers, rank 0 does).
        each_epoch: Called by the writer after each epoch.
        each_batch: Told how far the training is, as `fit` does.

    Yields:
        Each epoch, after its state and its member are safe on disk.

    Raises:
        InputError: Another process is training this member.
        CannotWriteError: The disk does not take its files.
    """
    initial = safetensors.torch.load_file(initial_weights)
    about: dict[str, Any] = {
        "config": config,
        "trial": trial,
        "split_digest": data.split_digest,
        "initial_weights_digest": digest_tensors(initial),
    }
    identity = identify_run(**about, num_workers=rank_and_world_size()[1])
    with _only_writer(folder) if is_writer else nullcontext():
        state = load_state(folder, identity=identity) if is_writer else None
        if state and not state.epoch.improved and not _has_best(folder, state.epoch, about):
            state = None
        state = _agree(state, folder, identity, data.train.device, is_writer=is_writer)
        model = build_configured(config.model)
        model.load_state_dict(state.weights if state else initial)
        model.to(data.train.device)
        start = state.epoch if state else None
        with _EpochWriter(folder, model, about, identity) as writer:
            after = writer.begin if is_writer else None
            how: dict[str, Any] = {"after_training": after, "each_batch": each_batch}
            for epoch in fit(model, config, data.train, data.val, start=start, **how):
                if is_writer:
                    writer.finish(epoch, has_state=epoch is start)
                    if each_epoch is not None:
                        each_epoch(epoch)
                yield epoch


class _EpochWriter:
    """Writes each epoch's state and member.

    The large files are written by a thread while the validation tiles are scored. No record names
    them until the validation is over; then only small files are left to write.
    """

    def __init__(self, folder: Path, model: nn.Module, about: dict[str, Any], identity: str):
        self._folder, self._model = folder, model
        self._about, self._identity = about, identity
        self._thread = ThreadPoolExecutor(1)
        self._state: Future[tuple[str, str]] | None = None
        self._weights: Future[tuple[str, str]] | None = None

    def begin(
        self, number: int, optimizer_state: dict[str, Tensor], average: dict[str, Tensor]
    ) -> None:
        """Begin to write the tensors of epoch `number`."""
        self._state = self._thread.submit(
            write_state_tensors, self._folder, self._model, number, optimizer_state, average
        )
        if not average:  # else the validation decides which of the two is kept
            self._weights = self._thread.submit(
                write_tensors, self._folder, f"epoch-{number}", self._model.state_dict()
            )

    def finish(self, epoch: Epoch, *, has_state: bool) -> None:
        """Write the records of an epoch; raises what writing its tensors raised.

        The state comes first: a member never shows an epoch that a continued run may train anew
        (and on a GPU with other bits), and the state can still make the member.
        """
        if not has_state:
            assert self._state is not None
            save_state(self._folder, epoch, self._state.result(), identity=self._identity)
        if epoch.improved:
            future, self._weights = self._weights, None  # from here on the weights are a member's
            weights = future.result() if future else None
            fields = {**self._about, **epoch.describe_result()}
            write_member(self._folder, epoch.weights, epoch.val_margins, weights=weights, **fields)
        self._drop_weights()

    def _drop_weights(self) -> None:
        """Remove weights that belong to no member."""
        if self._weights is not None:
            with suppress(CannotWriteError):
                remove_file(self._folder / self._weights.result()[0])
            self._weights = None

    def __enter__(self) -> "_EpochWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        with suppress(CancelledError):
            self._drop_weights()


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


def _has_best(folder: Path, epoch: Epoch, about: dict[str, Any]) -> bool:
    """Whether the member in `folder` is the best one of the run that stands after `epoch`."""
    try:
        member = open_member(folder)
        member.val_margins()
        member.load_model()
    except InputError:
        return False
    expected = {**about, "epoch": epoch.number - epoch.epochs_since_best}
    recorded = {name: getattr(member.record, name) for name in expected}
    return recorded == expected and member.val_f1 == epoch.best_val_f1


def _agree(
    state: State | None, folder: Path, identity: str, device: torch.device, *, is_writer: bool
) -> State | None:
    """Return the state that all workers continue from: rank 0's, if all others read the same."""
    if rank_and_world_size()[1] == 1:
        return state
    wanted = torch.tensor(_number(state), device=device)
    dist.broadcast(wanted, src=0)  # the others wait here, and so read after rank 0 has the lock
    if not is_writer and wanted:
        state = load_state(folder, identity=identity)
    agreed = (wanted == _number(state)).int()
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return state if agreed else None


def _number(state: State | None) -> int:
    """A state's digest as a number that fits a tensor; 0 is no state."""
    return int(state.sha256[:15], 16) if state else 0
