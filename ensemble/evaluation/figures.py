"""Predictions and thresholds → every figure of the test, with its interval.

All that stands in `metrics.json` is computed from the columns of `predictions.csv` and the
thresholds of `ensemble.json`, so that anybody can compute it again.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ensemble.base.wording import plural
from ensemble.evaluation.intervals import (
    MIN_CONTRIBUTING,
    MOST_UNITS,
    Interval,
    describe_difference,
    intervals,
    measured_coverage,
    paired_intervals,
)
from ensemble.selection.calibration import expected_calibration_error
from ensemble.selection.choice import EnsembleRecord, JudgedMember
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import METRICS, brier_score, confusion_counts, log_loss, trivial_f1

COMPARED = tuple(name for name, metric in METRICS.items() if metric.is_compared)


def photograph_of(predictions: pd.DataFrame) -> np.ndarray:
    """What is resampled: each tile's photograph, or the tile itself where names carry none: (N,)"""
    return predictions[unit_of(predictions)].to_numpy(dtype=str)


def unit_of(predictions: pd.DataFrame) -> str:
    """Name of the column that is resampled: `photograph`, or `tile` where names carry none."""
    return "photograph" if (predictions["photograph"] != "").all() else "tile"


def thresholds_of(
    predictions: pd.DataFrame, threshold: float, alone: float | None
) -> np.ndarray | None:
    """The threshold of each tile: (N,); None where it is `threshold` for all of them.

    Args:
        predictions: `context`, which is "tile" where members saw the tile alone.
        threshold: Lowest probability that is called cracked, of a tile seen with its neighbours.
        alone: The same of a tile seen alone; None where no member sees more.
    """
    if alone is None or not (lone := predictions["context"] == "tile").any():
        return None
    return np.where(lone, alone, threshold)


def thresholds_in(metrics: dict[str, Any], predictions: pd.DataFrame) -> float | np.ndarray:
    """The thresholds of the ensemble, for all tiles or for each (N,); `metrics.json` in."""
    threshold, alone = metrics["ensemble"]["threshold"], metrics["choice"]["alone"]
    own = thresholds_of(predictions, threshold, None if alone is None else alone["threshold"])
    return threshold if own is None else own


class Way(NamedTuple):
    """One way in which the ensemble judges the test tiles.

    Attributes:
        name: Name for people.
        column: Column of its probabilities.
        threshold: Lowest probability that is called cracked.
        thresholds: (N,) the same for each tile, where they differ.
    """

    name: str
    column: str
    threshold: float
    thresholds: np.ndarray | None = None

    def on(self, chosen: np.ndarray) -> "Way":
        """The way on some of the tiles: (N,) bool."""
        thresholds = None if self.thresholds is None else self.thresholds[chosen]
        return self._replace(thresholds=thresholds)

    @property
    def bounds(self) -> np.ndarray | float:
        """Thresholds as the figures take them."""
        return self.threshold if self.thresholds is None else self.thresholds


def way_of(predictions: pd.DataFrame, column: str, judged: JudgedMember | EnsembleRecord) -> Way:
    """A column of `predictions` at the thresholds that were chosen for it on validation."""
    thresholds = thresholds_of(predictions, judged.threshold, judged.alone_threshold)
    return Way(column, column, judged.threshold, thresholds)


def compute_figures(predictions: pd.DataFrame, way: Way) -> dict[str, Any]:
    """All figures of one way of judging, with 95 % intervals.

    `trivial_f1` is the F1 of calling every tile cracked.

    Args:
        predictions: `tile`, `photograph`, `label` and the column of the way.
        way: Probabilities, and the thresholds that they are judged at.
    """
    labels, probabilities = predictions["label"].to_numpy(), predictions[way.column].to_numpy()
    estimates = intervals(labels, probabilities, photograph_of(predictions), threshold=way.bounds)
    return {
        **{name: _or_none(interval.value) for name, interval in estimates.items()},
        "trivial_f1": trivial_f1(labels),
        "threshold": way.threshold,
        "confusion_matrix": confusion_counts(labels, probabilities, way.bounds),
        "intervals": {name: _bounds(interval) for name, interval in estimates.items()},
    }


def ensemble_figures(predictions: pd.DataFrame, way: Way, val_f1: float) -> dict[str, Any]:
    """The ensemble's figures, and how well it is calibrated before and after its temperature."""
    labels = predictions["label"].to_numpy()
    before, after = (predictions[column].to_numpy() for column in ("ensemble", "calibrated"))
    return {
        **compute_figures(predictions, way),
        "val_f1": val_f1,
        "expected_calibration_error": expected_calibration_error(labels, before),
        "calibrated_loss": log_loss(labels, after),
        "calibrated_brier": brier_score(labels, after),
        "calibrated_expected_calibration_error": expected_calibration_error(labels, after),
    }


def member_figures(
    predictions: pd.DataFrame, member: Member, judged: JudgedMember
) -> dict[str, Any]:
    """The figures of one member by itself, at its own threshold."""
    return {
        "trial": member.trial,
        "backbone": member.record.config.model.backbone,
        "epoch": member.record.epoch,
        "val_f1": judged.val_f1,
        "num_networks": judged.num_networks,
        "num_folds": judged.num_folds,
        **compute_figures(predictions, way_of(predictions, f"trial_{member.trial}", judged)),
    }


