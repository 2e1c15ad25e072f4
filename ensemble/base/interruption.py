"""Ctrl-C, SIGTERM and a closed terminal end a command; one line says how to continue.

A search stops in another way: see `ensemble.search.stopping`.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGHUP; there a command is refused, but the module can be imported
SIGNALS = tuple(s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP"))

_received: list[int] = []  # signals that `terminate` was called for


@contextmanager
def resumable(how: str, log: Callable[[str], None]) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the block and the command (exit code 130, 143, 129).

    Args:
        how: What to do to continue, for the person.
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
    """Handle the three signals in the block; under `nohup` a closed terminal sends none."""
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
    """End the command at once.

    The signal is recorded, as Ray replaces an exception that is raised while it waits.
    """
    _received.append(number)
    raise KeyboardInterrupt
