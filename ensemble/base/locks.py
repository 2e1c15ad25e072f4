"""Locks on files, which the system releases when their process ends, even if it is killed."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from ensemble.base.errors import InputError, writing

POLL_SECONDS = 0.05


@contextmanager
def file_lock(
    path: Path,
    *,
    busy: str = "",
    wait_seconds: float = math.inf,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold the lock on a file while the block runs.

    Args:
        path: Path of the lock's file; made if missing, and never removed.
        busy: Message of the error when another process keeps the lock.
        wait_seconds: Longest wait for another process; 0 to refuse at once.
        on_wait: Called once if another process holds the lock, before the wait.

    Raises:
        InputError: Another process kept the lock for `wait_seconds`.
        CannotWriteError: The file cannot be opened for writing, or its disk has no locks.
    """
    give_up_at = time.monotonic() + wait_seconds
    with writing(path):
        file = path.open("a")  # no program started from here inherits it
    with file:
        with writing(path):
            is_locked = try_lock(file.fileno())
        if not is_locked and on_wait is not None:
            on_wait()
        while not is_locked:
            if time.monotonic() >= give_up_at:
                raise InputError(busy)
            time.sleep(POLL_SECONDS)
            is_locked = try_lock(file.fileno())
        yield


def lock(descriptor: int) -> None:
    """Wait for the lock on an open file and take it, until the file is closed."""
    lock_descriptor(descriptor, poll_interval=POLL_SECONDS)


def try_lock(descriptor: int) -> bool:
    """Take the lock on an open file, until the file is closed; False if another process has it.

    Raises:
        OSError: The file system has no locks.
    """
    return lock_descriptor(descriptor, blocking=False)
