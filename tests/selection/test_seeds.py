"""Facts about the spread of trainings that differ in their seed alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.selection.seeds import spread_over_seeds
from ensemble.training.checkpoint import Member
from ensemble.training.config import TrialConfig

LABELS = np.array([1, 1, 0, 0])
RIGHT = [2.0, 1.0, -1.0, -2.0]  # F1 1, AP 1
# a false alarm with the highest score: F1 is 0.8; AP is (1/2 + 2/3) / 2
ALARM = [1.0, 0.5, 2.0, -2.0]


@pytest.fixture
def make(
    tmp_path: Path,
    write_member: Callable[..., Member],
    make_trial_config: Callable[..., TrialConfig],
) -> Callable[..., Member]:
    """A member of a trial with a seed, margins, and sections of its configuration."""

    def member(trial: int, seed: int, margins: list[float], **sections: Any) -> Member:
        config = make_trial_config(seed=seed, **sections)
        return write_member(tmp_path / str(trial), trial=trial, margins=margins, config=config)

    return member


def test_the_spread_over_seeds_is_worked_out_from_stored_scores(make: Callable[..., Member]):
    (spread,) = spread_over_seeds([make(0, 7, RIGHT), make(3, 8, ALARM)], LABELS)
    assert spread.trials == [0, 3]
    assert spread.f1.mean == pytest.approx(0.9)
    assert spread.f1.standard_deviation == pytest.approx(0.2 / np.sqrt(2))
    assert (spread.f1.lowest, spread.f1.highest) == (pytest.approx(0.8), 1.0)
    assert spread.average_precision.mean == pytest.approx((1 + 7 / 12) / 2)
    assert spread.average_precision.lowest == pytest.approx(7 / 12)


def test_another_setting_the_same_seed_and_other_tiles_make_no_spread(make: Callable[..., Member]):
    first = make(0, 7, RIGHT)
    for other in (
        make(1, 8, ALARM, loss={"crack_weight": 2.0}),
        make(2, 7, ALARM),
        make(3, 8, [1.0, -1.0]),
    ):
        assert spread_over_seeds([first, other], LABELS) == []
    assert spread_over_seeds([], LABELS) == []


def test_each_configuration_has_a_spread_of_its_own(make: Callable[..., Member]):
    weight = {"loss": {"crack_weight": 2.0}}
    members = [make(n, n, RIGHT, **(weight if n % 2 else {})) for n in range(5)]
    found = spread_over_seeds(members, LABELS)
    assert [spread.trials for spread in found] == [[0, 2, 4], [1, 3]]
    assert {spread.f1.standard_deviation for spread in found} == {0.0}
