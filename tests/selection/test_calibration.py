"""Facts about calibration and thresholds: by hand, against scikit-learn, and by known truth."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import calibration_curve

from ensemble.base.errors import InputError
from ensemble.selection.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    logit,
    reliability_curve,
)
from ensemble.selection.thresholds import choose_threshold
from ensemble.training.metrics import best_threshold, brier_score, divide_tiles, log_loss

PROBABILITY = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
TILES = st.lists(st.tuples(st.integers(0, 1), PROBABILITY), min_size=1, max_size=25)
WITH_A_CRACK = TILES.filter(lambda tiles: any(label for label, _ in tiles))

quick = settings(max_examples=100, deadline=None)

LABELS = np.array([1, 1, 0, 1, 0, 0, 0, 1, 0, 0])
PROBABILITIES = np.array([0.95, 0.9, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def as_arrays(tiles: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = zip(*tiles, strict=True)
    return np.array(labels), np.array(probabilities, dtype=np.float64)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_known_temperature_is_recovered(temperature: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    true_logits = generator.normal(0, 2, 20_000)
    labels = (generator.random(20_000) < expit(true_logits)).astype(int)
    assert fit_temperature(true_logits * temperature, labels) == pytest.approx(
        temperature, rel=0.05
    )


def smoothed_loss(margins: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Log loss with Platt's targets, written as he has it: t log p + (1 − t) log(1 − p)."""
    cracked, uncracked = (labels == 1).sum(), (labels == 0).sum()
    targets = np.where(labels == 1, (cracked + 1) / (cracked + 2), 1 / (uncracked + 2))
    log_p, log_q = -np.logaddexp(0, [-margins / temperature, margins / temperature])
    return float(-(targets * log_p + (1 - targets) * log_q).mean())


def test_temperature_by_hand() -> None:
    # Four cracked tiles, three of them at a margin of 2 and one at -2. Platt's target is 5/6, so
    # sigmoid(2 / T) = (3 * 5/6 + 1/6) / 4 = 2/3, and T = 2 / log(2).
    margins, labels = np.array([2.0, 2.0, 2.0, -2.0]), np.ones(4)
    assert fit_temperature(margins, labels) == pytest.approx(2 / np.log(2), rel=1e-4)


@pytest.mark.parametrize("num_tiles", [10, 100, 1000])
def test_temperature_of_separated_classes_is_that_of_so_many_right_verdicts(num_tiles: int) -> None:
    # All margins are 1 on the right side: sigmoid(1 / T) = (n + 1) / (n + 2), so T = 1 / log(n + 1)
    labels = np.arange(2 * num_tiles) % 2
    temperature = fit_temperature(2.0 * labels - 1, labels)
    assert temperature == pytest.approx(1 / np.log(num_tiles + 1), rel=1e-4)


def test_temperature_ends_at_its_bounds() -> None:
    labels = np.array([0, 1])
    assert fit_temperature(np.array([-1e-3, 1e-3]), labels) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(np.array([1.0, -1.0]), labels) == pytest.approx(20, rel=1e-3)


@quick
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-30, 30)), min_size=1, max_size=30))
def test_no_other_temperature_has_a_lower_loss(tiles: list[tuple[int, float]]) -> None:
    labels, margins = as_arrays(tiles)
    lowest = smoothed_loss(margins, labels, fit_temperature(margins, labels))
    for temperature in np.geomspace(0.051, 19.9, 40):
        assert lowest <= smoothed_loss(margins, labels, temperature) + 1e-4


@pytest.mark.parametrize("rule", ["f1", "f2", "recall=0.9", "0.5", "0.9", "0.05"])
@pytest.mark.parametrize("gap", [(0.4, 0.6), (0.05, 0.95), (0.6, 0.7), (0.2, 0.3), (0.6, 0.4)])
def test_verdicts_are_the_same_on_both_scales_also_where_classes_are_apart(
    gap: tuple[float, float], rule: str
) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    low, high = gap
    probabilities = np.where(
        labels == 1, generator.uniform(high, 0.999, 400), generator.uniform(0.001, low, 400)
    )
    threshold = choose_threshold(labels, probabilities, rule).threshold
    temperature = fit_temperature(logit(probabilities), labels)
    tiles = np.append(probabilities, np.linspace(0.001, 0.999, 9981))
    tiles = tiles[np.abs(tiles - threshold) > 1e-9]
    calibrated_threshold = apply_temperature(np.array(threshold), temperature)
    verdicts = apply_temperature(tiles, temperature) >= calibrated_threshold
    np.testing.assert_array_equal(verdicts, tiles >= threshold)


