"""A refit, typed as a person would: interrupted, gone on with, tested, and what is refused."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from person import type_here, type_in
from safetensors.torch import load_file, save_file
from searched import copy_searched

from ensemble import open_run
from ensemble.base.errors import InputError
from ensemble.base.files import read_object
from ensemble.cli import parse
from ensemble.run.members import open_members, read_validation, score_tiles
from ensemble.run.pack import find_pack
from ensemble.search.refit import read_refit, run_refit
from ensemble.training.config import flatten
from ensemble.training.member import DevelopmentTiles

pytestmark = pytest.mark.slow

HERE = ["--gpus", "0", "--cpus", "1"]  # one process imports torch, and trains all of them
MORE = ["--seeds", "2", "--try", "loss.label_smoothing=0.125", "data.augmentation=0"]
ASKED = ["refit", "first", "--top-k", "2", "--folds", "2", "--epochs", "2", *MORE, *HERE]
FURTHER = ["--try", "model.dropout=0.125"]


class Refit(NamedTuple):
    """What a refit said that was killed, and what it said when it went on, asked for more."""

    killed: str
    ended: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a search of three trials called `first`."""
    return copy_searched(tmp_path_factory)


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return folder / "results" / "first"


@pytest.fixture(scope="module")
def said(folder: Path) -> Refit:
    """A refit that was killed in its second trial, and then was asked for a further change."""
    command = [sys.executable, "-m", "ensemble", *ASKED]
    with subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        first = []
        for line in process.stdout or []:
            first.append(line)
            if re.search("fold 2 of 2 epoch 1/2", line):
                process.send_signal(signal.SIGKILL)
    assert not (folder / "results" / "first-refit" / "run.json").exists()
    return Refit("".join(first), type_in(folder, *command, *FURTHER))


@pytest.fixture(scope="module")
def run(folder: Path, said: Refit) -> Path:
    return folder / "results" / "first-refit"


def test_a_killed_refit_goes_on_and_trains_each_configuration_on_each_fold(source, run, said):
    assert re.search(r"2 configurations of first, found in trials \d, \d; 2 folds of ", said.killed)
    assert re.search(r"2 folds of \d+ tiles of \d+ photographs$", said.killed, re.MULTILINE)
    assert re.search(r"first/\d, fold 1 of 2 epoch 1/2: val F1", said.killed)
    assert re.search(
        r"continuing: 1 of 10 trials are finished; first/\d, fold 2 of 2 was", said.ended
    )
    assert "joined: 5 members of 2 networks each" in said.ended
    assert "Traceback" not in said.killed + said.ended
    told = re.findall(r"^.* (\S.*), fold (\d) of 2 epoch (\d)/2", "".join(said), re.MULTILINE)
    assert len(told) == len(set(told)) == 20  # no epoch is trained again
    trials = pd.read_csv(run / "folds" / "trials.csv")
    assert sorted(zip(trials["configuration"], trials["fold"], strict=True)) == [
        (configuration, fold) for configuration in range(5) for fold in range(2)
    ]
    assert (trials["epochs"] == 2).all()  # nothing is stopped early
    joined = pd.read_csv(run / "trials.csv")
    best = pd.read_csv(source / "trials.csv").sort_values("val_f1", ascending=False)
    first, second = (f"first/{trial}" for trial in best["trial"][:2])
    changed = "loss.label_smoothing = 0.125, data.augmentation = 0.0"
    names = [first, second, f"{first}, seed 2", changed, "model.dropout = 0.125"]
    assert joined["name"].tolist() == names
    folds = [f"{name}, fold {fold} of 2" for name in names for fold in (1, 2)]
    assert sorted(trials["name"]) == sorted(folds)
    assert joined["epochs"].tolist() == [4] * 5
    assert joined["loss.label_smoothing"].tolist()[3] == 0.125


