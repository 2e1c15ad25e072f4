"""Searches whose trials last as many epochs as a test needs, and checks of what they leave."""

import re
from pathlib import Path

import optuna
import pandas as pd
import pytest
from person import SEARCH

from ensemble.training.checkpoint import open_member

SPACE = """
question = "What does a fault cost?"
weights = "none"
[default.model]
backbone = "small_cnn"
[default.optimisation]
epochs = {epochs}
global_batch_size = {global_batch_size}
learning_rate = {learning_rate}
{more}
[default.data]
image_size_px = {image_size_px}
[search.model]
dropout = {{ low = 0.0, high = 0.5 }}
[early_stopping]
grace_epochs = {grace_epochs}
reduction_factor = 2
"""
TRIAL = "ResourceTrainable"  # Ray's name for the process of a trial
SIDE_BY_SIDE = ("--cpus", "2")
WORKERS = ("--workers-per-trial", "2", *SIDE_BY_SIDE)


def words(
    folder: Path,
    name: str,
    *more: str,
    trials: int,
    epochs: int = 4,
    grace_epochs: int | None = None,
    image_size_px: int = 64,
    global_batch_size: int = 32,
    learning_rate: float = 1e-3,
    settings: str = "",
) -> list[str]:
    """Write a space of small networks and return the command of its search, a trial at a time.

    Early stopping is on only where `grace_epochs` are given.
    """
    (folder / f"{name}.toml").write_text(
        SPACE.format(
            epochs=epochs,
            grace_epochs=grace_epochs or epochs,
            image_size_px=image_size_px,
            global_batch_size=global_batch_size,
            learning_rate=learning_rate,
            more=settings,
        )
    )
    return [
        *SEARCH, "--data", "tiles", "--gpus", "0", "--cpus", "1", "--space", f"{name}.toml",
        "--name", name, "--trials", str(trials), *more,
    ]  # fmt: skip


def trial_in(line: str) -> int:
    """Number of the trial that a printed line names."""
    found = re.search(r"trial (\d+)", line)
    assert found, line
    return int(found[1])


def count_repeats(said: str) -> int:
    """Number of epochs that a search printed more than once."""
    epochs = re.findall(r"trial \d+ epoch \d+/", said)
    return len(epochs) - len(set(epochs))


def check_study(run: Path, *, finished: int, failed: int = 0) -> pd.DataFrame:
    """Check that study, tables and members have the same trials, each once; return `trials.csv`."""
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{run}/study.db")
    states = [trial.state.name for trial in study.trials if trial.params]
    assert sum(state in ("COMPLETE", "PRUNED") for state in states) == finished
    reasons = [trial.user_attrs["reason"] for trial in study.trials if trial.state.name == "FAIL"]
    assert len(reasons) == failed, reasons
    assert not {"RUNNING", "WAITING"} & set(states)
    trials, epochs = pd.read_csv(run / "trials.csv"), pd.read_csv(run / "epochs.csv")
    assert trials["state"].tolist() == states
    assert not epochs.duplicated(["trial", "epoch"]).any()
    parameters = [tuple(sorted(trial.params.items())) for trial in study.trials if trial.params]
    assert len(set(parameters)) == len(parameters)
    for trial in study.trials:
        if trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        member = open_member(run / "members" / f"{trial.number:04}")
        own = epochs[epochs["trial"] == trial.number]
        assert own["epoch"].tolist() == list(range(1, len(own) + 1))
        best = max(trial.intermediate_values.values())
        assert member.val_f1 == pytest.approx(own["val_f1"].max()) == pytest.approx(best)
        assert not list(member.folder.glob("state*"))
    return trials
