"""Facts about the second stage: a tile's score in the light of the scores around it."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from ensemble.selection import neighbours
from ensemble.selection.neighbours import (
    FIGURES,
    NeighbourGain,
    NeighbourModel,
    Places,
    fit_neighbours,
    gather_around,
    read_surroundings,
)
from ensemble.selection.thresholds import choose_threshold
from ensemble.training.metrics import log_loss

COUNT = 14 * 18
GAIN = NeighbourGain(
    log_loss=0.1, log_loss_without=0.2, standard_error=0.01, score=0.8, score_without=0.7
)


def make_places(num_photographs: int, rows: int = 6, columns: int = 8) -> Places:
    """Whole photographs, tile by tile, row by row."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    names = [f"p{number}" for number in range(num_photographs)]
    return Places(
        np.repeat(names, rows * columns).astype(object),
        np.tile(row, num_photographs),
        np.tile(column, num_photographs),
    )


def make_model(**changes: Any) -> NeighbourModel:
    coefficients = dict.fromkeys(FIGURES, 0.25) | {"own": 1.0}
    fields = {"intercept": -0.5, "coefficients": coefficients, "threshold": 0.3}
    return NeighbourModel.model_validate({**fields, "val_metrics": {}, "gain": GAIN} | changes)


def take(places: Places, kept: np.ndarray) -> Places:
    return Places(places.photographs[kept], places.rows[kept], places.columns[kept])


def draw_cracks(num_photographs: int, *, seed: int, noise: float) -> tuple[np.ndarray, ...]:
    """Calibrated scores and labels of photographs in every other of which one row is cracked.

    A tile's own score is poor; its row tells more.
    """
    places = make_places(num_photographs)
    generator = np.random.default_rng(seed)
    photograph = np.repeat(np.arange(num_photographs), 48)
    cracked_row = generator.integers(1, 5, num_photographs)[photograph]
    labels = ((places.rows == cracked_row) & (photograph % 2 == 0)).astype(int)
    logits = 3 * labels - 2.5 + noise * generator.normal(size=len(labels))
    return 1 / (1 + np.exp(-logits)), labels


# --- what is around a tile


def test_window_holds_the_tiles_around_and_nothing_of_another_photograph() -> None:
    places = make_places(2, rows=3, columns=4)
    around = gather_around(np.arange(24.0), places)
    nan = math.nan
    expected = [
        [nan, nan, nan, nan, nan],
        [nan, 0, 1, 2, 3],
        [nan, 4, nan, 6, 7],
        [nan, 8, 9, 10, 11],
        [nan, nan, nan, nan, nan],
    ]
    assert np.array_equal(around[5], expected, equal_nan=True)
    assert np.array_equal(around[17], np.array(expected) + 12, equal_nan=True)


def test_figures_are_those_worked_out_by_hand() -> None:
    places = make_places(1, rows=5, columns=5)
    logits = np.full(25, -4.0)
    logits[11] = 2.0  # to the left of the middle, tile 12
    logits[18] = 1.5  # below and to the right of it
    logits[24] = 1.0  # farther in the same direction
    logits[2] = 3.0  # two rows above it
    logits[12] = 0.5
    has, figures = read_surroundings(1 / (1 + np.exp(-logits)), places)
    assert has.all()
    found = dict(zip(FIGURES, figures[12], strict=True))
    assert found == pytest.approx(
        {
            "own": 0.5,
            "highest_beside": 2.0,
            "mean_beside": (2 - 3 * 4) / 4,
            "ahead": 1.0,  # the lower one of the two below and to the right
        }
    )


def test_hole_and_rim_leave_the_figures_to_the_tiles_that_are_there() -> None:
    places = make_places(1, rows=3, columns=3)
    kept = np.array([0, 1, 4])  # a corner, the tile to its right, and the one below that
    logits = np.array([0.0, 1.0, -2.0])
    has, figures = read_surroundings(1 / (1 + np.exp(-logits)), take(places, kept))
    assert has.all()
    assert figures[0] == pytest.approx([0.0, 1.0, 1.0, -0.5])


def test_only_far_neighbours_stand_for_the_near_ones() -> None:
    places = take(make_places(1), np.array([0, 2]))
    has, figures = read_surroundings(np.array([0.5, 1 / (1 + math.exp(-1))]), places)
    assert has.all()
    assert figures[0] == pytest.approx([0, 1, 1, 1])


