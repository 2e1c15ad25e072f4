"""scripts/search.py and python -m ensemble.evaluate, typed as a person would, on a tiny set."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from person import EVALUATE, SEARCH, TINY, type_here, type_in
from searched import NUM_TRIALS, POISON, copy_searched
from sklearn import metrics as reference

from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.data.pack import Pack
from ensemble.evaluation.protocol import evaluate_run
from ensemble.run.folder import run_lock
from ensemble.run.members import open_members
from ensemble.search import command
from ensemble.selection.choice import EnsembleRecord, open_choice
from ensemble.selection.choose import choose_ensemble, rank_members
from ensemble.selection.soup import _average_members, average_states
from ensemble.training.member import DevelopmentTiles

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a tiny data set and a finished run called `first`."""
    return copy_searched(tmp_path_factory)


@pytest.fixture
def run(folder, tmp_path):
    """A copy of the run `first` for one test, whose tiles are found where its `run.json` says."""
    copy = tmp_path / "copy"
    shutil.copytree(folder / "results" / "first", copy)
    return copy


@pytest.fixture(scope="module")
def evaluated(folder):
    """What the evaluation of `first` wrote: metrics and predictions."""
    (folder / "evaluate.log").write_text(type_here(folder, "evaluate"))
    written = folder / "results" / "first" / "evaluation"
    predictions = pd.read_csv(written / "predictions.csv")
    return json.loads((written / "metrics.json").read_text()), predictions


def test_the_search_says_what_it_does_and_how_to_go_on(folder):
    said = (folder / "search.log").read_text()
    assert "cracked = CD, CP, CW" in said
    assert "small_cnn starts from random weights" in said
    assert "1 trial at a time, 1 thread each" in said
    assert "trial 1 epoch 1/2" in said
    assert re.search(r"^next: \S*python -m ensemble\.evaluate results/first$", said, re.MULTILINE)


def test_a_run_holds_study_tables_and_members(folder):
    run = folder / "results" / "first"
    trials, epochs = pd.read_csv(run / "trials.csv"), pd.read_csv(run / "epochs.csv")
    assert trials["state"].isin(["COMPLETE", "PRUNED"]).all()
    assert trials["trial"].tolist() == [0, 1, 2]
    assert len(epochs) == trials["epochs"].sum()
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{run / 'study.db'}")
    for number in range(NUM_TRIALS):
        best = epochs.loc[epochs["trial"] == number, "val_f1"].max()
        assert study.trials[number].last_step == (epochs["trial"] == number).sum()
        assert max(study.trials[number].intermediate_values.values()) == pytest.approx(best)
        record = json.loads((run / "members" / f"{number:04}" / "member.json").read_text())
        assert record["metrics"]["val_f1"] == pytest.approx(best)
        assert record["split_digest"] == json.loads((run / "run.json").read_text())["split_digest"]
    initial = {
        json.loads((run / "members" / f"{number:04}" / "member.json").read_text())[
            "initial_weights_digest"
        ]
        for number in range(NUM_TRIALS)
    }
    assert len(initial) == 1


def test_every_figure_follows_from_the_predictions(evaluated):
    metrics, predictions = evaluated
    columns = ["ensemble"] + [f"trial_{member['trial']}" for member in metrics["members"]]
    labels = predictions["label"]
    for column, stated in zip(columns, [metrics["ensemble"], *metrics["members"]], strict=True):
        called = predictions[column] >= stated["threshold"]
        tn, fp, fn, tp = reference.confusion_matrix(labels, called).ravel()
        assert stated["confusion_matrix"] == {
            "true_positive": tp,
            "false_positive": fp,
            "false_negative": fn,
            "true_negative": tn,
        }
        expected = {
            "f1": reference.f1_score(labels, called, zero_division=0),
            "precision": reference.precision_score(labels, called, zero_division=0),
            "recall": reference.recall_score(labels, called),
            "accuracy": reference.accuracy_score(labels, called),
            "average_precision": reference.average_precision_score(labels, predictions[column]),
            "roc_auc": reference.roc_auc_score(labels, predictions[column]),
            "loss": reference.log_loss(labels, predictions[column]),
        }
        assert {key: stated[key] for key in expected} == pytest.approx(expected)


