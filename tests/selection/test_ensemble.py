"""Facts about the ensemble as an object: what it does with its members' probabilities."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensemble.data.batches import SplitTiles, place_tiles
from ensemble.data.windows import find_neighbours
from ensemble.run.members import count_scores, score_tiles
from ensemble.selection.choice import TileAlone
from ensemble.selection.ensemble import Ensemble
from ensemble.selection.neighbours import Places
from ensemble.training.checkpoint import Member
from ensemble.training.config import TrialConfig
from ensemble.training.loop import predict_margins
from ensemble.training.metrics import margins_to_probabilities


def make_ensemble(
    *weights: float,
    threshold: float = 0.4,
    temperature: float = 2.0,
    members: Sequence[Member] = (),
) -> Ensemble:
    return Ensemble(
        members=members,
        weights=np.array(weights),
        threshold=threshold,
        tile_size_px=(16, 16),
        stored_size_px=(16, 16),
        device=torch.device("cpu"),
        temperature=temperature,
    )


def test_mean_is_weighted_by_hand() -> None:
    probabilities = np.array([[0.0, 0.25, 1.0], [0.5, 0.75, 1.0]])
    assert make_ensemble(0.5, 0.5).weigh(probabilities).tolist() == [0.25, 0.5, 1.0]
    assert make_ensemble(0.25, 0.75).weigh(probabilities)[0] == 0.375


def test_mean_of_members_that_are_all_sure_is_one() -> None:
    for seed in range(50):  # one in seven sums to more than 1
        shares = np.random.default_rng(seed).integers(1, 26, 7) / 25
        assert make_ensemble(*(shares / shares.sum())).weigh(np.ones((7, 1)))[0] <= 1


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


@pytest.mark.parametrize("tta", [False, True])
def test_every_tile_that_is_scored_is_told_once_a_turn(
    tmp_path: Path,
    write_member: Callable[..., Member],
    make_bright_and_dark: Callable[..., SplitTiles],
    tta: bool,
) -> None:
    members = [write_member(tmp_path / str(trial), trial=trial) for trial in range(2)]
    tiles, told = make_bright_and_dark(8), []
    score_tiles(members, tiles, tta=tta, each_batch=told.append)
    assert sum(told) == count_scores(members, tiles, tta=tta) == 2 * 8 * (8 if tta else 1)
    told.clear()
    replace(make_ensemble(0.5, 0.5, members=members), tta=tta).score(tiles, each_batch=told.append)
    assert sum(told) == count_scores(members, tiles, tta=tta)


def test_members_with_and_without_context_are_averaged_each_with_what_it_sees(
    tmp_path: Path,
    write_member: Callable[..., Member],
    make_trial_config: Callable[..., TrialConfig],
) -> None:
    """The first sees a tile and no more, the second its neighbours too unless they are hidden."""
    members = [
        write_member(
            tmp_path / str(trial),
            trial=trial,
            config=make_trial_config(data={"context_px": context_px}),
        )
        for trial, context_px in enumerate((0, 8))
    ]
    row = np.arange(9)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    around = find_neighbours(row, np.full(9, "one"), *np.divmod(row, 3))
    tiles = place_tiles(pixels, row, row % 2, torch.device("cpu"), neighbours=around)
    by_alone = {}
    for alone in (False, True):
        scores = [
            margins_to_probabilities(
                predict_margins(m.load_model(), tiles, m.record.config.view, alone=alone)
            )
            for m in members
        ]
        by_alone[alone] = score_tiles(members, tiles, alone=alone)
        np.testing.assert_allclose(by_alone[alone], scores, atol=1e-6)
        np.testing.assert_allclose(
            make_ensemble(0.25, 0.75).weigh(by_alone[alone]),
            0.25 * scores[0] + 0.75 * scores[1],
            atol=1e-6,
        )
    assert np.array_equal(by_alone[False][0], by_alone[True][0])
    assert not np.allclose(by_alone[False][1], by_alone[True][1], atol=1e-6)


def test_a_lone_tile_has_a_temperature_and_a_threshold_of_its_own() -> None:
    alone = TileAlone(temperature=1.0, threshold=0.7, calibrated_threshold=0.7, val_metrics={})
    ensemble = replace(make_ensemble(1.0, threshold=0.4, temperature=2.0), alone=alone)
    probabilities, lone = np.array([0.5, 0.5, 0.8]), np.array([False, True, True])
    assert ensemble.judge(probabilities, lone=lone).tolist() == [True, False, True]
    calibrated = ensemble.calibrate(probabilities, lone=lone)
    assert calibrated[1:].tolist() == pytest.approx([0.5, 0.8])
    places = Places(np.array(["", "", ""]), *np.full((2, 3), -1))
    refined = ensemble.refine(calibrated, places, lone=lone)
    assert np.array_equal(refined.probabilities, calibrated)
    assert refined.called.tolist() == [True, False, True]


def test_without_context_a_lone_tile_is_judged_as_any_other() -> None:
    ensemble = make_ensemble(1.0, threshold=0.4)
    probabilities = np.array([0.3, 0.4])
    assert ensemble.judge(probabilities, lone=True).tolist() == [False, True]
    usual = ensemble.calibrate(probabilities)
    assert np.array_equal(ensemble.calibrate(probabilities, lone=True), usual)
