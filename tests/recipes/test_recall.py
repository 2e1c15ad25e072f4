"""python -m ensemble.recall: base against itself with weights and stronger augmentation."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from sklearn import metrics as reference

from ensemble import recall, train
from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.recipes.recall import train_recall_remedies
from ensemble.run.members import member_folder, read_validation
from ensemble.training.checkpoint import open_member
from ensemble.training.metrics import margins_to_probabilities

WORDS = ["--recipe", "sdnet2018-baseline", "--backbone", "small_cnn", "--weights", "none"]
WORDS += ["--data", "tiles", "--epochs", "2", "--image-size", "32", "--gpus", "0", "--name", "run"]


@pytest.fixture(scope="module")
def answered(folder):
    """A run of a recipe and its answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.main(parse("train", WORDS))
        recall.main(parse("recall", ["run", "--gpus", "0"]))
    return folder / "results" / "run"


def test_weights_and_augmentation_are_all_that_is_changed(answered):
    base, *others = (open_member(member_folder(answered, n)).record for n in range(4))
    pack = Path(json.loads((answered / "run.json").read_text())["pack_folder"])
    labels = pd.read_csv(pack / "train.csv")["label"]
    weight = round((labels == 0).sum() / (labels == 1).sum(), 3)
    expected = [(weight, 0.3), (1.0, 1.0), (weight, 1.0)]
    assert [(r.config.loss.crack_weight, r.config.data.augmentation) for r in others] == expected
    for record in others:
        config = record.config
        back = config.model_copy(update={"loss": base.config.loss, "data": base.config.data})
        assert back == base.config
        assert record.initial_weights_digest == base.initial_weights_digest


def test_recall_precision_and_f1_follow_from_the_scores(answered):
    table = pd.read_csv(answered / "recall.csv")
    labels = read_validation(answered)["label"].to_numpy()
    names = ["base", "class weights", "stronger augmentation", "both"]
    assert table["name"].tolist() == [name for name in names for _ in range(2)]
    assert table["threshold_rule"].tolist() == ["0.5", "best F1"] * 4
    assert (table.loc[table["threshold_rule"] == "0.5", "threshold"] == 0.5).all()
    for row in table.to_dict("records"):
        member = open_member(member_folder(answered, row["trial"]))
        called = margins_to_probabilities(member.val_margins()) >= row["threshold"]
        expected = {
            "recall": reference.recall_score(labels, called),
            "precision": reference.precision_score(labels, called, zero_division=0),
            "f1": reference.f1_score(labels, called),
        }
        assert {key: row[f"val_{key}"] for key in expected} == pytest.approx(expected)
        if row["threshold_rule"] == "best F1":
            assert row["val_f1"] == member.val_f1


def test_answers_are_members_of_the_run_and_are_not_trained_twice(answered, monkeypatch, capsys):
    monkeypatch.chdir(answered.parents[1])
    before = (answered / "epochs.csv").read_bytes()
    recall.main(parse("recall", ["run", "--gpus", "0"]))
    said = capsys.readouterr().out
    assert said.count("finished before") == 3
    assert said.splitlines()[-1].endswith("python -m ensemble.evaluate results/run")
    (header,) = [line for line in said.splitlines() if line.startswith("┃")]
    assert header.strip("┃ ").split(" ┃ ")[0].strip() == "trained with"
    assert all(title.strip() for title in header.strip("┃").split("┃"))
    train.main(parse("train", WORDS))
    assert (answered / "epochs.csv").read_bytes() == before
    trials = pd.read_csv(answered / "trials.csv")
    assert trials["trial"].tolist() == [0, 1, 2, 3]
    assert (trials["state"] == "COMPLETE").all()


def test_recall_goes_on_where_it_was_interrupted(answered, tmp_path):
    """Ctrl-C as the second answer's first epoch is told: it is not trained again."""
    run = tmp_path / "run"
    shutil.copytree(answered, run)
    for number in (2, 3):
        shutil.rmtree(member_folder(run, number))
    for name in ("trials.csv", "epochs.csv"):
        table = pd.read_csv(run / name)
        table[table["trial"] < 2].to_csv(run / name, index=False)

    class Interrupting(Console):
        def print(self, *words, **options):
            if str(words[0]).startswith("stronger augmentation epoch 1/2"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recall_remedies(run, torch.device("cpu"), Interrupting())
    assert (member_folder(run, 2) / "state.json").exists()
    table = train_recall_remedies(run, torch.device("cpu"), Console(quiet=True))
    pd.testing.assert_frame_equal(table, pd.read_csv(answered / "recall.csv"), check_dtype=False)


def test_training_tiles_that_somebody_relabelled_in_the_pack_are_refused(answered, tmp_path):
    """With one class the weight would be a division by nothing."""
    run = tmp_path / "run"
    shutil.copytree(answered, run)
    about = json.loads((run / "run.json").read_text())
    pack = tmp_path / "pack"
    shutil.copytree(about["pack_folder"], pack)
    table = pd.read_csv(pack / "train.csv")
    table[table["label"] == 0].to_csv(pack / "train.csv", index=False)
    (run / "run.json").write_text(json.dumps(about | {"pack_folder": str(pack)}))
    with pytest.raises(InputError, match=r"train\.csv is damaged"):
        train_recall_remedies(run, torch.device("cpu"), Console(quiet=True))


def test_a_run_of_a_search_is_refused(answered, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(answered, run)
    about = json.loads((run / "run.json").read_text())
    del about["recipe"]
    (run / "run.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="no run of a recipe"):
        train_recall_remedies(run, torch.device("cpu"), Console(quiet=True))


def test_a_run_whose_base_is_not_finished_is_refused(answered, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(answered, run)
    table = pd.read_csv(run / "trials.csv")
    table.assign(state="RUNNING").to_csv(run / "trials.csv", index=False)
    with pytest.raises(InputError, match="its base is not finished"):
        train_recall_remedies(run, torch.device("cpu"), Console(quiet=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there_is_refused_and_not_replaced_by_the_cpu(answered, monkeypatch):
    monkeypatch.chdir(answered.parents[1])
    for door, words in (("train", ["--recipe", "small-cnn"]), ("recall", ["run"])):
        with pytest.raises(InputError, match="--gpus 1: torch finds no GPU here; --gpus 0 trains"):
            {"train": train, "recall": recall}[door].main(parse(door, [*words, "--gpus", "1"]))
