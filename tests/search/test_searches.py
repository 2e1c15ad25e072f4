"""Searches typed as a person would that end otherwise: interrupted, in parallel, on noise."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from person import SEARCH, TINY, type_in
from sklearn import metrics as reference
from steady import WORKERS
from talkative import CHATTER, COMPLAINS, SAYS, make_talkative
from tracked import history, read_points, runs_of

from ensemble.evaluation.protocol import evaluate_run
from ensemble.recipes.recipe import load_recipe
from ensemble.run.events import hyperparameters
from ensemble.training.checkpoint import open_member

pytestmark = pytest.mark.slow


class Launch(NamedTuple):
    """One time that the command of a search was typed."""

    said: str
    code: int
    ray_log: str  # as the run has it then


@pytest.fixture(scope="module")
def cut(folder: Path) -> list[Launch]:
    """A search from a recipe, of talkative trials: interrupted, and gone on with."""
    path = os.pathsep.join([make_talkative(folder / "talkative"), os.environ.get("PYTHONPATH", "")])
    words = [*SEARCH, "--data", "tiles", *TINY, "--epochs", "3", "--trials", "2", "--name", "cut"]
    words += ["--start-from", "small-cnn"]
    launches = []
    for is_interrupted in (True, False):
        with subprocess.Popen(
            words, cwd=folder, text=True, env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            said = []
            for line in process.stdout or []:
                said.append(line)
                if is_interrupted and "epoch 1/3" in line:
                    process.send_signal(signal.SIGINT)
                    said += list(process.stdout or [])
            code = process.wait(timeout=120)
        log = (folder / "results" / "cut" / "ray.log").read_text()
        launches.append(Launch("".join(said), code, log))
    return launches


def test_an_interrupted_search_goes_on_where_it_was(folder, cut):
    interrupted, ended = cut
    assert [launch.code for launch in cut] == [130, 0]
    assert "1 trial at a time" in interrupted.said
    assert "--name cut goes on" in interrupted.said.splitlines()[-1]
    assert "Traceback" not in interrupted.said + ended.said
    assert "continuing" not in interrupted.said
    (line,) = re.findall("^continuing: .*$", ended.said, re.MULTILINE)
    assert re.search(
        r"^continuing: 0 of 2 trials are finished; trial 0 was interrupted after epoch", line
    )
    told = re.findall(r"trial \d epoch \d/3", "".join(launch.said for launch in cut))
    assert len(told) == len(set(told))
    run = folder / "results" / "cut"
    trials, epochs = pd.read_csv(run / "trials.csv"), pd.read_csv(run / "epochs.csv")
    assert trials["trial"].tolist() == [0, 1]
    assert trials["state"].isin(["COMPLETE", "PRUNED"]).all()
    assert not epochs.duplicated(["trial", "epoch"]).any()
    for number in range(2):
        assert (run / "members" / f"{number:04}" / "member.json").exists()


def test_a_search_typed_with_a_start_trains_the_recipe_first(folder, cut):
    assert "trial 0 is the recipe small-cnn; widened for it: " in cut[0].said
    assert "trial 0 differs from the recipe: 128 → 32 px, 10 → 3 epochs\n" in cut[0].said
    trials = pd.read_csv(folder / "results" / "cut" / "trials.csv")
    base = load_recipe("small-cnn").base
    assert trials.loc[0, "optimisation.learning_rate"] == base.optimisation.learning_rate
    assert trials.loc[0, "model.dropout"] == base.model.dropout
    assert trials.loc[0, "data.augmentation"] == base.data.augmentation


def test_what_trials_print_is_in_ray_log_and_not_on_the_console_and_a_continued_search_adds_to_it(
    cut,
):
    interrupted, ended = cut
    for launch in cut:
        assert "trial says" not in launch.said
        assert COMPLAINS not in launch.said
        assert not re.search(CHATTER, launch.said), launch.said
    assert ended.ray_log.startswith(interrupted.ray_log)
    assert ended.ray_log.count("======== a start, with Ray") == 2
    for text in (interrupted.ray_log, ended.ray_log.removeprefix(interrupted.ray_log)):
        for spoken in (SAYS, COMPLAINS):
            marked = rf"^20\S+ INFO ray\.processes: \((?:.+ )?pid=\d+\) {re.escape(spoken)}$"
            assert re.search(marked, text, re.MULTILINE), text


@pytest.fixture(scope="module")
def shuffled(folder: Path) -> Path:
    """The run of data-parallel trials on tiles with shuffled labels, which MLflow is told of."""
    generator = np.random.default_rng(0)
    tiles = sorted((folder / "tiles").rglob("*.jpg"))
    cracked = generator.permutation(["C" in path.parent.name for path in tiles])
    for path, is_cracked in zip(tiles, cracked, strict=True):
        surface = path.parent.parent.name
        target = folder / "shuffled" / surface / ("C" if is_cracked else "U") / path.name
        target = target.parent.with_name(f"{target.parent.name}{surface}") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    words = [*SEARCH, "--data", "shuffled", *TINY, "--trials", "2"]
    words += [*WORKERS, "--name", "shuffled", "--mlflow", f"sqlite:///{folder}/mlflow.db"]
    assert "on 2 Ray Train workers" in type_in(folder, *words)
    return folder / "results" / "shuffled"


def test_shuffled_labels_give_no_better_ap_than_chance(shuffled):
    """Nothing in the whole pipeline leaks labels: AP lies in the 99 % band of shuffles."""
    generator = np.random.default_rng(0)
    assert pd.read_csv(shuffled / "trials.csv")["state"].isin(["COMPLETE", "PRUNED"]).all()
    evaluate_run(shuffled)
    written = pd.read_csv(shuffled / "evaluation" / "predictions.csv")
    labels, scores = written["label"].to_numpy(), written["ensemble"].to_numpy()
    by_chance = [
        reference.average_precision_score(generator.permutation(labels), scores)
        for _ in range(2000)
    ]
    low, high = np.quantile(by_chance, [0.005, 0.995])
    assert low <= reference.average_precision_score(labels, scores) <= high


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # of MLflow's own tables
def test_a_search_lands_in_mlflow_and_tensorboard(folder, shuffled):
    uri, table = f"sqlite:///{folder}/mlflow.db", pd.read_csv(shuffled / "epochs.csv")
    runs = runs_of(uri, "shuffled")
    assert [run.info.run_name for run in runs] == ["0000", "0001"]
    for number, run in enumerate(runs):
        assert run.info.status == "FINISHED"
        config = open_member(shuffled / "members" / f"{number:04}").record.config
        shown = hyperparameters(config)
        assert run.data.params == {name: str(value) for name, value in shown.items()}
        assert {"val_f1", "train_loss", "learning_rate"} <= set(run.data.metrics)
        epochs = table[table["trial"] == number]
        for figure in run.data.metrics:
            in_table = pytest.approx(dict(zip(epochs["epoch"], epochs[figure], strict=True)))
            assert dict(history(uri, run, figure)) == in_table
            points = read_points(shuffled / "tensorboard" / run.info.run_name, figure)
            assert dict(points) == pytest.approx(in_table.expected, rel=1e-5, abs=1e-6)
