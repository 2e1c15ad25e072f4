"""How many trials run at a time, and what each worker asks of Ray.

A worker runs on one node, so workers are placed node by node: the sum over a cluster says too much.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ensemble.base.errors import InputError
from ensemble.base.wording import plural

UNIT = 10_000  # Ray counts in ten-thousandths and rounds: six times 0.1667 would not fit into one


@dataclass(frozen=True)
class Node:
    """A machine that trains.

    Attributes:
        name: Address of the node.
        num_cpus: Cores that Ray may give to workers.
        num_gpus: GPUs that Ray may give to workers.
    """

    name: str
    num_cpus: int
    num_gpus: int


@dataclass(frozen=True)
class Budget:
    """What a search may use.

    Attributes:
        num_gpus: GPUs in all; 0 trains on CPUs.
        num_slots: Workers at a time.
        workers_per_trial: Workers of a trial; above 1 they run on Ray Train.
        max_concurrent_trials: Trials at a time: slots ÷ workers of a trial.
        cpus_per_worker: Cores that a worker asks of Ray.
        gpus_per_worker: GPUs that a worker asks of Ray.
        threads_per_worker: torch's threads in each worker; without GPUs as many as it has cores.
    """

    num_gpus: int
    num_slots: int
    workers_per_trial: int
    max_concurrent_trials: int
    cpus_per_worker: float
    gpus_per_worker: float
    threads_per_worker: int

    def __str__(self) -> str:
        threads = plural(self.threads_per_worker, "thread")
        if self.gpus_per_worker:
            part = f"{self.gpus_per_worker:g} GPU{'s' * (self.gpus_per_worker > 1)}"
            where, each = f" on {plural(self.num_gpus, 'GPU')}", f"{part} and {threads}"
        else:
            where, each = "", threads
        if self.workers_per_trial > 1:
            each = f"on {self.workers_per_trial} Ray Train workers of {each}"
        trials = plural(self.max_concurrent_trials, "trial")
        return f"{plural(self.num_slots, 'slot')}{where}: {trials} at a time, {each} each"


class TooLittleError(InputError):
    """The nodes have no room for what is asked; more nodes would.

    Args:
        message: Line for the person.
        bundle: Resources that each worker needs, for a cluster that can grow.
        num_bundles: Number of such workers.
    """

    def __init__(self, message: str, bundle: dict[str, float], num_bundles: int):
        super().__init__(message)
        self.bundle, self.num_bundles = bundle, num_bundles


def plan_budget(
    *,
    gpus: int | None,
    cpus: int | None,
    workers_per_trial: int,
    trials_per_gpu: int,
    nodes: Sequence[Node],
    num_trials: int | None = None,
    is_cluster: bool = False,
) -> Budget:
    """Work out the budget before anything starts.

    Args:
        gpus: GPUs to use; None takes all there are.
        cpus: Cores to use where no GPU is used, a slot on each; None takes all.
        workers_per_trial: Data-parallel workers of each trial.
        trials_per_gpu: Trials that share a GPU.
        nodes: Machines that train.
        num_trials: Trials in all; fewer than there is room for share the cores. None is many.
        is_cluster: Whether nodes may come later.

    Raises:
        InputError: The numbers contradict each other.
        TooLittleError: More is asked than fits.
    """
    num_gpus = sum(node.num_gpus for node in nodes) if gpus is None else gpus
    _check_asked(num_gpus, cpus, workers_per_trial, trials_per_gpu)
    num_slots = _count_slots(
        num_gpus, gpus, cpus, workers_per_trial, trials_per_gpu, nodes, is_cluster=is_cluster
    )
    slots = [node.num_gpus * trials_per_gpu if num_gpus else node.num_cpus for node in nodes]
    units = _units_per_worker(nodes, slots, num_slots)
    threads_per_worker = cores = 1
    if not num_gpus and num_trials is not None and num_trials * workers_per_trial < num_slots:
        cores = _share_cores(nodes, num_slots, num_trials * workers_per_trial)
        num_slots, threads_per_worker = num_trials * workers_per_trial, cores
    if num_gpus:  # any node may get as many workers as fit, so the fullest one decides
        used = [min(fit, num_slots) for fit in _fitting(nodes, slots, units)]
        shares = [node.num_cpus // n for node, n in zip(nodes, used, strict=True) if n]
        threads_per_worker = max(1, min(shares))
    return Budget(
        num_gpus=num_gpus,
        num_slots=num_slots,
        workers_per_trial=workers_per_trial,
        max_concurrent_trials=num_slots // workers_per_trial,
        cpus_per_worker=cores * units / UNIT,
        gpus_per_worker=UNIT // trials_per_gpu / UNIT if num_gpus else 0.0,
        threads_per_worker=threads_per_worker,
    )


def _check_asked(
    num_gpus: int, cpus: int | None, workers_per_trial: int, trials_per_gpu: int
) -> None:
    """Refuse numbers that no machine has room for, and those that contradict each other."""
    for option, value, least in (
        ("--gpus", num_gpus, 0),
        ("--cpus", 1 if cpus is None else cpus, 1),
        ("--workers-per-trial", workers_per_trial, 1),
        ("--trials-per-gpu", trials_per_gpu, 1),
    ):
        if value < least:
            raise InputError(f"{option} {value}: must be at least {least}")
    if trials_per_gpu > 1 and not num_gpus:
        raise InputError(f"--trials-per-gpu {trials_per_gpu}: no GPU is used; ask for --gpus 1")
    if trials_per_gpu > 1 and workers_per_trial > 1:
        raise InputError(
            f"--trials-per-gpu {trials_per_gpu} with {workers_per_trial} workers a trial: workers "
            "of a trial cannot share a GPU; choose one of the two"
        )


def _count_slots(
    num_gpus: int,
    gpus: int | None,
    cpus: int | None,
    workers_per_trial: int,
    trials_per_gpu: int,
    nodes: Sequence[Node],
    *,
    is_cluster: bool,
) -> int:
    """Count the workers at a time; fewer than one trial needs are refused."""
    has = "the cluster has" if is_cluster else "this machine has"
    wait = ", or --wait 30 to wait for more nodes" if is_cluster else ""
    per_node = [node.num_gpus if num_gpus else node.num_cpus for node in nodes]
    there = sum(per_node)
    if num_gpus:
        unit, asked, num_slots = "GPUs", gpus, num_gpus * trials_per_gpu
        bundle: dict[str, float] = {"CPU": 1, "GPU": 1}
    else:
        unit, asked, num_slots = "CPU slots", cpus, there if cpus is None else cpus
        bundle = {"CPU": 1}
    if num_gpus > there:
        raise TooLittleError(
            f"--gpus {num_gpus}: {has} {_shares(nodes, per_node)}; ask for fewer, or --gpus 0 to "
            f"use the CPU{wait}",
            bundle,
            num_gpus,
        )
    if num_slots > there and not num_gpus:
        raise TooLittleError(
            f"--cpus {num_slots}: {has} {_shares(nodes, per_node)} cores; ask for fewer{wait}",
            bundle,
            num_slots,
        )
    if not num_slots:
        raise TooLittleError(
            f"{has} neither cores nor GPUs to train on; add a node that has{wait}",
            bundle,
            workers_per_trial,
        )
    if workers_per_trial > num_slots:
        message = (
            f"{workers_per_trial} workers a trial on {num_slots} {unit}: a trial could never "
            f"start; say --workers-per-trial {num_slots}, or give more {unit}"
        )
        if asked is not None:
            raise InputError(message)
        raise TooLittleError(f"{message}{wait}", bundle, workers_per_trial)
    return num_slots


def _fitting(nodes: Sequence[Node], slots: list[int], units: int) -> list[int]:
    """Count the workers of `units` that fit on each node."""
    return [
        min(count, node.num_cpus * UNIT // units) if units else count
        for node, count in zip(nodes, slots, strict=True)
    ]


def _units_per_worker(nodes: Sequence[Node], slots: list[int], num_slots: int) -> int:
    """Find the largest part of a core, at most one, with which `num_slots` workers fit."""
    parts = {
        node.num_cpus * UNIT // count
        for node, most in zip(nodes, slots, strict=True)
        for count in range(1, most + 1)
    }
    fitting = (
        part
        for part in sorted({min(part, UNIT) for part in parts}, reverse=True)
        if sum(_fitting(nodes, slots, part)) >= num_slots
    )
    return next(fitting)


def _share_cores(nodes: Sequence[Node], num_cores: int, num_workers: int) -> int:
    """Find the most cores that each of few workers can have, of all that may be used."""
    return next(
        cores
        for cores in range(num_cores // num_workers, 0, -1)
        if sum(node.num_cpus // cores for node in nodes) >= num_workers
    )


def _shares(nodes: Sequence[Node], counts: list[int]) -> str:
    """Write the sum, and each node's share where there are several."""
    total = str(sum(counts) or "none")
    if len(nodes) < 2:
        return total
    shares = [f"{node.name}: {count}" for node, count in zip(nodes, counts, strict=True)]
    left_out = len(shares) - 8
    more = [f"and {left_out} more node{'s' * (left_out > 1)}"] if left_out > 0 else []
    return f"{total} ({', '.join(shares[:8] + more)})"