def test_the_ensemble_is_the_mean_of_its_members(evaluated):
    metrics, predictions = evaluated
    members = predictions[[f"trial_{member['trial']}" for member in metrics["members"]]]
    np.testing.assert_allclose(predictions["ensemble"], members.mean(axis=1), rtol=1e-12)


def test_the_test_photographs_are_in_no_other_split(folder, evaluated):
    metrics, predictions = evaluated
    validation = pd.read_csv(folder / "results" / "first" / "validation.csv")
    (train,) = (folder / "results" / "packs").glob("tiles-*/train.csv")
    others = set(validation["photograph"]) | set(pd.read_csv(train)["photograph"])
    assert not others & set(predictions["photograph"])
    assert metrics["num_test_tiles"] == len(predictions)
    assert metrics["num_test_photographs"] == predictions["photograph"].nunique()


def test_best_single_is_the_best_by_validation(evaluated):
    metrics, _ = evaluated
    best = max(metrics["members"], key=lambda member: member["val_f1"])
    assert metrics["best_single"]["trial"] == best["trial"]


def test_each_opening_of_the_test_split_is_written_down(run):
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    for num_openings in (1, 2):
        evaluate_run(run, top_k=1)
        assert len(pd.read_csv(run / "evaluation" / "ledger.csv")) == num_openings


@pytest.mark.parametrize(("rule", "tta"), [("f1", False), ("f1", True), ("0.5", True)])
def test_one_member_differs_in_nothing_from_itself_as_the_best_single(run, rule, tta):
    metrics = evaluate_run(run, top_k=1, rule=rule, tta=tta)
    (only,) = metrics["members"]
    shared = set(only) & set(metrics["ensemble"])
    assert {"f1", "threshold", "val_f1", "intervals"} <= shared
    assert {key: only[key] for key in shared} == {key: metrics["ensemble"][key] for key in shared}
    gains = metrics["gain_over_best_single"].values()
    assert all(gain["difference"] in (0, None) for gain in gains)


def test_evaluation_after_the_results_were_moved_finds_the_tiles_beside_the_run(folder, tmp_path):
    there = tmp_path / "copied"
    shutil.copytree(folder / "results", there)
    (old,) = (folder / "results" / "packs").glob("tiles-*")
    old.rename(tmp_path / "taken away")
    try:
        metrics = evaluate_run(there / "first")
    finally:
        (tmp_path / "taken away").rename(old)
    recorded = json.loads((there / "first" / "run.json").read_text())["pack_folder"]
    assert recorded == str(there / "packs" / old.name)
    assert metrics["num_test_tiles"] > 0


