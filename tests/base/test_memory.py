"""Memory that a training process frees stays with it."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import sys
import torch
from ensemble.base.memory import keep_freed_memory
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_used_again_without_the_kernel():
    faults = {
        mode: int(subprocess.check_output([sys.executable, "-c", CODE, mode]))
        for mode in ("keep", "default")
    }
    assert faults["keep"] < 100
    assert faults["default"] > 10 * faults["keep"]
