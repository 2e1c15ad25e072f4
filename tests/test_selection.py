"""Facts about choosing members and averaging them: no pixels, stored scores only."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensemble.data.batches import Tiles
from ensemble.errors import InputError
from ensemble.members import find_run, open_members, score_tiles
from ensemble.selection import (
    average_probabilities,
    choose_top_k,
    rank_members,
    val_probabilities,
)
from ensemble.training.checkpoint import Member, MemberRecord
from ensemble.training.config import ModelConfig, TrialConfig

WriteMember = Callable[..., Member]


def member(trial: int, val_f1: float) -> Member:
    record = MemberRecord(
        trial=trial,
        config=TrialConfig(model=ModelConfig(backbone="small_cnn")),
        epoch=1,
        metrics={"val_f1": val_f1},
        split_digest="split",
        initial_weights_digest="initial",
        num_val_tiles=3,
        weights_file="epoch-1.safetensors",
        weights_sha256="",
        scores_file="epoch-1-val.npy",
        scores_sha256="",
        versions={},
        written_at="2026-01-01T00:00:00+00:00",
    )
    return Member(Path("nowhere"), record)


def trials(members: list[Member]) -> list[int]:
    return [member.trial for member in members]


def test_members_are_ranked_by_validation_f1_then_by_trial() -> None:
    members = [member(4, 0.8), member(2, 0.9), member(3, 0.8), member(1, 0.7), member(0, 0.8)]
    assert trials(rank_members(members)) == [2, 0, 3, 4, 1]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0]), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
    st.integers(1, 8),
)
def test_choice_does_not_depend_on_the_order_of_the_members(
    scores: list[float], random: Random, k: int
) -> None:
    k = min(k, len(scores))
    members = [member(trial, score) for trial, score in enumerate(scores)]
    chosen = choose_top_k(members, k)
    left_out = [m for m in members if m not in chosen]
    assert len(chosen) == k
    assert chosen == choose_top_k(members, len(members))[:k]
    for other in left_out:
        worst = chosen[-1]
        assert (other.val_f1, -other.trial) < (worst.val_f1, -worst.trial)
    random.shuffle(members)
    assert choose_top_k(members, k) == chosen


@pytest.mark.parametrize("k", [-1, 0, 3, 100])
def test_k_outside_the_members_is_refused_with_the_range(k: int) -> None:
    with pytest.raises(InputError) as refused:
        choose_top_k([member(0, 0.5), member(1, 0.6)], k)
    message = str(refused.value)
    assert f"--top-k {k}" in message
    assert "2 finished trials" in message
    assert "choose from 1 to 2" in message


@pytest.mark.parametrize("k", [None, 1])
def test_run_without_members_is_refused(k: int | None) -> None:
    with pytest.raises(InputError, match="no finished trial"):
        choose_top_k([], k)


@pytest.mark.parametrize(("available", "chosen"), [(1, 1), (4, 4), (5, 5), (6, 5)])
def test_without_k_up_to_five_are_chosen(available: int, chosen: int) -> None:
    assert len(choose_top_k([member(t, t / 10) for t in range(available)], None)) == chosen


def test_mean_by_hand() -> None:
    probabilities = np.array([[0.0, 0.25, 1.0], [0.5, 0.75, 1.0]])
    assert average_probabilities(probabilities).tolist() == [0.25, 0.5, 1.0]


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (4, 3), elements=st.floats(0, 1)), st.permutations(range(4)))
def test_mean_lies_among_the_members_whatever_their_order(
    probabilities: np.ndarray, order: list[int]
) -> None:
    mean = average_probabilities(probabilities)
    np.testing.assert_allclose(average_probabilities(probabilities[order]), mean, rtol=1e-12)
    assert (probabilities.min(0) - 1e-12 <= mean).all()
    assert (mean <= probabilities.max(0) + 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (1, 5), elements=st.floats(0, 1)))
def test_ensemble_of_one_is_its_member(probabilities: np.ndarray) -> None:
    assert np.array_equal(average_probabilities(probabilities), probabilities[0])


def test_stored_scores_become_probabilities_one_row_a_member(
    tmp_path: Path, write_member: WriteMember
) -> None:
    first = write_member(tmp_path / "0", trial=0, margins=[0.0, 1000.0, -1000.0])
    second = write_member(tmp_path / "1", trial=1, margins=[np.log(3), 0.0, 0.0])
    np.testing.assert_allclose(
        val_probabilities([first, second]), [[0.5, 1.0, 0.0], [0.75, 0.5, 0.5]], rtol=1e-6
    )


def test_scores_of_several_members_are_the_rows_of_each(
    tmp_path: Path, write_member: WriteMember, make_bright_and_dark: Callable[..., Tiles]
) -> None:
    members = [write_member(tmp_path / str(trial), trial=trial) for trial in range(3)]
    tiles = make_bright_and_dark(8)
    together = score_tiles(members, tiles)
    assert together.shape == (3, 8)
    assert ((together > 0) & (together < 1)).all()
    for one, row in zip(members, together, strict=True):
        assert np.array_equal(score_tiles([one], tiles), row[None])
    assert len(np.unique(together, axis=0)) == 3


def write_run(run: Path, states: dict[int, str], write_member: WriteMember) -> None:
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    rows = "".join(f"{trial},{state}\n" for trial, state in states.items())
    (run / "trials.csv").write_text("trial,state\n" + rows)
    for trial, state in states.items():
        if state != "FAIL":
            write_member(run / "members" / f"{trial:04}", trial=trial)


def test_members_of_finished_and_stopped_trials_are_opened_by_number(
    tmp_path: Path, write_member: WriteMember
) -> None:
    states = {3: "COMPLETE", 0: "PRUNED", 1: "FAIL", 2: "RUNNING"}
    write_run(tmp_path / "run", states, write_member)
    assert trials(open_members(tmp_path / "run", split_digest="split")) == [0, 3]


def test_member_of_another_split_is_refused(tmp_path: Path, write_member: WriteMember) -> None:
    write_run(tmp_path / "run", {0: "COMPLETE"}, write_member)
    with pytest.raises(InputError, match="foreign member, trained on split split, not other"):
        open_members(tmp_path / "run", split_digest="other")


def test_missing_member_is_refused(tmp_path: Path, write_member: WriteMember) -> None:
    write_run(tmp_path / "run", {0: "COMPLETE"}, write_member)
    (tmp_path / "run" / "members" / "0000" / "member.json").unlink()
    with pytest.raises(InputError, match=re.escape("member.json is missing")):
        open_members(tmp_path / "run", split_digest="split")


def test_run_is_found_by_path_by_name_and_as_the_last_one(
    tmp_path: Path, write_member: WriteMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(["b", "a"]):
        write_run(tmp_path / name, {}, write_member)
        os.utime(tmp_path / name / "run.json", (number, number))
    monkeypatch.chdir(tmp_path)
    assert find_run("b", under=tmp_path) == tmp_path / "b"
    assert find_run(str(tmp_path / "b"), under=tmp_path / "elsewhere") == tmp_path / "b"
    assert find_run(None, under=tmp_path) == tmp_path / "a"


def test_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run of that name"):
        find_run("c", under=tmp_path)
    with pytest.raises(InputError, match="no runs in"):
        find_run(None, under=tmp_path)
