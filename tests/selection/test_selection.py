"""Facts about choosing members and averaging them: no pixels, stored scores only."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensemble import evaluate
from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.data.batches import SplitTiles
from ensemble.data.grid import PLACE
from ensemble.data.windows import find_neighbours
from ensemble.evaluation.protocol import member_columns
from ensemble.run.members import (
    find_run,
    open_members,
    rank_members,
    score_tiles,
    take_run,
)
from ensemble.run.pack import find_pack
from ensemble.selection.calibration import apply_temperature
from ensemble.selection.choice import JudgedMember, open_choice, open_chosen
from ensemble.selection.choose import Picked, check_top_k, choose_ensemble, fit_thresholds
from ensemble.selection.ensemble import load_ensemble
from ensemble.selection.neighbours import Places
from ensemble.selection.thresholds import choose_threshold, rule_score
from ensemble.selection.weighting import mean_weights
from ensemble.training.checkpoint import Member, MemberRecord, drop_weights
from ensemble.training.config import ModelConfig, TrialConfig
from ensemble.training.metrics import (
    best_threshold,
    margins_to_probabilities,
    threshold_metrics,
)

WriteMember = Callable[..., Member]
VALIDATION = "tile,photograph,surface,label,row_in_photograph,column_in_photograph"


def member(trial: int, val_f1: float) -> Member:
    record = MemberRecord(
        trial=trial,
        config=TrialConfig(model=ModelConfig(backbone="small_cnn")),
        epoch=1,
        metrics={"val_f1": val_f1},
        split_digest="split",
        initial_weights_digest="initial",
        num_val_tiles=3,
        weights_file="a.safetensors",
        weights_sha256="",
        scores_file="a.npy",
        scores_sha256="",
        versions={},
        written_at="2026-01-01T00:00:00+00:00",
    )
    return Member(Path("nowhere"), record)


def trials(members: list[Member]) -> list[int]:
    return [member.trial for member in members]


def make_table(labels: np.ndarray) -> pd.DataFrame:
    """Validation tiles without a photograph."""
    names = [f"{number}.jpg" for number in range(len(labels))]
    known = {"tile": names, "label": labels, "photograph": ""}
    return pd.DataFrame(known | dict.fromkeys(PLACE, -1))


def test_members_are_ranked_by_validation_f1_then_by_trial() -> None:
    members = [member(4, 0.8), member(2, 0.9), member(3, 0.8), member(1, 0.7), member(0, 0.8)]
    assert trials(rank_members(members)) == [2, 0, 3, 4, 1]


@pytest.mark.parametrize("k", [-1, 0, 3, 100])
def test_k_outside_the_members_is_refused_with_the_range(k: int) -> None:
    with pytest.raises(InputError) as refused:
        check_top_k(k, num_candidates=2, num_finished=2)
    message = str(refused.value)
    assert f"--top-k {k}" in message
    assert "2 finished trials" in message
    assert "choose from 1 to 2" in message


@pytest.mark.parametrize("k", [None, 1])
def test_run_without_members_is_refused(k: int | None) -> None:
    with pytest.raises(InputError, match="no finished trial"):
        check_top_k(k, num_candidates=0, num_finished=0)


@pytest.mark.parametrize(("available", "chosen"), [(1, 1), (4, 4), (5, 5), (6, 5)])
def test_without_k_up_to_five_are_chosen(available: int, chosen: int) -> None:
    assert check_top_k(None, num_candidates=available, num_finished=available) == chosen


def test_k_beyond_the_members_that_kept_their_weights_says_how_many_did() -> None:
    message = "45 finished trials with a member, of which 20 kept their weights .*from 1 to 20"
    with pytest.raises(InputError, match=message):
        check_top_k(30, num_candidates=20, num_finished=45)
    assert check_top_k(20, num_candidates=20, num_finished=45) == 20


@pytest.mark.parametrize("k", [None, 1])
def test_run_in_which_no_member_kept_its_weights_is_refused(k: int | None) -> None:
    with pytest.raises(InputError, match="none of the run's 3 finished trials kept its weights"):
        check_top_k(k, num_candidates=0, num_finished=3)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, (4, 12), elements=st.floats(0, 1)), st.integers(1, 4))
def test_mean_takes_the_k_best_by_f1_the_first_of_equals(probabilities: np.ndarray, k: int) -> None:
    labels = np.arange(12) % 2
    weights = mean_weights(probabilities, labels, k=k)
    scores = [best_threshold(labels, row)[1] for row in probabilities]
    expected = sorted(range(4), key=lambda row: (-scores[row], row))[:k]
    assert set(np.flatnonzero(weights)) == set(expected)
    assert weights.sum() == pytest.approx(1)


# --- from a run's folder to ensemble.json


@pytest.fixture
def run(tmp_path: Path, write_member: WriteMember) -> Path:
    """Three trials on 60 validation tiles of six photographs: good, fair and noise."""
    folder = tmp_path / "run"
    write_run(folder, {}, write_member)
    (folder / "run.json").write_text('{"split_digest": "split", "pack_folder": "nowhere"}')
    (folder / "trials.csv").write_text("trial,state\n0,COMPLETE\n1,PRUNED\n2,COMPLETE\n")
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3 == 0
    rows = [f"t{i},{i // 10},D,{int(label)},{i % 10},0" for i, label in enumerate(labels)]
    (folder / "validation.csv").write_text("\n".join([VALIDATION, *rows]))
    for trial, (signal, noise) in enumerate([(2.0, 1.0), (1.5, 1.5), (0.0, 1.0)]):
        margins = signal * (2 * labels - 1) + noise * generator.normal(size=60)
        val_f1 = best_threshold(labels.astype(int), margins_to_probabilities(margins))[1]
        path = folder / "members" / f"{trial:04}"
        write_member(path, trial=trial, val_f1=val_f1, margins=margins.tolist())
    return folder


@pytest.mark.parametrize("method", ["mean", "greedy", "weighted", "auto"])
def test_every_method_chooses_from_stored_scores_alone(run: Path, method: str) -> None:
    choice = choose_ensemble(run, method=method)  # the pack does not even exist
    choice.save(run)
    opened, members = open_choice(run)
    assert opened == choice
    assert trials(members) == [member.trial for member in choice.members]
    assert choice.weights.sum() == pytest.approx(1)
    assert choice.best_single.trial == 0
    probabilities = np.stack([margins_to_probabilities(m.val_margins()) for m in members])
    mean = choice.weights @ probabilities
    labels = (np.arange(60) % 3 == 0).astype(int)
    assert choice.val_metrics["f1"] == pytest.approx(best_threshold(labels, mean)[1])
    assert choice.optimism is not None
    assert choice.optimism.ensemble.f1_where_chosen == choice.val_metrics["f1"]
    assert choice.after_calibration.log_loss <= choice.before_calibration.log_loss + 1e-9


def test_one_member_is_its_own_ensemble(run: Path) -> None:
    choice = choose_ensemble(run, top_k=1)
    (only,) = choice.members
    assert (only.trial, only.weight) == (0, 1.0)
    assert only.model_dump(exclude={"weight"}) == choice.best_single.model_dump()
    assert choice.threshold == only.threshold
    assert choice.val_metrics["f1"] == only.val_f1
    assert choice.shown == choice.members


def test_auto_says_what_each_method_promised_and_kept(run: Path) -> None:
    choice = choose_ensemble(run, method="auto")
    assert {score.method for score in choice.methods} == {"mean", "greedy", "weighted"}
    best = max(choice.methods, key=lambda score: score.outer_score)
    assert choice.method == best.method


def test_auto_compares_methods_by_what_the_threshold_is_asked_for(run: Path) -> None:
    by_f1 = choose_ensemble(run, method="auto")
    by_recall = choose_ensemble(run, method="auto", rule="recall=0.95")
    assert by_recall.method == max(by_recall.methods, key=lambda s: s.outer_score).method
    assert by_recall.methods != by_f1.methods
    for score in by_recall.methods:
        assert score.outer_recall > 0.8


@pytest.mark.parametrize("rule", ["f1", "f2", "0.5", "recall=0.95"])
def test_every_validation_f1_is_that_at_the_threshold_beside_it(run: Path, rule: str) -> None:
    choice = choose_ensemble(run, top_k=2, rule=rule)
    labels = (np.arange(60) % 3 == 0).astype(int)
    rows = []
    for judged, member in zip(choice.shown, open_chosen(run, choice.shown), strict=True):
        rows.append(margins_to_probabilities(member.val_margins()))
        expected = threshold_metrics(labels, rows[-1], judged.threshold)["f1"]
        assert judged.val_f1 == pytest.approx(expected)
    expected = threshold_metrics(labels, np.mean(rows, axis=0), choice.threshold)["f1"]
    assert choice.val_metrics["f1"] == pytest.approx(expected)


def test_more_than_a_hundred_members_can_be_averaged(run: Path, write_member: WriteMember) -> None:
    record = json.loads((run / "members" / "0000" / "member.json").read_text())
    for trial in range(3, 104):
        folder = run / "members" / f"{trial:04}"
        shutil.copytree(run / "members" / "0000", folder)
        (folder / "member.json").write_text(json.dumps(record | {"trial": trial}))
    rows = "".join(f"{trial},COMPLETE\n" for trial in range(104))
    (run / "trials.csv").write_text("trial,state\n" + rows)
    choice = choose_ensemble(run, top_k=104)
    assert len(choice.members) == choice.top_k == choice.num_candidates == 104
    assert choice.weights == pytest.approx(np.full(104, 1 / 104))


@pytest.mark.parametrize("method", ["greedy", "weighted", "soup"])
def test_top_k_is_refused_where_the_method_finds_the_members_itself(run: Path, method: str) -> None:
    with pytest.raises(InputError, match=f"--top-k 2: is for .*; --method {method} takes none"):
        choose_ensemble(run, method=method, top_k=2)


@pytest.mark.parametrize(("method", "stored"), [("mean", 2), ("auto", 2), ("greedy", None)])
def test_the_number_of_members_asked_for_is_kept(
    run: Path, method: str, stored: int | None
) -> None:
    assert choose_ensemble(run, method=method, top_k=stored).top_k == stored


@pytest.fixture
def refitted(run: Path) -> Path:
    """The same run, but each member's record says that it is three networks."""
    for path in run.glob("members/*/member.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"num_folds": 3}))
    return run


def test_a_budget_is_dealt_to_networks_and_changes_no_score_of_the_folds(refitted: Path) -> None:
    whole = choose_ensemble(refitted, top_k=2)
    assert whole.num_passes == 6
    choice = choose_ensemble(refitted, top_k=2, budget_members=5)
    assert [(m.trial, m.num_networks, m.num_folds) for m in choice.members] == [
        (0, 3, 3),
        (1, 2, 3),
    ]
    assert choice.num_passes == choice.budget_members == 5
    for name in ("threshold", "temperature", "val_metrics", "optimism"):
        assert getattr(choice, name) == getattr(whole, name)
    assert choice.best_single.num_networks == 3
    choice.save(refitted)
    _, members = open_choice(refitted)
    assert [member.num_networks for member in members] == [3, 2]
    damaged = choice.members[0].model_copy(update={"num_networks": 4})
    with pytest.raises(InputError, match="4 networks of trial 0, which has 3"):
        open_chosen(refitted, [damaged])


@pytest.mark.parametrize("method", ["mean", "greedy", "weighted", "auto"])
def test_a_budget_of_one_is_one_network_of_the_best_member(refitted: Path, method: str) -> None:
    choice = choose_ensemble(refitted, method=method, budget_members=1)
    (only,) = choice.members
    assert (only.trial, only.weight, only.num_networks) == (0, 1.0, 1)
    assert choice.num_passes == 1
    assert choice.best_single == JudgedMember(**only.model_dump(exclude={"weight"}))


def test_seeds_of_one_configuration_are_found_among_all_finished_members(run: Path) -> None:
    for path in run.glob("members/*/member.json"):
        record = json.loads(path.read_text())
        config = record["config"] | {"seed": record["trial"]}
        path.write_text(json.dumps(record | {"config": config}))
    drop_weights(run / "members" / "0001")
    (spread,) = choose_ensemble(run).seeds
    assert spread.trials == [0, 1, 2]
    assert spread.f1.highest == pytest.approx(choose_ensemble(run, top_k=1).val_metrics["f1"])


def test_a_budget_that_is_not_reached_changes_nothing(run: Path) -> None:
    whole, enough = (choose_ensemble(run, method="greedy", budget_members=n) for n in (None, 3))
    assert enough == whole.model_copy(update={"budget_members": 3})


def test_members_with_damaged_weights_or_other_scores_are_left_out_and_said(
    run: Path, write_member: WriteMember
) -> None:
    (weights,) = (run / "members" / "0000").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    write_member(run / "members" / "0001", trial=1, margins=[0.5] * 59)
    said: list[str] = []
    choice = choose_ensemble(run, log=said.append)
    assert [member.trial for member in choice.members] == [choice.best_single.trial] == [2]
    assert "damaged member" in said[0]
    assert said[0].endswith("trial 0 is left out")
    assert said[1].endswith(
        "has scores of 59 tiles, not of the 60 in validation.csv: trial 1 is left out"
    )
    assert (choice.num_finished, choice.num_candidates) == (3, 1)


def test_a_noise_member_gets_next_to_no_weight(run: Path) -> None:
    choice = choose_ensemble(run, method="weighted")
    assert all(member.trial != 2 or member.weight < 0.05 for member in choice.members)


@pytest.mark.parametrize("method", ["mean", "greedy", "weighted", "auto"])
@pytest.mark.parametrize("kept", [[0], [1, 2], [0, 2]])
def test_members_without_weights_are_as_good_as_not_there(
    run: Path, method: str, kept: list[int]
) -> None:
    for trial in {0, 1, 2} - set(kept):
        drop_weights(run / "members" / f"{trial:04}")
    choice = choose_ensemble(run, method=method)
    rows = "".join(f"{trial},COMPLETE\n" for trial in kept)
    (run / "trials.csv").write_text("trial,state\n" + rows)
    alone = choose_ensemble(run, method=method)
    assert choice.num_finished == 3
    assert alone == choice.model_copy(update={"num_finished": len(kept)})


@pytest.mark.parametrize("rule", ["f2", "0.5", "recall=0.95"])
def test_threshold_follows_its_rule(run: Path, rule: str) -> None:
    choice = choose_ensemble(run, rule=rule)
    assert choice.threshold_rule == rule
    if rule == "0.5":
        assert choice.threshold == 0.5
    if rule == "recall=0.95":
        assert choice.val_metrics["recall"] >= 0.95


def test_calibrated_threshold_gives_the_same_verdicts(run: Path) -> None:
    choice = choose_ensemble(run)
    mean = np.linspace(0.001, 0.999, 999)
    calibrated = apply_temperature(mean, choice.temperature)
    apart = np.abs(mean - choice.threshold) > 1e-9
    verdicts = calibrated >= choice.calibrated_threshold
    assert np.array_equal(verdicts[apart], (mean >= choice.threshold)[apart])


def test_neighbours_help_where_cracks_run_through_tiles_and_the_run_keeps_them(
    tmp_path: Path, write_member: WriteMember
) -> None:
    run = tmp_path / "run"
    write_run(run, {}, write_member)
    (run / "run.json").write_text(
        '{"split_digest": "split", "pack_folder": "nowhere", "tile_size_px": [16, 16]}'
    )
    (run / "trials.csv").write_text("trial,state\n0,COMPLETE\n")
    row, column = np.divmod(np.arange(48), 8)
    table = pd.DataFrame(
        {
            "tile": [f"t{i}" for i in range(480)],
            "photograph": np.repeat([f"p{i}" for i in range(10)], 48),
            "surface": "D",
            "label": (np.tile(row, 10) == 3).astype(int),
            "row_in_photograph": np.tile(row, 10),
            "column_in_photograph": np.tile(column, 10),
        }
    )
    table.to_csv(run / "validation.csv", index=False)
    margins = 3 * table["label"] - 2.5 + 1.5 * np.random.default_rng(0).normal(size=480)
    write_member(run / "members" / "0000", trial=0, margins=margins.tolist())
    choose_ensemble(run).save(run)
    choice, _ = open_choice(run)
    assert choice.neighbours is not None
    assert "the neighbours' scores help" in choice.neighbours_note
    assert choice.neighbours.val_metrics["f1"] > choice.val_metrics["f1"]
    optimism = choice.optimism
    assert optimism is not None
    assert optimism.with_neighbours is not None
    assert optimism.with_neighbours.f1_where_chosen == choice.neighbours.val_metrics["f1"]
    assert optimism.with_neighbours.f1 > optimism.ensemble.f1  # judged by its own verdicts
    ensemble = load_ensemble(run)
    mean = margins_to_probabilities(margins.to_numpy())
    refined = ensemble.refine(ensemble.calibrate(mean), Places.of(table))
    assert (refined.thresholds == choice.neighbours.threshold).all()
    f1 = threshold_metrics(table["label"].to_numpy(), refined.probabilities, refined.thresholds)
    assert f1["f1"] > choice.val_metrics["f1"]


def test_without_a_grid_the_calibrated_score_is_judged_as_it_is(run: Path) -> None:
    (run / "run.json").write_text(
        '{"split_digest": "split", "pack_folder": "nowhere", "tile_size_px": [16, 16]}'
    )
    table = pd.read_csv(run / "validation.csv").assign(**dict.fromkeys(PLACE, -1))
    table.to_csv(run / "validation.csv", index=False)
    choice = choose_ensemble(run)
    assert choice.neighbours is None
    assert "no validation tile has a neighbour" in choice.neighbours_note
    choice.save(run)
    ensemble = load_ensemble(run)
    calibrated = np.linspace(0.001, 0.999, 60)
    refined = ensemble.refine(calibrated, Places.of(table))
    assert refined.probabilities is calibrated
    assert (refined.thresholds == choice.calibrated_threshold).all()


def test_place_that_is_no_whole_number_is_named(run: Path) -> None:
    table = pd.read_csv(run / "validation.csv").astype({PLACE[0]: float})
    table.loc[0, PLACE[0]] = 0.5
    table.to_csv(run / "validation.csv", index=False)
    with pytest.raises(InputError, match="row_in_photograph holds what is no whole number"):
        choose_ensemble(run)


def test_a_member_exchanged_after_the_choice_is_noticed(
    run: Path, write_member: WriteMember
) -> None:
    choose_ensemble(run, top_k=1).save(run)
    write_member(run / "members" / "0000", trial=5)
    with pytest.raises(InputError, match="evaluate again"):
        open_choice(run)


def test_a_choice_of_another_version_is_refused_with_the_way_out(run: Path) -> None:
    (run / "ensemble.json").write_text('{"format": 1, "method": "mean"}')
    with pytest.raises(
        InputError, match=r"ensemble\.json: .*another version.* evaluate the run again"
    ):
        open_choice(run)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 4}', "[1]", '{"temperature": NaN}'])
