"""A process beside a search that ends what the search's own Ray leaves behind.

Ray's processes mostly end with their driver; where it is killed at a bad moment, agents and single
workers stay for minutes. The guard reads its standard input, which only the search holds open, so
it notices the end of the search, however that ended. Then it kills the processes of that Ray: those
that write into its folder, and those that were only starting, which have it among their options and
would wait for a Ray that is gone. At last it removes the folders that nobody owns any more.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ensemble.search.cluster.scratch import PREFIX, remove_abandoned

GRACE_SECONDS = 3.0
LATE_SECONDS = 2.0  # in which what a killed search was just starting is found
RAY = "r"  # Ray's folder within the scratch folder: Ray opens its own to everybody
LONGEST_SOCKET = "/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store"
MOST_SOCKET_BYTES = 107  # of Linux


def place_for_sockets(base: str) -> Path:
    """The folder for Ray's session: `base`, or /tmp where the paths of its sockets are too long."""
    longest = f"{base}/{PREFIX}12345678/{RAY}{LONGEST_SOCKET}"
    return Path(base if len(os.fsencode(longest)) <= MOST_SOCKET_BYTES else "/tmp")


@contextmanager
def ray_guard(folder: Path) -> Iterator[None]:
    """Within, a guard makes sure that the Ray of this process ends with it.

    Args:
        folder: Scratch folder of this process in which that Ray keeps its session.
    """
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(folder)],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    ) as process:
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()


def processes_of(folder: Path) -> set[int]:
    """Find the processes that have files below a folder open for writing, or it in an option."""
    pids = set()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it is gone, or of somebody else
            words = command.read_bytes().split(b"\0")
            inside = os.fsencode(f"={folder}/")
            if any(word.startswith(b"--") and inside in word for word in words):
                pids.add(int(command.parts[2]))
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it is gone, or of somebody else
            file = os.readlink(link)  # noqa: PTH115
            if file.startswith(f"{folder}/") and _is_for_writing(link):
                pids.add(int(link.parts[2]))
    return pids


def _is_for_writing(link: Path) -> bool:
    """Say whether a file is open for writing; a person may be reading a log."""
    info = (link.parents[1] / "fdinfo" / link.name).read_text()
    flags = re.search(r"flags:\s*([0-7]+)", info)
    return flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY


def main() -> None:
    """Wait for the search to end, then for its Ray, then end that."""
    folder, driver = Path(sys.argv[1]), os.getppid()
    sys.stdin.buffer.read()
    end = time.monotonic() + GRACE_SECONDS
    while (left := processes_of(folder / RAY) - {driver}) and time.monotonic() < end:
        time.sleep(0.1)
    _kill(left)
    end = time.monotonic() + LATE_SECONDS
    while os.getppid() != driver and time.monotonic() < end:  # a search that lives waits for us
        _kill(processes_of(folder / RAY))
        time.sleep(0.1)
    for base in {folder.parent, Path(tempfile.gettempdir())}:
        remove_abandoned(base.glob(f"{PREFIX}*"))


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
