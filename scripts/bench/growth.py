"""Cost against work: how the time of each step grows with tiles, trials and members.

Each step is timed at several amounts of work and a power law is fitted, seconds = a * work^b, by
least squares between the logarithms. An exponent of 1 is in proportion, below 1 a fixed cost is
spread; what is above 1 will hurt in a larger search.
"""

import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from bench.row import Row
from bench.searcher import run_trials
from bench.selection import draw_scores
from ensemble.base.files import atomic_write, write_text
from ensemble.data.batches import make_batch
from ensemble.data.packing import pack
from ensemble.data.sources import Source, open_source
from ensemble.data.split import assign_splits, digest_split, drop_duplicates
from ensemble.data.view import View
from ensemble.evaluation.intervals import intervals
from ensemble.selection.weighting import greedy_weights
from ensemble.training.member import DevelopmentTiles, TrainingData

PART = "growth"
FEWEST_TILES = 1000
IMAGE_SIZE_PX, BATCH_SIZE, AUGMENTATION = 128, 64, 0.5
NUM_VAL_TILES, NUM_TEST_TILES = 10_000, 2_000  # scored by the members of an ensemble


@dataclass(frozen=True)
class Step:
    """A step at several amounts of work.

    Attributes:
        name: In words.
        unit: Unit of the work.
        work: Rising amounts of work.
        seconds: Seconds of each amount, the best of several.
    """

    name: str
    unit: str
    work: list[int]
    seconds: list[float]


def measure(source: Path, scratch: Path, out: Path, *, small: bool) -> list[Row]:
    """Time every step, fit its exponent, and write `growth.csv` and `growth.png`.

    Args:
        source: A folder or .zip of tiles.
        scratch: For packs and studies, on a disk; emptied afterwards.
        out: Folder of the two files; made if missing.
        small: A few small amounts of work, once each, to see that all of it works.
    """
    steps = time_steps(open_source(source), scratch, small=small)
    out.mkdir(parents=True, exist_ok=True)
    table = pd.concat([pd.DataFrame(dataclasses.asdict(step)) for step in steps])
    write_text(out / "growth.csv", table.to_csv(index=False))
    draw_steps(steps, out / "growth.png")
    rows = []
    for step in steps:
        exponent, error = fit_power_law(step.work, step.seconds)
        what = f"{step.name}: exponent of seconds against {step.unit}"
        rows += [
            Row(PART, what, exponent, "exponent"),
            Row(PART, f"{what}, standard error", error, "exponent"),
        ]
    return rows


def fit_power_law(work: list[int], seconds: list[float]) -> tuple[float, float]:
    """The exponent of `seconds = a * work^exponent` and its standard error.

    Args:
        work: At least three different amounts above 0.
        seconds: Seconds of each amount, above 0.
    """
    if len(set(work)) < 3 or len(work) != len(seconds) or min(*work, *seconds) <= 0:
        raise ValueError(
            "three different amounts of work and as many times, all above 0, must be given, "
            f"but got {work=}, {seconds=}."
        )
    x, y = np.log(work), np.log(seconds)
    x, y = x - x.mean(), y - y.mean()
    exponent = (x @ y) / (x @ x)
    residual = y - exponent * x
    return float(exponent), float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x)))


def time_steps(source: Source, scratch: Path, *, small: bool) -> list[Step]:
    """Time every step; see `measure`."""
    rounds = 1 if small else 2
    subsets = _subsets(source, num_points=3 if small else 5)
    tiles = [len(subset.tiles) for subset in subsets]
    num_members = [1, 2, 4] if small else [1, 2, 5, 10, 20, 50]
    scores = draw_scores(num_members[-1], 500 if small else NUM_VAL_TILES)
    tested = draw_scores(num_members[-1], 500 if small else NUM_TEST_TILES)

    def greedy(count: int) -> Callable[[], object]:
        return lambda: greedy_weights(scores[0][:count], *scores[1:], num_bags=1)

    def evaluate(count: int) -> Callable[[], object]:
        return lambda: _evaluate(tested[0][:count], *tested[1:], small=small)

    splitting = [_best_of(5, _splits(subset)) for subset in subsets]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        under = Path(folder) / "packs"
        packing = [_best_of(rounds, _packs(subset, under)) for subset in subsets]
        data = DevelopmentTiles(pack(subsets[-1], under=under).folder, torch.device("cpu")).open()
        loaded = _spread(len(data.train), num_points=3 if small else 5)
        loading = [_best_of(rounds, _loads(data, count)) for count in loaded]
    return [
        Step("packing", "tiles", tiles, packing),
        Step("splitting", "tiles", tiles, splitting),
        Step("one epoch's batches", "tiles", loaded, loading),
        _time_searcher(4 if small else 200, scratch),
        Step(
            "greedy selection, one bag",
            "members",
            num_members,
            [_best_of(rounds, greedy(count)) for count in num_members],
        ),
        Step(
            "evaluation with intervals",
            "members",
            num_members,
            [_best_of(1, evaluate(count)) for count in num_members],
        ),
    ]


