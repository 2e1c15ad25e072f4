"""Calibrated scores of whole photographs → each tile's score in the light of the tiles around it.

A crack goes on in the next tile, so the scores around a tile say something that its own pixels do
not. A second classifier that reads the first one's scores around a place is stacked sequential
learning (Cohen & Carvalho 2005, "Stacked sequential learning", IJCAI) and auto-context (Tu 2008,
doi 10.1109/CVPR.2008.4587436). Here it is a logistic regression on `FIGURES`, fitted on validation
tiles, whose scores are as those of any other new photograph: no network was trained on them.

A tile is refined where at least one of the 24 tiles around it (5 × 5) was judged, too. Any other
tile keeps its calibrated score, bit for bit. Both are probabilities of "cracked", but a refined one
is judged by this stage's threshold, and one that was kept by the ensemble's own on the calibrated
scale, so that a lone tile gets the verdict that it gets without this stage. `Refined` holds the
threshold that goes with each score.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from pydantic import Field, field_validator
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]

from ensemble.base.wording import plural
from ensemble.data.grid import PLACE, look_around
from ensemble.selection.calibration import logit
from ensemble.selection.cross_validation import cross_validate, draw_folds
from ensemble.selection.thresholds import choose_threshold, is_number, name_score
from ensemble.training.config import Record
from ensemble.training.metrics import log_loss, ranking_metrics, threshold_metrics, tile_losses

REACH = 2  # tiles on each side that are read
MIN_CRACKED_PHOTOGRAPHS = 4  # fewer say nothing about a photograph that was left out

# Penalties on squared coefficients, for figures with a standard deviation of 1 and a loss summed
# over tiles. That of neighbours is large because tiles of a photograph are alike: of 1 … 300, 100
# was best or nearly so on SDNET2018's validation photographs, whichever figures were read.
L2_OWN, L2_NEIGHBOURS = 1.0, 100.0

# What is read around a tile, all of it in logits. `ahead` is the highest of the eight directions,
# each of which counts as the lower one of the two tiles that lie in it: a crack comes from far.
# In a linear model the mean at the corners, that of the 16 beyond and the photograph's mean added
# nothing to these on SDNET2018's validation photographs.
FIGURES = ("own", "highest_beside", "mean_beside", "ahead")
DOWN, RIGHT = np.abs(np.indices((2 * REACH + 1, 2 * REACH + 1)) - REACH)  # from the middle
BESIDE = DOWN + RIGHT == 1  # the 4 that share an edge with the tile


@dataclass(frozen=True, eq=False)
class Places:
    """Places in their photographs of tiles that lie edge to edge.

    Attributes:
        photographs: (N,) ids of photographs; empty where it is not known.
        rows: (N,) rows in the photograph, from 0; −1 where it is not known.
        columns: (N,) columns in the photograph, from 0; −1 where it is not known.
        names: (N,) names of the tiles, which tell a tile from its copies; None where tiles come
            before their copies.
    """

    photographs: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    names: np.ndarray | None = None

    @classmethod
    def of(cls, table: pd.DataFrame) -> Self:
        """Places of a table with `tile`, `photograph` and the columns of `PLACE`."""
        return cls(*(table[name].to_numpy() for name in ("photograph", *PLACE, "tile")))


@dataclass(frozen=True, eq=False)
class Refined:
    """Scores after the second stage.

    Attributes:
        probabilities: (N,) refined where a tile has a neighbour, else the calibrated score itself.
        thresholds: (N,) lowest probability that is called cracked, for each tile.
    """

    probabilities: np.ndarray
    thresholds: np.ndarray

    @property
    def called(self) -> np.ndarray:
        """Whether each tile is called cracked: (N,) bool."""
        return self.probabilities >= self.thresholds


class NeighbourGain(Record):
    """What the stage gains on photographs that its coefficients and threshold had not seen."""

    log_loss: float
    log_loss_without: float = Field(description="That of the same regression on the own score.")
    standard_error: float = Field(description="Standard error of the difference, over photographs.")
    score: float = Field(description="What the threshold's rule asks for (see `rule_score`).")
    score_without: float = Field(description="What it asks for, of the calibrated score.")

    @property
    def helps(self) -> bool:
        """Whether the log loss falls by more than its standard error, and the score does not.

        It is the rule of one standard error (Breiman et al. 1984): of two models that differ by
        less than that, the simpler one is kept. The reference reads the own score, so that nothing
        is credited to neighbours that another calibration would have gained as well. The log loss
        decides because it needs no threshold, and one tile more or less moves it little.
        """
        gain = self.log_loss_without - self.log_loss
        return gain > self.standard_error and self.score >= self.score_without


class NeighbourModel(Record):
    """A tile's refined logit: the intercept and the coefficients times the figures around it."""

    intercept: float
    coefficients: dict[str, float] = Field(
        description="Coefficient of each figure; `own` has none below 0."
    )
    threshold: float = Field(ge=0, le=1, description="Lowest refined score that is called cracked.")
    val_metrics: dict[str, float] = Field(
        description="Figures of cross-fitted scores at the threshold."
    )
    gain: NeighbourGain

    @field_validator("coefficients")
    @classmethod
    def _check_coefficients(cls, coefficients: dict[str, float]) -> dict[str, float]:
        if set(coefficients) != set(FIGURES) or coefficients["own"] < 0:
            raise ValueError(f"one for each of {', '.join(FIGURES)}, and none below 0 for own")
        return coefficients

    def refine(
        self, calibrated: np.ndarray, places: Places, *, calibrated_threshold: np.ndarray | float
    ) -> Refined:
        """Refine the score of every tile that has a neighbour.

        Args:
            calibrated: (N,) calibrated scores of whole photographs, as far as they were judged.
            places: Places of the N tiles.
            calibrated_threshold: The ensemble's threshold, (N,) or one for all, for tiles without
                a neighbour.
        """
        has, figures = read_surroundings(calibrated, places)
        weights = np.array([self.coefficients[name] for name in FIGURES])
        probabilities = np.array(calibrated, dtype=np.float64)
        probabilities[has] = expit(figures @ weights + self.intercept)
        return Refined(probabilities, np.where(has, self.threshold, calibrated_threshold))


