"""What a trial's processes are told, and what each of them does with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ensemble.errors import InputError
from ensemble.training.config import TrialConfig
from ensemble.training.loop import DivergedError
from ensemble.training.member import TrainingData, open_training_data, train_member


@dataclass(frozen=True)
class Task:
    """One trial's task; plain values and absolute paths, so that it crosses process borders.

    Attributes:
        number: Of the trial in the study.
        config: A `TrialConfig` as nested dictionaries.
        pack_folder: Of the tiles.
        initial_folder: Of the states that backbones start from.
        member_folder: Where the best epoch is kept.
        workers_per_trial: Above 1, on Ray Train.
        cpus_per_worker: Cores that Ray gives to a worker.
        gpus_per_worker: Likewise GPUs; 0 trains on the CPU.
        threads_per_worker: Of torch.
    """

    number: int
    config: dict[str, Any]
    pack_folder: str
    initial_folder: str
    member_folder: str
    workers_per_trial: int
    cpus_per_worker: float
    gpus_per_worker: float
    threads_per_worker: int


def open_task_data(task: Task, device: torch.device) -> TrainingData:
    """Set up torch in this process and open the tiles, once for all its trials."""
    torch.set_num_threads(task.threads_per_worker)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return open_training_data(Path(task.pack_folder), device)


def run_task(task: Task, data: TrainingData, *, is_writer: bool = True) -> Iterator[dict[str, Any]]:
    """Train the member of a task and yield a row an epoch."""
    config = TrialConfig.model_validate(task.config)
    epochs = train_member(
        config,
        data,
        trial=task.number,
        initial_weights=Path(task.initial_folder) / f"{config.model.backbone}.safetensors",
        folder=Path(task.member_folder),
        is_writer=is_writer,
    )
    for epoch in epochs:
        yield {**epoch.row(), "last": epoch.last}


def explain_failure(error: BaseException) -> str:
    """One line: why a trial failed."""
    if isinstance(error, InputError | DivergedError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of GPU memory: {str(error).splitlines()[0]}"
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