def test_a_test_tile_on_the_wrong_side_is_not_called_certain_after_separated_validation() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(738) % 2
    margins = (2 * labels - 1) * generator.uniform(0.5, 4, 738)
    temperature = fit_temperature(margins, labels)
    calibrated = apply_temperature(np.array([0.3]), temperature)
    assert log_loss(np.array([1]), calibrated) < 7  # a certain error would cost 36 nats


@quick
@given(TILES, st.floats(0.05, 20))
def test_temperature_never_changes_the_ranking(
    tiles: list[tuple[int, float]], temperature: float
) -> None:
    _, probabilities = as_arrays(tiles)
    scaled = apply_temperature(probabilities, temperature)
    assert ((scaled >= 0) & (scaled <= 1)).all()
    order = np.argsort(probabilities, kind="stable")
    # neighbouring floats may meet, or miss each other by a last digit
    assert (np.diff(scaled[order]) >= -1e-14).all()
    apart = np.diff(logit(probabilities)[order]) / temperature > 1e-9
    visible = scaled[order][1:] < 0.999
    assert (np.diff(scaled[order])[apart & visible] >= 0).all()


@quick
@given(st.floats(0.05, 20))
def test_a_half_stays_a_half_and_the_threshold_can_be_scaled_too(temperature: float) -> None:
    assert apply_temperature(np.array([0.5]), temperature) == [0.5]
    threshold = choose_threshold(LABELS, PROBABILITIES).threshold
    scaled = apply_temperature(PROBABILITIES, temperature)
    scaled_threshold = apply_temperature(np.array([threshold]), temperature)[0]
    called = PROBABILITIES - threshold >= 0
    np.testing.assert_array_equal(scaled >= scaled_threshold, called)


def test_temperature_of_one_changes_nothing() -> None:
    np.testing.assert_allclose(apply_temperature(PROBABILITIES, 1.0), PROBABILITIES, rtol=1e-14)
    with pytest.raises(ValueError, match="temperature=0"):
        apply_temperature(PROBABILITIES, 0)


def test_fitting_lowers_the_loss_of_the_too_sure() -> None:
    generator = np.random.default_rng(0)
    true_logits = generator.normal(0, 2, 2000)
    labels = (generator.random(2000) < expit(true_logits)).astype(int)
    sure = expit(3 * true_logits)
    cooled = apply_temperature(sure, fit_temperature(logit(sure), labels))
    assert log_loss(labels, cooled) < log_loss(labels, sure)
    assert brier_score(labels, cooled) < brier_score(labels, sure)
    assert expected_calibration_error(labels, cooled) < 0.5 * expected_calibration_error(
        labels, sure
    )


def test_logit_is_finite_and_its_inverse_is_the_logistic_function() -> None:
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()
    np.testing.assert_allclose(logit(np.array([0.5, 0.75])), [0, np.log(3)], atol=1e-15)
    np.testing.assert_allclose(expit(logit(PROBABILITIES)), PROBABILITIES, rtol=1e-14)
    assert (np.diff(logit(np.array([0.0, 1e-15, 1e-10, 1 - 1e-10, 1.0]))) > 0).all()
    np.testing.assert_allclose(logit(np.array([0.0])), -logit(np.array([1.0])), rtol=1e-3)


def test_calibration_error_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    probabilities = np.array([0.0, 0.1, 0.2, 0.5, 0.7, 0.9, 0.9, 1.0])
    # two bins, [0, 0.5] and (0.5, 1]: means 0.2 and 0.875, shares 1/4 and 3/4
    predicted, observed, counts = reliability_curve(labels, probabilities, 2)
    np.testing.assert_allclose(predicted, [0.2, 0.875])
    np.testing.assert_allclose(observed, [0.25, 0.75])
    np.testing.assert_array_equal(counts, [4, 4])
    error = expected_calibration_error(labels, probabilities, 2)
    assert error == pytest.approx((0.05 + 0.125) / 2)


def test_calibration_error_is_nothing_for_the_truth_and_one_for_its_opposite() -> None:
    assert expected_calibration_error(LABELS, LABELS.astype(float)) == 0
    assert expected_calibration_error(LABELS, 1 - LABELS.astype(float)) == 1
    with pytest.raises(ValueError, match="num_bins=0"):
        expected_calibration_error(LABELS, PROBABILITIES, 0)