def test_further_seeds_and_changes_are_members_and_compared_with_the_best(run, said):
    about = read_object(run / "run.json", split_digest=str)
    members = open_members(run, split_digest=about["split_digest"])
    best, _, seed, changed, further = (flatten(member.record.config) for member in members)
    assert {name for name in best if best[name] != seed[name]} == {"seed"}
    tried = {"loss.label_smoothing": 0.125, "data.augmentation": 0.0}
    assert changed == best | tried
    assert further == best | {"model.dropout": 0.125}
    table = pd.read_csv(run / "tried.csv")
    assert table["trial"].tolist() == [0, 1, 2, 3, 4]
    assert table["f1"].tolist() == [member.val_f1 for member in members]
    assert (table["seconds"] > 0).all()
    assert re.search(r"^tried on the folds, against first/\d: F1 \d", said.ended, re.MULTILINE)
    assert "  loss.label_smoothing = 0.125, data.augmentation = 0.0: F1 " in said.ended


def test_scores_of_a_refit_are_of_networks_that_did_not_see_the_tile(run):
    about = read_object(run / "run.json", split_digest=str)
    members = open_members(run, split_digest=about["split_digest"])
    validation = read_validation(run)
    data = DevelopmentTiles(find_pack(run), torch.device("cpu")).open_all(2)
    assert data.val.labels.tolist() == validation["label"].tolist()
    assert validation["fold"].nunique() == 2
    probabilities = score_tiles(members, data.val)
    for member, row in zip(members, probabilities, strict=True):
        margins = member.val_margins().astype(float)
        np.testing.assert_allclose(row, 1 / (1 + np.exp(-margins)), rtol=1e-4)


def test_a_refit_is_tested_told_and_used_as_any_run(folder, run):
    asked = ("--method", "auto", "--tta", "--compare", "--budget-members", "3")
    said = type_here(folder, "evaluate", "first-refit", *asked)
    assert "first/" in said
    costs = r"^a tile costs \d+ forward pass(es)?: (all 2|1 of 2) networks of trial \d"
    assert re.search(costs, said, re.MULTILINE)
    assert "(at most 3 were asked for)" in said
    assert "2 seeds of one configuration (trials 0, 2) have on validation" in said
    choice = read_object(run / "ensemble.json", members=list)
    assert sum(member["num_networks"] for member in choice["members"]) <= 3
    assert (run / "evaluation" / "metrics.json").exists()
    assert "report.html" in type_here(folder, "report", "first-refit")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "a trial is a configuration of first, trained once for each of 2 folds" in page
    assert "The search" not in page
    tile = next((folder / "tiles").rglob("*.jpg"), None) or next((folder / "tiles").rglob("*.png"))
    assert "predictions.csv" in type_here(folder, "predict", "first-refit", str(tile))
    type_here(folder, "look", str(tile), "--member", "first-refit")


def test_the_same_refit_from_python_is_the_same_run(folder, run, monkeypatch):
    monkeypatch.chdir(folder)
    again = open_run("first").refit(
        top_k=2,
        folds=2,
        epochs=2,
        seeds=2,
        tries=[{"loss.label_smoothing": 0.125, "data.augmentation": 0}],
        gpus=0,
        cpus=2,
        quiet=True,
    )
    assert again.folder == run
    assert again.tried["name"].tolist() == again.trials["name"].tolist()


def test_a_finished_refit_keeps_what_it_has_where_it_is_asked_for_less(folder, run):
    before = {path: path.read_bytes() for path in run.glob("*.csv")}
    weights = sorted(run.glob("members/*/*.safetensors"))
    written = [path.stat().st_mtime_ns for path in weights]
    assert "finished already: 10 trials\n" in type_here(folder, *ASKED)
    assert {path: path.read_bytes() for path in run.glob("*.csv")} == before
    assert sorted(run.glob("members/*/*.safetensors")) == weights
    assert [path.stat().st_mtime_ns for path in weights] == written


