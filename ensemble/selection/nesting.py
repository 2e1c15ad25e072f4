"""Scores of all candidates → how much too good the figures are where the ensemble was chosen.

Members, weights, temperature, threshold and second stage are chosen and scored on the same
photographs. Here the whole choice is made anew without each of five folds of photographs, `auto`
with its own cross-validation within the other four, and judged on the fold that it never saw (Varma
& Simon 2006, https://doi.org/10.1186/1471-2105-7-91; Cawley & Talbot 2010, "On over-fitting in
model selection and subsequent selection bias in performance evaluation", JMLR 11). Stored scores
are enough; nothing is scored anew.

What stays in: epochs, and in a search settings, were chosen on these photographs as well. What goes
the other way: each of the five choices has four fifths of the photographs to choose on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from pydantic import Field

from ensemble.base.wording import plural
from ensemble.selection.calibration import apply_temperature, fit_temperature, logit
from ensemble.selection.cross_validation import draw_folds, left_out, rate_by_fold
from ensemble.selection.methods import Asked, weigh
from ensemble.selection.neighbours import NeighbourFit, Places, fit_neighbours
from ensemble.selection.thresholds import choose_threshold
from ensemble.selection.weighting import average, group_tiles
from ensemble.training.config import Record

MIN_CRACKED_PHOTOGRAPHS = 4  # with three, the choice within would be made on two
NUM_BAGS = 5  # of greedy selection within; 20 as outside take four times as long


class Nested(Record):
    """Figures of the ensemble's verdicts, by a choice on the same and on other photographs."""

    f1_where_chosen: float = Field(description="F1 on the photographs that were chosen on.")
    f1: float = Field(description="F1, each photograph judged by a choice without it.")
    precision: float
    recall: float


class Optimism(Record):
    """What choosing and scoring on the same photographs is worth, by nesting."""

    num_folds: int = Field(ge=2, description="Folds, of which each was left out once.")
    num_photographs: int = Field(ge=2, description="Photographs, or tiles where they have none.")
    by_photograph: bool = Field(description="False where each tile stands for itself.")
    ensemble: Nested = Field(description="Without the second stage.")
    with_neighbours: Nested | None = Field(description="Null where no second stage is kept.")


@dataclass(frozen=True, eq=False)
class JudgedMean:
    """What was fitted to the weighted mean of the members' probabilities."""

    temperature: float
    threshold: float
    calibrated_threshold: float
    second: NeighbourFit

    def rate(self, mean: np.ndarray, places: Places) -> np.ndarray:
        """How far tiles lie beyond the threshold, without and with the second stage: (2, N)."""
        beyond = mean - self.threshold
        if self.second.model is None:
            return np.stack([beyond, beyond])
        refined = self.second.model.refine(
            apply_temperature(mean, self.temperature),
            places,
            calibrated_threshold=self.calibrated_threshold,
        )
        return np.stack([beyond, refined.probabilities - refined.thresholds])


def judge_mean(mean: np.ndarray, table: pd.DataFrame, rule: str) -> JudgedMean:
    """Fit temperature, threshold and second stage to (N,) mean probabilities of a table's tiles."""
    labels = table["label"].to_numpy()
    temperature = fit_temperature(logit(mean), labels)
    threshold = choose_threshold(labels, mean, rule).threshold
    calibrated_threshold = float(apply_temperature(np.array(threshold), temperature))
    second = fit_neighbours(
        apply_temperature(mean, temperature),
        labels,
        Places.of(table),
        rule=rule,
        calibrated_threshold=calibrated_threshold,
    )
    return JudgedMean(temperature, threshold, calibrated_threshold, second)


def estimate_optimism(
    probabilities: np.ndarray,
    table: pd.DataFrame,
    asked: Asked,
    weights: np.ndarray,
    num_networks: Sequence[int] = (),
) -> tuple[Optimism | None, str]:
    """Make the whole choice anew without each fold of photographs, and judge it on that fold.

    All folds are judged together, by the sign of what lies beyond each fold's threshold. Greedy
    selection takes a quarter of its bags within, so that ten members and 47,546 tiles take seconds
    and not minutes. Its weights vary more for it, so the nested figures tend to be lower.

    Args:
        probabilities: (M, N) of "cracked", one row a candidate.
        table: The N tiles, as `read_validation` returns them.
        asked: What was asked of the choice.
        weights: (M,) weights that were chosen on all tiles.
        num_networks: Number of networks of each of the M candidates, as `weigh` takes it.

    Returns:
        The estimate, None where there can be none; and then why, a sentence without its full stop.
    """
    labels, photographs = (table[name].to_numpy() for name in ("label", "photograph"))
    num_cracked = group_tiles(labels, photographs)[1]
    by_photograph = len(num_cracked) == len(np.unique(photographs))
    unit = "photograph" if by_photograph else "tile"
    if (count := int((num_cracked > 0).sum())) < MIN_CRACKED_PHOTOGRAPHS:
        if by_photograph:
            has = "has a cracked tile" if count == 1 else "have cracked tiles"
        else:
            has = "is cracked" if count == 1 else "are cracked"
        return None, (
            f"the optimism of choosing is not estimated: only {plural(count, unit)} {has}, and "
            f"{MIN_CRACKED_PHOTOGRAPHS} are the least"
        )
    within, places = replace(asked, num_bags=min(asked.num_bags, NUM_BAGS)), Places.of(table)

    def rate(seen: np.ndarray) -> np.ndarray:
        some = probabilities[:, seen], labels[seen], photographs[seen]
        chosen = weigh(*some, within, num_networks)
        mean = average(chosen.weights, probabilities)
        return judge_mean(mean[seen], table[seen], asked.rule).rate(mean, places)

    folds = draw_folds(labels, photographs)
    plain, refined = left_out(rate_by_fold(rate, folds), folds)
    mean = average(weights, probabilities)
    whole = judge_mean(mean, table, asked.rule)
    f1 = choose_threshold(labels, mean, whole.threshold).f1
    second = whole.second.model
    return Optimism(
        num_folds=len(np.unique(folds)),
        num_photographs=len(num_cracked),
        by_photograph=by_photograph,
        ensemble=_judge(labels, plain, f1),
        with_neighbours=second and _judge(labels, refined, second.val_metrics["f1"]),
    ), ""


def _judge(labels: np.ndarray, beyond: np.ndarray, f1_where_chosen: float) -> Nested:
    """Figures of tiles that are called cracked where `beyond` is at least 0; both (N,)."""
    figures = choose_threshold(labels, beyond, 0.0)
    return Nested(
        f1_where_chosen=f1_where_chosen,
        f1=figures.f1,
        precision=figures.precision,
        recall=figures.recall,
    )
