"""Cores and memory that this process uses.

`docker run --cpus 2`, Kubernetes and Slurm limit the time on all cores (the CPU quota of a control
group), while the system still shows all of them.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# parameters in glibc's <malloc.h>
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def count_cores(system: Path = Path("/")) -> int:
    """Count the cores for this process, within its quota: at least one, parts rounded up.

    Args:
        system: Root of the file system in which control groups are looked up.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(-int(-quota // 1) for quota in _quotas(system))]))


def spare_libraries() -> None:
    """Limit the threads of numerical libraries, which are not imported yet.

    torch gets the CPU quota. NumPy and SciPy get one, as their products are small here: beside
    other work, threads that wait for each other made a small choice of members six times as long.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if (cores := count_cores()) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees; nothing happens without glibc.

    PyTorch has no cache for tensors on a CPU, and glibc returns large blocks at once, so that the
    kernel has to clear the pages of all activations in each step. With the memory kept, SqueezeNet
    1.1 at 128 px trains 1.29 times as many images a second (`make bench BENCH="--part choices"`).
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)  # large blocks come from the heap too
        mallopt(_TRIM_THRESHOLD, -1)  # which never shrinks
        mallopt(_TOP_PAD, 64 << 20)  # and grows by no less than 64 MiB


def _quotas(system: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control groups and of their parents."""
    for folder in _groups(system):
        try:
            if (folder / "cpu.max").exists():  # version 2
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text().strip()
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no quota here
            continue


def _groups(system: Path) -> Iterator[Path]:
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mounts = ["sys/fs/cgroup"]
        elif "cpu" in controllers.split(","):
            mounts = [f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"]
        else:
            continue
        inner = Path(path.lstrip("/"))
        for mount in mounts:  # a container sees its own group as the root
            yield from (system / mount / part for part in [inner, *inner.parents])