@pytest.mark.parametrize(
    "change",
    [
        {"rows": np.array([-1, -1])},
        {"columns": np.array([-1, -1])},
        {"photographs": np.array(["", ""], dtype=object)},
        {"photographs": np.array(["a", "b"], dtype=object)},
        {"columns": np.array([0, 3])},
    ],
)
def test_lone_tile_passes_through_bit_for_bit_with_the_ensembles_threshold(
    change: dict[str, Any],
) -> None:
    places = replace(take(make_places(1), np.array([0, 1])), **change)
    calibrated = np.array([0.1 + 0.2, 1e-300])
    refined = make_model().refine(calibrated, places, calibrated_threshold=0.4)
    assert refined.probabilities.tobytes() == calibrated.tobytes()
    assert refined.thresholds.tolist() == [0.4, 0.4]


def test_tile_with_a_neighbour_is_judged_by_the_threshold_of_the_stage() -> None:
    places = take(make_places(1), np.array([0, 1, 7]))
    refined = make_model().refine(np.array([0.5, 0.5, 0.35]), places, calibrated_threshold=0.4)
    assert refined.thresholds.tolist() == [0.3, 0.3, 0.4]
    expected = 1 / (1 + math.exp(0.5))  # every figure is a logit of 0
    assert refined.probabilities == pytest.approx([expected, expected, 0.35])
    assert refined.called.tolist() == [True, True, False]


def test_copy_of_a_tile_has_its_neighbours_and_is_none_itself() -> None:
    places = take(make_places(1), np.array([0, 1, 1]))
    around = gather_around(np.array([0.0, 1.0, 2.0]), places)
    assert around[:, 2, 1].tolist() == pytest.approx([math.nan, 0.0, 0.0], nan_ok=True)
    assert around[:, 2, 3].tolist() == pytest.approx([1.0, math.nan, math.nan], nan_ok=True)
    assert np.isfinite(around).sum() == 3


def test_order_of_tiles_is_irrelevant() -> None:
    places = make_places(3)
    calibrated = np.random.default_rng(0).random(len(places.rows))
    order = np.random.default_rng(1).permutation(len(calibrated))
    model = make_model()
    straight = model.refine(calibrated, places, calibrated_threshold=0.5).probabilities
    mixed = model.refine(calibrated[order], take(places, order), calibrated_threshold=0.5)
    assert mixed.probabilities == pytest.approx(straight[order], abs=1e-12)


# --- the model


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 95), st.floats(0, 1), st.floats(0, 1))
def test_refined_score_never_falls_where_the_own_score_rises(
    seed: int, tile: int, low: float, high: float
) -> None:
    calibrated = np.random.default_rng(seed).random(96)
    scores = []
    for own in sorted((low, high)):
        calibrated[tile] = own
        refined = make_model().refine(calibrated, make_places(2), calibrated_threshold=0.5)
        scores.append(refined.probabilities[tile])
    assert scores[0] <= scores[1]


def test_regression_is_that_of_scikit_learn_where_the_penalty_is_weak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "L2_OWN", 1e-6)
    monkeypatch.setattr(neighbours, "L2_NEIGHBOURS", 1e-6)
    generator = np.random.default_rng(0)
    figures = generator.normal(size=(400, 3)) * [1, 5, 0.2] + [2, 0, -1]
    labels = (figures @ [1, 0.2, -2] + generator.logistic(size=400) > 3).astype(int)
    coefficients, intercept = neighbours._regress(figures, labels)
    reference = LogisticRegression(C=1e6, tol=1e-10, max_iter=10_000).fit(figures, labels)
    assert coefficients == pytest.approx(reference.coef_[0], rel=1e-3)
    assert intercept == pytest.approx(reference.intercept_[0], rel=1e-3)


def test_regression_on_a_score_that_is_against_the_labels_ignores_it() -> None:
    own = np.linspace(-2, 2, 100)
    coefficients, _ = neighbours._regress(own[:, None], (own < 0).astype(int))
    assert coefficients[0] == 0


def test_model_comes_back_from_json_and_refuses_other_figures() -> None:
    model = make_model()
    stored = json.loads(json.dumps(model.model_dump(mode="json")))
    assert NeighbourModel.model_validate(stored) == model
    for coefficients in (
        {"own": 1.0},
        model.coefficients | {"other": 1.0},
        model.coefficients | {"own": -0.1},
        model.coefficients | {"own": math.nan},
    ):
        with pytest.raises(ValidationError, match="coefficients"):
            make_model(coefficients=coefficients)


# --- fitting it


