"""The Python interface, as a notebook uses it; the notebook itself runs in test_cli.py."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from person import ROOT
from runs import make_evaluated, make_searched

import ensemble
from ensemble import InputError, load_ensemble, open_run, run_search


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of an evaluated run."""
    make_searched(tmp_path / "results" / "wall")
    make_evaluated(tmp_path / "results" / "wall")
    return tmp_path / "results" / "wall"


def test_importing_the_package_imports_nothing_that_takes_seconds():
    code = (
        "import sys, ensemble; print(sorted({'numpy', 'torch', 'pandas', 'rich'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'run_serch'"):
        ensemble.run_serch  # noqa: B018


def test_a_run_is_opened_by_name_by_path_or_as_the_last_one(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    found = [open_run("wall"), open_run(run), open_run(), open_run("wall", out=run.parent)]
    assert {each.folder for each in found} == {run.resolve()}
    pd.testing.assert_series_equal(
        found[0].trials["val_f1"], pd.read_csv(run / "trials.csv")["val_f1"]
    )
    assert len(found[0].epochs) == len(pd.read_csv(run / "epochs.csv"))


def test_figures_are_those_of_the_metrics(run):
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    evaluation = ensemble.api.Evaluation(run / "evaluation", metrics)
    figures = evaluation.figures
    assert figures.loc["ensemble", "f1"] == metrics["ensemble"]["f1"]
    for member in metrics["members"]:
        assert figures.loc[f"trial {member['trial']}", "recall"] == member["recall"]
    assert evaluation.predictions["photograph"][0] == "000"  # a name, no number
    for table in (evaluation.errors, evaluation.suspect_labels):
        assert "tile" in table


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run_search(data="synthetic", trials=0), "--trials 0: must be at least 1"),
        (lambda: run_search(data="nowhere", out="o"), "--data nowhere: no such folder"),
        (
            lambda: run_search(data="synthetic", colour="red"),
            "unrecognized arguments: --colour=red",
        ),
        (lambda: open_run("nothing"), "nothing: no run of that name"),
        (lambda: load_ensemble("nothing"), "nothing: no run of that name"),
        (lambda: open_run().refit(tries=["data.context_px=16"]), "tries: must be settings with"),
        (lambda: open_run().evaluate(min_recall=2), "--min-recall 2: must be above 0, at most 1"),
    ],
)
def test_what_a_command_refuses_is_raised(run, monkeypatch, call, message):
    monkeypatch.chdir(run.parents[1])
    with pytest.raises(InputError) as refused:
        call()
    assert message in str(refused.value)
