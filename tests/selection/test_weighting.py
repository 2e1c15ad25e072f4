"""Facts about the weights: by hand, against exhaustive search, and by conditions of optimality."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from ensemble.base.errors import InputError
from ensemble.selection.cross_validation import cross_validate
from ensemble.selection.weighting import (
    Method,
    convex_weights,
    diversity,
    greedy_weights,
)
from ensemble.training.metrics import best_threshold, log_loss, threshold_metrics

quick = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 10_000)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 12))


def draw_problem(
    seed: int, shape: tuple[int, int], *, steps: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Members of different worth; with `steps`, probabilities have few values and many ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, shape[1])
    labels[generator.integers(shape[1])] = 1
    worth = generator.uniform(0, 2, (shape[0], 1))
    probabilities = expit(worth * (2 * labels - 1) + generator.normal(size=shape))
    return (np.round(probabilities * steps) / steps if steps else probabilities), labels


def draw_photographs(
    seed: int, *, num_members: int = 6, num_photographs: int = 12, tiles_each: int = 20
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photographs of which half have cracks; each shifts what a member thinks of its tiles."""
    generator = np.random.default_rng(seed)
    photographs = np.repeat([f"photo-{i:02}" for i in range(num_photographs)], tiles_each)
    labels = (generator.random(len(photographs)) < 0.4).astype(int)
    labels[np.repeat(np.arange(num_photographs) % 2 == 1, tiles_each)] = 0
    labels[::tiles_each] = np.arange(num_photographs) % 2 == 0
    shift = np.repeat(generator.normal(size=(num_members, num_photographs)), tiles_each, axis=1)
    noise = generator.normal(size=(num_members, len(labels)))
    return expit(2 * labels - 1 + 0.7 * shift + noise), labels, photographs


def one_bag(probabilities: np.ndarray, labels: np.ndarray, num_picks: int) -> np.ndarray:
    return greedy_weights(
        probabilities, labels, np.full(len(labels), ""), num_picks=num_picks, num_bags=1
    )


def f1_of(weights: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> float:
    return best_threshold(labels, weights @ probabilities)[1]


def pick_slowly(probabilities: np.ndarray, labels: np.ndarray, num_picks: int) -> np.ndarray:
    """Ensemble selection word by word, every candidate scored by `best_threshold`."""
    picks: list[int] = []
    prefixes = []
    for _ in range(num_picks):
        tried = []
        for candidate in range(len(probabilities)):
            mean = probabilities[[*picks, candidate]].sum(axis=0) / (len(picks) + 1)
            tried.append((-best_threshold(labels, mean)[1], log_loss(labels, mean), candidate))
        picks.append(min(tried)[2])
        weights = np.bincount(picks, minlength=len(probabilities)) / len(picks)
        mean = weights @ probabilities
        prefixes.append((-best_threshold(labels, mean)[1], log_loss(labels, mean), len(picks)))
    length = min(prefixes)[2]
    return np.bincount(picks[:length], minlength=len(probabilities)) / length


@quick
@given(SEEDS, SHAPES, st.integers(1, 6), st.sampled_from([None, 4, 16]))
def test_greedy_is_ensemble_selection_word_by_word(
    seed: int, shape: tuple[int, int], num_picks: int, steps: int | None
) -> None:
    # quarters and sixteenths: their sums are exact, and ties of F1 and of scores abound
    probabilities, labels = draw_problem(seed, shape, steps=steps)
    np.testing.assert_array_equal(
        one_bag(probabilities, labels, num_picks), pick_slowly(probabilities, labels, num_picks)
    )


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.05, 0.15, 0.5]), st.sampled_from([0.3, 1.0, 3.0]), st.booleans())
def test_tiles_left_unsorted_never_change_a_pick(
    seed: int, share: float, worth: float, certain: bool
) -> None:
    generator = np.random.default_rng(seed)
    labels = (generator.random(150) < share).astype(int)
    labels[0] = 1
    logits = worth * (2 * labels - 1) + generator.normal(size=(8, 150))
    # the certain move a tile as far as one member can
    probabilities = (logits > 0).astype(float) if certain else expit(3 * logits)
    np.testing.assert_array_equal(
        one_bag(probabilities, labels, 10), pick_slowly(probabilities, labels, 10)
    )


@quick
@given(SEEDS, SHAPES, st.integers(1, 4))
def test_greedy_lies_between_the_best_single_and_the_best_multiset(
    seed: int, shape: tuple[int, int], num_picks: int
) -> None:
    probabilities, labels = draw_problem(seed, shape)
    found = f1_of(one_bag(probabilities, labels, num_picks), probabilities, labels)
    best_by_size = [
        max(
            f1_of(np.bincount(picks, minlength=shape[0]) / size, probabilities, labels)
            for picks in combinations_with_replacement(range(shape[0]), size)
        )
        for size in range(1, num_picks + 1)
    ]
    assert best_by_size[0] <= found <= max(best_by_size)


