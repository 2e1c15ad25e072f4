"""Facts about what a search keeps on disk: the best members' weights, and no more than forecast."""

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble import evaluate
from ensemble.base.errors import InputError
from ensemble.base.files import write_json
from ensemble.base.options import METHODS, SPACES
from ensemble.cli import parse
from ensemble.data.batches import SplitTiles
from ensemble.data.grid import PLACE
from ensemble.data.pack import Pack
from ensemble.data.prepare import open_data, prepare_data
from ensemble.data.synthetic import draw_dataset
from ensemble.run.members import member_folder
from ensemble.search.budget import Node, plan_budget
from ensemble.search.retention import BYTES_PER_RUN, Retention, check_disk, forecast_disk
from ensemble.search.space_file import load_space
from ensemble.selection.choice import (
    Calibration,
    ChosenMember,
    EnsembleRecord,
    JudgedMember,
    open_choice,
)
from ensemble.training import checkpoint
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.config import TrialConfig
from ensemble.training.initial_weights import make_initial_state, save_initial_state
from ensemble.training.member import DevelopmentTiles, TrainingData, train_member

WriteMember = Callable[..., Member]
PlaceMember = Callable[[Path, int, float], None]


@pytest.fixture(scope="module")
def place_member(
    tmp_path_factory: pytest.TempPathFactory, write_member: WriteMember
) -> PlaceMember:
    """Put a member into a run: the same network each time, under a number and with an F1."""
    template = tmp_path_factory.mktemp("template") / "member"
    write_member(template)
    record = json.loads((template / "member.json").read_text())

    def place(run: Path, trial: int, val_f1: float) -> None:
        folder = member_folder(run, trial)
        shutil.copytree(template, folder)
        metrics = {**record["metrics"], "val_f1": val_f1}
        changed = {**record, "trial": trial, "metrics": metrics}
        (folder / "member.json").write_text(json.dumps(changed))

    return place


@pytest.fixture
def run(tmp_path: Path, place_member: PlaceMember) -> Path:
    """Trials 0 to 4, of which 1 and 3 are the best and equal, then 4, 0 and 2."""
    for trial, val_f1 in enumerate([0.5, 0.9, 0.25, 0.9, 0.75]):
        place_member(tmp_path, trial, val_f1)
    return tmp_path


def with_weights(run: Path, trials: Sequence[int]) -> set[int]:
    """Trials that kept weights; the record, the files and what can be loaded must agree."""
    kept = set()
    for trial in trials:
        member = open_member(member_folder(run, trial))
        assert member.val_margins().shape == (3,)
        files = {path.name for path in member.folder.glob("*.safetensors")}
        assert files == {member.record.weights_file} - {None}
        if member.has_weights:
            kept.add(trial)
    return kept


def name_ensemble(run: Path, trials: Sequence[int]) -> None:
    """Write the `ensemble.json` of an ensemble of these trials."""
    none = Calibration(log_loss=0.1, brier=0.1, expected_calibration_error=0.1)
    records = {trial: open_member(member_folder(run, trial)).record for trial in trials}
    chosen = [
        ChosenMember(
            trial=trial,
            folder=f"members/{trial:04}",
            weights_sha256=record.weights_sha256 or "",
            weight=1 / len(trials),
            temperature=1.0,
            threshold=0.5,
            val_f1=0.75,
        )
        for trial, record in records.items()
    ]
    EnsembleRecord(
        method="mean",
        asked_method="mean",
        top_k=5,
        members=chosen,
        best_single=JudgedMember(**chosen[0].model_dump(exclude={"weight"})),
        ingredients=[],
        temperature=1.0,
        threshold_rule="f1",
        threshold=0.5,
        calibrated_threshold=0.5,
        tta=False,
        tta_tried=None,
        alone=None,
        neighbours=None,
        neighbours_note="not tried",
        optimism=None,
        optimism_note="not tried",
        val_metrics={"f1": 0.75},
        before_calibration=none,
        after_calibration=none,
        methods=[],
        disagreement=[],
        error_correlation=[],
        num_finished=len(chosen),
        num_candidates=len(chosen),
        split_digest="split",
    ).save(run)


# --- who keeps weights


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, {1}), (2, {1, 3}), (3, {1, 3, 4}), (4, {0, 1, 3, 4})]
)
def test_the_best_keep_weights_and_of_equals_the_first(
    keep: int, kept: set[int], run: Path
) -> None:
    dropped = Retention(run, keep).keep_best(range(5))
    assert with_weights(run, range(5)) == kept
    assert dropped == sorted(set(range(5)) - kept)


