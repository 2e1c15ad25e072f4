"""A live table of the trials on a terminal, or a plain line an epoch in a log file."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensemble.base.wording import clock, format_number, plural
from ensemble.run.events import epoch_figures
from ensemble.search.cluster.heartbeat import Beat
from ensemble.search.forecast import ENOUGH, Forecast
from ensemble.search.stopping import Stopping
from ensemble.search.study import StudyTables
from ensemble.search.task import Task, title_of

NUM_BEST = 5
LOOK_EVERY_SECONDS = 2.0
REMIND_EVERY_SECONDS = 60.0
TELL_EPOCH_EVERY_SECONDS = 300.0  # in a log: an epoch of all tiles may take an hour


@dataclass
class RunningTrial:
    """A row of the live table."""

    number: int
    backbone: str
    num_epochs: int
    epoch: int = 0
    epoch_seconds: float = 0.0
    reported_at: float = 0.0
    images_per_second: float | None = None
    val_f1: float | None = None
    best_val_f1: float | None = None
    name: str = ""
    beat: Beat | None = None
    said_at: float = 0.0

    @property
    def title(self) -> str:
        """What people call the trial."""
        return title_of(self.number, self.name)

    @property
    def epochs_done(self) -> str:
        """Epochs that are done, with the share of the one that is trained, such as 1.43."""
        if self.beat is None or self.beat.epoch != self.epoch + 1:
            return str(self.epoch)
        return f"{self.epoch + min(self.beat.share, 0.99):.2f}"

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the last epoch ends, if all take as long as the latest one."""
        since, epoch_seconds = now - self.reported_at, self.epoch_seconds
        if not self.epoch:
            if self.beat is None or self.beat.share < ENOUGH:
                return None
            epoch_seconds = since / self.beat.share
        whole = epoch_seconds * (self.num_epochs - self.epoch)
        return max(0.0, whole - min(since, epoch_seconds))


@dataclass
class StartingTrial:
    """A trial without a process: it is starting, or there is no place for it."""

    number: int
    name: str
    since: float
    has_place: bool = False
    said_at: float | None = None


@dataclass(frozen=True)
class Finished:
    """A trial that an earlier search of the run finished."""

    number: int
    backbone: str
    best_val_f1: float
    stopped_early: bool
    name: str = ""