def test_a_second_evaluation_at_once_is_refused_and_leaves_no_trace(run):
    evaluate_run(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with (
        run_lock(run / "evaluation", what="evaluation"),
        pytest.raises(InputError, match=r"another evaluation is at work in .*; wait for it$"),
    ):
        evaluate_run(run, method="greedy")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_what_is_tested_is_the_choice_in_memory(run, monkeypatch):
    """Whatever replaces `ensemble.json` in between, as a search or a person could."""
    save = EnsembleRecord.save

    def save_and_lose(choice, where):
        save(choice, where)
        (where / "ensemble.json").write_text("{}")

    monkeypatch.setattr(EnsembleRecord, "save", save_and_lose)
    metrics = evaluate_run(run, top_k=2)
    assert [member["trial"] for member in metrics["choice"]["members"]] == [
        member["trial"] for member in metrics["members"]
    ]


@pytest.mark.parametrize(
    ("list_of_labels", "message"),
    [
        ("tile,label\nno such tile,1\n", "none of its tiles is among"),
        ("tile,label\nno such tile,2\n", "label must be 0 or 1"),
    ],
)
def test_a_wrong_list_of_labels_neither_opens_the_test_nor_replaces_the_ensemble(
    run, tmp_path, list_of_labels, message
):
    evaluate_run(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (tmp_path / "labels.csv").write_text(list_of_labels)
    with pytest.raises(InputError, match=message):
        evaluate_run(run, method="greedy", labels_file=tmp_path / "labels.csv")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_cannot_be_scored_is_refused_before_the_test_is_opened(run):
    evaluate_run(run)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"tile_size_px": None}))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="tile_size_px"):
        evaluate_run(run, method="greedy")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_ledger_has_its_line_before_a_test_label_is_read(run, tmp_path, monkeypatch):
    num_openings = evaluate_run(run)["num_test_openings"]
    read_table = Pack.table
    seen = []

    def note_the_ledger(pack, split, columns=None):
        table = read_table(pack, split, columns)
        if split == "test" and "label" in table:
            ledger = (run / "evaluation" / "ledger.csv").read_text().splitlines()
            seen.append(len(ledger) - 1)
        return table

    predictions = pd.read_csv(run / "evaluation" / "predictions.csv")
    predictions[["tile", "label"]].to_csv(tmp_path / "labels.csv", index=False)
    monkeypatch.setattr(Pack, "table", note_the_ledger)
    evaluate_run(run, labels_file=tmp_path / "labels.csv")
    assert seen == [num_openings + 1]


def test_an_evaluation_says_in_one_line_where_it_wrote(folder, evaluated):
    said = (folder / "evaluate.log").read_text()
    assert [line for line in said.splitlines() if line.startswith("written:")] == [
        "written: results/first/evaluation, and ensemble.json, which predict uses"
    ]


def test_a_run_without_its_first_member_is_evaluated_without_it(run):
    shutil.rmtree(run / "members" / "0001")
    said = []
    metrics = evaluate_run(run, log=said.append)
    assert sorted(member["trial"] for member in metrics["members"]) == [0, 2]
    assert said == [f"{run / 'members' / '0001'} is missing: trial 1 is left out"]


def test_a_soup_is_one_network_that_validation_does_not_lose_by(run):
    metrics = evaluate_run(run, method="soup")
    choice, members = open_choice(run)
    assert len(members) == 1
    assert choice.ingredients[0] == choice.best_single
    assert choice.val_metrics["f1"] >= choice.best_single.val_f1 - 1e-12
    shown = [member["trial"] for member in metrics["members"]]
    assert shown == [member.trial for member in choice.ingredients]
    if len(shown) == 1:  # no mixture helped: the soup is the best single member
        assert choice.members[0].folder == choice.best_single.folder
        assert metrics["ensemble"]["loss"] == metrics["best_single"]["loss"]


def test_members_of_one_start_mix_and_their_batch_norm_is_estimated_again(folder):
    run = folder / "results" / "first"
    about = json.loads((run / "run.json").read_text())
    data = DevelopmentTiles(Path(about["pack_folder"]), torch.device("cpu")).open()
    members = rank_members(open_members(run, split_digest=about["split_digest"]))
    mixed = _average_members(members, data.train, data.val)
    plain = average_states([member.load_model().state_dict() for member in members])
    state = mixed.model.state_dict()
    assert torch.equal(state["features.0.weight"], plain["features.0.weight"])
    assert not torch.equal(state["features.1.running_mean"], plain["features.1.running_mean"])


def test_turning_tiles_is_kept_only_where_validation_gains(run):
    evaluate_run(run)
    plain, _ = open_choice(run)
    evaluate_run(run, tta=True)
    turned, _ = open_choice(run)
    assert turned.tta == (turned.val_metrics["f1"] > plain.val_metrics["f1"])
    assert turned.val_metrics["f1"] >= plain.val_metrics["f1"]


