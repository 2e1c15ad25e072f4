import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.base.errors import CannotWriteError, InputError
from ensemble.base.locks import file_lock

HOLD = (
    "import sys, pathlib\n"
    "from ensemble.base.locks import file_lock\n"
    "with file_lock(pathlib.Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()"
)


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_lock_that_another_process_holds_is_refused_or_given_up(holder, tmp_path):
    for seconds in (0, 0.2):
        with (
            pytest.raises(InputError, match="at work"),
            file_lock(tmp_path / "lock", busy="at work", wait_seconds=seconds),
        ):
            raise AssertionError


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_waiting_process_gets_the_lock_of_one_that_is_killed(holder, tmp_path, number):
    waits: list[int] = []

    def kill() -> None:
        waits.append(1)
        os.kill(holder.pid, number)

    with file_lock(tmp_path / "lock", on_wait=kill, wait_seconds=60):
        assert waits == [1]
    with file_lock(tmp_path / "lock", on_wait=kill, wait_seconds=0):
        assert waits == [1]  # the block's end released it


def test_what_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(CannotWriteError, match="cannot be written"),
        file_lock(tmp_path / "missing" / "lock"),
    ):
        raise AssertionError
