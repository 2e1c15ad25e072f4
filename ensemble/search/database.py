"""Connections to a study's SQLite file that wait for other programs and name them.

SQLite gives up after a few seconds with no more than a code, but a backup, a database browser or a
slow network disk may lock a file for minutes, and an epoch of all trials would be lost.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ensemble.base.errors import CannotWriteError

T = TypeVar("T")
ONE_TRY_SECONDS = 1.0  # between two of them a signal is heard
SAY_AFTER_SECONDS = 5.0
PATIENCE_SECONDS = 600.0
REFUSED = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)
DAMAGED = (sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)


def connect(path: Path, log: Callable[[str], None]) -> sqlite3.Connection:
    """Open a file for one writer, more quickly than by default and safely if the writer crashes.

    Args:
        path: Path of the file; it need not exist.
        log: Takes a line for the person where another program locks the file.

    Raises:
        CannotWriteError: The disk refuses it, or another program locks it for ten minutes.
        sqlite3.Error: The file is damaged.
    """
    patience = _Patience(path, log)

    connection = patience.of(
        lambda: sqlite3.connect(
            path,
            timeout=ONE_TRY_SECONDS,
            check_same_thread=False,
            factory=_Connection,
        )
    )
    connection.patience = patience
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


class _Patience:
    """Repeats what another program's lock prevents, until its patience ends."""

    def __init__(self, path: Path, log: Callable[[str], None]):
        self._path, self._log = path, log

    def of(self, action: Callable[[], T]) -> T:
        began, has_said = time.monotonic(), False
        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                self._raise_unless_locked(error)
            waited = time.monotonic() - began
            if waited > PATIENCE_SECONDS:
                raise CannotWriteError(
                    f"{self._path} has been locked by {_find_lockers(self._path)} for "
                    f"{PATIENCE_SECONDS / 60:g} minutes; end that, then run again"
                )
            if waited > SAY_AFTER_SECONDS and not has_said:
                self._log(f"{self._path} is locked by {_find_lockers(self._path)}; waiting for it")
                has_said = True

    def _raise_unless_locked(self, error: sqlite3.OperationalError) -> None:
        code = getattr(error, "sqlite_errorcode", 0)
        primary = code & 0xFF  # the upper bits say more closely what it was
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return
        if primary == sqlite3.SQLITE_FULL:
            raise CannotWriteError(
                f"no room on the disk for {self._path}: make room, then run again"
            ) from None
        if primary in REFUSED and code not in DAMAGED:
            raise CannotWriteError(
                f"{self._path} cannot be written ({error}); mend that, then run again"
            ) from None
        raise error


class _Cursor(sqlite3.Cursor):
    connection: "_Connection"

    def execute(self, *arguments: Any) -> "_Cursor":
        self.connection.patience.of(lambda: super(_Cursor, self).execute(*arguments))
        return self

    def executemany(self, *arguments: Any) -> "_Cursor":
        self.connection.patience.of(lambda: super(_Cursor, self).executemany(*arguments))
        return self


class _Connection(sqlite3.Connection):
    patience: _Patience

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def commit(self) -> None:
        self.patience.of(super().commit)


def _find_lockers(path: Path) -> str:
    """Name the programs that lock the file or its log's index, as far as the kernel knows them."""
    files = set()
    for part in (path, path.with_name(f"{path.name}-shm")):
        if part.exists():
            info = part.stat()
            device = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}"
            files.add(f"{device}:{info.st_ino}")
    lockers = {}
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[3] == "WRITE" and words[5] in files and int(words[4]) != os.getpid():
                name = Path(f"/proc/{words[4]}/comm").read_text().strip()
                lockers[int(words[4])] = f"{name} (process {words[4]})"
    except (OSError, ValueError, IndexError):
        pass  # another system, or it has just ended
    return " and ".join(lockers[pid] for pid in sorted(lockers)) or "another program"