def wait_for_room(
    plan: Callable[[list[Node]], Budget],
    *,
    look: Callable[[], list[Node]],
    ask: Callable[[list[dict[str, float]]], None],
    wait_minutes: float | None,
    log: Callable[[str], None],
) -> Budget:
    """Plan on a cluster once what is asked can be placed.

    Args:
        plan: Works out the budget on given nodes.
        look: Returns the nodes that there are now.
        ask: Asks the cluster to grow; called with nothing when the wait is over.
        wait_minutes: Minutes to wait for more nodes; None does not wait.
        log: Takes a line once a minute about what is missing.

    Raises:
        InputError: It cannot be placed, or not in time.
    """
    began, said, is_asking = time.monotonic(), -float("inf"), False
    try:
        while True:
            try:
                return plan(look())
            except TooLittleError as error:
                if wait_minutes is None:
                    raise
                now, lack = time.monotonic(), str(error).partition(";")[0]
                if now - began >= 60 * wait_minutes:
                    raise InputError(
                        f"{lack} after --wait {wait_minutes:g} (minutes); ask for fewer, or wait "
                        "longer"
                    ) from None
                if not is_asking:
                    is_asking = True
                    ask([error.bundle] * error.num_bundles)
                if now - said >= 60:
                    said = now
                    log(f"waiting for nodes: {lack}")
                time.sleep(0.5)
    finally:
        if is_asking:  # from here on the search's own requests keep the nodes
            ask([])