def _best_of(rounds: int, work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _spread(largest: int, num_points: int) -> list[int]:
    """Amounts up to `largest` in equal ratios, from a thousand or, of few tiles, a quarter."""
    smallest = min(FEWEST_TILES, max(largest // 4, 1))
    return [round(count) for count in np.geomspace(smallest, largest, num_points)]


def _subsets(source: Source, num_points: int) -> list[Source]:
    """The first photographs of a drawn order, all their tiles; the last subset is everything.

    Of one surface, so that a few photographs can be split; those with tiles of both classes come
    first, so that each part of the split has cracks.
    """
    tiles = source.tiles.assign(surface="")
    unit = tiles["photograph"] if source.has_photographs else tiles["tile"]
    counts = tiles.groupby(unit)["label"].agg(["size", "nunique"])
    counts = counts.sample(frac=1, random_state=0)
    counts = counts.sort_values("nunique", ascending=False, kind="stable")
    reached = counts["size"].cumsum()
    subsets = []
    for count in _spread(len(tiles), num_points):
        chosen = counts.index[: max(int((reached < count).sum()) + 1, 3)]
        part = tiles[unit.isin(chosen)].reset_index(drop=True)
        fingerprint = f"{source.fingerprint}-{len(part)}"
        subsets.append(dataclasses.replace(source, tiles=part, fingerprint=fingerprint))
    return subsets


def _packs(source: Source, under: Path) -> Callable[[], object]:
    def work() -> None:
        shutil.rmtree(under, ignore_errors=True)
        pack(source, under=under)

    return work


def _splits(source: Source) -> Callable[[], object]:
    tiles = source.tiles.assign(content=source.tiles["tile"])  # no two are taken for equal

    def work() -> None:
        kept, _, _ = drop_duplicates(tiles)
        kept["split"] = assign_splits(kept, seed=0)
        digest_split(kept)

    return work


def _loads(data: TrainingData, count: int) -> Callable[[], object]:
    """Batches of an epoch over the first tiles, in a drawn order."""

    def work() -> None:
        generator = torch.Generator().manual_seed(0)
        for index in torch.randperm(count, generator=generator).split(BATCH_SIZE):
            make_batch(
                data.train,
                index,
                View(IMAGE_SIZE_PX),
                augmentation=AUGMENTATION,
                generator=generator,
            )

    return work


def _evaluate(
    probabilities: np.ndarray, labels: np.ndarray, photographs: np.ndarray, *, small: bool
) -> None:
    """The mean of the members, and the intervals of its figures and of each member's."""
    weights = np.full(len(probabilities), 1 / len(probabilities))
    for scores in (weights @ probabilities, *probabilities):
        intervals(labels, scores, photographs, threshold=0.5, num_resamples=50 if small else 2000)


def _time_searcher(num_stored: int, scratch: Path) -> Step:
    """Ask, reports and tell of a trial with 1 to `num_stored` trials in the study."""
    at_a_time = max(num_stored // 20, 1)
    costs = run_trials(num_stored + at_a_time, scratch=scratch)
    stored = sorted({1, *(round(n) for n in np.geomspace(2, num_stored, 6))})
    seconds = [
        statistics.median(cost.searcher_seconds for cost in costs[count : count + at_a_time])
        for count in stored
    ]
    return Step("ask, reports and tell of a trial", "stored trials", stored, seconds)


def draw_steps(steps: list[Step], path: Path) -> None:
    """Draw one panel a step, both axes logarithmic, with the fitted line.

    Args:
        steps: At least one.
        path: The .png to write.
    """
    with mpl.rc_context():
        mpl.rcdefaults()  # nobody's own settings
        columns = min(len(steps), 3)
        rows = -(-len(steps) // columns)
        figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
        for place, step in enumerate(steps, start=1):
            axes = figure.add_subplot(rows, columns, place)
            exponent, error = fit_power_law(step.work, step.seconds)
            work = np.array(step.work, dtype=np.float64)
            middle = np.exp(np.log(step.seconds).mean() - exponent * np.log(work).mean())
            axes.loglog(work, step.seconds, "o", color="tab:blue")
            axes.loglog(work, middle * work**exponent, "-", color="0.5", linewidth=1)
            axes.set_title(f"{step.name}\nexponent {exponent:.2f} ± {error:.2f}", fontsize=10)
            axes.set(xlabel=step.unit, ylabel="seconds")
            axes.set_xticks(step.work, [f"{amount:,}" for amount in step.work], fontsize=8)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_locator(NullLocator())
            axes.grid(which="major", linewidth=0.5)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