@pytest.mark.parametrize("keep", [5, 6, 200])
def test_as_many_as_there_are_change_nothing(keep: int, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert Retention(run, keep).keep_best(range(5)) == []
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_second_call_drops_nothing_more(run: Path) -> None:
    retention = Retention(run, 2)
    assert retention.keep_best(range(5)) == [0, 2, 4]
    assert retention.keep_best(range(5)) == []
    assert Retention(run, 2).keep_best(range(5)) == []


def test_a_running_trial_is_not_touched_however_bad(run: Path) -> None:
    before = (member_folder(run, 2) / "member.json").read_bytes()
    assert Retention(run, 1).keep_best([0, 1, 3, 4]) == [0, 3, 4]
    assert (member_folder(run, 2) / "member.json").read_bytes() == before
    open_member(member_folder(run, 2)).load_model()


def test_a_dropped_member_says_why_it_cannot_be_loaded_and_keeps_its_scores(run: Path) -> None:
    before = open_member(member_folder(run, 2))
    Retention(run, 1).keep_best(range(5))
    member = open_member(member_folder(run, 2))
    with pytest.raises(InputError, match=r"trial 2 kept no weights \(only the best --keep do\)"):
        member.load_model()
    assert member.val_margins().tolist() == before.val_margins().tolist()
    without = {"weights_file": None, "weights_sha256": None}
    assert member.record == before.record.model_copy(update=without)


def test_a_failed_trial_leaves_its_reason_but_no_member(run: Path) -> None:
    folder = member_folder(run, 1)
    (folder / "failure.txt").write_text("diverged")
    assert Retention(run, 2).keep_best([0, 2, 3, 4], failed=[1, 7]) == [0, 1, 2]
    assert [path.name for path in folder.iterdir()] == ["failure.txt"]
    assert with_weights(run, [0, 2, 3, 4]) == {3, 4}
    assert not member_folder(run, 7).exists()


def test_what_a_failed_trial_left_half_written_goes_too(run: Path) -> None:
    folder = member_folder(run, 1)
    (folder / "member.json").unlink()
    for name in ("epoch-2-0a1b2c3d", "state-2-0a1b2c3d"):
        (folder / f".{name}.safetensors.4711.tmp").write_bytes(b"half")
    assert Retention(run, 5).keep_best([0, 2, 3, 4], failed=[1]) == []
    assert list(folder.iterdir()) == []


def test_a_chosen_ensemble_keeps_its_weights(run: Path) -> None:
    name_ensemble(run, [2, 0])
    assert Retention(run, 1).keep_best(range(5)) == [3, 4]
    assert with_weights(run, range(5)) == {0, 1, 2}
    _, members = open_choice(run)
    for member in members:
        member.load_model()


def test_an_ensemble_chosen_while_the_search_runs_is_noticed(
    run: Path, place_member: PlaceMember
) -> None:
    retention = Retention(run, 2)
    retention.keep_best(range(5))
    name_ensemble(run, [1, 3])
    for trial in (5, 6):
        place_member(run, trial, 0.95)
    assert retention.keep_best(range(7)) == []
    name_ensemble(run, [5])
    assert retention.keep_best(range(7)) == [1, 3]


def test_a_higher_number_fills_up_with_later_trials(run: Path, place_member: PlaceMember) -> None:
    Retention(run, 2).keep_best(range(5))
    for trial in (5, 6):
        place_member(run, trial, 0.1)
    assert Retention(run, 3).keep_best(range(7)) == [6]
    assert with_weights(run, range(7)) == {1, 3, 5}


def test_a_member_trained_again_in_between_is_judged_by_its_new_score(
    run: Path, place_member: PlaceMember
) -> None:
    retention = Retention(run, 4)
    assert retention.keep_best(range(5)) == [2]
    shutil.rmtree(member_folder(run, 2))
    place_member(run, 2, 0.95)
    assert retention.keep_best(range(5)) == [0]
    assert with_weights(run, range(5)) == {1, 2, 3, 4}


@pytest.mark.parametrize("lost", ["all", "member.json", "scores", "weights"])
def test_a_run_whose_member_was_lost_or_damaged_goes_on_without_it_and_says_so_once(
    run: Path, lost: str
) -> None:
    said: list[str] = []
    retention = Retention(run, 2, said.append)
    folder = member_folder(run, 1)
    record = open_member(folder).record
    if lost == "all":
        shutil.rmtree(folder)
    elif lost == "member.json":
        (folder / lost).write_text("{")
    else:
        name = record.scores_file if lost == "scores" else record.weights_file
        assert name is not None
        (folder / name).unlink()
    assert retention.keep_best(range(5)) == [0, 2]  # the best two of the others: 3 and 4
    assert retention.keep_best(range(5)) == []
    assert len(said) == 1
    assert "0001" in said[0]
    assert said[0].endswith("no ensemble can use it; a larger --trials trains another one")
    assert with_weights(run, [0, 2, 3, 4]) == {3, 4}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), keep=st.integers(1, 4))
