"""Ctrl-C, SIGTERM and a closed terminal end a command alike: one line says how to go on.

A search ends its trials in another way, and Ray lives there: see `ensemble.search.stopping`.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP; there a command is refused, but the module can be imported
SIGNALS = tuple(s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP"))

_received: list[int] = []  # those that `terminate` was called for


@contextmanager
def resumable(how: str, log: Callable[[str], None]) -> Iterator[None]:
    """Within, Ctrl-C, SIGTERM and SIGHUP end the command with exit code 130, 143 and 129.

    Args:
        how: How to go on afterwards, in words for the person.
        log: Takes the line for the person.
    """
    with handled_by(terminate):
        try:
            yield
            return
        except KeyboardInterrupt:
            log(f"interrupted: {how}")
    sys.exit(128 + (_received or [signal.SIGINT])[-1])


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, a handler takes the three signals; `nohup` keeps a closed terminal from being one."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [n for n in SIGNALS if n != signal.SIGHUP or before[n] != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


def terminate(number: int, _: FrameType | None) -> None:
    """End the command there and then.

    The number is kept aside, as Ray puts an exception of its own in the place of what is raised
    while it waits.
    """
    _received.append(number)
    raise KeyboardInterrupt
