"""What is tested beside a chosen ensemble: which ensembles, in one opening, with which figures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score
from tiny_recipe import write_recipe

from ensemble import open_run, train
from ensemble.cli import parse
from ensemble.data.synthetic import draw_dataset
from ensemble.evaluation import protocol
from ensemble.evaluation.comparison import networks_sentence
from ensemble.evaluation.protocol import evaluate_run
from ensemble.selection.contenders import find_singles
from ensemble.training.loop import predict_margins


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three members, of which the first sees what lies around a tile."""
    here = tmp_path_factory.mktemp("compared")
    draw_dataset(here / "tiles", photographs_per_surface=4, rows=3, columns=4, tile_size_px=32)
    for path in (here / "tiles").rglob("*.jpg"):
        photograph, number = path.stem.split("-")
        row, column = divmod(int(number) - 1, 4)
        path.rename(path.with_stem(f"{photograph}-r{row}-c{column}"))
    alone = {"data.context_px": 0}
    variants = {"alone": alone, "alone and quicker": {**alone, "optimisation.learning_rate": 0.01}}
    write_recipe(here / "recipe.toml", context_px=8, variants=variants)
    words = ["--recipe", str(here / "recipe.toml"), "--data", str(here / "tiles")]
    train.main(parse("train", [*words, "--name", "run", "--out", str(here)]))
    return here / "run"


def test_one_opening_tests_the_methods_and_the_best_member_of_each_backbone(run, monkeypatch):
    scored: list[object] = []

    def note(model, tiles, *arguments, **options):
        scored.append((len(tiles), options["alone"]))
        return predict_margins(model, tiles, *arguments, **options)

    monkeypatch.setattr("ensemble.run.members.predict_margins", note)
    metrics = evaluate_run(run, compare=True)
    num_test = metrics["num_test_tiles"]
    assert metrics["num_test_openings"] == len(pd.read_csv(run / "evaluation" / "ledger.csv")) == 1
    rows = {row["name"]: row for row in metrics["compared"]}
    trials = open_run(run).trials.sort_values(["val_f1", "trial"], ascending=[False, True])
    best, best_alone = trials["trial"].iloc[0], trials.query("trial != 0")["trial"].iloc[0]
    singles = {f"trial_{best}", f"trial_{best_alone}"}
    assert set(rows) == {"chosen", "greedy", "weighted", *singles}
    # validation and test have as many tiles; of three members only one sees a tile in two ways
    assert len([count for count, _ in scored if count == num_test]) == 3 + 1 + 1
    assert [row["name"] for row in metrics["compared"] if row["is_chosen"]] == ["chosen"]
    first = pd.read_csv(run / "evaluation" / "ledger.csv", dtype=str)["method"][0]
    assert first.startswith("mean (compared with greedy weighted trial_")


def test_singles_are_the_best_of_each_backbone_and_the_best_of_each_that_sees_the_tile_alone(
    tmp_path, write_member, make_trial_config
):
    def write(trial, backbone, context_px):
        config = make_trial_config(model={"backbone": backbone}, data={"context_px": context_px})
        return write_member(tmp_path / str(trial), trial=trial, config=config)

    ranked = [
        write(4, "small_cnn", 8),
        write(1, "small_cnn_deep", 0),
        write(2, "small_cnn", 8),
        write(0, "small_cnn", 0),
        write(3, "small_cnn_deep", 0),
    ]
    assert [(member.trial, what) for member, what in find_singles(ranked)] == [
        (4, "trial 4, best small_cnn"),
        (1, "trial 1, best small_cnn_deep"),
        (0, "trial 0, best small_cnn that sees the tile alone"),
    ]