def test_a_damaged_choice_is_named(run: Path, text: str) -> None:
    (run / "ensemble.json").write_text(text)
    with pytest.raises(InputError, match=r"ensemble\.json"):
        open_choice(run)


def test_scores_of_several_members_are_the_rows_of_each(
    tmp_path: Path, write_member: WriteMember, make_bright_and_dark: Callable[..., SplitTiles]
) -> None:
    members = [write_member(tmp_path / str(trial), trial=trial) for trial in range(3)]
    tiles = make_bright_and_dark(8)
    together = score_tiles(members, tiles)
    assert together.shape == (3, 8)
    assert ((together > 0) & (together < 1)).all()
    for one, row in zip(members, together, strict=True):
        assert np.array_equal(score_tiles([one], tiles), row[None])
    assert len(np.unique(together, axis=0)) == 3


@pytest.mark.parametrize("rule", ["f1", "f2", "recall=0.9"])
def test_where_tiles_are_turned_every_threshold_is_one_of_turned_scores(
    tmp_path: Path,
    write_member: WriteMember,
    make_bright_and_dark: Callable[..., SplitTiles],
    rule: str,
) -> None:
    """The stored scores are noise, so that whatever the networks see raises validation."""
    tiles = make_bright_and_dark(60)
    labels = tiles.labels.numpy()
    noise = np.random.default_rng(0).normal(size=60).tolist()
    members = [write_member(tmp_path / str(n), trial=n, margins=noise) for n in range(8)]
    turned = score_tiles(members, tiles, tta=True)
    order = np.argsort([-rule_score(choose_threshold(labels, row, rule), rule) for row in turned])
    best, other = (members[i] for i in order[:2])
    picked = Picked("mean", [best, other], np.array([0.5, 0.5]))
    table = make_table(labels)
    found = fit_thresholds(
        tmp_path, picked, best_single=best, table=table, rule=rule, val=tiles, tta=True
    )
    assert found["tta"]
    rows = turned[order[:2]]
    for chosen, row in zip(found["members"], rows, strict=True):
        assert chosen["threshold"] == choose_threshold(labels, row, rule).threshold
    assert found["threshold"] == choose_threshold(labels, rows.mean(axis=0), rule).threshold
    alone = fit_thresholds(
        tmp_path,
        Picked("mean", [best], np.ones(1)),
        best_single=best,
        table=table,
        rule=rule,
        val=tiles,
        tta=True,
    )
    assert alone["threshold"] == alone["best_single"].threshold
    assert alone["members"][0] == {**alone["best_single"].model_dump(), "weight": 1.0}