@quick
@given(TILES, st.integers(1, 20))
def test_reliability_curve_is_scikit_learns(tiles: list[tuple[int, float]], num_bins: int) -> None:
    labels, probabilities = as_arrays(tiles)
    predicted, observed, counts = reliability_curve(labels, probabilities, num_bins)
    assert counts.sum() == len(labels)
    if len(set(labels)) == 2:
        reference = calibration_curve(labels, probabilities, n_bins=num_bins)
        np.testing.assert_allclose(observed, reference[0])
        np.testing.assert_allclose(predicted, reference[1])


@quick
@given(TILES)
def test_brier_score_is_scikit_learns(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    reference = sklearn.metrics.brier_score_loss(labels, probabilities, pos_label=1)
    assert brier_score(labels, probabilities) == pytest.approx(reference)


@quick
@given(WITH_A_CRACK)
def test_rule_f1_is_the_best_threshold(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    choice = choose_threshold(labels, probabilities, "f1")
    assert (choice.threshold, choice.f1) == best_threshold(labels, probabilities)


@quick
@given(WITH_A_CRACK)
def test_rule_f2_has_the_highest_f2_of_every_division(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    choice = choose_threshold(labels, probabilities, "f2")
    called = [probabilities >= cut for cut in probabilities]
    tried = [5 * (labels & c).sum() / (c.sum() + 4 * labels.sum()) for c in called]
    assert choice.f2 == pytest.approx(max(tried))
    reference = sklearn.metrics.fbeta_score(labels, probabilities >= choice.threshold, beta=2)
    assert choice.f2 == pytest.approx(reference)


@quick
@given(WITH_A_CRACK)
def test_f2_never_calls_fewer_tiles_than_f1(tiles: list[tuple[int, float]]) -> None:
    labels, probabilities = as_arrays(tiles)
    f1, f2 = (choose_threshold(labels, probabilities, rule) for rule in ("f1", "f2"))
    assert f2.threshold <= f1.threshold


@quick
@given(WITH_A_CRACK, st.floats(0, 1))
def test_least_recall_is_reached_with_as_few_calls_as_can_be(
    tiles: list[tuple[int, float]], least: float
) -> None:
    labels, probabilities = as_arrays(tiles)
    choice = choose_threshold(labels, probabilities, f"recall={least}")
    assert choice.recall >= least
    for cut in probabilities[probabilities >= choice.threshold]:
        fewer = probabilities > cut
        assert not fewer.any() or (labels & fewer).sum() / labels.sum() < least


@pytest.mark.parametrize(
    ("rule", "threshold", "hits", "called"),
    [
        ("f1", 0.65, 3, 4),  # 6/8
        ("f2", 0.25, 4, 8),  # 20/24, where four calls reach 15/20
        ("recall=0.5", 0.875, 2, 2),
        ("recall=0.75", 0.65, 3, 4),
        ("recall=0.76", 0.25, 4, 8),
        ("recall=1", 0.25, 4, 8),
        ("recall=0", 0.925, 1, 1),  # the fewest calls that there are
        (0.5, 0.5, 3, 6),  # 0.5 itself is called
        ("0.5", 0.5, 3, 6),
        (1, 1.0, 0, 0),
    ],
)
def test_rules_by_hand(rule: str | float, threshold: float, hits: int, called: int) -> None:
    choice = choose_threshold(LABELS, PROBABILITIES, rule)
    assert choice.threshold == pytest.approx(threshold)
    assert choice.precision == pytest.approx(hits / called if called else 0)
    assert choice.recall == hits / 4
    assert choice.f1 == pytest.approx(2 * hits / (called + 4))
    assert choice.f2 == pytest.approx(5 * hits / (called + 16))


@pytest.mark.parametrize("rule", ["f3", "recall=2", "recall=", "-0.1", 1.5, "nan", ""])
def test_an_unknown_rule_is_told_what_there_is(rule: str | float) -> None:
    with pytest.raises(InputError, match="use f1, f2, recall=R or a number"):
        choose_threshold(LABELS, PROBABILITIES, rule)


def test_divisions_by_hand() -> None:
    thresholds, hits, called = divide_tiles(np.array([1, 0, 1, 0]), np.array([0.8, 0.4, 0.4, 0.2]))
    np.testing.assert_allclose(thresholds, [0.6, 0.3, 0.2])
    np.testing.assert_array_equal(hits, [1, 2, 2])
    np.testing.assert_array_equal(called, [1, 3, 4])