def test_each_row_is_what_the_same_choice_by_itself_would_be(run):
    compared = {row["name"]: row for row in evaluate_run(run, compare=True)["compared"]}
    for method in ("greedy", "weighted"):
        alone = evaluate_run(run, method=method)
        way = compared[method]["ways"]
        expected = alone["ways"]
        assert [*way] == [*expected]
        for name in way:
            if "same_as" in way[name]:
                assert way[name] == {"same_as": expected[name]["same_as"]}
            else:
                figures = way[name]["figures"]
                assert {k: figures[k] for k in expected[name]["figures"]} == expected[name][
                    "figures"
                ]
        members = [(m["trial"], m["weight"]) for m in alone["choice"]["members"]]
        assert [(m["trial"], m["weight"]) for m in compared[method]["members"]] == members
    assert not (run / "evaluation" / "compared.csv").exists()  # nothing was compared at last


def test_figures_and_differences_follow_from_the_written_probabilities(run):
    metrics = evaluate_run(run, compare=True)
    written = pd.read_csv(run / "evaluation" / "compared_predictions.csv")
    labels = pd.read_csv(run / "evaluation" / "predictions.csv")["label"]
    (reference,) = (row for row in metrics["compared"] if row["is_reference"])
    (only,) = reference["members"]
    lone = [m for m in open_run(run).trials.to_dict("records") if m["trial"] != 0]
    assert only["context_px"] == 0
    assert only["trial"] == max(lone, key=lambda trial: trial["val_f1"])["trial"]
    base = reference["ways"]["tile alone"]["figures"]
    for row in metrics["compared"]:
        for name, end in (("tile alone", "alone"), ("with context", "ensemble")):
            way, scores = row["ways"][name], written[f"{row['name']}_{end}"]
            if "same_as" in way:
                np.testing.assert_array_equal(scores, written[f"{row['name']}_alone"])
                continue
            figures = way["figures"]
            called = scores >= figures["threshold"]
            assert figures["f1"] == pytest.approx(f1_score(labels, called, zero_division=0))
            assert figures["average_precision"] == pytest.approx(
                average_precision_score(labels, scores)
            )
            for metric in ("f1", "average_precision"):
                difference = way["difference"][metric]["difference"]
                assert difference == pytest.approx(figures[metric] - base[metric])
    table = open_run(run).evaluate(compare=True).compared
    told = sum("same_as" not in w for row in metrics["compared"] for w in row["ways"].values())
    assert len(table) == told
    assert {"recall_at_precision_50", "precision_at_recall_95"} <= {
        name.removeprefix("test_") for name in table
    }


def test_what_is_compared_is_chosen_before_the_test_is_opened(run, monkeypatch):
    """A test split that cannot be read leaves the ensemble and the line of the ledger."""

    class Opened(Exception):
        pass

    def refuse(pack, split, device):
        assert split == "test"
        ledger = pd.read_csv(run / "evaluation" / "ledger.csv", dtype=str)
        assert "compared with" in ledger["method"].iloc[-1]
        raise Opened

    chosen: list[str] = []
    choose = protocol.choose_contenders
    monkeypatch.setattr(protocol, "place_split", refuse)
    monkeypatch.setattr(
        protocol, "choose_contenders", lambda *a, **k: chosen.append("all") or choose(*a, **k)
    )
    with pytest.raises(Opened):
        evaluate_run(run, compare=True)
    assert chosen == ["all"]
    assert json.loads((run / "ensemble.json").read_text())["method"] == "mean"


def test_a_member_with_other_networks_by_itself_than_within_the_ensemble_is_named():
    def row(*members):
        return {"members": [dict(zip(("trial", "num_networks"), m, strict=True)) for m in members]}

    found = {
        "members": [{"trial": 0, "num_networks": 2}, {"trial": 3, "num_networks": 1}],
        "compared": [row((0, 2), (3, 1)), row((0, 3)), row((3, 1))],
    }
    assert networks_sentence(found).endswith("differ: trial 0 (3 here, 2 within the ensemble)")
    assert networks_sentence(found | {"compared": []}) == ""


def test_the_table_on_the_terminal_says_that_nothing_is_chosen_by_it(run, capsys):
    open_run(run).evaluate(compare=True, quiet=False)
    said = capsys.readouterr().out
    assert "choose nothing by them" in said
    table = said[said.index("Tested beside it") :]
    for name in ("ensemble (mean of 3 members)", "greedy", "val F1", "best small_cnn"):
        assert name in table