def surface_figures(predictions: pd.DataFrame, way: Way) -> dict[str, Any]:
    """The ensemble's figures on each surface, at one threshold for all surfaces."""
    surfaces = predictions["surface"].to_numpy()
    return {
        str(surface): {
            **compute_figures(part, way.on(chosen)),
            "num_tiles": len(part),
            "num_photographs": len(set(photograph_of(part))),
        }
        for surface in np.unique(surfaces)
        for chosen in [surfaces == surface]
        for part in [predictions[chosen]]
    }


def gain_over(predictions: pd.DataFrame, ensemble: Way, single: JudgedMember) -> dict[str, Any]:
    """The ensemble's figures minus those of the best single member, on the same resamples."""
    other = way_of(predictions, f"trial_{single.trial}", single)
    return compare_ways(predictions, ensemble, other)


def gain_over_trivial(predictions: pd.DataFrame, way: Way) -> dict[str, Any]:
    """F1 minus that of calling every tile cracked, with its paired interval and a verdict."""
    everything = Way("every tile called cracked", "everything", 0.5)
    both = predictions.assign(everything=1.0)
    return compare_ways(both, way, everything, ("f1",))["f1"]


def describe_ways(predictions: pd.DataFrame, ways: Sequence[Way]) -> dict[str, Any]:
    """The ensemble's figures each way, and what each way gains over the one before it.

    Args:
        predictions: `tile`, `photograph`, `surface`, `label` and the columns of the ways.
        ways: Ways to judge, from the least that is seen of a photograph to the most.

    Returns:
        By name of the way: `same_as`, the way before it if that judges every tile alike; or
        `figures`, and `gain` over the way before (None of the first), here and by surface in
        `surfaces`, if there are several.
    """
    surface = predictions["surface"]
    parts = {"": np.ones(len(predictions), dtype=bool)}
    if surface.nunique() > 1:
        parts |= {str(name): (surface == name).to_numpy() for name in sorted(surface.unique())}
    described: dict[str, Any] = {}
    for way, before in zip(ways, [None, *ways], strict=False):
        if before is not None and is_same(predictions, way, before):
            described[way.name] = {"same_as": before.name}
            continue
        found = {}
        for name, chosen in parts.items():
            part, here = predictions[chosen], way.on(chosen)
            gain = None if before is None else compare_ways(part, here, before.on(chosen))
            found[name] = {"figures": compute_figures(part, here), "gain": gain}
        described[way.name] = {**found.pop(""), "surfaces": found}
    return described


def is_same(predictions: pd.DataFrame, first: Way, second: Way) -> bool:
    """Whether two ways judge every tile alike, by equal probabilities and thresholds."""
    one, other = (predictions[way.column].to_numpy() for way in (first, second))
    return np.array_equal(one, other) and bool(np.all(np.equal(first.bounds, second.bounds)))


def compare_ways(
    predictions: pd.DataFrame, first: Way, second: Way, metrics: Iterable[str] = COMPARED
) -> dict[str, Any]:
    """The figures of one way minus those of another, on the same resamples.

    Args:
        predictions: `tile`, `photograph`, `label` and the columns of both ways.
        first: Way whose figures are judged.
        second: Way whose figures are taken off.
        metrics: Names in `METRICS`.
    """
    differences = paired_intervals(
        predictions["label"].to_numpy(),
        predictions[first.column].to_numpy(),
        predictions[second.column].to_numpy(),
        photograph_of(predictions),
        thresholds=(first.bounds, second.bounds),
        metrics=metrics,
    )
    return {
        name: {
            "difference": _or_none(interval.value),
            **_bounds(interval),
            "verdict": describe_difference(name, interval, unit=unit_of(predictions)),
        }
        for name, interval in differences.items()
    }


def flat_row(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Figures with intervals, as `metrics.json` holds them for `name`, as a row of a table."""
    row: dict[str, Any] = {"what": name, "threshold": figures["threshold"]}
    row["val_f1"] = figures.get("val_f1")
    for metric, bounds in figures["intervals"].items():
        row[f"test_{metric}"] = figures[metric]
        row[f"test_{metric}_low"], row[f"test_{metric}_high"] = bounds["low"], bounds["high"]
    return row


def coverage_note(count: int, *, unit: str = "photograph") -> str:
    """What is known of 95 % intervals from `count` photographs, or tiles without a photograph."""
    if count < MIN_CONTRIBUTING:
        are = "is" if count == 1 else "are"
        return f"{plural(count, unit)} {are} too few to resample for intervals: ten is the least"
    groups = f", in {MOST_UNITS:,} random groups" * (count > MOST_UNITS)
    note = f"95 % intervals resample {plural(count, unit)}{groups}"
    if unit != "photograph":
        return f"{note}; how often such intervals hold the true value was not measured"
    coverage = measured_coverage("f1", count)
    if coverage is None:
        return note
    return f"{note}; in simulation such an interval held the true F1 in {coverage:.1%} of cases"


def _bounds(interval: Interval) -> dict[str, Any]:
    return {
        "low": _or_none(interval.low),
        "high": _or_none(interval.high),
        "method": interval.method,
        "num_contributing": interval.num_contributing,
    }


def _or_none(value: float) -> float | None:
    return None if value != value else float(value)
