"""Folders for what Ray insists on writing and nobody reads; those of killed processes go, too."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "crack-ensemble-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the time of the block; those whose process is gone are removed first."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = old.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and old.owner() == _user():
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _user() -> str:
    return Path("/proc/self").owner()
