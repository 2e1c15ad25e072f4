"""Keeps what Ray prints in a log, such as a run's `ray.log`, and off the person's terminal.

The logger "ray" takes two kinds of lines: those that Ray, Tune, Train and Serve log in the
command's own process, and those that the other processes print on any node, which Ray's log
monitors bring here. Ray has no hook for the second kind: one function prints all of it, and it is
replaced.
"""

import importlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from ensemble.base.errors import escape, hide_passwords

FILE_BYTES = 10_000_000  # then it becomes ray.log.1, and what was there before is gone
LINE_CHARACTERS = 2000
# how Serve always ends: the command waits on its controller, which kills itself and never answers
EXPECTED = "Task ServeController.graceful_shutdown failed"
LAST_WORDS_SECONDS = 0.3  # on their way here: 0.11 at most were measured


def silence_ray() -> None:
    """Keep Ray from this process's stdout and stderr, once and for all; call before `ray.init`."""
    logger = logging.getLogger("ray")
    logger.handlers = [logging.NullHandler()]  # with none at all logging itself takes to stderr
    logger.propagate = False
    # of the scratch folder, and of tables of Tune's that we never asked for
    logging.getLogger("ray.tune.tune").setLevel(logging.WARNING)
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
    worker: Any = importlib.import_module("ray._private.worker")
    assert callable(worker.print_to_stdstream), "this Ray prints in another way"
    worker.print_to_stdstream = _log_worker_lines


def _log_worker_lines(data: dict[str, Any], ignore_prefix: bool) -> None:
    """Log lines of one process, each marked as Ray would mark them."""
    process = data.get("pid")
    if process == "autoscaler":  # how large the cluster is, every few seconds
        return
    if str(process).isdecimal():  # else "raylet", and such
        name = data.get("actor_name") or data.get("task_name") or ""
        process = f"{name} pid={process}".strip()
    if data.get("ip") != data.get("localhost"):
        process = f"{process}, ip={data.get('ip')}"
    for text in data["lines"]:
        for line in text.splitlines():  # a death is told in one text of several
            if line.strip() and EXPECTED not in line:
                words = escape(line.expandtabs()[:LINE_CHARACTERS])
                logging.getLogger("ray.processes").info("(%s) %s", process, words)


@contextmanager
def log_ray_to(path: Path) -> Iterator[None]:
    """Within, add Ray's lines to a file, of which at most twice `FILE_BYTES` are kept.

    A disk that is full or gone loses lines of it and nothing else.

    Args:
        path: Path of the file; what is there stays.
    """
    logger = logging.getLogger("ray")
    file = _File(
        path,
        maxBytes=FILE_BYTES,
        backupCount=1,
        encoding="utf-8",
        errors="backslashreplace",
        delay=True,
    )
    file.setFormatter(
        logging.Formatter(
            "%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
        )
    )
    logger.addHandler(file)
    version = importlib.import_module("ray").__version__
    logger.info("======== a start, with Ray %s", version)
    is_cut = False
    try:
        yield
    except KeyboardInterrupt:
        is_cut = True
        raise
    finally:
        if not is_cut:
            time.sleep(LAST_WORDS_SECONDS)
        logger.removeHandler(file)
        with suppress(OSError):
            file.close()


class _File(RotatingFileHandler):
    def format(self, record: logging.LogRecord) -> str:
        """Format a record without the passwords that a storage's URL may hold."""
        return hide_passwords(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line: the search goes on without it."""
