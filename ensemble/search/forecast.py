"""How long a search will still take, from the epochs seen so far."""

import time
from collections.abc import Callable


class Forecast:
    """Counts epochs and their seconds.

    Trials are taken to last as long as those that ended did, in epochs, and an epoch as long as
    the mean of those seen; so the forecast is rough at first, and wrong where backbones differ a
    lot and the slow ones come last.

    Args:
        num_trials: Finished trials that the search is to have.
        num_finished: Those it has already.
        max_concurrent_trials: Trials at a time.
        clock: Seconds, from any zero.
    """

    def __init__(
        self,
        *,
        num_trials: int,
        num_finished: int,
        max_concurrent_trials: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._missing = num_trials - num_finished
        self._concurrent, self._clock = max_concurrent_trials, clock
        self._last_news: dict[str, float] = {}
        self._epochs: dict[str, tuple[int, int]] = {}  # of running trials: done, at most
        self._num_epochs = self._num_ended = self._ended_epochs = 0
        self._seconds = 0.0

    def start(self, trial: str, *, num_epochs: int) -> None:
        """A trial was given a process."""
        self._last_news[trial] = self._clock()
        self._epochs[trial] = 0, num_epochs

    def report(self, trial: str, epoch: int) -> None:
        """An epoch of it ended."""
        now = self._clock()
        self._seconds += now - self._last_news[trial]
        self._num_epochs += 1
        self._last_news[trial] = now
        self._epochs[trial] = epoch, self._epochs[trial][1]

    def end(self, trial: str, *, counts: bool) -> None:
        """It ended; `counts` if it is one of the wanted."""
        self._last_news.pop(trial, None)
        epochs, _ = self._epochs.pop(trial, (0, 0))
        if counts:
            self._missing -= 1
            self._num_ended += 1
            self._ended_epochs += epochs

    def seconds_left(self) -> float | None:
        """Until the last trial ends; None before the first epoch did.

        It falls while an epoch runs, but by no more than that epoch is expected to take.
        """
        if not self._num_epochs:
            return None
        now, epoch_seconds = self._clock(), self._seconds / self._num_epochs
        longest = max((most for _, most in self._epochs.values()), default=0)
        usual = self._ended_epochs / self._num_ended if self._num_ended else longest
        running = 0.0
        for trial, (done, most) in list(self._epochs.items()):
            whole = max(min(usual, most) - done, 0.5) * epoch_seconds
            running += max(0.0, whole - min(now - self._last_news.get(trial, now), epoch_seconds))
        num_waiting = max(0, self._missing - len(self._epochs))
        at_a_time = min(self._concurrent, max(self._missing, 1))
        return (running + num_waiting * usual * epoch_seconds) / at_a_time

    def seconds_until_stop(self) -> float | None:
        """Until all running trials have ended their epochs; None if nobody can tell yet."""
        if not self._num_epochs:
            return None
        now, epoch_seconds = self._clock(), self._seconds / self._num_epochs
        left = [epoch_seconds - (now - last) for last in list(self._last_news.values())]
        return max([0.0, *left])