class Progress(tune.Callback):
    """Shows and records what Tune's trials report.

    Args:
        tables: Tables that every epoch is written to.
        console: Terminal or log of the person.
        stopping: Request to stop; once there is one, trials that end go on another time.
        explain_death: Says why the processes of a trial (Tune's id) died; None if it goes on.
        beat_of: Says how far the trial with this number is within its epoch.
        count_places: Counts the trials for which Ray has a place.
        num_trials: Finished trials that the run is to have.
        stored: Finished trials that it has already.
        interrupted: Numbers of trials that go on, each with the last epoch that was told of it.
        max_concurrent_trials: Trials at a time.
        max_seconds: Seconds that the search may take; None is no limit.
    """

    def __init__(
        self,
        tables: StudyTables,
        console: Console,
        stopping: Stopping,
        explain_death: Callable[[str], str | None],
        beat_of: Callable[[int], Beat | None],
        count_places: Callable[[], int],
        *,
        num_trials: int,
        stored: Sequence[Finished],
        interrupted: Mapping[int, int],
        max_concurrent_trials: int,
        max_seconds: float | None,
    ):
        self._tables, self._console, self._stopping = tables, console, stopping
        self._explain_death, self._beat_of = explain_death, beat_of
        self._count_places = count_places
        num_stopped = sum(trial.stopped_early for trial in stored)
        self._num_trials, self._counts = num_trials, {"finished": len(stored) - num_stopped}
        if num_stopped:
            self._counts["stopped early"] = num_stopped
        self._max_seconds = max_seconds
        self._forecast = Forecast(
            num_trials=num_trials,
            num_finished=len(stored),
            max_concurrent_trials=max_concurrent_trials,
        )
        stopping.describe_wait = self._describe_wait
        self._told = dict(interrupted)  # the last epoch, by the trial's number
        self._running: dict[str, RunningTrial] = {}
        self._starting: dict[str, StartingTrial] = {}
        self._last_look = -LOOK_EVERY_SECONDS
        self._best = sorted(
            (-one.best_val_f1, one.number, f"{title_of(one.number, one.name)}, {one.backbone}")
            for one in stored
        )
        del self._best[NUM_BEST:]
        self._started = time.monotonic()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2)

    @property
    def num_finished(self) -> int:
        """Trials that are finished or were stopped early."""
        return sum(self._counts.get(kind, 0) for kind in ("finished", "stopped early"))

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial was given a process."""
        running = _describe(trial)
        running.said_at = running.reported_at = time.monotonic()
        self._running[trial.trial_id] = running
        self._starting.pop(trial.trial_id, None)
        self._forecast.start(trial.trial_id, num_epochs=running.num_epochs)
        self._log(f"{running.title} starts: {running.backbone}")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Note how far the trials are, and which wait for a process."""
        now = time.monotonic()
        if now - self._last_look < LOOK_EVERY_SECONDS:
            return
        self._last_look = now
        self._note_shares(now)
        self._note_starting(trials, now)

    def _note_shares(self, now: float) -> None:
        for trial_id, running in self._running.items():
            running.beat = self._beat_of(running.number)
            if running.beat is None or running.beat.epoch != running.epoch + 1:
                continue
            self._forecast.expect(trial_id, running.beat.share)
            if now - running.said_at >= TELL_EPOCH_EVERY_SECONDS:
                running.said_at = now
                left = self._left()
                self._log(
                    f"{running.title} epoch {running.beat.epoch}/{running.num_epochs}: "
                    f"{running.beat.share:.0%} done{f' [{left}]' if left else ''}"
                )

    def _note_starting(self, trials: list[Trial], now: float) -> None:
        """Note which trials wait for a process, which imports torch at first and takes a while."""
        pending = {t.trial_id: t for t in trials if t.status == Trial.PENDING}
        for trial_id in self._starting.keys() - pending.keys():
            del self._starting[trial_id]
        if not pending:
            return
        num_placed = self._count_places() - len(self._running)
        for index, (trial_id, trial) in enumerate(pending.items()):
            number, name = trial.config["number"], trial.config.get("name", "")
            one = self._starting.setdefault(trial_id, StartingTrial(number, name, now))
            one.has_place = index < num_placed
            is_due = one.said_at is None or now - one.said_at >= REMIND_EVERY_SECONDS
            if one.has_place and is_due:
                waited = f" ({clock(now - one.since)})" if one.said_at else ""
                self._log(f"{title_of(number, name)}: its process is starting{waited}")
                one.said_at = now

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended; a trial that goes on tells its last one again."""
        if "epoch" not in result:
            return
        running = self._running[trial.trial_id]
        goes_on = not running.epoch and self._told.get(running.number) == result["epoch"]
        self._told[running.number] = result["epoch"]
        running.epoch, running.reported_at = result["epoch"], time.monotonic()
        running.said_at = running.reported_at
        running.epoch_seconds = result["train_seconds"] + result["val_seconds"]
        running.images_per_second = result["images_per_second"]
        running.val_f1, running.best_val_f1 = result["val_f1"], result["best_val_f1"]
        note = self._forecast.resume if goes_on else self._forecast.report
        note(trial.trial_id, running.epoch)
        figures = {"epoch": running.epoch, **epoch_figures(result)}
        figures["precision"] = result["precision"]
        self._tables.add_epoch(running.number, running.backbone, figures)
        if goes_on:
            self._log(
                f"{running.title} goes on after epoch {running.epoch} of "
                f"{running.num_epochs} (best val F1 {running.best_val_f1:.3f})"
            )
            return
        self._log(
            f"{running.title} epoch {running.epoch}/{running.num_epochs}: "
            f"val F1 {running.val_f1:.3f} (best {running.best_val_f1:.3f}), "
            f"loss {result['train_loss']:.3f} / {result['val_loss']:.3f}, "
            f"{running.images_per_second:.0f} images/s"
        )

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial ended by itself, by early stopping, or with a failure it could name."""
        result = trial.last_result or {}
        if result.get("failure"):
            self._end(trial, "failed", f"failed: {result['failure']}")
        elif self._stopping.request is not None and not result.get("last"):
            self._end(trial, "interrupted", "interrupted")
        elif result.get("last"):
            self._end(trial, "finished", "finished")
        else:
            self._end(trial, "stopped early", "stopped")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial's processes died too often, or could not be started."""
        self._running.setdefault(trial.trial_id, _describe(trial))
        reason = self._explain_death(trial.trial_id)
        if reason is None:
            self._end(trial, "interrupted", "lost its process and is tried again")
        else:
            self._end(trial, "failed", f"failed: {reason}")

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A trial's process died and another is asked for."""
        self._running.pop(trial.trial_id, None)
        self._forecast.end(trial.trial_id, counts=False)

    def _end(self, trial: Trial, kind: str, words: str) -> None:
        running = self._running.pop(trial.trial_id, None)
        if running is None:
            return
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._forecast.end(trial.trial_id, counts=kind in ("finished", "stopped early"))
        if running.best_val_f1 is not None:
            what = f"{running.title}, {running.backbone}"
            best = (-running.best_val_f1, running.number, what)
            self._best = sorted([*self._best, best])[:NUM_BEST]
        after = f" after epoch {running.epoch}" if running.epoch else ""
        best_f1 = f", best val F1 {running.best_val_f1:.3f}" if running.best_val_f1 else ""
        done = self.num_finished
        left = self._left()
        self._log(
            f"{running.title} {words}{after}{best_f1} "
            f"[{done}/{plural(self._num_trials, 'trial')}{f', {left}' if left else ''}]"
        )

    def _left(self) -> str:
        if self._stopping.request is not None:
            return f"stopping {self._describe_wait()}".rstrip()
        seconds = self._forecast.seconds_left()
        return "" if seconds is None or seconds < 1 else f"about {clock(seconds)} left"

    def _describe_wait(self) -> str:
        seconds = self._forecast.seconds_until_stop()
        return "" if seconds is None or seconds < 1 else f"in about {clock(seconds)}"

    def _log(self, line: str) -> None:
        if not self._console.is_terminal:
            used = clock(time.monotonic() - self._started)
            self._console.print(f"{used} {line}", highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        table = Table(title_justify="left", expand=False)
        for name in ("trial", "backbone", "epoch", "images/s", "val F1", "best", "left"):
            table.add_column(name, justify="left" if name == "backbone" else "right")
        for running in list(self._running.values()):
            left = running.seconds_left(time.monotonic())
            table.add_row(
                running.name or str(running.number),
                running.backbone,
                f"{running.epochs_done}/{running.num_epochs}",
                format_number(running.images_per_second, ".0f"),
                format_number(running.val_f1),
                format_number(running.best_val_f1),
                "" if left is None else clock(left),
            )
        counts = ", ".join(f"{count} {kind}" for kind, count in list(self._counts.items()))
        used = clock(time.monotonic() - self._started)
        if self._max_seconds is not None:
            used += f" of {clock(self._max_seconds)}"
        of = plural(self._num_trials, "trial")
        head = f"{used}  {len(self._running)} running, {counts}, of {of}"
        if forecast := self._left():
            head += f"; {forecast}"
        best = "  ".join(f"{-f1:.3f} ({what})" for f1, _, what in self._best)
        lines = [head, *self._describe_starting(), f"best val F1: {best}" if best else ""]
        return Group(table, *(Text(line) for line in lines))

    def _describe_starting(self) -> list[str]:
        """Name the trials without a process, and how long they have waited."""
        lines = []
        for has_place, what in ((True, "process starting"), (False, "no place yet")):
            waiting = [one for one in list(self._starting.values()) if one.has_place == has_place]
            if waiting:
                waited = clock(time.monotonic() - min(one.since for one in waiting))
                lines.append(f"{what}: {_list_titles(waiting)} ({waited})")
        return lines


def _describe(trial: Trial) -> RunningTrial:
    task = Task.model_validate(trial.config)
    config = task.config
    return RunningTrial(
        task.number, config.model.backbone, config.optimisation.epochs, name=task.name
    )


def _list_titles(waiting: Sequence[StartingTrial]) -> str:
    if waiting[0].name:
        return "; ".join(one.name for one in waiting)
    return f"trial{'s' * (len(waiting) > 1)} {', '.join(str(one.number) for one in waiting)}"
