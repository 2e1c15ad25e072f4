"""Facts about nesting: by how much figures are too good where the choice was made."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from ensemble.data.grid import PLACE
from ensemble.selection.cross_validation import cross_validate
from ensemble.selection.methods import Asked, weigh
from ensemble.selection.nesting import Optimism, estimate_optimism

METHODS = ("mean", "greedy", "weighted", "auto")


def make_table(labels: np.ndarray, tiles_per_photograph: int) -> pd.DataFrame:
    """Validation tiles whose place in the photograph is not known."""
    number = np.arange(len(labels))
    names = [f"p{i}" for i in number // tiles_per_photograph]
    known = {"tile": number.astype(str), "label": labels, "photograph": names}
    return pd.DataFrame(known | dict.fromkeys(PLACE, -1))


def nest(
    probabilities: np.ndarray, table: pd.DataFrame, method: str, *, top_k: int = 1, rule: str = "f1"
) -> Optimism:
    """The estimate of a whole choice."""
    asked = Asked(method, top_k, rule, num_bags=2)
    labels, photographs = (table[name].to_numpy() for name in ("label", "photograph"))
    weights = weigh(probabilities, labels, photographs, asked).weights
    optimism, note = estimate_optimism(probabilities, table, asked, weights)
    assert optimism is not None
    assert note == ""
    return optimism


@pytest.mark.parametrize("method", METHODS)
def test_a_choice_among_noise_is_worth_less_on_photographs_that_it_did_not_see(method: str) -> None:
    generator = np.random.default_rng(0)
    table = make_table((generator.random(400) < 0.3).astype(int), 10)
    optimism = nest(generator.random((8, 400)), table, method, top_k=2)
    assert (optimism.num_folds, optimism.num_photographs) == (5, 40)
    assert optimism.ensemble.f1 < optimism.ensemble.f1_where_chosen - 0.01


@pytest.mark.parametrize("method", METHODS)
def test_a_perfect_member_leaves_no_optimism(method: str) -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(200) < 0.3).astype(int)
    perfect = 0.7 * labels + 0.2 * generator.random(200)
    optimism = nest(np.stack([generator.random(200), perfect]), make_table(labels, 10), method)
    assert set(optimism.ensemble.model_dump().values()) == {1.0}


def test_each_photograph_is_judged_at_the_threshold_of_the_others() -> None:
    """Four photographs of a cracked and an uncracked tile; the last one is another world.

    On all of them the best threshold is 0.15: four hits and a false alarm. So it is without any of
    the first three. Without the last it is 0.4, by which that one has a miss and a false alarm.
    """
    scores = np.array([[0.9, 0.1, 0.8, 0.1, 0.7, 0.1, 0.2, 0.5]])
    optimism = nest(scores, make_table(np.array([1, 0] * 4), 2), "mean")
    assert optimism.num_folds == 4
    assert optimism.ensemble.f1_where_chosen == pytest.approx(8 / 9)
    assert (optimism.ensemble.precision, optimism.ensemble.recall) == (0.75, 0.75)
    assert optimism.ensemble.f1 == 0.75
    assert optimism.with_neighbours is None


def test_the_member_is_chosen_anew_without_the_photograph_that_is_judged() -> None:
    """Each of five members is right everywhere but in one photograph, in which it is wrong.

    The first of equals is taken. Without the photograph in which it errs it is perfect, so there it
    is taken alone and errs; without any other the second one, which errs elsewhere, is no better.
    """
    labels = np.array([1, 0] * 5)
    scores = np.where(labels == 1, 0.9, 0.1) * np.ones((5, 1))
    for i in range(5):
        scores[i, 2 * i : 2 * i + 2] = 0.1, 0.9
    optimism = nest(scores, make_table(labels, 2), "mean")
    assert optimism.ensemble.f1_where_chosen == 0.8  # four hits, one miss, one false alarm
    assert optimism.ensemble.f1 == 0.0  # each time the member that errs in what is judged is best


@pytest.mark.parametrize("rule", ["f1", "f2", "0.5"])
def test_a_method_without_a_second_stage_is_nested_as_cross_validation_judges_it(rule: str) -> None:
    generator = np.random.default_rng(1)
    labels = (generator.random(300) < 0.3).astype(int)
    scores = np.clip(0.3 * labels + 0.7 * generator.random((4, 300)), 0, 1)
    table = make_table(labels, 10)
    photographs = table["photograph"].to_numpy()
    asked = Asked("weighted", 1, rule)
    (score,) = cross_validate(
        {"weighted": lambda *seen: weigh(*seen, asked).weights},
        scores,
        labels,
        photographs,
        rule=rule,
    )
    nested = nest(scores, table, "weighted", rule=rule).ensemble
    found = 5 / (1 / nested.precision + 4 / nested.recall) if rule == "f2" else nested.f1
    assert found == pytest.approx(score.outer_score), asdict(score)
    assert nested.recall == score.outer_recall


@pytest.mark.parametrize(("num_cracked", "said"), [(1, "1 photograph has"), (3, "3 photographs")])
def test_too_few_photographs_with_cracks_are_said(num_cracked: int, said: str) -> None:
    labels = np.zeros(60, dtype=int)
    labels[: 10 * num_cracked : 10] = 1
    asked = Asked("mean", 1, "f1")
    found, note = estimate_optimism(
        np.random.default_rng(0).random((1, 60)), make_table(labels, 10), asked, np.ones(1)
    )
    assert found is None
    assert note.startswith(f"the optimism of choosing is not estimated: only {said}")


def test_tiles_without_a_photograph_stand_for_themselves() -> None:
    generator = np.random.default_rng(0)
    table = make_table((generator.random(100) < 0.3).astype(int), 1).assign(photograph="")
    optimism = nest(generator.random((2, 100)), table, "mean")
    assert (optimism.num_photographs, optimism.by_photograph) == (100, False)
