"""Requests to end a search before it has all its trials, and the exit code of the command.

Running trials end by themselves at their next epoch; nothing is killed.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ray import tune

from ensemble.base.errors import InputError
from ensemble.base.interruption import handled_by, terminate


@dataclass(frozen=True)
class StopRequest:
    """Why the search ends.

    Attributes:
        words: Reason, for the person.
        exit_code: Exit code of the command.
    """

    words: str
    exit_code: int


class Stopping:
    """Holds the request to stop: the first one, or the first of something that went wrong.

    Args:
        log: Takes a line for the person.
    """

    def __init__(self, log: Callable[[str], None]):
        self._log = log
        self._lock = threading.RLock()  # `fail` asks, too
        self.describe_wait: Callable[[], str] = str  # set by who knows the trials
        self.request: StopRequest | None = None
        self.error: Exception | None = None  # a fault of the program, with its traceback

    def ask(self, words: str, *, exit_code: int, hint: str = "") -> None:
        """Ask the search to end because of `words`; a hint is printed with them and not kept."""
        with self._lock:
            if self.request is None:
                self.request = StopRequest(words, exit_code)
                wait = self.describe_wait()
                when = f"running trials end after this epoch{', ' if wait else ''}{wait}"
                self._log(f"stopping: {words}; {when}{'; ' if hint else ''}{hint}")

    def note(self, words: str) -> None:
        """Keep the reason why the search has ended; it replaces errors that followed from it."""
        with self._lock:
            if self.request is None or self.request.exit_code == 2:
                self.request, self.error = StopRequest(words, 2), None

    def fail(self, words: str) -> None:
        """Ask the search to end with exit code 2, even if it is ending already."""
        with self._lock:
            if self.request is not None and self.request.exit_code != 2:
                self._log(words)
                self.request = StopRequest(words, 2)
            self.ask(words, exit_code=2)

    @contextmanager
    def nothing_escapes(self) -> Iterator[None]:
        """Within, an exception asks the search to end, instead of reaching Tune.

        Tune takes whatever its callbacks raise for the death of a trial's process.
        """
        try:
            yield
        except InputError as error:
            self.fail(str(error))
        except Exception as error:
            self.error = self.error or error
            self.fail(f"{type(error).__name__}: {error}")


class StopByErrors(tune.Callback):
    """Passes Tune's calls to a callback, whose exceptions end the search in order.

    Args:
        callback: Callback that takes every call.
        stopping: Takes the request to stop.
    """

    def __init__(self, callback: tune.Callback, stopping: Stopping):
        self._callback, self._stopping = callback, stopping

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune writes its callbacks into a file that is never read."""
        return {}


def _hand_on(hook: str) -> Callable[..., None]:
    def call(self: StopByErrors, *arguments: Any, **info: Any) -> None:
        with self._stopping.nothing_escapes():
            getattr(self._callback, hook)(*arguments, **info)

    return call


for _hook in [name for name in dir(tune.Callback) if name.startswith("on_")]:
    setattr(StopByErrors, _hook, _hand_on(_hook))


class StopTrials(tune.Stopper):
    """Ends each trial at its next result once there is a request to stop.

    Args:
        stopping: Holds the request.
        is_idle: Says whether no trial has a process; then the search ends at once.
    """

    def __init__(self, stopping: Stopping | None, is_idle: Callable[[], bool]):
        self._stopping, self._is_idle = stopping, is_idle

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Say whether the trial with this result is to end."""
        return self._stopping is not None and self._stopping.request is not None

    def stop_all(self) -> bool:
        """Say whether the search has nothing left to wait for."""
        return self._stopping is not None and self._stopping.request is not None and self._is_idle()

    def __reduce__(self) -> tuple[Any, ...]:  # Tune pickles it into a file that is never read
        return StopTrials, (None, bool)


@contextmanager
def stop_on_signals(stopping: Stopping) -> Iterator[None]:
    """Within, the first signal asks to stop and the second ends the command at once."""
    asking: threading.Thread | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asking
        if asking is not None:
            terminate(number, frame)
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        # from another thread: the signal may have come in the middle of writing a line
        asking = threading.Thread(
            target=stopping.ask,
            args=(name,),
            kwargs={"exit_code": 128 + number, "hint": "once more ends at once"},
        )
        asking.start()

    with handled_by(handle):
        yield
        if asking is not None:
            asking.join()