def test_corrected_labels_give_figures_beside_the_original_ones(run, tmp_path):
    before = evaluate_run(run)
    predictions = pd.read_csv(run / "evaluation" / "predictions.csv")
    called = (predictions["ensemble"] >= before["ensemble"]["threshold"]).astype(int)
    predictions.assign(label=called)[["tile", "label"]].to_csv(tmp_path / "new.csv", index=False)
    metrics = evaluate_run(run, labels_file=tmp_path / "new.csv")
    assert metrics["ensemble"] == before["ensemble"]
    assert metrics["relabelled"]["accuracy"] == 1.0
    assert metrics["relabelled"]["num_changed"] == (called != predictions["label"]).sum()


def test_a_poisoned_test_split_changes_nothing_before_the_evaluation(folder, run):
    """The search itself found poison in place of the tiles that are tested; see `searched.py`."""
    (packed,) = (folder / "results" / "packs").glob("tiles-*")
    choice = choose_ensemble(run, method="auto")
    saved = {name: (packed / name).read_bytes() for name in ("test.npy", "test.csv")}
    try:
        for name in saved:
            (packed / name).write_bytes(POISON)
        assert choose_ensemble(run, method="auto") == choice
    finally:
        for name, content in saved.items():
            (packed / name).write_bytes(content)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--seed", "1"], "exists with other seed (0, now 1)"),
        (["--epochs", "3"], "exists with other epochs (2, now 3)"),
        (["--image-size", "64"], "exists with other image size (32, now 64)"),
        (
            ["--split-seed", "5"],
            "exists with another split of the same tiles (split seed 0, now 5)",
        ),
    ],
)
def test_a_name_that_is_taken_by_another_search_is_refused(folder, monkeypatch, changed, message):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError) as caught:
        command.main(parse("search", ["--data", "tiles", *TINY, "--name", "first", *changed]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such folder or .zip"),
        (["--data", "tiles/D/CD"], "no tiles found"),
        (["--data", "tiles/D", "--positive", "XX"], "--positive XX: no such folder"),
        (["--data", "tiles", "--space", "nothing"], "--space nothing: no such file, nor one of"),
        (["--data", "tiles", "--gpus", "64"], "--gpus 64"),
        (["--data", "tiles", "--weights", "resnet99=x.pth"], "unknown backbone"),
        (["--data", "tiles", "--weights", "small_cnn=x.pth"], "x.pth: no such file"),
        (["--data", "tiles", "--trials", "0"], "--trials 0: must be at least 1"),
        (["--data", "tiles", "--epochs", "0"], "--epochs 0: must be from 1 to"),
        (["--data", "tiles", "--image-size", "8"], "--image-size 8: must be from 16"),
        (["--data", "tiles", "--name", "../x"], "--name"),
        (["--data", "tiles", "--workers-per-trial", "3"], "could never start"),
        (["--data", "tiles", "--address", "127.0.0.1:1"], "no Ray cluster there"),
        (["--data", "tiles", "--address", "head"], "expected HOST:PORT"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(folder, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in (folder / "results").iterdir())
    with pytest.raises(InputError) as caught:
        command.main(parse("search", [*TINY, "--name", "bad", *words]))
    assert message in str(caught.value)
    assert sorted(path.name for path in (folder / "results").iterdir()) == before
    assert not (folder / "results" / "bad").exists()


def test_bad_input_is_one_line_and_exit_code_2(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for call, message in (
        (lambda: command.main(parse("search", ["--data", "nowhere"])), "error: --data nowhere: no"),
        (
            lambda: evaluate_run(Path("results/first"), top_k=4),
            "error: --top-k 4: the run has 3 finished trials",
        ),
    ):
        with pytest.raises(SystemExit) as refused:
            run_command(call)
        assert refused.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(message)


def test_a_member_of_another_split_is_foreign(run):
    path = run / "members" / "0001" / "member.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split_digest": "0" * 64}))
    with pytest.raises(InputError, match="foreign member"):
        evaluate_run(run)


@pytest.mark.parametrize("words", [SEARCH, EVALUATE], ids=["search", "evaluate"])
def test_help_states_defaults(words, tmp_path):
    said = type_in(tmp_path, *words, "--help")
    assert "default" in said
