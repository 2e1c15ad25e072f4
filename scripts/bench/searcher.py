"""The searcher's own time: what a trial costs the driver while nothing is trained.

A real study file on disk is filled trial by trial through the searcher itself, so that a trial's
place in it is what it costs with as many stored. Beside it: the run's tables and retention, as the
search calls them after each epoch and at a trial's end.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.plan import ROOT
from bench.row import Row
from ensemble.cli import new_parser
from ensemble.run.members import member_folder
from ensemble.search.retention import Retention
from ensemble.search.searcher import StudySearcher
from ensemble.search.space_file import load_space
from ensemble.search.stopping import Stopping
from ensemble.search.study import StudyTables, finished_trials, open_study
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import write_member
from ensemble.training.config import TrialConfig, parse_config

PART = "searcher"
SPACE = ROOT / "search_spaces" / "sdnet2018.toml"
EPOCHS = 6
KEEP = new_parser("search").get_default("keep")
AT_A_TIME = 10  # trials in whose middle a point is taken


@dataclass(frozen=True)
class Cost:
    """What one trial cost beside its training.

    Attributes:
        num_stored: Trials that the study held before it.
        searcher_seconds: Seconds of ask, reports and tell together.
        tables_seconds: Seconds of the run's tables and of retention.
    """

    num_stored: int
    searcher_seconds: float
    tables_seconds: float


def measure(num_stored: int = 200, *, scratch: Path | None = None) -> list[Row]:
    """Milliseconds a trial with a quarter, half and all of `num_stored` trials in the study.

    Args:
        num_stored: Trials in the study, at the most.
        scratch: On a local disk, as SQLite wants it; the system's temporary folder if not given.
    """
    costs = run_trials(num_stored + AT_A_TIME, scratch=scratch)
    rows = []
    for stored in sorted({0, num_stored // 4, num_stored // 2, num_stored}):
        some = costs[stored : stored + AT_A_TIME]
        what = f"with {stored} trials stored"
        rows += [
            Row(
                PART,
                f"ask, reports and tell of a trial of {EPOCHS} epochs, {what}",
                1000 * statistics.mean(cost.searcher_seconds for cost in some),
                "ms",
                "<= 50" if stored == num_stored else "",
            ),
            Row(
                PART,
                f"tables and retention of such a trial, {what}",
                1000 * statistics.mean(cost.tables_seconds for cost in some),
                "ms",
            ),
        ]
    return rows


def run_trials(num_trials: int, *, scratch: Path | None = None) -> list[Cost]:
    """Let so many trials go through searcher, tables and retention, untrained.

    Args:
        num_trials: At least 1.
        scratch: On a local disk; the system's temporary folder if not given.

    Returns:
        Of each trial, in order.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        search = _Search(Path(folder) / "run", num_trials)
        return [search.run_trial(stored) for stored in range(num_trials)]


class _Search:
    """A search without Tune and without training."""

    def __init__(self, folder: Path, num_trials: int):
        folder.mkdir()
        self._folder = folder
        space = load_space(SPACE).changed(epochs=EPOCHS, image_size_px=None)
        self._study = open_study(folder / "study.db", space, sampler="tpe", seed=0)
        self._tables, self._retention = StudyTables(folder), Retention(folder, KEEP)
        self._searcher = StudySearcher(
            self._study,
            space,
            seed=0,
            num_trials=num_trials,
            max_concurrent_trials=1,
            max_failures=0,
            stopping=Stopping(print),
            make_task=lambda number, config, _: {"number": number, "config": config},
            explain_death=lambda _: None,
            max_attempts=1,
            before_end=lambda _: None,
            after_end=lambda _: None,
        )

    def run_trial(self, num_stored: int) -> Cost:
        clocks = {"searcher": 0.0, "tables": 0.0}

        def timed(clock: str, work: Callable[..., Any], *given: Any) -> Any:
            started = time.perf_counter()
            done = work(*given)
            clocks[clock] += time.perf_counter() - started
            return done

        name = f"trial-{num_stored}"
        task = timed("searcher", self._searcher.suggest, name)
        number, config = task["number"], task["config"]
        results = _make_up_results(number, config)
        for result in results:
            # Tune brings the result with which a trial ends at its end only
            tell = self._searcher.on_trial_complete if result["last"] else None
            timed("searcher", tell or self._searcher.on_trial_result, name, result)
            figures = {key: value for key, value in result.items() if key != "last"}
            timed("tables", self._tables.add_epoch, number, config.model.backbone, figures)
        _place_member(self._folder, number, results[-1])
        timed("tables", self._settle)
        return Cost(num_stored, clocks["searcher"], clocks["tables"])

    def _settle(self) -> None:
        """What the search does when a trial has ended."""
        self._retention.keep_best([trial.number for trial in finished_trials(self._study)])
        self._tables.write_trials(self._study)


def _make_up_results(number: int, config: TrialConfig) -> list[dict[str, Any]]:
    """Epochs as a trial reports them: better near a learning rate of 1e-3, with noise."""
    generator = np.random.default_rng(number)
    peak = 0.8 - 0.1 * abs(np.log10(config.optimisation.learning_rate) + 3)
    results: list[dict[str, Any]] = []
    best = 0.0
    for epoch in range(1, EPOCHS + 1):
        val_f1 = float(peak * (1 - 0.5**epoch) + 0.02 * generator.standard_normal())
        best = max(best, val_f1)
        val = ("loss", "accuracy", "precision", "recall", "f1_at_half", "average_precision")
        results.append(
            {
                "epoch": epoch,
                "train_loss": 1 - val_f1,
                "train_accuracy": val_f1,
                "learning_rate": config.optimisation.learning_rate,
                "val_f1": val_f1,
                **{f"val_{name}": float(generator.random()) for name in (*val, "threshold")},
                "best_val_f1": best,
                "train_seconds": 60.0,
                "val_seconds": 6.0,
                "images_per_second": 500.0,
                "last": epoch == EPOCHS,
            }
        )
    return results


def _place_member(run: Path, number: int, result: dict[str, Any]) -> None:
    """Write the member that a trained trial would have left, of a small network."""
    config = parse_config({"model": {"backbone": "small_cnn"}}, where="the benchmark")
    write_member(
        member_folder(run, number),
        build_model("small_cnn").state_dict(),
        np.zeros(100, np.float32),
        config=config,
        epoch=result["epoch"],
        metrics={"val_f1": result["best_val_f1"]},
        precision="float32",
        trial=number,
        split_digest="split",
        initial_weights_digest="initial",
    )
