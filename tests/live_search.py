"""A search while it runs: the lines that it prints, and its processes."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")


class LiveSearch:
    """Runs a search in `folder`; no process is left when the block ends.

    Args:
        folder: Working directory of the search.
        words: Words of its command.
        environment: Variables added to the environment of the tests.
    """

    def __init__(self, folder: Path, words: list[str], **environment: str):
        self.process = subprocess.Popen(
            words,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines: list[str] = []
        self._family: dict[int, psutil.Process] = {}
        self._is_over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._family_finder = threading.Thread(target=self._find_family, daemon=True)
        self._reader.start()
        self._family_finder.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip("\n"))

    def _find_family(self) -> None:
        """Note all descendants, as some of Ray's processes outlive their parents."""
        driver = psutil.Process(self.process.pid)
        while not self._is_over:
            # one listing of all processes: children() makes one for each process, and takes a core
            children: dict[int, list[psutil.Process]] = {}
            for process in psutil.process_iter(["ppid"]):
                children.setdefault(process.info["ppid"], []).append(process)
            left = [known.pid for known in [driver, *self._family.values()] if known.is_running()]
            while left:
                for child in children.pop(left.pop(), []):
                    self._family[child.pid] = child
                    left.append(child.pid)
            time.sleep(0.2)

    def __enter__(self) -> "LiveSearch":
        return self

    def __exit__(self, *_: object) -> None:
        for each in [self.process, *self.processes("")]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait(60)
        self._is_over = True
        self._family_finder.join()
        self._reader.join()

    @property
    def said(self) -> str:
        """All lines that were printed so far."""
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, *, count: int = 1, seconds: float = 240) -> str:
        """Wait for the `count`-th line that matches, and return it."""

        def find() -> str | None:
            found = [line for line in self.lines if re.search(pattern, line)]
            return found[count - 1] if len(found) >= count else None

        return wait_until(find, what=repr(pattern), seconds=seconds, search=self)

    def processes(self, title: str) -> list[psutil.Process]:
        """Processes of the search, except the driver, whose command line has `title`."""
        found = []
        for process in list(self._family.values()):
            try:
                alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
                if alive and title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def find_process(self, title: str) -> psutil.Process:
        """Wait for such a process, and return it."""
        return wait_until(lambda: next(iter(self.processes(title)), None), what=title)

    def finish(self, *, code: int | None = 0, seconds: float = 420) -> str:
        """Wait for the end and return what was printed; a `code` of None allows any exit code."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hangs; it said\n{self.said}") from None
        self._reader.join(10)
        assert code is None or self.process.returncode == code, self.said
        assert "Traceback" not in self.said, self.said
        return self.said

    def kill_driver(self) -> None:
        """End the driver by SIGKILL, as the kernel does when memory runs out."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def seconds_until_gone(self, limit: float = 30) -> float:
        """Wait until all processes have ended, and return the seconds that it took."""
        started = time.monotonic()
        while left := self.processes(""):
            if time.monotonic() - started > limit:
                raise AssertionError(f"left after {limit} seconds: {list(map(_describe, left))}")
            time.sleep(0.1)
        return time.monotonic() - started


def wait_until(
    look: Callable[[], T | None],
    *,
    what: str,
    seconds: float = 120,
    search: LiveSearch | None = None,
) -> T:
    """Call `look` until it returns something other than None, and return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (found := look()) is not None:
            return found
        if search is not None and search.process.poll() is not None:
            time.sleep(0.5)  # its last lines
            if (found := look()) is not None:
                return found
            raise AssertionError(f"the search ended before there was {what}\n{search.said}")
        time.sleep(0.1)
    said = f"\n{search.said}" if search else ""
    raise AssertionError(f"after {seconds} seconds there was no {what}{said}")


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({process.status()}) {' '.join(process.cmdline())}"
    except psutil.Error as error:
        return str(error)
