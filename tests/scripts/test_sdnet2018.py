"""The table of all SDNET2018: which commands lead to it, and what its rows hold."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.data.sources import open_source
from ensemble.data.synthetic import draw_dataset

TESTED = "evaluation/metrics.json"
FOLDER = Path(__file__).parents[2] / "scripts" / "evidence"
SPACE = """
question = "?"
weights = "none"
[default.model]
backbone = "small_cnn"
[default.optimisation]
epochs = 1
[default.data]
image_size_px = 32
[search.data]
context_px = [0, 16]
[search.optimisation]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
[early_stopping]
grace_epochs = 1
reduction_factor = 2
"""


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("sdnet2018")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Drawn tiles as SDNET2018 has them, and a set without photographs as METU is one."""
    folder = tmp_path_factory.mktemp("drawn")
    size = {"rows": 3, "columns": 4, "tile_size_px": 32}
    draw_dataset(folder / "SDNET2018", photographs_per_surface=16, **size)
    draw_dataset(folder / "other", photographs_per_surface=8, seed=1, **size)
    for kind, name in (("CD", "Positive"), ("UD", "Negative")):
        (folder / "METU" / name).mkdir(parents=True)
        for number, tile in enumerate(sorted((folder / "other" / "D" / kind).iterdir())):
            shutil.copy(tile, folder / "METU" / name / f"{number:05}.jpg")
    (folder / "tiny.toml").write_text(SPACE)
    return folder


def give(monkeypatch, drawn, out, *words):
    given = ["--data", str(drawn / "SDNET2018"), "--metu", str(drawn / "METU"), "--gpus", "0"]
    given += ["--space", str(drawn / "tiny.toml"), "--trials", "2", "--epochs", "1", "--folds", "2"]
    given += ["--cpus", "2", "--out", str(out), *words]
    monkeypatch.setattr(sys, "argv", ["sdnet2018.py", *given])


def test_a_machine_without_a_gpu_need_not_be_told_so(script, drawn, tmp_path, monkeypatch):
    words = ["--data", "none", "--space", str(drawn / "tiny.toml"), "--cpus", "1"]
    monkeypatch.setattr(sys, "argv", ["sdnet2018.py", *words, "--out", str(tmp_path)])
    assert script._find_pace(script._parse()) > 0


def test_every_stage_is_a_command_that_can_be_typed(script, drawn, tmp_path, monkeypatch):
    give(monkeypatch, drawn, tmp_path, "--seeds", "2", "--backbone", "resnet18")
    options = script._parse()
    runs = script._name_runs(options, open_source(drawn / "SDNET2018").tiles)
    assert list(runs.without) == ["D", "P", "W"]
    trained = script.list_trained(options, runs, 1000)
    tested = script.list_tested(options, runs)
    for stage in [*trained, *tested]:
        typed = parse(stage.command, stage.words)
        assert stage.command != "search" or typed.backbone == ["resnet18"]
    assert [stage.run.name for stage in trained] == [
        "sdnet2018-search", "sdnet2018-refit", "sdnet2018-leaky", "sdnet2018-without-d",
        "sdnet2018-without-p", "sdnet2018-without-w", "sdnet2018-metu",
    ]  # fmt: skip
    # two trials of 700 tiles; three configurations and seeds, on two folds, of 425 tiles each
    assert [stage.num_images for stage in trained[:3]] == [1400, 6 * 425, 700]
    assert {stage.command for stage in tested} == {"evaluate", "judge"}  # after all training


def test_a_surface_that_was_left_out_is_all_that_is_judged(script, drawn, tmp_path, monkeypatch):
    give(monkeypatch, drawn, tmp_path)
    options = script._parse()
    runs = script._name_runs(options, open_source(drawn / "SDNET2018").tiles)
    for surface, run in runs.without.items():
        (trained,) = (s for s in script.list_trained(options, runs, 1000) if s.run == run)
        (judged,) = (
            s for s in script.list_tested(options, runs) if (s.command, s.run) == ("judge", run)
        )
        assert parse("search", trained.words).exclude == [surface]
        assert set(parse("judge", judged.words).exclude) == set(runs.without) - {surface}