def test_a_refit_is_continued_from_the_same_weights_elsewhere_and_from_no_others(
    folder, source, run, tmp_path
):
    (weights,) = source.glob("initial/*.safetensors")
    again = type_here(folder, *ASKED, "--weights", str(weights))
    assert "finished already: 10 trials\n" in again
    tensors = {name: tensor + 1 for name, tensor in load_file(weights).items()}
    save_file(tensors, tmp_path / "others.safetensors")
    others = str(tmp_path / "others.safetensors")
    said = type_here(folder, *ASKED, "--weights", others, code=2)
    assert "the run first-refit exists with other weights: choose another --name" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["first", "--top-k", "9"], r"--top-k 9: .* has 3 finished trials"),
        (["first", "--folds", "20"], r"--folds 20: there are \d+ photographs"),
        (["nowhere"], "nowhere: no run of that name"),
        (["first", "--name", "first"], "--name first: is another run"),
        (["first-refit"], "is a refit itself"),
        (["first", "--try", "data.context=0"], r"'data\.context' \(like it: data\.context"),
        ([*ASKED[1:], "--epochs", "1"], "exists with other"),
        (["first", "--try", "model.backbone=small_cnn_deep"], r"say --weights small_cnn_deep="),
        (["first", "--try", "data.context_px=33"], r"side by side|choose from 0 to 32"),
        (["first", "--top-k", "1", "--folds", "2"], "exists with other"),
    ],
)
def test_what_cannot_be_refitted_is_refused_in_a_line(folder, run, monkeypatch, words, reason):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError) as refused:
        run_refit(*read_refit(parse("refit", [*words, *HERE])))
    line = str(refused.value)
    assert re.search(reason, line), line
    assert "\n" not in line


def test_a_soup_of_a_refit_is_refused(folder, run):
    said = type_here(folder, "evaluate", "first-refit", "--method", "soup", code=2)
    assert "--method soup: is not for a refit" in said


def test_weights_that_a_refit_starts_from_and_are_damaged_are_refused(folder, source):
    (weights,) = source.glob("initial/*.safetensors")
    content = weights.read_bytes()
    try:
        for damaged in (content[:100], content[:-1] + bytes([content[-1] ^ 1])):
            weights.write_bytes(damaged)
            said = type_here(folder, "refit", "first", "--name", "other", *HERE, code=2)
            assert re.search(r"initial/.*\.safetensors: damaged", said)
    finally:
        weights.write_bytes(content)


def test_labels_that_the_best_configuration_contradicts_count_less_where_it_is_tried(folder, run):
    words = ["refit", "first", "--folds", "2", "--epochs", "2", *HERE, "--name", "doubting"]
    doubting = ["--top-k", "2", *MORE, "--try", "loss.doubted_weight=0"]
    said = type_here(folder, *words, *doubting, code=2)
    assert "give the same command without it first" in said
    shutil.copytree(run, folder / "results" / "doubting")
    validation = folder / "results" / "doubting" / "validation.csv"
    content = validation.read_text()
    validation.write_text("".join(content.splitlines(keepends=True)[:-1]))
    assert "has scores of" in type_here(folder, *words, *doubting, code=2)
    validation.write_text(content)
    said = type_in(folder, sys.executable, "-m", "ensemble", *words, *doubting)
    doubted = pd.read_csv(folder / "results" / "doubting" / "folds" / "initial" / "doubted.csv")
    assert f"doubted labels: {len(doubted)} of " in said
    base, *_, careful = open_members(
        folder / "results" / "doubting",
        split_digest=read_object(run / "run.json", split_digest=str)["split_digest"],
    )
    assert len(doubted) > 0
    assert careful.record.config.loss.doubted_weight == 0
    assert not np.array_equal(base.val_margins(), careful.val_margins())
    tiles = read_validation(run)
    scored = tiles.assign(probability=1 / (1 + np.exp(-base.val_margins().astype(float))))
    is_doubted = scored["tile"].isin(doubted["tile"])
    assert scored.loc[is_doubted, "label"].tolist() == doubted["label"].tolist()
    for label, sign in ((0, 1), (1, -1)):  # those most like the other class, and no others
        contradiction = sign * scored.loc[scored["label"] == label, "probability"]
        assert (contradiction[is_doubted].min() > contradiction[~is_doubted].max()) or not (
            doubted["label"] == label
        ).any()
