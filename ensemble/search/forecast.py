"""Forecast of how long a search will still take, from the epochs that ended."""

import math
import time
from collections.abc import Callable

ENOUGH = 0.05  # of an epoch, to say what the whole will take: its first batches are slower


class Forecast:
    """Counts epochs and their seconds.

    A trial is assumed to have as many epochs as the mean of the ended ones, and an epoch to take
    the mean time of those that ended. The forecast is therefore rough at first, and wrong where
    backbones or margins differ a lot and the slow ones come last.

    Args:
        num_trials: Finished trials that the search is to have.
        num_finished: Finished trials that it has already.
        max_concurrent_trials: Trials at a time.
        clock: Returns seconds since any moment.
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
        self._latest: dict[str, float] = {}  # of running trials: seconds of the latest epoch
        self._first: dict[str, float] = {}  # … or what the first one will have taken
        self._num_epochs = self._num_ended = self._ended_epochs = 0
        self._seconds = 0.0

    def start(self, trial: str, *, num_epochs: int) -> None:
        """Note that a trial was given a process."""
        self._last_news[trial] = self._clock()
        self._epochs[trial] = 0, num_epochs

    def report(self, trial: str, epoch: int) -> None:
        """Note that an epoch of a trial ended."""
        now = self._clock()
        self._latest[trial] = now - self._last_news[trial]
        self._seconds += self._latest[trial]
        self._num_epochs += 1
        self._last_news[trial] = now
        self._epochs[trial] = epoch, self._epochs[trial][1]

    def expect(self, trial: str, share: float) -> None:
        """Note the share that is done of the epoch that a trial trains."""
        if share >= ENOUGH and trial not in self._latest:
            self._first[trial] = (self._clock() - self._last_news[trial]) / share

    def resume(self, trial: str, epoch: int) -> None:
        """Note that a trial goes on after an epoch, which took no time now."""
        self._last_news[trial] = self._clock()
        self._epochs[trial] = epoch, self._epochs[trial][1]

    def end(self, trial: str, *, counts: bool) -> None:
        """Note that a trial ended; `counts` says whether it is one of the wanted ones."""
        self._last_news.pop(trial, None)
        self._latest.pop(trial, None)
        self._first.pop(trial, None)
        epochs, _ = self._epochs.pop(trial, (0, 0))
        if counts:
            self._missing -= 1
            self._num_ended += 1
            self._ended_epochs += epochs

    def seconds_left(self) -> float | None:
        """Seconds until the last trial ends; None while nobody knows how long an epoch takes.

        They fall while an epoch runs, but by no more than that epoch is expected to take.
        """
        seconds, count = self._seconds, self._num_epochs
        if not count:
            first = list(self._first.values())
            seconds, count = sum(first), len(first)
        if not count:
            return None
        now, epoch_seconds = self._clock(), seconds / count
        longest = max((most for _, most in list(self._epochs.values())), default=0)
        usual = self._ended_epochs / self._num_ended if self._num_ended else longest
        running = 0.0
        for trial, (done, most) in list(self._epochs.items()):
            whole = max(min(usual, most) - done, 0.5) * epoch_seconds
            running += max(0.0, whole - min(now - self._last_news.get(trial, now), epoch_seconds))
        num_waiting = max(0, self._missing - len(self._epochs))
        at_a_time = min(self._concurrent, max(self._missing, 1))
        return (running + num_waiting * usual * epoch_seconds) / at_a_time

    def seconds_until_stop(self) -> float | None:
        """Seconds until all running trials have ended their epochs.

        None where nobody knows yet how long the first epoch of one takes.
        """
        now, latest = self._clock(), self._first | self._latest
        left = [
            latest.get(trial, math.inf) - (now - last)
            for trial, last in list(self._last_news.items())
        ]
        longest = max([0.0, *left])
        return None if math.isinf(longest) else longest
