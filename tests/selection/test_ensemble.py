"""Facts about the ensemble as an object: what it does with its members' probabilities."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensemble.data.batches import SplitTiles
from ensemble.run.members import score_tiles
from ensemble.selection.ensemble import Ensemble
from ensemble.training.checkpoint import Member


def make_ensemble(
    *weights: float,
    threshold: float = 0.4,
    temperature: float = 2.0,
    members: Sequence[Member] = (),
) -> Ensemble:
    return Ensemble(
        members, np.array(weights), threshold, (16, 16), torch.device("cpu"), temperature
    )


def test_mean_is_weighted_by_hand() -> None:
    probabilities = np.array([[0.0, 0.25, 1.0], [0.5, 0.75, 1.0]])
    assert make_ensemble(0.5, 0.5).weigh(probabilities).tolist() == [0.25, 0.5, 1.0]
    assert make_ensemble(0.25, 0.75).weigh(probabilities)[0] == 0.375


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (1, 5), elements=st.floats(0, 1)))
def test_ensemble_of_one_is_its_member(probabilities: np.ndarray) -> None:
    assert np.array_equal(make_ensemble(1.0).weigh(probabilities), probabilities[0])


def test_verdict_is_cracked_from_the_threshold_on_and_the_same_on_the_calibrated_scale() -> None:
    ensemble = make_ensemble(1.0, threshold=0.4)
    probabilities = np.array([0.3, 0.4, np.nextafter(0.4, 1), 0.9])
    assert ensemble.judge(probabilities).tolist() == [False, True, True, True]
    odds = math.sqrt(0.4 / 0.6)  # a temperature of 2 halves the logit
    assert ensemble.calibrated_threshold == pytest.approx(odds / (1 + odds))
    calibrated = ensemble.calibrate(probabilities)
    assert ((calibrated >= ensemble.calibrated_threshold) == ensemble.judge(probabilities)).all()


def test_networks_are_loaded_once_and_score_as_each_member_by_itself(
    tmp_path: Path,
    write_member: Callable[..., Member],
    make_bright_and_dark: Callable[..., SplitTiles],
) -> None:
    members = [write_member(tmp_path / str(trial), trial=trial) for trial in range(2)]
    ensemble = make_ensemble(0.5, 0.5, members=members)
    tiles = make_bright_and_dark(8)
    first = ensemble.score(tiles)
    for member in members:
        for file in member.folder.iterdir():
            file.unlink()
    assert np.array_equal(ensemble.score(tiles), first)
    for trial in range(2):
        write_member(tmp_path / str(trial), trial=trial)
    assert np.array_equal(score_tiles(members, tiles), first)
