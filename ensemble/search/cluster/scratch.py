"""Folders that only one process needs: private to the user, and removed once that process is gone.

The owner of a folder holds a lock on a file in it, which the kernel takes back however the process
ends. Process numbers would not do: another container or another host counts processes of its own,
and may share /tmp or a home folder with this one.
"""

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ensemble.base.locks import try_lock

PREFIX = "crack-"  # short: Ray's sockets lie below, and their paths have 107 bytes at most
OWNER = ".owner"


@contextmanager
def scratch_folder(*, under: Path | None = None) -> Iterator[Path]:
    """Make a folder of mode 0700 for the time of the block; those of the dead are removed first.

    Args:
        under: Folder in which it is made; the system's folder for temporary files by default.
    """
    base = Path(tempfile.gettempdir()) if under is None else under
    remove_abandoned(base.glob(f"{PREFIX}*"))
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=base, ignore_cleanup_errors=True) as folder:
        lock = own(Path(folder))
        try:
            yield Path(folder)
        finally:
            if lock is not None:
                lock.close()


def own(folder: Path) -> IO[str] | None:
    """Mark a folder as this process's own, until the file that is returned is closed.

    Returns:
        The locked file; None where the file system knows no locks: nobody will judge that folder.
    """
    draft = folder / f"{OWNER}-{os.getpid()}"
    file = draft.open("w")
    try:
        try_lock(file.fileno())
        file.write(_name_kernel())
        file.flush()
        draft.rename(folder / OWNER)  # nobody sees it without its lock
    except OSError:
        file.close()
        draft.unlink(missing_ok=True)
        return None
    return file


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove those of these folders whose owner is gone; what cannot be judged stays.

    A folder is judged if it is the user's and was marked by `own` on this host.
    """
    for folder in folders:
        with suppress(OSError):  # of somebody else, or removed in between
            info = folder.lstat()
            is_mine = info.st_uid == os.getuid() and stat.S_ISDIR(info.st_mode)
            if is_mine and _is_abandoned(folder / OWNER):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(mark: Path) -> bool:
    with mark.open() as file:
        named, here = file.read().split(), _name_kernel().split()
        if not any(one == mine for one, mine in zip(named, here, strict=False)):
            return False  # of another host: some file systems do not tell us of its locks
        return try_lock(file.fileno())  # an OSError of a file system without locks leaves it alone


def _name_kernel() -> str:
    """What runs now on which host; containers of a host share the first and not the second."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{boot.read_text().strip() if boot.exists() else '-'} {socket.gethostname()}"
