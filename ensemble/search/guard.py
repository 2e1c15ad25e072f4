"""Ends what a search's own Ray leaves behind: `python -m ensemble.search.guard PID` stands by.

Ray's processes end with their driver in most cases; killed at a bad moment, its agents and single
workers stay for minutes. This process reads its standard input, which only the search holds: it
ends with the search, however that ended. Then what still writes into the logs of that search's Ray
session is killed.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE_SECONDS = 3.0


@contextmanager
def guarded() -> Iterator[None]:
    """Have the Ray that this process starts within the block ended with this process."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(os.getpid())],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    ) as process:
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()


def processes_of_session(driver: int) -> list[int]:
    """Processes, without the driver itself, that write into the Ray session which it started."""
    log = re.compile(rf"/session_[^/]*_{driver}/")
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it is gone, or of somebody else
            if log.search(os.readlink(link)) and _is_for_writing(link):  # noqa: PTH115
                found.add(int(link.parts[2]))
    return sorted(found - {driver})


def _is_for_writing(link: Path) -> bool:
    """Whether a file is open for that; a person may be reading a log."""
    info = (link.parents[1] / "fdinfo" / link.name).read_text()
    flags = re.search(r"flags:\s*([0-7]+)", info)
    return flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY


def main() -> None:
    """Wait for the search to end, then for its Ray, then end that."""
    driver = int(sys.argv[1])
    sys.stdin.buffer.read()
    end = time.monotonic() + GRACE_SECONDS
    while (left := processes_of_session(driver)) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
