"""How many trials run at a time, and what each worker may ask of Ray."""

from dataclasses import dataclass

from ensemble.errors import InputError


@dataclass(frozen=True)
class Budget:
    """What a search may use.

    Attributes:
        num_gpus: GPUs in all; 0 trains on CPUs.
        num_slots: Workers at a time.
        workers_per_trial: Above 1 each trial runs on Ray Train workers.
        max_concurrent_trials: Slots ÷ workers of a trial.
        cpus_per_worker: What a worker asks of Ray, in cores.
        gpus_per_worker: Likewise, in GPUs.
        threads_per_worker: torch's threads in each worker.
    """

    num_gpus: int
    num_slots: int
    workers_per_trial: int
    max_concurrent_trials: int
    cpus_per_worker: float
    gpus_per_worker: float
    threads_per_worker: int

    def __str__(self) -> str:
        threads = f"{self.threads_per_worker} thread{'s' * (self.threads_per_worker > 1)}"
        if self.gpus_per_worker:
            each = f"{self.gpus_per_worker:g} GPU{'s' * (self.gpus_per_worker > 1)} and {threads}"
        else:
            each = threads
        trials = f"{self.max_concurrent_trials} trial{'s' * (self.max_concurrent_trials > 1)}"
        if self.workers_per_trial == 1:
            return f"{trials} at a time, {each} each"
        return f"{trials} at a time, on {self.workers_per_trial} Ray Train workers of {each} each"


def plan_budget(
    *,
    gpus: int | None,
    cpus: int | None,
    workers_per_trial: int,
    trials_per_gpu: int,
    available_gpus: int,
    available_cpus: int,
) -> Budget:
    """Work out the budget before anything starts.

    Args:
        gpus: GPUs to use; None takes all there are.
        cpus: Slots where no GPU is used; None takes one a core.
        workers_per_trial: Data-parallel workers of each trial.
        trials_per_gpu: Trials that share a GPU.
        available_gpus: What the machine or the cluster has.
        available_cpus: Its cores.

    Raises:
        InputError: More is asked than there is, or the numbers contradict each other.
    """
    num_gpus = available_gpus if gpus is None else gpus
    for option, value, least in (
        ("--gpus", num_gpus, 0),
        ("--cpus", 1 if cpus is None else cpus, 1),
        ("--workers-per-trial", workers_per_trial, 1),
        ("--trials-per-gpu", trials_per_gpu, 1),
    ):
        if value < least:
            raise InputError(f"{option} {value}: must be at least {least}")
    if num_gpus > available_gpus:
        there = f"there are {available_gpus}" if available_gpus else "there are none"
        raise InputError(f"--gpus {num_gpus}: {there}; ask for fewer, or --gpus 0 to use the CPU")
    if trials_per_gpu > 1 and not num_gpus:
        raise InputError(f"--trials-per-gpu {trials_per_gpu}: no GPU is used; ask for --gpus 1")
    if trials_per_gpu > 1 and workers_per_trial > 1:
        raise InputError(
            f"--trials-per-gpu {trials_per_gpu} with {workers_per_trial} workers a trial: workers "
            "of a trial cannot share a GPU; choose one of the two"
        )
    if num_gpus:
        num_slots = num_gpus * trials_per_gpu
    else:
        num_slots = available_cpus if cpus is None else cpus
        if num_slots > available_cpus:
            raise InputError(f"--cpus {num_slots}: there are {available_cpus} cores; ask for fewer")
    if workers_per_trial > num_slots:
        unit = "GPUs" if num_gpus else "CPU slots"
        raise InputError(
            f"{workers_per_trial} workers a trial on {num_slots} {unit}: a trial could never "
            f"start; say --workers-per-trial {num_slots}, or give more {unit}"
        )
    cores_per_slot = available_cpus / num_slots
    return Budget(
        num_gpus=num_gpus,
        num_slots=num_slots,
        workers_per_trial=workers_per_trial,
        max_concurrent_trials=num_slots // workers_per_trial,
        cpus_per_worker=min(1.0, cores_per_slot),
        gpus_per_worker=1 / trials_per_gpu if num_gpus else 0.0,
        threads_per_worker=max(1, int(cores_per_slot)),
    )
