"""A trial's task, and how a process trains it.

With a storage between the nodes, a trial works in a folder of its node and sends it to the storage
after each epoch, so that any other node can go on from there.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ensemble.base.errors import CannotWriteError, InputError
from ensemble.base.process import keep_freed_memory
from ensemble.data.pack import Pack, PackError
from ensemble.search.cluster.scratch import own, remove_abandoned
from ensemble.search.cluster.storage import Storage, StorageError, local_pack, push_pack
from ensemble.training.backbone_table import name_weights_file
from ensemble.training.config import Section, TrialConfig
from ensemble.training.loop import DivergedError, EachBatch
from ensemble.training.member import DevelopmentTiles, Fold, train_member

# faults of the machine, not of the trial's configuration: they end the search and fail no trial
HINDRANCES = (CannotWriteError, PackError, StorageError, OSError)


DOUBTED = "doubted.csv"  # in `initial/`: tiles whose label is doubted, if a trial is to know them


class StorageLayout(Section):
    """Places of things on a storage; its URL, which may hold a password, travels another way.

    Attributes:
        run: Folder of the run there; other weights to start from make it another folder.
        pack: Name of the pack there.
        pack_sha256: SHA-256 of the pack's `pack.json`.
    """

    run: str
    pack: str
    pack_sha256: str

    @property
    def initial(self) -> str:
        """Folder of the states that backbones start from."""
        return f"runs/{self.run}/initial"

    def member(self, number: int) -> str:
        """Folder of a trial."""
        return f"runs/{self.run}/members/{number:04}"


class Task(Section):
    """One trial's task; it crosses process borders as a dictionary and is validated behind them.

    Attributes:
        number: Number of the trial in the study.
        config: Configuration that is trained.
        pack_folder: Folder of the tiles.
        initial_folder: Folder of the states that backbones start from, and of doubted labels.
        member_folder: Folder in which the best epoch is kept.
        workers_per_trial: Data-parallel workers; above 1 they run on Ray Train.
        cpus_per_worker: Cores that Ray gives to a worker.
        gpus_per_worker: GPUs that Ray gives to a worker; 0 trains on the CPU.
        threads_per_worker: torch's threads in a worker.
        fold: Fold on which is validated; the validation split without one.
        storage: Layout of the storage, if there is one; the folders are then the driver's alone.
        name: Name of the trial; "" where its number is all there is.
    """

    number: int
    config: TrialConfig
    pack_folder: str
    initial_folder: str
    member_folder: str
    workers_per_trial: int
    cpus_per_worker: float
    gpus_per_worker: float
    threads_per_worker: int
    fold: Fold | None = None
    storage: StorageLayout | None = None
    name: str = ""


def title_of(number: int, name: str) -> str:
    """What people call a trial: its name, or its number where it has none."""
    return name or f"trial {number}"


def share_run(storage: Storage, folder: Path, packed: Pack, *, name: str) -> StorageLayout:
    """Send the tiles and the initial states of a run to the storage, for all nodes to fetch."""
    pack, sha256 = push_pack(storage, packed)
    record = folder / "initial" / "states.json"
    digest = hashlib.sha256(
        record.read_bytes() + packed.record["split_digest"].encode()
    ).hexdigest()
    layout = StorageLayout(run=f"{name}-{digest[:8]}", pack=pack, pack_sha256=sha256)
    storage.push(folder / "initial", layout.initial)
    return layout


def open_task_data(task: Task, device: torch.device, storage_url: str | None) -> DevelopmentTiles:
    """Set up torch in this process and place the tiles, once for all its trials."""
    keep_freed_memory()
    torch.set_num_threads(task.threads_per_worker)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    folder = Path(task.pack_folder)
    if task.storage is not None and storage_url is not None:
        pack, sha256 = task.storage.pack, task.storage.pack_sha256
        folder = local_pack(Storage(storage_url), pack, node_cache() / "packs", sha256=sha256)
    return DevelopmentTiles(folder, device)


def run_task(
    task: Task,
    tiles: DevelopmentTiles,
    storage_url: str | None,
    *,
    rank: int = 0,
    each_batch: EachBatch | None = None,
) -> Iterator[dict[str, Any]]:
    """Train the member of a task and yield a row an epoch, once its files are safe."""
    place = None
    if task.storage is not None and storage_url is not None:
        place = _NodeFolder(task, task.storage, Storage(storage_url), rank)
    initial_folder = place.initial if place else Path(task.initial_folder)
    doubted = initial_folder / DOUBTED if task.config.loss.needs_doubted else None
    epochs = train_member(
        task.config,
        tiles.open(task.fold, doubted),
        trial=task.number,
        initial_weights=initial_folder / name_weights_file(task.config.model.backbone),
        folder=place.member if place else Path(task.member_folder),
        is_writer=rank == 0,
        each_batch=each_batch,
    )
    try:
        for epoch in epochs:
            if place is not None and rank == 0:
                place.push()
            yield {**epoch.row(), "precision": epoch.precision, "last": epoch.last}
    finally:
        if place is not None:
            place.leave()


class _NodeFolder:
    """This process's own copy of what a trial reads and writes on the storage."""

    def __init__(self, task: Task, layout: StorageLayout, storage: Storage, rank: int):
        self._storage = storage
        self._name = layout.member(task.number)
        folder = node_cache() / "runs" / layout.run
        self.initial = folder / "initial"
        self.member = folder / f"{task.number:04}-{secrets.token_hex(4)}"
        if rank == 0:  # other nodes may share this folder: only what nobody owns goes
            remove_abandoned(folder.glob("[0-9]*-*"))  # also of trials that are over
        self.member.mkdir(parents=True)
        self._lock = own(self.member)
        needed = [name_weights_file(task.config.model.backbone)]
        needed += [DOUBTED] * task.config.loss.needs_doubted
        if not all((self.initial / name).exists() for name in needed):
            self._storage.fetch(layout.initial, self.initial)
        self._storage.fetch(self._name, self.member)

    def leave(self) -> None:
        """Leave the folder to the node's next trial, which removes it."""
        if self._lock is not None:
            self._lock.close()

    def push(self) -> None:
        self._storage.push(self.member, self._name)


def is_hindrance(error: BaseException) -> bool:
    """Whether an error ends the search and fails no trial."""
    of_another_process = isinstance(error, ConnectionError) or type(error).__module__.startswith(
        "ray."
    )
    return isinstance(error, HINDRANCES) and not of_another_process


def node_cache() -> Path:
    """The folder of a node's copies: CRACK_ENSEMBLE_CACHE, or one in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CRACK_ENSEMBLE_CACHE") or Path(base) / "crack-ensemble")


def explain_failure(error: BaseException) -> str:
    """Say in one line why a trial failed, or what hinders it."""
    if isinstance(error, InputError | DivergedError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; mend that, then run again"
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of GPU memory: {str(error).splitlines()[0]}"
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