@dataclass(frozen=True, eq=False)
class NeighbourFit:
    """A second stage that was tried.

    Attributes:
        model: The stage, fitted on all photographs; None where it does not help.
        scores: (N,) cross-fitted, also where the stage does not help: each photograph's by a stage
            that did not see it; calibrated ones where a tile has no neighbour or nothing could be
            tried.
        note: What it gained, or why there is none: a sentence without its full stop.
    """

    model: NeighbourModel | None
    scores: np.ndarray
    note: str


def read_surroundings(calibrated: np.ndarray, places: Places) -> tuple[np.ndarray, np.ndarray]:
    """The figures of every tile that has a neighbour.

    A hole or what lies beyond the rim has no part in any figure. A figure of which nothing is there
    is the mean of the neighbours that are.

    Args:
        calibrated: (N,) calibrated scores.
        places: Places of the N tiles.

    Returns:
        Whether each tile has a neighbour (N,), and the figures (K, F) of the K that do.
    """
    logits = logit(calibrated)
    around = gather_around(logits, places)  # (N, 5, 5), NaN in the middle and where nothing is
    has = ~np.isnan(around).all(axis=(1, 2))
    around = around[has]
    mean = _mean(around[:, DOWN + RIGHT > 0])
    figures = {
        "own": logits[has],
        "highest_beside": _highest(around[:, BESIDE]),
        "mean_beside": _mean(around[:, BESIDE]),
        "ahead": _highest(
            np.minimum(around[:, 1:-1, 1:-1], around[:, ::2, ::2]).reshape(len(mean), 9)
        ),
    }
    columns = [np.where(np.isnan(figures[name]), mean, figures[name]) for name in FIGURES]
    return has, np.stack(columns, axis=1)


def gather_around(values: np.ndarray, places: Places) -> np.ndarray:
    """The values of the tiles around each tile: (N,) → (N, 5, 5) with NaN where there is none.

    The middle, the tile itself, is NaN. Of several tiles in one place, copies of one another, the
    first by name is the neighbour of others.
    """
    around = look_around(
        places.photographs, places.rows, places.columns, reach=REACH, names=places.names
    )
    around[:, REACH, REACH] = -1
    return np.where(around < 0, np.nan, values[around])


def fit_neighbours(
    calibrated: np.ndarray,
    labels: np.ndarray,
    places: Places,
    *,
    rule: str,
    calibrated_threshold: float,
) -> NeighbourFit:
    """Fit the second stage on validation tiles; keep it where it helps on photographs left out.

    Each fold of photographs is refined by a stage that was fitted on the others. The threshold is
    fitted to these cross-fitted scores, and the stage that is returned to all photographs.

    Args:
        calibrated: (N,) calibrated scores of the ensemble.
        labels: (N,) of 0 and 1.
        places: Places of the N tiles.
        rule: Rule of the threshold. Where it is a number, that is a threshold on the ensemble's
            mean, and the stage takes its counterpart on the calibrated scale, whose unit it shares.
        calibrated_threshold: The ensemble's threshold on that scale.
    """
    has, figures = read_surroundings(calibrated, places)
    known, own, photographs = labels[has], calibrated[has], places.photographs[has]
    num_cracked = len(np.unique(photographs[known == 1]))
    if num_cracked < MIN_CRACKED_PHOTOGRAPHS:
        return NeighbourFit(None, calibrated, _explain_too_few(has, num_cracked))
    asked: str | float = calibrated_threshold if is_number(rule) else rule
    folds = draw_folds(known, photographs)
    refined = _cross_fit(figures, known, folds)
    gain = _compare(
        known, refined, _cross_fit(figures[:, :1], known, folds), own, photographs, rule=asked
    )
    note = _describe_gain(gain, rule)
    scores = np.array(calibrated, dtype=np.float64)
    scores[has] = refined
    if not gain.helps:
        return NeighbourFit(None, scores, note)
    coefficients, intercept = _regress(figures, known)
    threshold = choose_threshold(known, refined, asked).threshold
    thresholds = np.where(has, threshold, calibrated_threshold)
    model = NeighbourModel(
        intercept=intercept,
        coefficients=dict(zip(FIGURES, coefficients.tolist(), strict=True)),
        threshold=threshold,
        val_metrics=threshold_metrics(labels, scores, thresholds) | ranking_metrics(labels, scores),
        gain=gain,
    )
    return NeighbourFit(model, scores, note)


