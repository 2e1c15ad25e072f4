"""Watches over the trials: silent ones, the time limit, orphaned reservations, causes of death.

Tune calls it many times a second, whatever the trials do, so nothing here waits for one.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from ensemble.base.wording import plural
from ensemble.search.cluster.heartbeat import Beat, read_beats
from ensemble.search.cluster.reservations import ask_ray, count_places, release_orphans
from ensemble.search.stopping import Stopping
from ensemble.search.task import title_of
from ensemble.search.workers import WorkersLostError

WORKERS_LOST = WorkersLostError.__name__
ATTEMPTS = 3  # of a trial whose processes die
LOOK_EVERY_SECONDS = 2.0
REMIND_EVERY_SECONDS = 30.0
ABSENT_AFTER_SECONDS = 5.0  # Tune lets us look ten times a second, unless we stood still ourselves


class Watch(tune.Callback):
    """Ends trials that are silent, and the search when its time is up.

    Args:
        stopping: Takes the request to stop when the time is up.
        log: Takes a line for the person.
        trial_timeout_seconds: Seconds in which no batch ends, after which a trial is ended.
        max_seconds: Seconds after which no trial starts and running ones stop; None is no limit.
        workers_need: Resources that the Ray Train workers of a trial need together; empty where
            trials have no such workers.
        check_data: Raises what is wrong with the tiles; called when a process died, as damaged
            tiles kill every process that maps them.
        read_beats: Returns what trials told last, from their numbers.
        clock: Returns seconds since any moment, as `time.monotonic` does.
    """

    def __init__(
        self,
        stopping: Stopping,
        log: Callable[[str], None],
        *,
        trial_timeout_seconds: float,
        max_seconds: float | None,
        workers_need: dict[str, float],
        check_data: Callable[[], object] = lambda: None,
        read_beats: Callable[[Iterable[int]], dict[int, Beat]] = read_beats,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stopping, self._log = stopping, log
        self._timeout, self._max_seconds = trial_timeout_seconds, max_seconds
        self._workers_need, self._lacks_nodes = workers_need, False
        self._check_data, self._read_beats, self._clock = check_data, read_beats, clock
        self._trials: dict[str, Trial] = {}  # Tune's, also of those that ended
        self._last_news: dict[str, float] = {}  # of those that have a process
        self._beats: dict[int, Beat] = {}  # by the trial's number
        self._silent: set[str] = set()
        self._started = self._last_step = self._last_look = clock()
        self._last_busy = self._started

    def is_idle(self) -> bool:
        """Whether no trial has a process."""
        return not self._last_news

    def beat_of(self, number: int) -> Beat | None:
        """How far a trial with this number said that it is; None if it has not said so."""
        return self._beats.get(number)

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial was given a process."""
        self._trials[trial.trial_id] = trial
        self._last_news[trial.trial_id] = self._clock()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended."""
        self._last_news[trial.trial_id] = self._clock()

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A process died and another is asked for."""
        self._last_news.pop(trial.trial_id, None)
        self._check_data()
        self._log(
            f"{_title(trial)}: {_why_it_died(trial)}; it goes on from its last "
            f"epoch (attempt {trial.num_failures + 1} of {ATTEMPTS})"
        )

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial ended."""
        self._last_news.pop(trial.trial_id, None)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial's processes died too often, or it was ended here."""
        self._last_news.pop(trial.trial_id, None)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look for silent trials, the end of the time, and what Ray holds."""
        now = self._clock()
        absent = now - self._last_step
        self._last_step = now
        if absent > ABSENT_AFTER_SECONDS:  # stopped or suspended: nobody listened to the trials
            self._last_news = {key: last + absent for key, last in self._last_news.items()}
        if self._max_seconds is not None and now - self._started > self._max_seconds:
            hours = f"{self._max_seconds / 3600:g}"
            self._stopping.ask(f"--max-hours {hours} are over", exit_code=0)
        if now - self._last_look > LOOK_EVERY_SECONDS:
            self._last_look = now
            self._look_at_trials(now)
            if self._workers_need:
                self._look_at_nodes()
        for trial_id, last in list(self._last_news.items()):
            if self._lacks_nodes:
                self._last_news[trial_id] = now  # it waits, and not by its own fault
            elif now - last > self._timeout:
                self._end_silent(trial_id)
        if self._last_news and not self._lacks_nodes:
            self._last_busy = now
        elif now - self._last_busy > REMIND_EVERY_SECONDS:
            self._last_busy = now
            if self._lacks_nodes or not count_places():
                self._log(f"waiting for a place for a trial; Ray has {_describe_resources()}")

    def explain(self, trial_id: str) -> str | None:
        """Say why a trial whose processes died is given up; None if it should be tried again.

        Tune gives up too early where a process that is used again dies before it begins with the
        trial, as on a node that was just lost.
        """
        if trial_id in self._silent:
            return f"no report for {self._timeout / 60:g} minutes (--trial-timeout); it was ended"
        trial = self._trials.get(trial_id)
        if trial is None or trial.num_failures < ATTEMPTS:
            return None
        return f"{_why_it_died(trial)}, {plural(trial.num_failures, 'time')}"

    def _look_at_trials(self, now: float) -> None:
        """Note which trials trained on within their epochs."""
        numbers = {self._trials[key].config["number"]: key for key in self._last_news}
        nothing: dict[int, Beat] = {}
        for number, beat in ask_ray(lambda: self._read_beats(numbers), nothing).items():
            if beat != self._beats.get(number):
                self._beats[number] = beat
                self._last_news[numbers[number]] = now

    def _look_at_nodes(self) -> None:
        """Give back what dead workers had reserved, and note whether there is room for others."""
        release_orphans()
        there = ask_ray(ray.cluster_resources, self._workers_need)
        self._lacks_nodes = any(there.get(k, 0) < n for k, n in self._workers_need.items())

    def _end_silent(self, trial_id: str) -> None:
        trial = self._trials[trial_id]
        if trial_id not in self._silent:
            self._silent.add(trial_id)
            self._log(
                f"{_title(trial)} reported nothing for {self._timeout / 60:g} "
                "minutes (--trial-timeout) and is ended"
            )
        trial.max_failures = 0  # it would only be silent again
        self._last_news[trial_id] = self._clock()
        if trial.temporary_state.ray_actor is not None:
            ray.kill(trial.temporary_state.ray_actor)


def _title(trial: Trial) -> str:
    return title_of(trial.config["number"], trial.config.get("name", ""))


def _why_it_died(trial: Trial) -> str:
    """Name the cause, from the text (never the pickle) that Tune keeps of the last error."""
    path = Path(trial.error_file) if trial.error_file else None
    text = path.read_text(errors="replace") if path and path.exists() else ""
    last = text.rpartition("Failure # ")[2]
    if WORKERS_LOST in last:
        return last.rpartition(f"{WORKERS_LOST}:")[2].strip().splitlines()[0]
    if "low on memory" in last or "OutOfMemory" in last:
        return "its process was killed, as the machine ran out of memory"
    return "its node died" if "node has died" in last else "its process died"


def _describe_resources() -> str:
    free: dict[str, float] = ask_ray(ray.available_resources, {})
    there: dict[str, float] = ask_ray(ray.cluster_resources, {})
    named = [
        f"{free.get(name, 0):g} of {there.get(name, 0):g} {name}s free" for name in ("CPU", "GPU")
    ]
    return " and ".join(named)
