"""CPU seconds of each command's --help, beside those of a Python that does nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator

from bench.plan import ROOT
from bench.row import Row
from ensemble.cli import COMMANDS

PART = "commands"
ROUNDS = 3


def measure() -> Iterator[Row]:
    """CPU seconds of the quickest of several starts."""
    bare = _cpu_seconds("-c", "pass")
    yield Row(PART, "python -c pass", bare, "s")
    for command in COMMANDS:
        seconds = _cpu_seconds("-m", "ensemble", command, "--help")
        yield Row(PART, f"{command} --help", seconds, "s", "<= 0.5")
        yield Row(PART, f"{command} --help ÷ python -c pass", seconds / bare, "ratio")


def _cpu_seconds(*words: str) -> float:
    return min(_start(*words) for _ in range(ROUNDS))


def _start(*words: str) -> float:
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime
