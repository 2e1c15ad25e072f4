"""What the person at the terminal sees: a live table, or a plain line an epoch in a log file."""

import time
from dataclasses import dataclass
from typing import Any

from ray import tune
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensemble.search.tables import RunTables

NUM_BEST = 5


@dataclass
class _Running:
    number: int
    backbone: str
    num_epochs: int
    started: float
    epoch: int = 0
    images_per_second: float | None = None
    val_f1: float | None = None
    best_val_f1: float | None = None

    def seconds_left(self) -> float | None:
        if not self.epoch:
            return None
        return (time.monotonic() - self.started) / self.epoch * (self.num_epochs - self.epoch)


class Progress(tune.Callback):
    """Shows and records what Tune's trials report.

    Args:
        tables: Take every epoch.
        console: Of the person.
        num_trials: Finished trials that the run is to have.
        num_finished: Those it has already.
    """

    def __init__(self, tables: RunTables, console: Console, num_trials: int, num_finished: int):
        self._tables, self._console = tables, console
        self._num_trials, self._counts = num_trials, {"finished": num_finished}
        self._running: dict[str, _Running] = {}
        self._best: list[tuple[float, int, str]] = []
        self._started = time.monotonic()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks into a file that is never read."""
        return {}

    def say(self, line: str) -> None:
        """Print a line, above the table where there is one."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial was given a process."""
        config = trial.config["config"]
        running = _Running(
            number=trial.config["number"],
            backbone=config["model"]["backbone"],
            num_epochs=config["optimisation"]["epochs"],
            started=time.monotonic(),
        )
        self._running[trial.trial_id] = running
        self._log(f"trial {running.number} starts: {running.backbone}")

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended."""
        if "epoch" not in result:
            return
        running = self._running[trial.trial_id]
        running.epoch = result["epoch"]
        running.images_per_second = result["images_per_second"]
        running.val_f1, running.best_val_f1 = result["val_f1"], result["best_val_f1"]
        figures = {
            name: value
            for name, value in result.items()
            if name in _FIGURES or name.startswith("val_")
        }
        self._tables.add_epoch(running.number, running.backbone, figures)
        self._log(
            f"trial {running.number} epoch {running.epoch}/{running.num_epochs}: "
            f"val F1 {running.val_f1:.3f} (best {running.best_val_f1:.3f}), "
            f"loss {result['train_loss']:.3f} / {result['val_loss']:.3f}, "
            f"{running.images_per_second:.0f} images/s"
        )

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial ended by itself, by early stopping, or with a failure it could name."""
        result = trial.last_result or {}
        if result.get("failure"):
            self._end(trial, "failed", f"failed: {result['failure']}")
        elif result.get("last"):
            self._end(trial, "finished", "finished")
        else:
            self._end(trial, "stopped early", "stopped")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """A trial's process died."""
        self._end(trial, "failed", "failed: its process died")

    def _end(self, trial: Any, kind: str, words: str) -> None:
        running = self._running.pop(trial.trial_id, None)
        if running is None:
            return
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if running.best_val_f1 is not None:
            best = (-running.best_val_f1, running.number, running.backbone)
            self._best = sorted([*self._best, best])[:NUM_BEST]
        after = f" after epoch {running.epoch}" if running.epoch else ""
        best_f1 = f", best val F1 {running.best_val_f1:.3f}" if running.best_val_f1 else ""
        done = self._counts["finished"] + self._counts.get("stopped early", 0)
        self._log(
            f"trial {running.number} {words}{after}{best_f1} [{done}/{self._num_trials} trials]"
        )

    def _log(self, line: str) -> None:
        if not self._console.is_terminal:
            self.say(f"{_clock(time.monotonic() - self._started)} {line}")

    def _render(self) -> Group:
        table = Table(title_justify="left", expand=False)
        for name in ("trial", "backbone", "epoch", "images/s", "val F1", "best", "left"):
            table.add_column(name, justify="left" if name == "backbone" else "right")
        for running in list(self._running.values()):
            left = running.seconds_left()
            table.add_row(
                str(running.number),
                running.backbone,
                f"{running.epoch}/{running.num_epochs}",
                _number(running.images_per_second, 0),
                _number(running.val_f1, 3),
                _number(running.best_val_f1, 3),
                "" if left is None else _clock(left),
            )
        counts = ", ".join(f"{count} {kind}" for kind, count in self._counts.items())
        elapsed = _clock(time.monotonic() - self._started)
        head = f"{elapsed}  {len(self._running)} running, {counts}, of {self._num_trials} trials"
        best = "  ".join(f"{-f1:.3f} (trial {n}, {name})" for f1, n, name in self._best)
        return Group(table, Text(head), Text(f"best val F1: {best}" if best else ""))


_FIGURES = {
    "epoch",
    "train_loss",
    "train_accuracy",
    "learning_rate",
    "best_val_f1",
    "train_seconds",
    "images_per_second",
}


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
