"""Ctrl-C, SIGTERM and a closed terminal end a command alike: one line says how to go on.

A search ends its trials in another way, and Ray lives there: see `ensemble.search.stopping`.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """A signal such as Slurm, `kill` or a closed terminal sends; no error handler takes it.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextmanager
def goes_on(how: str, say: Callable[[str], None]) -> Iterator[None]:
    """Within, Ctrl-C, SIGTERM and SIGHUP end the command with exit code 130, 143 and 129.

    Args:
        how: How to go on afterwards, in words for the person.
        say: Takes the line for the person.
    """
    number = int(signal.SIGINT)
    with handled_by(terminate):
        try:
            yield
            return
        except Terminated as error:
            number = error.number
        except KeyboardInterrupt:
            pass
    say(f"interrupted: {how}")
    sys.exit(128 + number)


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
    """Raise what ends the command there and then."""
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