def test_stage_is_kept_where_cracks_run_through_tiles_and_lowers_the_loss_elsewhere() -> None:
    calibrated, labels = draw_cracks(20, seed=0, noise=1.5)
    places = make_places(20)
    fit = fit_neighbours(calibrated, labels, places, rule="f1", calibrated_threshold=0.4)
    assert fit.model is not None
    assert fit.note.startswith("the neighbours' scores help: on photographs left out")
    others, labels_of_others = draw_cracks(20, seed=1, noise=1.5)
    refined = fit.model.refine(others, places, calibrated_threshold=0.4).probabilities
    assert log_loss(labels_of_others, refined) < log_loss(labels_of_others, others)
    chosen = choose_threshold(labels, fit.scores, "f1")
    assert fit.model.threshold == chosen.threshold
    assert fit.model.val_metrics["f1"] == chosen.f1


def test_stage_is_dropped_where_neighbours_say_nothing() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(960) < 0.2).astype(int)
    logits = 3 * labels - 2.5 + generator.normal(size=960)
    calibrated = 1 / (1 + np.exp(-logits))
    fit = fit_neighbours(calibrated, labels, make_places(20), rule="f1", calibrated_threshold=0.4)
    assert fit.model is None
    assert fit.scores.shape == calibrated.shape  # what was tried, so that it can be reported
    assert not np.isclose(fit.scores, calibrated).any()
    assert "do not help enough and are not used" in fit.note


def test_cross_fitted_scores_of_a_photograph_do_not_know_its_labels() -> None:
    calibrated, labels = draw_cracks(20, seed=0, noise=1.5)
    places = make_places(20)
    folds = neighbours.draw_folds(labels, places.photographs)
    _, figures = read_surroundings(calibrated, places)
    before = neighbours._cross_fit(figures, labels, folds)
    changed = np.where(folds == 2, 1 - labels, labels)
    after = neighbours._cross_fit(figures, changed, folds)
    assert np.array_equal(before[folds == 2], after[folds == 2])
    assert not np.isclose(before[folds != 2], after[folds != 2]).any()


def test_lone_tiles_have_no_part_in_the_fit() -> None:
    calibrated, labels = draw_cracks(20, seed=0, noise=1.5)
    places = make_places(20)
    alone = fit_neighbours(calibrated, labels, places, rule="f1", calibrated_threshold=0.4)
    lone = Places(
        np.append(places.photographs, ["lone", ""]),
        np.append(places.rows, [3, 3]),
        np.append(places.columns, [3, 3]),
    )
    fit = fit_neighbours(
        np.append(calibrated, [0.9, 0.2]),
        np.append(labels, [0, 1]),
        lone,
        rule="f1",
        calibrated_threshold=0.4,
    )
    assert fit.model is not None
    assert alone.model is not None
    assert fit.model.coefficients == alone.model.coefficients
    assert fit.model.threshold == alone.model.threshold
    assert fit.scores[-2:].tolist() == [0.9, 0.2]
    called = np.append(alone.scores >= alone.model.threshold, [True, False])
    assert fit.model.val_metrics["accuracy"] == (called == np.append(labels, [0, 1])).mean()


def test_number_as_a_rule_is_a_threshold_on_the_ensembles_scale() -> None:
    calibrated, labels = draw_cracks(20, seed=0, noise=1.5)
    fit = fit_neighbours(calibrated, labels, make_places(20), rule="0.5", calibrated_threshold=0.45)
    assert fit.model is not None
    assert fit.model.threshold == 0.45


@pytest.mark.parametrize("rule", ["f2", "recall=0.9"])
def test_threshold_follows_the_rule_on_cross_fitted_scores(rule: str) -> None:
    calibrated, labels = draw_cracks(20, seed=0, noise=1.5)
    fit = fit_neighbours(calibrated, labels, make_places(20), rule=rule, calibrated_threshold=0.4)
    assert fit.model is not None
    assert fit.model.threshold == choose_threshold(labels, fit.scores, rule).threshold


def test_reason_is_said_where_there_are_too_few_photographs_or_no_grid() -> None:
    calibrated, labels = draw_cracks(6, seed=0, noise=1.5)  # three of them have cracks
    places = make_places(6)
    fit = fit_neighbours(calibrated, labels, places, rule="f1", calibrated_threshold=0.4)
    assert fit.model is None
    assert "only 3 validation photographs with cracked tiles" in fit.note
    unknown = replace(places, rows=np.full(len(labels), -1))
    fit = fit_neighbours(calibrated, labels, unknown, rule="f1", calibrated_threshold=0.4)
    assert fit.model is None
    assert "no validation tile has a neighbour" in fit.note


@pytest.mark.parametrize(
    ("changes", "helps"),
    [
        ({}, True),
        ({"log_loss": 0.195}, False),  # by less than its standard error
        ({"score": 0.69}, False),
        ({"score": 0.7}, True),
    ],
)
def test_stage_helps_by_more_than_noise_or_not_at_all(
    changes: dict[str, float], helps: bool
) -> None:
    assert GAIN.model_copy(update=changes).helps is helps