def test_a_search_that_is_named_is_not_made_anew(script, drawn, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text("{}")
    give(monkeypatch, drawn, tmp_path, "--search", "mine", "--without", "leaky", "surfaces", "metu")
    options = script._parse()
    runs = script._name_runs(options, open_source(drawn / "SDNET2018").tiles)
    (refit,) = script.list_trained(options, runs, 1000)
    assert (refit.command, refit.words[0]) == ("refit", str(tmp_path / "mine"))


def test_a_search_beside_it_is_tested_and_has_the_same_split(script, drawn, tmp_path, monkeypatch):
    give(monkeypatch, drawn, tmp_path, "--also", "gpu")
    options, tiles = script._parse(), open_source(drawn / "SDNET2018").tiles
    with pytest.raises(InputError, match="--also gpu: no run of that name in"):
        script._name_runs(options, tiles)
    for name, digest in (("gpu", "a"), ("sdnet2018-search", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"split_digest": digest}))
    runs = script._name_runs(options, tiles)
    tested = [stage.run for stage in script.list_tested(options, runs)]
    assert tested[:3] == [runs.search, tmp_path / "gpu", runs.refit]
    with pytest.raises(InputError, match="--also gpu: its split is not that of sdnet2018-search"):
        script.check_splits(runs)


def test_labels_that_are_not_there_are_refused_before_anything_is_trained(
    script, drawn, tmp_path, monkeypatch
):
    give(monkeypatch, drawn, tmp_path, "--labels", "nowhere.csv")
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        script.main()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_the_table_is_made_from_the_data_alone(script, drawn, tmp_path, monkeypatch, capfd):
    tiles = open_source(drawn / "SDNET2018").tiles[["tile", "label"]]
    tiles.loc[::9, "label"] = 1 - tiles.loc[::9, "label"]
    tiles.to_csv(tmp_path / "corrected.csv", index=False)
    asked = ["--without", "leaky", "surfaces", "--cpus", "1"]
    asked += ["--labels", str(tmp_path / "corrected.csv")]
    give(monkeypatch, drawn, tmp_path, *asked)
    script.main()
    table = pd.read_csv(tmp_path / "sdnet2018" / "table.csv")
    by_name = table.drop_duplicates("what").set_index("what")
    metrics = json.loads((tmp_path / "sdnet2018-refit" / TESTED).read_text(encoding="utf-8"))
    chosen, *_ = metrics["compared"]
    row, figures = by_name.loc[f"on folds: {chosen['what']}"], chosen["ways"]["tile alone"]
    assert row["test_f1"] == pytest.approx(figures["figures"]["f1"], abs=1e-5)
    assert row["num_test_openings"] == 2  # by the search, and then by its networks on folds
    assert by_name.loc["every tile called cracked", "test_recall"] == 1
    corrected = by_name.loc[f"on folds: {chosen['what']}, corrected labels"]
    assert metrics["relabelled"]["num_changed"] > 0
    assert corrected["test_accuracy"] == pytest.approx(metrics["relabelled"]["accuracy"], abs=1e-5)
    assert "trained on METU, judged on SDNET2018" in by_name.index
    shutil.copytree(tmp_path / "sdnet2018-search", tmp_path / "gpu")
    give(monkeypatch, drawn, tmp_path, *asked, "--also", "gpu")
    script.main()  # trains and tests nothing
    again = pd.read_csv(tmp_path / "sdnet2018" / "table.csv")
    beside = again[again["what"].str.startswith("gpu: ")]
    told = table[~table["what"].str.startswith(("every", "on folds", "trained"))]
    assert beside["test_f1"].tolist() == told["test_f1"].tolist()
    assert len(told) > 1
    page = (tmp_path / "sdnet2018" / "README.md").read_text()
    assert page.count("\n| ") == len(again) + 2  # the heads, too
    assert str(drawn) not in page
    capfd.readouterr()
    give(monkeypatch, drawn, tmp_path, *asked, "--also", "gpu", "--plan")
    script.main()
    planned = capfd.readouterr().out.splitlines()
    run_again = [line for line in planned if line.startswith("python -m")]
    done = [line for line in planned if line.startswith("done: python -m")]
    assert [line.split()[2] for line in run_again] == [  # which see themselves that they are done
        "ensemble.search", "ensemble.refit", "ensemble.search",
    ]  # fmt: skip
    assert {line.split()[3] for line in done} == {"ensemble.evaluate", "ensemble.judge"}
