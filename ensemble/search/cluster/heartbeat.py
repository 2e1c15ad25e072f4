"""How far a trial is within its epoch, told through Ray's control store.

Tune hears of a trial when an epoch ends, which on all tiles and a slow machine may take an hour. In
between, the process that trains leaves a note in the key-value store that every Ray has, and the
search reads it: a trial that trains is told from one that hangs, and people see how far it is.
"""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import ray
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

TELL_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Beat:
    """What a trial told last.

    Attributes:
        epoch: Number of the epoch that it trains.
        share: Share of that epoch that is done, from 0 to 1.
    """

    epoch: int
    share: float


class Heartbeat:
    """Tells how far a trial is, from the process that trains it.

    Args:
        number: Number of the trial.
        clock: Returns seconds since any moment.
    """

    def __init__(self, number: int, *, clock: Callable[[], float] = time.monotonic):
        self._number, self._clock = number, clock
        self._told_at = -TELL_EVERY_SECONDS

    def __call__(self, epoch: int, share: float) -> None:
        """Note that so much of an epoch is done; what comes too soon after the last is not told."""
        now = self._clock()
        if now - self._told_at < TELL_EVERY_SECONDS:
            return
        self._told_at = now
        with suppress(RayError):  # `lifeline` ends a search that has no control store
            _internal_kv_put(str(self._number), json.dumps([epoch, share]), namespace=_namespace())


def read_beats(numbers: Iterable[int]) -> dict[int, Beat]:
    """Read what the trials with these numbers told last, of this job, by number."""
    beats = {}
    for number in numbers:
        text = _internal_kv_get(str(number), namespace=_namespace())
        if text is not None:
            beats[number] = Beat(*json.loads(text))
    return beats


def _namespace() -> str:
    """The job's own: other searches on the cluster number their trials alike."""
    return f"crack-ensemble-{ray.get_runtime_context().get_job_id()}"