def test_greedy_by_hand() -> None:
    labels = np.array([1, 1, 0, 0])
    probabilities = np.array(
        [
            [0.9, 0.3, 0.5, 0.1],  # alone 4/5: one false alarm
            [0.2, 0.9, 0.1, 0.6],  # alone 4/5, with the higher loss
            [0.1, 0.2, 0.8, 0.9],  # alone 2/3
        ]
    )
    np.testing.assert_array_equal(one_bag(probabilities, labels, 1), [1, 0, 0])
    np.testing.assert_array_equal(one_bag(probabilities, labels, 2), [0.5, 0.5, 0])
    assert f1_of(np.array([0.5, 0.5, 0]), probabilities, labels) == 1


def test_of_equal_members_the_first_is_picked() -> None:
    probabilities, labels = draw_problem(0, (1, 12))
    np.testing.assert_array_equal(
        one_bag(np.repeat(probabilities, 3, axis=0), labels, 1), [1, 0, 0]
    )


@pytest.mark.parametrize("num_picks", [1, 5])
def test_one_member_has_all_the_weight(num_picks: int) -> None:
    probabilities, labels = draw_problem(1, (1, 12))
    np.testing.assert_array_equal(one_bag(probabilities, labels, num_picks), [1])
    np.testing.assert_array_equal(convex_weights(probabilities, labels), [1])


@pytest.mark.parametrize("num_bags", [1, 4])
def test_order_of_the_members_permutes_the_weights(num_bags: int) -> None:
    probabilities, labels, photographs = draw_photographs(2)
    order = np.array([3, 0, 5, 1, 4, 2])
    for choose in (
        lambda rows: greedy_weights(rows, labels, photographs, num_bags=num_bags),
        lambda rows: convex_weights(rows, labels),
    ):
        np.testing.assert_allclose(
            choose(probabilities[order]), choose(probabilities)[order], atol=1e-4
        )


def test_bags_follow_from_the_seed_and_differ_without_it() -> None:
    probabilities, labels, photographs = draw_photographs(3)
    first = greedy_weights(probabilities, labels, photographs, seed=1)
    np.testing.assert_array_equal(first, greedy_weights(probabilities, labels, photographs, seed=1))
    assert (first != greedy_weights(probabilities, labels, photographs, seed=2)).any()
    assert first.sum() == pytest.approx(1)
    assert (first >= 0).all()


def test_ids_of_photographs_may_be_numbers() -> None:
    probabilities, labels, photographs = draw_photographs(4)
    numbers = np.unique(photographs, return_inverse=True)[1]
    np.testing.assert_array_equal(
        greedy_weights(probabilities, labels, photographs, num_bags=3),
        greedy_weights(probabilities, labels, numbers, num_bags=3),
    )


def test_a_bag_always_has_cracked_tiles() -> None:
    probabilities, labels, photographs = draw_photographs(5)
    labels[20:] = 0  # one photograph of twelve has cracks
    weights = greedy_weights(probabilities, labels, photographs, num_bags=30)
    assert weights.sum() == pytest.approx(1)


@quick
@given(SEEDS, SHAPES, st.floats(0.1, 10))
def test_convex_weights_meet_the_conditions_of_the_optimum(
    seed: int, shape: tuple[int, int], sharpness: float
) -> None:
    probabilities, labels = draw_problem(seed, shape)
    logits = np.log(probabilities / (1 - probabilities)) * sharpness
    probabilities = np.clip(expit(logits), 1e-6, 1 - 1e-6)
    weights = convex_weights(probabilities, labels)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    right = np.where(labels == 1, probabilities, 1 - probabilities)
    # no member's direction lowers the loss: the mean of its ratio to the mixture is at most 1
    assert (right / (weights @ right)).mean(axis=1).max() <= 1 + 1e-4


@quick
@given(SEEDS, SHAPES)
def test_no_random_weights_have_a_lower_loss_than_the_convex_ones(
    seed: int, shape: tuple[int, int]
) -> None:
    probabilities, labels = draw_problem(seed, shape)
    lowest = log_loss(labels, convex_weights(probabilities, labels) @ probabilities)
    others = np.random.default_rng(seed).dirichlet(np.full(shape[0], 0.5), 50)
    for weights in [*others, *np.eye(shape[0]), np.full(shape[0], 1 / shape[0])]:
        assert lowest <= log_loss(labels, weights @ probabilities) + 1e-5


