"""Ctrl-C and SIGTERM end a command that trains alike: one line says how to go on.

A search ends its trials in another way, and Ray lives there: see `ensemble.search.stopping`.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class _Terminated(KeyboardInterrupt):
    """SIGTERM, such as Slurm or `kill` sends; like Ctrl-C, it is no error that anything handles."""


@contextmanager
def goes_on(how: str, say: Callable[[str], None]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the command with exit code 130 and 143.

    Args:
        how: To go on afterwards.
        say: Takes the line for the person.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    number = signal.SIGINT
    try:
        yield
        return
    except _Terminated:
        number = signal.SIGTERM
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
    say(f"interrupted: {how}")
    sys.exit(128 + number)


def _terminate(number: int, _: FrameType | None) -> None:
    raise _Terminated
