"""Searches typed as a person would that end otherwise: in parallel, on noise, cut short."""

import shutil
import signal
import subprocess

import numpy as np
import pandas as pd
import pytest
from person import SEARCH, TINY, type_in
from sklearn import metrics as reference

from ensemble.evaluation.protocol import evaluate_run

pytestmark = pytest.mark.slow


def test_data_parallel_trials_leave_the_same_kind_of_member(folder):
    said = type_in(
        folder, *SEARCH, "--data", "tiles", *TINY, "--trials", "2", "--workers-per-trial", "2",
        "--name", "parallel",
    )  # fmt: skip
    assert "on 2 Ray Train workers" in said
    run = folder / "results" / "parallel"
    assert pd.read_csv(run / "trials.csv")["state"].isin(["COMPLETE", "PRUNED"]).all()
    assert evaluate_run(run)["ensemble"]["f1"] >= 0


def test_shuffled_labels_give_no_better_ap_than_chance(folder):
    """Nothing in the whole pipeline leaks labels: AP lies in the 99 % band of shuffles."""
    generator = np.random.default_rng(0)
    tiles = sorted((folder / "tiles").rglob("*.jpg"))
    cracked = generator.permutation(["C" in path.parent.name for path in tiles])
    for path, is_cracked in zip(tiles, cracked, strict=True):
        surface = path.parent.parent.name
        target = folder / "shuffled" / surface / ("C" if is_cracked else "U") / path.name
        target = target.parent.with_name(f"{target.parent.name}{surface}") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    type_in(
        folder, *SEARCH, "--data", "shuffled", *TINY, "--trials", "1", "--name", "shuffled"
    )  # fmt: skip
    evaluate_run(folder / "results" / "shuffled")
    written = pd.read_csv(folder / "results" / "shuffled" / "evaluation" / "predictions.csv")
    labels, scores = written["label"].to_numpy(), written["ensemble"].to_numpy()
    by_chance = [
        reference.average_precision_score(generator.permutation(labels), scores)
        for _ in range(2000)
    ]
    low, high = np.quantile(by_chance, [0.005, 0.995])
    assert low <= reference.average_precision_score(labels, scores) <= high


def test_an_interrupted_and_a_killed_search_go_on_where_they_were(folder):
    words = [*SEARCH, "--data", "tiles", *TINY, "--epochs", "3", "--trials", "3", "--name", "cut"]
    for deadly in (signal.SIGINT, signal.SIGKILL):
        with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            said = []
            for line in process.stdout or []:
                said.append(line)
                if " epoch 1/3" in line:
                    process.send_signal(deadly)
                    said += list(process.stdout or [])
            code = process.wait(timeout=120)
        assert code == (130 if deadly == signal.SIGINT else -signal.SIGKILL)
        if deadly == signal.SIGINT:
            assert "--name cut goes on" in said[-1]
    type_in(folder, *words)
    run = folder / "results" / "cut"
    trials, epochs = pd.read_csv(run / "trials.csv"), pd.read_csv(run / "epochs.csv")
    assert trials["trial"].tolist() == [0, 1, 2]
    assert trials["state"].isin(["COMPLETE", "PRUNED"]).all()
    assert not epochs.duplicated(["trial", "epoch"]).any()
    for number in range(3):
        assert (run / "members" / f"{number:04}" / "member.json").exists()