def test_convex_weights_by_hand() -> None:
    # Given to the truth: 0.8, 0.8, 0.2 by one and 0.2, 0.2, 0.8 by the other. The best mixture
    # gives 2/3, as often as it is the case: 0.2 + 0.6·w = 2/3.
    labels = np.array([1, 1, 1])
    probabilities = np.array([[0.8, 0.8, 0.2], [0.2, 0.2, 0.8]])
    np.testing.assert_allclose(convex_weights(probabilities, labels), [7 / 9, 2 / 9], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_member_of_pure_noise_gets_next_to_no_convex_weight(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = (generator.random(2000) < 0.2).astype(int)
    logits = 4.5 * (2 * labels - 1) + 3 * generator.normal(size=(4, 2000)) - 1.4
    probabilities = np.vstack([expit(logits), generator.random(2000)])
    assert convex_weights(probabilities, labels)[-1] < 0.02


def test_certain_errors_have_finite_weights() -> None:
    probabilities = np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]])
    weights = convex_weights(probabilities, np.array([1, 1, 0]))
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1)


def mean_of_all(
    probabilities: np.ndarray, labels: np.ndarray, photographs: np.ndarray
) -> np.ndarray:
    return np.full(len(probabilities), 1 / len(probabilities))


def recorder(seen: list[set[str]]) -> Method:
    """A method that notes the photographs it is shown and weighs all members alike."""

    def choose(
        probabilities: np.ndarray, labels: np.ndarray, photographs: np.ndarray
    ) -> np.ndarray:
        assert probabilities.shape[1] == len(labels) == len(photographs)
        assert labels.any()
        seen.append(set(photographs))
        return mean_of_all(probabilities, labels, photographs)

    return choose


@pytest.mark.parametrize(("num_folds", "expected"), [(2, 2), (5, 5), (12, 12), (50, 12)])
def test_every_photograph_is_held_out_once(num_folds: int, expected: int) -> None:
    probabilities, labels, photographs = draw_photographs(6)
    seen: list[set[str]] = []
    cross_validate(
        {"mean": recorder(seen)}, probabilities, labels, photographs, num_folds=num_folds
    )
    held_out = [set(photographs) - part for part in seen]
    assert len(held_out) == expected  # where photographs are few, one at a time
    assert sorted(name for part in held_out for name in part) == sorted(set(photographs))


@pytest.mark.parametrize("seed", range(5))
def test_cracked_photographs_are_spread_over_the_folds(seed: int) -> None:
    probabilities, labels, photographs = draw_photographs(7)  # six of twelve have cracks
    seen: list[set[str]] = []
    cross_validate({"mean": recorder(seen)}, probabilities, labels, photographs, seed=seed)
    cracked = set(photographs[labels == 1])
    assert sorted(len(cracked - part) for part in seen) == [1, 1, 1, 1, 2]


def test_outer_score_is_pooled_over_held_out_tiles() -> None:
    probabilities, labels, photographs = draw_photographs(8, num_photographs=2)
    labels[20] = 1  # cracks in both photographs, so that each can choose for the other
    first = photographs == photographs[0]
    mean = probabilities.mean(axis=0)
    called = np.where(
        first,
        mean >= best_threshold(labels[~first], mean[~first])[0],
        mean >= best_threshold(labels[first], mean[first])[0],
    )
    own = np.where(
        first,
        mean >= best_threshold(labels[first], mean[first])[0],
        mean >= best_threshold(labels[~first], mean[~first])[0],
    )
    (score,) = cross_validate({"mean": mean_of_all}, probabilities, labels, photographs)
    assert score.method == "mean"
    assert score.outer_score == threshold_metrics(labels, called.astype(float), 0.5)["f1"]
    assert score.inner_score == threshold_metrics(labels, own.astype(float), 0.5)["f1"]
    hits = (called & (labels == 1)).sum()
    assert score.outer_recall == hits / labels.sum()


def test_choosing_on_noise_is_optimistic() -> None:
    generator = np.random.default_rng(9)
    labels = (generator.random(240) < 0.3).astype(int)
    noise = generator.random((40, 240))
    photographs = np.repeat(np.arange(12), 20)
    chosen, uniform = cross_validate(
        {
            "greedy": lambda *seen: greedy_weights(*seen, num_bags=1),
            "mean": mean_of_all,
        },
        noise,
        labels,
        photographs,
    )
    assert chosen.inner_score > uniform.inner_score
    assert chosen.inner_score - chosen.outer_score > 0.1


def test_with_a_fixed_threshold_methods_are_compared_there() -> None:
    probabilities, labels, photographs = draw_photographs(8, num_photographs=6)
    (score,) = cross_validate({"mean": mean_of_all}, probabilities, labels, photographs, rule="0.4")
    expected = threshold_metrics(labels, probabilities.mean(axis=0), 0.4)
    assert score.inner_score == score.outer_score == pytest.approx(expected["f1"])
    assert score.outer_recall == pytest.approx(expected["recall"])