@pytest.mark.parametrize("context_px", [0, 8])
def test_the_tile_alone_has_a_threshold_where_members_see_more_than_the_tile(
    tmp_path: Path,
    write_member: WriteMember,
    make_trial_config: Callable[..., TrialConfig],
    make_bright_and_dark: Callable[..., SplitTiles],
    context_px: int,
) -> None:
    """Every second tile is bright, so that a tile's neighbours are of the other class."""
    lone = make_bright_and_dark(60)
    row = np.arange(60)
    around = find_neighbours(row, np.full(60, "one"), row // 6, row % 6)
    tiles = replace(lone, neighbours=torch.from_numpy(around))
    config = make_trial_config(data={"context_px": context_px})
    margins = np.random.default_rng(0).normal(size=60).tolist()
    one = write_member(tmp_path / "0", trial=0, margins=margins, config=config)
    labels = tiles.labels.numpy()
    found = fit_thresholds(
        tmp_path,
        Picked("mean", [one], np.ones(1)),
        best_single=one,
        table=make_table(labels),
        rule="f1",
        val=tiles,
        tta=False,
    )
    if context_px == 0:
        assert found["alone"] is None
        assert found["best_single"].alone_threshold is None
        return
    alone = score_tiles([one], lone)[0]  # there is nothing around these
    assert found["alone"].threshold == choose_threshold(labels, alone, "f1").threshold
    assert found["best_single"].alone_threshold == found["alone"].threshold
    assert not np.array_equal(score_tiles([one], tiles)[0], alone)


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


def delete_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def delete_record(folder: Path) -> None:
    (folder / "member.json").unlink()


def empty_record(folder: Path) -> None:
    (folder / "member.json").write_text("{}")


def delete_scores(folder: Path) -> None:
    next(folder.glob("*.npy")).unlink()


def damage_scores(folder: Path) -> None:
    next(folder.glob("*.npy")).write_bytes(b"damaged")


def delete_weights(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


DAMAGE = [
    delete_folder,
    delete_record,
    empty_record,
    delete_scores,
    damage_scores,
    delete_weights,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_lost_or_damaged_member_is_left_out_and_said(
    tmp_path: Path, write_member: WriteMember, damage: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    write_run(run, {0: "COMPLETE", 1: "COMPLETE", 2: "PRUNED"}, write_member)
    damage(run / "members" / "0001")
    said: list[str] = []
    assert trials(open_members(run, split_digest="split", log=said.append)) == [0, 2]
    (line,) = said
    assert str(run / "members" / "0001") in line
    assert line.endswith(": trial 1 is left out")


@pytest.mark.parametrize("content", ["", "trial,state\n"])
def test_before_the_first_trial_ends_there_are_no_members(tmp_path: Path, content: str) -> None:
    (tmp_path / "trials.csv").write_text(content)
    assert open_members(tmp_path, split_digest="split") == []


def test_run_is_found_by_path_by_name_and_as_the_last_one(
    tmp_path: Path, write_member: WriteMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(["b", "a"]):
        write_run(tmp_path / name, {0: "COMPLETE"}, write_member)
        os.utime(tmp_path / name / "run.json", (number, number))
    monkeypatch.chdir(tmp_path)
    assert find_run("b", under=tmp_path) == tmp_path / "b"
    assert find_run(str(tmp_path / "b"), under=tmp_path / "elsewhere") == tmp_path / "b"
    assert find_run(None, under=tmp_path) == tmp_path / "a"


def start_run(folder: Path, *, second: int, states: Sequence[str]) -> Path:
    """Write what a run that was started at a second has of its trials."""
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    os.utime(folder / "run.json", (second, second))
    rows = [f"{number},{state}\n" for number, state in enumerate(states)]
    (folder / "trials.csv").write_text("".join(["trial,state\n", *rows]))
    return folder


def test_the_last_run_is_one_with_a_finished_trial_and_what_was_passed_over_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    for second, name in enumerate(("first", "stopped")):
        start_run(tmp_path / name, second=second, states=["FAIL"])
    with pytest.raises(InputError, match=r"no run in .* finished trial; .* in stopped/run\.json"):
        find_run(None, under=tmp_path)
    done = start_run(tmp_path / "done", second=5, states=["FAIL", "PRUNED"])
    assert take_run(None, under=tmp_path, log=said.append) == done
    for second, name in enumerate(("cut", ".new.7.partial"), 8):
        start_run(tmp_path / name, second=second, states=[])
    assert take_run(None, under=tmp_path, log=said.append) == done
    assert take_run("first", under=tmp_path, log=said.append) == tmp_path / "first"
    assert said == [
        "run: done, the last one",
        "run: done, the last one with a finished trial (without one: cut)",
        "run: first",
    ]


def test_an_exported_ensemble_that_was_unpacked_can_be_the_last_run(tmp_path: Path) -> None:
    given = start_run(tmp_path / "given", second=1, states=[])
    (given / "ensemble.json").write_text("{}")
    assert find_run(None, under=tmp_path) == given


def test_a_run_of_which_no_trial_is_finished_is_not_sent_to_evaluate_and_back(
    tmp_path: Path,
) -> None:
    run = start_run(tmp_path / "stopped", second=1, states=["FAIL"])
    with pytest.raises(InputError, match=r"no finished trial to choose one from; .* or name"):
        open_choice(run)
    (run / "trials.csv").write_text("trial,state\n0,COMPLETE\n")
    with pytest.raises(InputError, match=r"no ensemble yet; .*evaluate \S*stopped chooses one"):
        open_choice(run)


def test_a_run_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    for second, name in enumerate("ab"):
        start_run(tmp_path / name, second=second, states=[])
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"c: no run of that name .* in \S+ \(b, a\), or by its"):
        find_run("c", under=tmp_path)
    with pytest.raises(InputError, match=r"photos: is a folder, but not that of a run; .*\(b, a\)"):
        find_run("photos", under=tmp_path)


def test_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run of that name"):
        find_run("c", under=tmp_path)
    with pytest.raises(InputError, match="no runs in"):
        find_run(None, under=tmp_path)


def test_a_refit_in_the_making_and_its_trials_are_no_runs_to_look_at(tmp_path: Path) -> None:
    inner = tmp_path / "refit" / "folds"
    inner.mkdir(parents=True)
    (inner / "run.json").write_text("{}")
    with pytest.raises(InputError, match="refit: is a refit that is not finished; the command"):
        find_run("refit", under=tmp_path)
    (tmp_path / "refit" / "run.json").write_text("{}")
    with pytest.raises(InputError, match="folds: holds the trials of a refit"):
        find_run(str(inner), under=tmp_path)
    assert find_run("refit", under=tmp_path) == tmp_path / "refit"


@pytest.mark.parametrize("recall", ["95", "0", "-0.5", "nan"])
def test_a_recall_that_is_no_share_is_refused_by_the_name_of_its_option(recall):
    with pytest.raises(InputError, match=r"--min-recall .*: must be above 0, at most 1"):
        evaluate.main(parse("evaluate", ["--min-recall", recall]))


def test_labels_are_contradicted_by_the_soup_and_not_by_the_trial_that_gives_it_its_number(
    run: Path,
) -> None:
    best = choose_ensemble(run, top_k=1)
    soup = best.model_copy(update={"ingredients": [best.best_single, best.best_single]})
    about = {key: ["a", "b"] for key in ("tile", "photograph", "surface")}
    scores = {"trial_0": [0.1, 0.2], "trial_1": [0.5, 0.6], "ensemble": [0.3, 0.4]}
    predictions = pd.DataFrame({**about, "label": [0, 1], **scores, "calibrated": [0.7, 0.8]})
    for choice, expected in ((best, [0.1, 0.2]), (soup, [0.3, 0.4])):
        judged = member_columns(predictions, choice)
        assert judged["trial_0"].tolist() == expected
        assert "trial_1" not in judged


# --- tiles that were moved


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """Results that were copied elsewhere; the tiles that `run.json` names are gone."""
    run = tmp_path / "new" / "run"
    write_pack(tmp_path / "new" / "packs" / "tiles-1", "others")
    run.mkdir()
    old = tmp_path / "old" / "packs" / "tiles-2"
    (run / "run.json").write_text(
        json.dumps({"split_digest": "split", "pack_folder": str(old), "seed": 7})
    )
    return run


def write_pack(folder: Path, split_digest: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "pack.json").write_text(json.dumps({"split_digest": split_digest}))
    return folder


@pytest.mark.parametrize("name", ["tiles-2", "tiles-3"])
def test_tiles_of_copied_results_are_found_beside_the_run_and_the_run_is_told(
    moved: Path, name: str
) -> None:
    os.utime(moved / "run.json", (1, 1))
    folder = write_pack(moved.parent / "packs" / name, "split")
    assert find_pack(moved) == folder
    about = json.loads((moved / "run.json").read_text())
    assert about == {"split_digest": "split", "pack_folder": str(folder), "seed": 7}
    assert (moved / "run.json").stat().st_mtime == 1  # the run is no younger than before


def test_tiles_where_the_run_says_are_taken_whatever_lies_beside_it(moved: Path) -> None:
    old = write_pack(moved.parents[1] / "old" / "packs" / "tiles-2", "split")
    write_pack(moved.parent / "packs" / "tiles-2", "split")
    assert find_pack(moved) == old


def test_without_the_tiles_it_is_said_where_they_were_looked_for(moved: Path) -> None:
    with pytest.raises(InputError, match=r"neither in .*old/packs/tiles-2 nor in .*new/packs;"):
        find_pack(moved)
    write_pack(moved.parents[1] / "old" / "packs" / "tiles-2", "relabelled")
    with pytest.raises(InputError, match="other tiles, labels or another split"):
        find_pack(moved)