def test_after_any_order_of_finishes_the_best_and_the_named_are_kept(
    data: st.DataObject,
    keep: int,
    place_member: PlaceMember,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run = tmp_path_factory.mktemp("any")
    scores = data.draw(st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=1, max_size=6))
    order = data.draw(st.permutations(range(len(scores))))
    for trial, val_f1 in enumerate(scores):
        place_member(run, trial, val_f1)
    retention, finished, lost = Retention(run, keep), [], []
    named: set[int] = set()
    for trial in order:
        finished.append(trial)
        if data.draw(st.booleans(), label="started again"):
            retention = Retention(run, keep)
        lost += retention.keep_best(finished)
        best = sorted(finished, key=lambda number: (-scores[number], number))[:keep]
        kept = with_weights(run, finished)
        assert kept == {*best, *named}
        assert with_weights(run, range(len(scores))) == kept | (set(order) - set(finished))
        if data.draw(st.booleans(), label="chosen"):
            named = data.draw(st.sets(st.sampled_from(sorted(kept)), min_size=1))
            name_ensemble(run, sorted(named))
            lost += retention.keep_best(finished)  # what the choice before it freed
    assert len(lost) == len(set(lost))
    shutil.rmtree(run)


# --- killed on the way


def test_weights_that_a_killed_process_left_are_removed_by_the_next(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is written, the weights are not yet deleted."""
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError("cut")))
        with pytest.raises(InputError, match="cut"):
            checkpoint.drop_weights(member_folder(run, 2))
    assert not open_member(member_folder(run, 2)).has_weights
    assert list(member_folder(run, 2).glob("*.safetensors"))
    assert Retention(run, 5).keep_best(range(5)) == []
    assert with_weights(run, range(5)) == {0, 1, 3, 4}


@pytest.mark.parametrize("failing_sync", [1, 2])
def test_a_drop_that_is_cut_anywhere_leaves_a_whole_member(
    failing_sync: int, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is synced, renamed, and its folder is synced."""
    calls = itertools.count(1)

    def fsync(descriptor: int) -> None:
        if next(calls) == failing_sync:
            raise OSError("cut")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(InputError, match="cut"):
            checkpoint.drop_weights(member_folder(run, 2))
    member = open_member(member_folder(run, 2))
    assert member.has_weights == (failing_sync == 1)
    if member.has_weights:
        member.load_model()
    Retention(run, 4).keep_best(range(5))
    assert with_weights(run, range(5)) == {0, 1, 3, 4}


# --- the forecast


@pytest.mark.parametrize(
    ("backbone", "keep", "num_trials", "at_once"),
    [
        ("small_cnn", 2, 4, 1),
        ("small_cnn", 20, 5, 2),
        ("mobilenet_v3_small", 1, 3, 2),
        ("squeezenet1_1", 3, 5, 2),
    ],
)
def test_the_forecast_is_never_too_low_and_at_most_twice_the_peak(
    backbone: str,
    keep: int,
    num_trials: int,
    at_once: int,
    tmp_path: Path,
    make_trial_config: Callable[..., TrialConfig],
    make_bright_and_dark: Callable[..., SplitTiles],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trials are trained at the same time; the folder is weighed whenever a file was written."""
    tiles = make_bright_and_dark(16)
    initial = tmp_path / "initial.safetensors"
    save_initial_state(make_initial_state(backbone, "none", seed=0), initial)
    config = make_trial_config(
        model={"backbone": backbone}, optimisation={"epochs": 2}, data={"image_size_px": 32}
    )
    run, peak, sync = tmp_path / "run", 0, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal peak
        sync(descriptor)
        peak = max(peak, sum(path.stat().st_size for path in run.rglob("*") if path.is_file()))

    monkeypatch.setattr(os, "fsync", fsync)
    retention, finished = Retention(run, keep), []
    for first in range(0, num_trials, at_once):
        trials = range(first, min(first + at_once, num_trials))
        trained = [
            train_member(
                config,
                TrainingData(tiles, tiles, "split"),
                trial=trial,
                initial_weights=initial,
                folder=member_folder(run, trial),
            )
            for trial in trials
        ]
        for _ in zip(*trained, strict=True):
            pass
        for trial in trials:
            for path in member_folder(run, trial).glob("state*"):  # as the search does at its end
                path.unlink()
            finished.append(trial)
            retention.keep_best(finished)
    forecast = forecast_disk(
        {backbone: initial.stat().st_size},
        keep=keep,
        num_trials=num_trials,
        epochs=2,
        max_concurrent_trials=at_once,
        num_val_tiles=len(tiles),
    )
    assert peak <= forecast - BYTES_PER_RUN  # the study and its tables are not here
    assert forecast - BYTES_PER_RUN <= 2 * peak


def test_the_forecast_counts_the_largest_backbone_and_no_more_members_than_trials() -> None:
    def forecast(keep: int = 20, num_trials: int = 200, at_once: int = 4) -> int:
        return forecast_disk(
            {"small_cnn": 10**5, "resnet18": 10**9},
            keep=keep,
            num_trials=num_trials,
            epochs=8,
            max_concurrent_trials=at_once,
            num_val_tiles=10_000,
        )

    assert round(forecast() / 1e9) == 20 + 4 * 8
    assert round(forecast(keep=1000, num_trials=10) / 1e9) == 6 + 4 * 8
    assert round(forecast(num_trials=2) / 1e9) == 2 * 8
    assert forecast(num_trials=200) - forecast(num_trials=100) < 100 * 100_000


def test_a_search_that_cannot_fit_on_the_disk_is_refused_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = tmp_path / "initial" / "small_cnn.safetensors"
    initial.parent.mkdir()
    initial.write_bytes(bytes(10**7))
    space = load_space(SPACES / "demo.toml")
    packed = Pack(tmp_path, {"num_tiles": {"val": 100}})
    budget = plan_budget(
        gpus=0, cpus=1, workers_per_trial=1, trials_per_gpu=1, nodes=[Node("here", 1, 0)]
    )

    def check(free: int) -> str:
        usage = shutil.disk_usage(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
            return check_disk(tmp_path, space, packed, budget, keep=3, num_trials=10)

    # three networks, and of the running trial its member and its state, twice each
    assert check(10**9).startswith("disk: at most 1")
    assert check(10**9).endswith("1000 MB are free")
    for free in (10**6, 10**7):
        with pytest.raises(InputError, match=r"may need 1\d\d MB more, .*--out.*--keep 3"):
            check(free)
    with pytest.raises(InputError) as refused:
        check(10**6)
    kept = member_folder(tmp_path, 0) / "epoch-1.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(10**7))
    with pytest.raises(InputError) as refused_again:
        check(10**6)
    before, now = (int(re.findall(r"(\d+) MB", str(e.value))[0]) for e in (refused, refused_again))
    assert before - now == 10  # what is there already is not needed once more


# --- what comes after


@pytest.mark.slow
def test_a_run_with_dropped_members_is_evaluated_and_says_so(
    tmp_path: Path,
    make_trial_config: Callable[..., TrialConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw_dataset(tmp_path / "t", photographs_per_surface=4, rows=3, columns=4, tile_size_px=32)
    where: Any = {"packs": tmp_path / "packs", "log": lambda _: None}
    source = open_data(str(tmp_path / "t"), **where)
    packed = prepare_data(source, split_seed=0, max_bad_tiles=0, **where)
    run = tmp_path / "results" / "run"
    run.mkdir(parents=True)
    digest = packed.record["split_digest"]
    about = {
        "split_digest": digest,
        "pack_folder": str(packed.folder),
        "tile_size_px": [32, 32],
        "stored_size_px": packed.record["stored_size_px"],
    }
    write_json(run / "run.json", about)
    packed.table("val")[["tile", "photograph", "surface", "label", *PLACE]].to_csv(
        run / "validation.csv", index=False
    )
    rows = [{"trial": trial, "state": "COMPLETE"} for trial in range(4)]
    pd.DataFrame(rows).to_csv(run / "trials.csv", index=False)
    save_initial_state(make_initial_state("small_cnn", "none", seed=0), run / "small.safetensors")
    data = DevelopmentTiles(packed.folder, torch.device("cpu")).open()
    for trial in range(4):
        config = make_trial_config(seed=trial, data={"image_size_px": 32})
        folder = member_folder(run, trial)
        initial = run / "small.safetensors"
        list(train_member(config, data, trial=trial, initial_weights=initial, folder=folder))
    dropped = Retention(run, 2).keep_best(range(4))
    monkeypatch.chdir(tmp_path)
    for method in (*METHODS, "auto"):
        evaluate.main(parse("evaluate", ["run", "--method", method]))
        said = capsys.readouterr().out
        assert "chosen from the 2 of 4 finished trials that kept their weights" in said
        choice, _ = open_choice(run)
        assert not {member.trial for member in choice.members} & set(dropped)
    with pytest.raises(InputError, match="of which 2 kept their weights"):
        evaluate.main(parse("evaluate", ["run", "--top-k", "3"]))