def test_where_a_missed_crack_costs_more_methods_are_compared_by_f2() -> None:
    probabilities, labels, photographs = draw_photographs(8, num_photographs=6)
    scores = {}
    for rule in ("f1", "f2"):
        (scores[rule],) = cross_validate(
            {"mean": mean_of_all}, probabilities, labels, photographs, rule=rule
        )
    best_f2 = best_threshold(labels, probabilities.mean(axis=0), beta=2)[1]
    assert scores["f2"].inner_score == pytest.approx(best_f2, abs=0.05)
    assert scores["f2"].outer_recall >= scores["f1"].outer_recall


def test_at_a_recall_the_method_with_fewer_false_alarms_there_wins() -> None:
    """The first is better by F1 at its best threshold, the second where every crack is found."""
    labels = np.tile([1, 1, 1, 1, 0, 0, 0, 0], 6)
    photographs = np.repeat(np.arange(6), 8)
    sure = np.tile([0.9, 0.9, 0.9, 0.1, 0.2, 0.2, 0.2, 0.2], 6)  # misses one, finds it last
    careful = np.tile([0.9, 0.6, 0.6, 0.6, 0.7, 0.7, 0.1, 0.1], 6)  # finds all, two false alarms
    methods = {"sure": lambda *_: np.array([1.0, 0.0]), "careful": lambda *_: np.array([0.0, 1.0])}
    scores = np.stack([sure, careful])
    for rule, best in (("f1", "sure"), ("recall=1.0", "careful")):
        compared = cross_validate(methods, scores, labels, photographs, rule=rule)
        assert max(compared, key=lambda score: score.outer_score).method == best
    assert [score.outer_score for score in compared] == [0.5, pytest.approx(2 / 3)]
    assert [score.outer_recall for score in compared] == [1.0, 1.0]


def test_tiles_without_photographs_stand_for_themselves() -> None:
    probabilities, labels, _ = draw_photographs(10, num_photographs=2, tiles_each=5)
    nameless = np.full(10, "")
    labels[:5], labels[5:] = 1, 0
    tiles = np.arange(10)
    assert cross_validate({"mean": mean_of_all}, probabilities, labels, nameless) == (
        cross_validate({"mean": mean_of_all}, probabilities, labels, tiles)
    )
    np.testing.assert_array_equal(
        greedy_weights(probabilities, labels, nameless, num_bags=3),
        greedy_weights(probabilities, labels, tiles, num_bags=3),
    )


def test_cross_validation_says_when_too_few_photographs_have_cracks() -> None:
    probabilities, labels, photographs = draw_photographs(11)
    labels[20:] = 0
    with pytest.raises(InputError, match="1 of 12 have any"):
        cross_validate({"mean": mean_of_all}, probabilities, labels, photographs)


def test_diversity_by_hand() -> None:
    labels = np.array([1, 1, 0, 0])
    probabilities = np.array(
        [
            [0.9, 0.1, 0.1, 0.1],  # wrong about the second
            [0.9, 0.4, 0.1, 0.9],  # wrong about the last, at 0.3
            [0.9, 0.9, 0.1, 0.1],  # never wrong
            [0.1, 0.1, 0.9, 0.9],  # always wrong
        ]
    )
    found = diversity(probabilities, labels, np.array([0.5, 0.3, 0.5, 0.5]))
    np.testing.assert_allclose(
        found["disagreement"],
        np.array([[0, 2, 1, 3], [2, 0, 1, 3], [1, 1, 0, 4], [3, 3, 4, 0]]) / 4,
    )
    nan = np.nan
    np.testing.assert_allclose(
        found["error_correlation"],
        [[1, -1 / 3, nan, nan], [-1 / 3, 1, nan, nan], [nan] * 4, [nan] * 4],
    )


def test_correlation_of_errors_is_numpys() -> None:
    probabilities, labels, _ = draw_photographs(12)
    found = diversity(probabilities, labels, np.full(6, 0.5))
    wrong = (probabilities >= 0.5) != labels
    np.testing.assert_allclose(found["error_correlation"], np.corrcoef(wrong), atol=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "labels", "settings", "message"),
    [
        ([[0.5, 0.5]], [0, 0], {}, "at least one 1"),
        ([[0.5, 1.5]], [0, 1], {}, "0 <= probabilities <= 1"),
        ([[0.5, np.nan]], [0, 1], {}, "0 <= probabilities <= 1"),
        ([[0.5]], [0, 1], {}, "must agree"),
        ([[0.5, 0.5]], [0, 1], {"num_picks": 0}, "num_picks=0"),
        ([[0.5, 0.5]], [0, 1], {"num_bags": 0}, "num_bags=0"),
    ],
)
def test_a_broken_condition_is_named(
    probabilities: list[list[float]], labels: list[int], settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        greedy_weights(
            np.array(probabilities), np.array(labels), np.full(len(labels), ""), **settings
        )