def _cross_fit(figures: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Scores of tiles by regressions that saw none of their fold: (K, F), (K,), (K,) → (K,)."""
    scores = np.empty(len(labels))
    for fold in np.unique(folds):
        left_out = folds == fold
        coefficients, intercept = _regress(figures[~left_out], labels[~left_out])
        scores[left_out] = expit(figures[left_out] @ coefficients + intercept)
    return scores


def _regress(figures: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients (F,) and intercept of a logistic regression, the first coefficient at least 0.

    The penalty pulls towards the score that is there already, a coefficient of 1 for the first
    figure and 0 for all others. It is weak on the first figure and the intercept, so that a score
    that is not well calibrated yet is no reason to use neighbours. The loss is strictly convex.
    """
    spread = figures.std(axis=0)
    spread[spread == 0] = 1
    scaled = (figures - figures.mean(axis=0)) / spread
    scaled = np.column_stack([scaled, np.ones(len(labels))])
    neutral = np.zeros(scaled.shape[1])
    neutral[0], neutral[-1] = spread[0], figures[:, 0].mean()
    penalty = np.full(scaled.shape[1], L2_NEIGHBOURS)
    penalty[[0, -1]] = L2_OWN

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits, moved = scaled @ weights, weights - neutral
        loss = (np.logaddexp(0, logits) - labels * logits).sum() + penalty @ moved**2 / 2
        return float(loss), scaled.T @ (expit(logits) - labels) + penalty * moved

    optimum = minimize(
        loss_and_gradient,
        neutral,
        method="L-BFGS-B",
        jac=True,
        bounds=[(0, None)] + [(None, None)] * (len(neutral) - 1),
        options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-6},
    )
    coefficients = optimum.x[:-1] / spread
    return coefficients, float(optimum.x[-1] - coefficients @ figures.mean(axis=0))


def _compare(
    labels: np.ndarray,
    refined: np.ndarray,
    reference: np.ndarray,
    calibrated: np.ndarray,
    photographs: np.ndarray,
    *,
    rule: str | float,
) -> NeighbourGain:
    """Compare scores of photographs left out; all (K,), `reference` by the own score alone."""
    change = tile_losses(labels, refined) - tile_losses(labels, reference)
    of_photograph = np.unique(photographs, return_inverse=True)[1]
    count = of_photograph.max() + 1
    beyond_mean = np.bincount(of_photograph, weights=change - change.mean())  # as a ratio's
    error = np.sqrt(count / (count - 1) * beyond_mean @ beyond_mean) / len(labels)
    after, before = (
        cross_validate({"": lambda *_: np.ones(1)}, scores[None], labels, photographs, rule=rule)[
            0
        ].outer_score
        for scores in (refined, calibrated)
    )
    return NeighbourGain(
        log_loss=log_loss(labels, refined),
        log_loss_without=log_loss(labels, reference),
        standard_error=float(error),
        score=after,
        score_without=before,
    )


def _describe_gain(gain: NeighbourGain, rule: str) -> str:
    """Say what the stage gains on photographs left out, and so whether it is used."""
    verdict = "help" if gain.helps else "do not help enough and are not used"
    return (
        f"the neighbours' scores {verdict}: on photographs left out they change the log loss from "
        f"{gain.log_loss_without:.4f} to {gain.log_loss:.4f} (standard error of the difference "
        f"{gain.standard_error:.4f}) and the {name_score(rule)} from {gain.score_without:.3f} to "
        f"{gain.score:.3f}"
    )


def _explain_too_few(has: np.ndarray, num_cracked: int) -> str:
    """Say why no second stage can be fitted."""
    if not has.any():
        return (
            "the neighbours' scores are not used: no validation tile has a neighbour whose place "
            "in the photograph is known"
        )
    return (
        "the neighbours' scores are not used: only "
        f"{plural(num_cracked, 'validation photograph')} with cracked tiles and a known grid, and "
        f"{MIN_CRACKED_PHOTOGRAPHS} are the least"
    )


def _highest(values: np.ndarray) -> np.ndarray:
    """The highest number in each row, NaN where it has none: (K, n) → (K,)."""
    return np.fmax.reduce(values, axis=1)


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean of the numbers in each row, NaN where it has none: (K, n) → (K,)."""
    count = (~np.isnan(values)).sum(axis=1)
    return np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)
