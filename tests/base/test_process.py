"""The cores that a process may use (affinity, CPU quota), and the memory that it keeps."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.base.process import count_cores

CODE = """
import resource
import sys
import torch
from ensemble.base.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    torch.zeros(16, 1 << 20).fill_(1)  # 64 MiB, freed at once
for _ in range(10):  # until the heap has found its size
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ALL = len(os.sched_getaffinity(0))


def write(system: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = system / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return system


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, ALL, id="no control groups"),
        pytest.param(
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000 100000"},
            1,
            id="docker --cpus 1",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "20000 100000"},
            1,
            id="a fifth of a core",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"},
            ALL,
            id="no limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/job/step",
                "sys/fs/cgroup/job/cpu.max": "100000 100000",
                "sys/fs/cgroup/job/step/cpu.max": "max 100000",
            },
            1,
            id="the group above has the limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/\n1:cpu,cpuacct:/docker/1f",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "50000",
            },
            1,
            id="version 1, in a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "1:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000",
            },
            ALL,
            id="version 1, no limit",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "6400000 100000"},
            ALL,
            id="more than there is",
        ),
    ],
)
def test_a_cpu_quota_bounds_the_cores(files, expected, tmp_path):
    assert count_cores(write(tmp_path, files)) == min(expected, ALL)


def test_part_of_a_second_core_counts_as_one(tmp_path):
    files = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}
    assert count_cores(write(tmp_path, files)) == min(2, ALL)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_used_again_without_the_kernel():
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", CODE, mode]))
        for mode in ("keep", "default")
    }
    assert faults["keep"] < 100
    assert faults["default"] > 10 * faults["keep"]
