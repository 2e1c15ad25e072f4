"""Recipes: every one runs end to end, goes on where it was cut, and says what really ran."""

import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from person import ROOT
from rich.console import Console
from sklearn import metrics as reference
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional

from ensemble import train
from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.data.batches import place_tiles
from ensemble.data.pack import PackError
from ensemble.data.view import View
from ensemble.data.windows import find_neighbours
from ensemble.evaluation.presentation import read_names
from ensemble.evaluation.protocol import evaluate_run
from ensemble.recipes.comparison import plot_curves, print_comparison
from ensemble.recipes.export import export_member
from ensemble.recipes.headline import describe_changes, describe_run
from ensemble.recipes.recipe import RECIPES, load_recipe
from ensemble.recipes.runner import RecipeRun, train_recipe
from ensemble.report.page import main as report
from ensemble.run.members import member_folder, open_members, read_validation, score_tiles
from ensemble.training.backbone_table import BACKBONES
from ensemble.training.checkpoint import open_member
from ensemble.training.loop import predict_margins
from ensemble.training.member import DevelopmentTiles, TrainingData
from ensemble.training.metrics import margins_to_probabilities

NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))
TRAIN = [sys.executable, str(ROOT / "scripts" / "train.py")]
AUGMENTED = ["--recipe", "mobilenetv2-augmented", "--backbone", "small_cnn"]
QUICK = ["--weights", "none", "--gpus", "0", "--image-size", "32"]
CHANGED = (
    "(changed from the recipe: mobilenet_v2 → small_cnn, ImageNet weights → random weights, "
    "160 → 32 px, 10 → 4 epochs)"
)
MINIMAL = """
what = "?"
stated = "?"
data = "metu"
[config.model]
backbone = "small_cnn"
"""


@pytest.fixture(scope="module")
def work(folder):
    """A working directory with tiles laid out as SDNET2018's (`tiles`) and as METU's (`metu`)."""
    for number, path in enumerate(sorted((folder / "tiles").rglob("*.jpg"))):
        kind = "Positive" if path.parent.name.startswith("C") else "Negative"
        target = folder / "metu" / kind / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


@pytest.fixture
def here(work, monkeypatch):
    monkeypatch.chdir(work)
    return work


@pytest.fixture(scope="module")
def augmented(work):
    """A run with variants and checkpoints on a small network, and what was printed."""
    words = ["--data", "tiles", "--epochs", "4", "--name", "augmented", "--export"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.chdir(work)
        train.main(parse("train", [*AUGMENTED, *QUICK, *words]))
    return work / "results" / "augmented", said.getvalue()


def digests(run: Path) -> dict[int, str | None]:
    about = json.loads((run / "run.json").read_text())
    members = open_members(run, split_digest=about["split_digest"])
    return {member.trial: member.record.weights_sha256 for member in members}


# --- the files


def test_recipes_are_told_apart_by_what_they_say_of_themselves():
    assert len({load_recipe(name).what for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_opens_and_trains_any_backbone(name):
    recipe = load_recipe(name)
    assert recipe.what
    assert recipe.stated
    names_a_module = any(variant.config.model.trainable_from for variant in recipe.variants)
    for backbone in BACKBONES if names_a_module else ("small_cnn_deep", "swin_v2_t"):
        changed = recipe.changed(backbone=backbone, epochs=2, image_size_px=64, seed=3)
        assert {v.config.model.backbone for v in changed.variants} == {backbone}
        assert {v.config.optimisation.epochs for v in changed.variants} == {2}
        assert {v.config.data.image_size_px for v in changed.variants} == {64}
        assert {v.config.seed for v in changed.variants} == {3}


@pytest.mark.parametrize("name", NAMES)
def test_no_words_of_a_recipe_name_what_the_command_line_can_change(name):
    named = r"net|imagenet|weights|nothing|convolution|METU|SDNET|surface|\bpx\b|\d epoch|pixel"
    assert re.search(named, load_recipe(name).what.replace("network", ""), re.IGNORECASE) is None


def test_a_recipe_as_its_file_has_it_is_told_without_changes():
    base = load_recipe("small-cnn").base
    weights = {"asked_weights": "none", "weights": "random weights"}
    line = describe_run("plainly", base, base, **weights, data="/somewhere/SDNET2018.zip")
    assert line == (
        "small_cnn from random weights on SDNET2018.zip, 128 × 128 px, 10 epochs: plainly"
    )


def test_context_is_told_of_a_recipe_and_as_a_change():
    base = load_recipe("small-cnn").base
    seen = base.model_copy(update={"data": base.data.model_copy(update={"context_px": 32})})
    weights = {"asked_weights": "none", "weights": "none"}
    line = describe_run("plainly", seen, seen, **weights, data="tiles")
    assert line == (
        "small_cnn from random weights on tiles, 128 × 128 px, 32 px of context, 10 epochs: plainly"
    )
    assert describe_changes(base, seen, **weights) == "0 → 32 px of context"


def test_the_recipes_are_those_of_the_docs():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"--recipe {name}" not in text] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("what = 1", "'what'"),
        (MINIMAL.replace('"small_cnn"', '"big_cnn"'), "model.backbone"),
        (MINIMAL + "colour = 1", "unknown key 'model.colour'"),
        ("colour = 1" + MINIMAL, "unknown key 'colour'"),
        ('checkpoints = "many"' + MINIMAL, "'checkpoints'"),
        (MINIMAL + "[[variant]]\nname = 'base'", "'base'.*one of that name already"),
        (MINIMAL + "[[variant]]\nname = '../x'", "variant.0.name"),
        (MINIMAL + "[[variant]]\nname = 'a'\nstarts_from = 'b'", r"starts_from = 'b'.*\(base\)"),
        (MINIMAL + "[[variant]]\nname = 'a'\nchanges = { colour = 1 }", "unknown key 'colour'"),
        (MINIMAL + "[[variant]]\nname = 'a'\nchanges = { 'model.dropout' = 2 }", "model.dropout"),
        (
            MINIMAL + "[[variant]]\nname = 'a'\nchanges = { 'model.backbone' = 'resnet18' }",
            "model.backbone is that of the whole recipe",
        ),
        (
            MINIMAL + "fine_tuning = 'from_module'\ntrainable_from = 'layer9'",
            "base: trainable_from = 'layer9'.*no such module",
        ),
        (
            MINIMAL + "[[variant]]\nname = 'a'\nchanges = { 'model.drop_path_rate' = 0.1 }",
            "toml, a: small_cnn takes no drop_path_rate.*leave the setting out",
        ),
        (MINIMAL + "[trainable_from]\nbig_cnn = 'x'", "big_cnn"),
        ("what = ", "not a readable TOML file"),
    ],
)
def test_a_wrong_recipe_is_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(str(path))


def test_a_part_that_another_backbone_does_not_name_is_one_clear_error(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(MINIMAL + "fine_tuning = 'from_module'\ntrainable_from = 'features.8'\n")
    with pytest.raises(InputError, match=r"--backbone resnet18: .*\[trainable_from\]"):
        load_recipe(str(path)).changed(backbone="resnet18")


def test_tiles_that_are_too_small_for_a_network_are_named_before_anything_is_read():
    refused = r"squeezenet1_1 takes no input of 16 × 16 px .* it takes 28 or 32 px"
    with pytest.raises(InputError, match=refused):
        load_recipe("small-cnn").changed(backbone="squeezenet1_1", image_size_px=16)


def test_the_margin_around_a_tile_counts_where_its_size_is_checked(tmp_path):
    """A tile of 227 px is seen at 16 px: 7 px of margin round to no pixel, 8 px to one."""
    path = tmp_path / "recipe.toml"
    head = 'what = "?"\nstated = "?"\ndata = "metu"\n[config.model]\nbackbone = "squeezenet1_1"\n'
    path.write_text(head + "[config.data]\nimage_size_px = 16\ncontext_px = 7\n")
    with pytest.raises(InputError, match="squeezenet1_1 takes no input of 16 × 16 px"):
        load_recipe(str(path))
    path.write_text(head + "[config.data]\nimage_size_px = 16\ncontext_px = 8\n")
    assert load_recipe(str(path)).base.data.context_px == 8


# --- end to end


# the kind of data that a recipe names, and with the long tests a recipe of each kind on the other
ON_DATA = [
    *((name, "metu" if load_recipe(name).data == "metu" else "tiles") for name in NAMES),
    pytest.param("small-cnn", "metu", marks=pytest.mark.long),
    pytest.param("mobilenetv2-frozen", "tiles", marks=pytest.mark.long),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), ON_DATA)
def test_every_recipe_runs_end_to_end_on_each_kind_of_data(here, capsys, name, data):
    run = Path("results") / f"{name}-{data}"
    train.main(
        parse(
            "train", ["--recipe", name, "--data", data, *QUICK, "--epochs", "1", "--name", run.name]
        )
    )
    said = capsys.readouterr().out
    recipe = load_recipe(name)
    for variant in recipe.variants:
        assert f"{variant.name} epoch 1/1: training loss" in said
    table = pd.read_csv(run / "variants.csv")
    assert table["name"].tolist()[: len(recipe.variants)] == [v.name for v in recipe.variants]
    for file in ("validation_report.txt", "curves.png", "worst_validation.png", "recipe.toml"):
        assert (run / file).stat().st_size > 100
    assert (run / "export" / "model.pt2").exists() == recipe.export
    if data == "tiles":
        metrics = evaluate_run(run, top_k=1)
        assert len(metrics["members"]) == 1
        assert 0 <= metrics["ensemble"]["f1"] <= 1


def test_an_epoch_is_one_line_that_says_all(augmented):
    _, said = augmented
    (line,) = [line for line in said.splitlines() if line.startswith("base epoch 1/4")]
    for word in ("loss", "accuracy", "precision", "recall", "F1", "AUC", "rate", "images/s"):
        assert word in line
    assert line.endswith("best so far")


def test_a_run_of_a_recipe_is_reported_like_a_search(here, augmented):
    run, said = augmented
    metrics = evaluate_run(run, top_k=6)
    report(parse("report", ["augmented"]))
    page = (run / "report.html").read_text()
    assert "Crack ensemble: the run augmented" in page
    assert re.search(r"Trained [\d-]{10} by the recipe mobilenetv2-augmented, tested 2", page)
    for name in ("base (trial 0)", "more dropout (trial 1)", "base, epoch"):
        assert f'<th scope="row">{name}' in page
    for word in ("Searched", "The search", "more trials might help", "study.db", "not recorded"):
        assert word not in page
    assert "further epoch" in page
    headline = (
        "small_cnn from random weights on tiles, 32 × 32 px, at most 4 epochs: all of the network "
    )
    assert page.count(headline) == page.count(CHANGED) == 1  # for those who train
    assert said.splitlines()[0].startswith(f"mobilenetv2-augmented: {headline}")
    assert CHANGED in said.splitlines()[0]
    names = read_names(run)
    assert sorted(names) == sorted(member["trial"] for member in metrics["members"])
    assert names[2] == "more regularisation"


def test_the_name_of_a_run_is_told_before_anything_is_trained(here, capsys):
    words = ["--recipe", "small-cnn", *QUICK, "--data", "tiles", "--epochs", "1"]
    train.main(parse("train", [*words, "--out", "unnamed"]))
    said = capsys.readouterr().out.splitlines()
    (run,) = Path("unnamed").glob("small-cnn-*")
    assert said[1] == f"run: unnamed/{run.name}"


@pytest.mark.parametrize(("num_epochs", "ticks"), [(1, [1]), (4, [1, 2, 3, 4])])
def test_curves_of_any_length_have_whole_epochs_and_say_what_is_what(augmented, num_epochs, ticks):
    run, _ = augmented
    epochs = pd.read_csv(run / "epochs.csv").query("epoch <= @num_epochs")
    members = {"base": open_member(member_folder(run, 0))}
    figure = plot_curves(epochs, members, {"base": None})
    low, high = figure.axes[-1].get_xlim()
    shown = [tick for tick in figure.axes[-1].get_xticks() if low <= tick <= high]
    assert shown == ticks
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "base", "validation", "training (augmented, under dropout)", "kept epoch",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 170])
def test_the_comparison_is_never_wider_than_the_terminal_and_breaks_no_number(augmented, width):
    run, _ = augmented
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    table = pd.read_csv(run / "variants.csv")
    print_comparison(table, 100, console)
    said = console.file.getvalue()
    assert max(map(len, said.splitlines())) <= width
    assert "…" not in said
    assert f"{table.loc[0, 'val_loss']:.3f}" in said
    assert ("not shown here" in said) == (width < 170)


def test_the_best_epochs_of_base_are_members_and_no_epoch_is_there_twice(augmented):
    run, _ = augmented
    epochs = pd.read_csv(run / "epochs.csv").query("trial == 0")
    order = epochs.sort_values(["val_f1", "epoch"], ascending=[False, True])["epoch"].tolist()
    members = [open_member(member_folder(run, number)) for number in (0, 3, 4, 5)]
    assert [member.record.epoch for member in members] == order
    for member in members:
        own = epochs.set_index("epoch").loc[member.record.epoch]
        assert member.val_f1 == own["val_f1"]
    assert not (run / "checkpoints").exists()
    assert not list((run / "members").glob("*/state*"))


def test_the_table_of_variants_follows_from_their_scores(augmented):
    run, _ = augmented
    table = pd.read_csv(run / "variants.csv")
    labels = read_validation(run)["label"].to_numpy()
    assert table["name"].tolist()[-1] == "mean of 4 checkpoints"
    assert table["trials"].tolist() == ["0", "1", "2", "0 3 4 5"]
    for row in table.to_dict("records"):
        members = [open_member(member_folder(run, int(n))) for n in row["trials"].split()]
        scores = np.stack([margins_to_probabilities(m.val_margins()) for m in members]).mean(0)
        called = scores >= row["threshold"]
        assert row["val_f1"] == pytest.approx(reference.f1_score(labels, called))
        assert row["val_loss"] == pytest.approx(reference.log_loss(labels, scores))
        assert row["val_accuracy"] == pytest.approx(reference.accuracy_score(labels, called))
        assert row["accuracy_gap"] == pytest.approx(row["train_accuracy"] - row["val_accuracy"])
        assert row["loss_gap"] == pytest.approx(row["val_loss"] - row["train_loss"])


def test_training_figures_are_measured_without_augmentation_and_dropout(augmented):
    run, _ = augmented
    about = json.loads((run / "run.json").read_text())
    data = DevelopmentTiles(Path(about["pack_folder"]), torch.device("cpu")).open()
    member = open_member(member_folder(run, 1))  # trained under dropout 0.5
    (scores,) = score_tiles([member], data.train)
    row = pd.read_csv(run / "variants.csv").loc[1]
    assert row["train_loss"] == pytest.approx(reference.log_loss(data.train.labels, scores))


def test_the_validation_report_is_scikit_learns(augmented):
    run, _ = augmented
    labels = read_validation(run)["label"].to_numpy()
    row = pd.read_csv(run / "variants.csv").loc[2]
    scores = margins_to_probabilities(open_member(member_folder(run, 2)).val_margins())
    called = scores >= row["threshold"]
    text = (run / "validation_report.txt").read_text()
    expected = reference.classification_report(
        labels, called, target_names=["uncracked", "cracked"], digits=3, zero_division=0
    )
    assert text.endswith(expected)
    matrix = reference.confusion_matrix(labels, called)
    lines = text[text.index("more regularisation") :].splitlines()
    assert [int(n) for n in lines[3].split()[2:] + lines[4].split()[2:]] == matrix.ravel().tolist()


# --- going on


def test_a_finished_run_is_not_trained_again(here, augmented, capsys):
    run, _ = augmented
    before = (run / "epochs.csv").read_bytes(), digests(run)
    train.main(
        parse(
            "train", [*AUGMENTED, *QUICK, "--data", "tiles", "--epochs", "4", "--name", "augmented"]
        )
    )
    said = capsys.readouterr().out
    assert said.count("finished before") == 3
    assert "epoch 1/4" not in said
    assert ((run / "epochs.csv").read_bytes(), digests(run)) == before


class Cut(Exception):
    pass


def test_a_run_cut_after_any_epoch_ends_with_the_same_members(here, augmented, tmp_path):
    whole, _ = augmented
    about = json.loads((whole / "run.json").read_text())
    recipe = load_recipe("mobilenetv2-augmented")
    recipe = recipe.changed(backbone="small_cnn", epochs=4, image_size_px=32)
    data = DevelopmentTiles(Path(about["pack_folder"]), torch.device("cpu")).open()
    run = tmp_path / "cut"
    shutil.copytree(whole / "initial", run / "initial")

    def attempt(cut_at: str | None) -> None:
        def log(line: str) -> None:
            if cut_at and line.startswith(cut_at):
                raise Cut

        train_recipe(RecipeRun(run, data, log), recipe)

    for cut_at in ("base epoch 1/4", "base epoch 3/4", "base epoch 4/4", "more dropout epoch 2/4"):
        with pytest.raises(Cut):
            attempt(cut_at)
    attempt(None)
    shutil.copy(whole / "run.json", run)
    assert digests(run) == digests(whole)
    timed = ["train_seconds", "val_seconds", "images_per_second"]
    tables = [pd.read_csv(r / "epochs.csv").drop(columns=timed) for r in (run, whole)]
    pd.testing.assert_frame_equal(*tables)
    points = EventAccumulator(str(run / "tensorboard" / "0000" / "batches")).Reload()
    steps = [point.step for point in points.Scalars("batch_loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) == 4 * (len(data.train) // 32)
    rows = EventAccumulator(str(run / "tensorboard" / "0000")).Reload().Scalars("val_f1")
    assert [point.step for point in rows] == [1, 2, 3, 4]


def test_a_damaged_member_is_trained_again(here, tmp_path):
    words = ["--recipe", "small-cnn", *QUICK, "--data", "tiles", "--epochs", "1"]
    words += ["--name", "damaged"]
    train.main(parse("train", words))
    before = digests(Path("results/damaged"))
    (weights,) = Path("results/damaged/members/0000").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    train.main(parse("train", words))
    assert digests(Path("results/damaged")) == before


@pytest.mark.slow
def test_ctrl_c_ends_with_how_to_go_on(work):
    words = [*TRAIN, "--recipe", "small-cnn", *QUICK, "--data", "tiles", "--epochs", "300"]
    words += ["--name", "stopped"]
    with subprocess.Popen(
        words, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # a shell's background job is started with Ctrl-C ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert any("base epoch 2/300" in line for line in running.stdout)
        running.send_signal(signal.SIGINT)
        said, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGINT, errors
    assert "--name stopped goes on after the last finished epoch" in said
    assert "Traceback" not in errors
    done = pd.read_csv(work / "results" / "stopped" / "epochs.csv")["epoch"].max()
    assert 2 <= done < 300


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--seed", "1"], "exists with other seed (0, now 1)"),
        (["--epochs", "3"], "exists with other epochs (4, now 3)"),
        (["--image-size", "64"], "exists with other image size (32, now 64)"),
        (
            ["--split-seed", "5"],
            "exists with another split of the same tiles (split seed 0, now 5)",
        ),
        (
            ["--backbone", "small_cnn_deep"],
            "exists with other backbones (small_cnn, now small_cnn_deep)",
        ),
        (["--recipe", "small-cnn"], "exists with other recipe"),
    ],
)
def test_a_name_that_is_taken_by_another_run_is_refused(here, augmented, changed, message):
    words = [*AUGMENTED, *QUICK, "--data", "tiles", "--epochs", "4", "--name", "augmented"]
    with pytest.raises(InputError) as caught:
        train.main(parse("train", [*words, *changed]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "nothing"], "recipe nothing: no such file, nor one of"),
        (["--recipe", "demo"], "recipe demo: is a search space, which `search --space` takes"),
        (["--recipe", "nothing.toml"], "nothing.toml: no such file"),
        (["--data", "nowhere"], "nowhere: no such folder or .zip"),
        (["--data", "in the way", "--weights", "imagenet"], "in the way: not a readable .zip"),
        (["--name", "../x"], "--name"),
        (["--seed", "-1"], "--seed -1"),
        (["--epochs", "0"], "--epochs 0: must be from 1 to 10000"),
        (["--image-size", "8"], "--image-size 8: must be from 16 to 1024"),
        (["--max-bad-tiles", "-1"], "--max-bad-tiles -1: must be at least 0"),
        (["--weights", "resnet99=x.pth"], "unknown backbone"),
        (["--weights", "resnet18=none"], "not in use here"),
        (["--weights", "x.pth"], "x.pth: no such file"),
        (["--weights", "imagenet"], "small_cnn has no ImageNet weights; say --weights"),
        (["--out", "in the way"], "in the way/packs cannot be written (Not a directory)"),
        (["--out", "in the way", "--data", "synthetic"], "/packs cannot be written (Not a dir"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(here, words, message):
    Path("in the way").touch()
    with pytest.raises(InputError) as caught:
        train.main(
            parse("train", ["--recipe", "small-cnn", "--data", "tiles", "--name", "bad", *words])
        )
    assert message in str(caught.value)
    assert not Path("results/bad").exists()


def test_bad_input_is_one_line_and_exit_code_2(here, capsys):
    with pytest.raises(SystemExit) as refused:
        run_command(lambda: train.main(parse("train", ["--recipe", "nothing"])))
    assert refused.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: recipe nothing")


def test_a_variant_whose_start_failed_is_a_row_with_its_reason(here, tmp_path, augmented):
    about = json.loads((augmented[0] / "run.json").read_text())
    data = DevelopmentTiles(Path(about["pack_folder"]), torch.device("cpu")).open()
    path = tmp_path / "recipe.toml"
    path.write_text(
        MINIMAL + "[config.optimisation]\nepochs = 1\n[config.data]\nimage_size_px = 32\n"
        "[[variant]]\nname = 'wild'\n"
        "changes = { 'optimisation.learning_rate' = 10.0, 'optimisation.optimizer' = 'sgd', "
        "'optimisation.weight_decay' = 10.0, 'optimisation.epochs' = 30 }\n"
        "[[variant]]\nname = 'after'\nstarts_from = 'wild'\n"
    )
    run = tmp_path / "run"
    shutil.copytree(augmented[0] / "initial", run / "initial")
    members = train_recipe(RecipeRun(run, data, print), load_recipe(str(path)))
    assert list(members) == ["base"]
    trials = pd.read_csv(run / "trials.csv")
    assert trials["state"].tolist() == ["COMPLETE", "FAIL", "FAIL"]
    assert "finite" in trials.loc[1, "reason"] or "nan" in trials.loc[1, "reason"]
    assert trials.loc[2, "reason"] == "it starts from wild, which failed"


# --- what leaves the project


EXPORTED = """
import sys
import numpy, torch
sys.modules["ensemble"] = None  # makes importing it an ImportError
model = torch.export.load(sys.argv[1]).module()
pixels = torch.from_numpy(numpy.load(sys.argv[2]))
parts = [model(pixels[:1]), model(pixels[1:4]), model(pixels[4:])]
numpy.save(sys.argv[3], torch.cat(parts).numpy())
"""


def test_the_exported_model_gives_the_same_probabilities_without_this_project(augmented, tmp_path):
    run, _ = augmented
    about = json.loads((run / "run.json").read_text())
    data = DevelopmentTiles(Path(about["pack_folder"]), torch.device("cpu")).open()
    best = max(
        (open_member(member_folder(run, n)) for n in (0, 1, 2)), key=lambda m: (m.val_f1, -m.trial)
    )
    margins = predict_margins(best.load_model(), data.val, View(32))  # in float32
    expected = margins_to_probabilities(margins)
    pixels = data.val.pixels[data.val.rows].permute(0, 3, 1, 2).numpy()
    np.save(tmp_path / "pixels.npy", np.ascontiguousarray(pixels))
    files = [run / "export" / "model.pt2", tmp_path / "pixels.npy", tmp_path / "scores.npy"]
    command = [sys.executable, "-c", EXPORTED, *map(str, files)]
    subprocess.run(command, check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(files[2]), expected, atol=1e-5)


def test_the_exported_state_dict_is_the_members(augmented):
    run, _ = augmented
    exported = safetensors.torch.load_file(run / "export" / "state_dict.safetensors")
    name = (run / "export" / "README.md").read_text()
    assert "torch.export.load" in name
    states = [open_member(member_folder(run, n)).load_model().state_dict() for n in (0, 1, 2)]
    assert any(all(torch.equal(exported[k], v) for k, v in state.items()) for state in states)


def test_an_exported_network_with_context_takes_windows(write_member, make_trial_config, tmp_path):
    """As cut from the photograph, or mirrored around a lone tile, as its README says."""
    config = make_trial_config(data={"image_size_px": 16, "context_px": 8})
    member = write_member(tmp_path / "member", config=config)
    export_member(member, tmp_path / "export", name="test", tile_size_px=(32, 32))
    text = (tmp_path / "export" / "README.md").read_text()
    assert "takes windows" in text
    assert "each 24 × 24 pixels" in text
    assert "windows of\n48 × 48 pixels" in text
    pad = ((8, 8), (8, 8), (0, 0))
    assert f'numpy.pad(tile, {pad}, mode="symmetric")' in text
    model = torch.export.load(tmp_path / "export" / "model.pt2").module()

    photograph = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    bricks = photograph.reshape(2, 32, 3, 32, 3).swapaxes(1, 2).reshape(6, 32, 32, 3)
    rows = np.arange(6)
    around = find_neighbours(rows, np.full(6, "one"), *np.divmod(rows, 3))
    tiles = place_tiles(bricks, rows, rows % 2, torch.device("cpu"), neighbours=around)
    padded = np.pad(photograph, pad, mode="symmetric")
    windows = [padded[y : y + 48, x : x + 48] for y in (0, 32) for x in (0, 32, 64)]
    mirrored = [np.pad(brick, pad, mode="symmetric") for brick in bricks]
    for shown, alone in ((windows, False), (mirrored, True)):
        margins = predict_margins(member.load_model(), tiles, config.view, alone=alone)
        pixels = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
        reduced = functional.interpolate(pixels, (24, 24), mode="bilinear", antialias=True)
        np.testing.assert_allclose(model(reduced), margins_to_probabilities(margins), atol=1e-5)


def test_the_export_of_a_network_without_context_takes_tiles(augmented):
    text = (augmented[0] / "export" / "README.md").read_text()
    assert "takes tiles" in text
    assert "each 32 × 32 pixels" in text
    assert "window" not in text


def test_a_variant_starts_from_the_best_epoch_of_the_one_it_names(here):
    words = ["--recipe", "mobilenetv2-finetune", "--backbone", "small_cnn", *QUICK]
    train.main(parse("train", [*words, "--data", "tiles", "--epochs", "2", "--name", "tuned"]))
    base, tuned = (open_member(member_folder(Path("results/tuned"), n)) for n in (0, 1))
    frozen, moved = base.load_model().state_dict(), tuned.load_model().state_dict()
    lower = [name for name in frozen if name.startswith(("features.0", "features.1", "features.4"))]
    assert all(torch.equal(frozen[name], moved[name]) for name in lower)
    assert not torch.equal(frozen["features.8.weight"], moved["features.8.weight"])
    initial = safetensors.torch.load_file("results/tuned/initial/small_cnn.safetensors")
    assert torch.equal(initial["features.8.weight"], frozen["features.8.weight"])
    assert not torch.equal(initial["classifier.1.weight"], frozen["classifier.1.weight"])


def one_class(tiles, label):
    return tiles.take((tiles.labels == label).nonzero().flatten())


def test_data_of_one_class_is_refused(here, tmp_path):
    shutil.copytree(Path("metu/Negative"), tmp_path / "data" / "Negative")
    (tmp_path / "data" / "Positive").mkdir()
    with pytest.raises(InputError, match="one class only"):
        train.main(
            parse("train", ["--recipe", "small-cnn", "--data", str(tmp_path / "data"), *QUICK])
        )


def test_a_split_that_lacks_a_class_is_refused(here, tmp_path):
    for kind, count in (("Negative", 30), ("Positive", 1)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for path in sorted(Path("metu", kind).glob("*.jpg"))[:count]:
            shutil.copy(path, tmp_path / "data" / kind)
    with pytest.raises(InputError, match="tiles have no cracked one"):
        train.main(
            parse("train", ["--recipe", "small-cnn", "--data", str(tmp_path / "data"), *QUICK])
        )


@pytest.mark.parametrize(("label", "word"), [(0, "uncracked"), (1, "cracked")])
def test_validation_on_one_class_is_refused(augmented, tmp_path, label, word):
    about = json.loads((augmented[0] / "run.json").read_text())
    data = DevelopmentTiles(Path(about["pack_folder"]), torch.device("cpu")).open()
    data = TrainingData(data.train, one_class(data.val, label), data.split_digest)
    run = RecipeRun(tmp_path, data, print)
    recipe = load_recipe("small-cnn").changed(epochs=1, image_size_px=32)
    start = augmented[0] / "initial" / "small_cnn.safetensors"
    with pytest.raises(InputError, match=f"the validation tiles are all {word}: a network"):
        run.train(0, "base", recipe.base, start, settings={})


def test_packed_tiles_that_somebody_changed_are_refused_before_a_run_is_made(here, tmp_path):
    """Their splits have tiles of both classes when they are made, and one class here."""
    words = ["--recipe", "small-cnn", "--data", "tiles", *QUICK, "--epochs", "1"]
    words += ["--out", str(tmp_path)]
    train.main(parse("train", [*words, "--name", "first"]))
    about = json.loads((tmp_path / "first" / "run.json").read_text())
    for split in ("test", "val"):
        path = Path(about["pack_folder"]) / f"{split}.csv"
        table = pd.read_csv(path)
        table[table["label"] == 0].to_csv(path, index=False)
    with pytest.raises(PackError, match=r"test\.csv is damaged"):
        evaluate_run(tmp_path / "first")
    assert not (tmp_path / "first" / "evaluation").exists()
    with pytest.raises(PackError, match=r"val\.csv is damaged"):
        train.main(parse("train", [*words, "--name", "second"]))
    assert not (tmp_path / "second").exists()


# --- what it costs


def summary_of(capsys, *words: str) -> str:
    train.main(parse("train", ["--summary", *words]))
    return capsys.readouterr().out


def test_the_frozen_recipe_has_2562_trainable_parameters(capsys):
    said = summary_of(capsys, "--recipe", "mobilenetv2-frozen")
    assert "trainable       2,562 (backbone 0, head 2,562)" in said


def test_the_fine_tuned_variant_unfreezes_1861440_parameters_of_the_backbone(capsys):
    said = summary_of(capsys, "--recipe", "mobilenetv2-finetune")
    assert "trainable       1,864,002 (backbone 1,861,440, head 2,562)" in said


def test_a_summary_leaves_nothing(here, capsys):
    before = sorted(path.name for path in here.iterdir())
    summary_of(capsys, "--recipe", "resnet50-metu")
    assert sorted(path.name for path in here.iterdir()) == before


# --- the table of all recipes


@pytest.mark.slow
def test_the_table_of_recipes_names_what_really_ran(here, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "evidence")
    main = runpy.run_path(str(ROOT / "scripts" / "evidence" / "recipes.py"))["main"]
    words = ["--metu", "metu", "--sdnet", "tiles", "--gpus", "0", "--epochs", "1"]
    words += ["--image-size", "32", "--backbone", "small_cnn", "--weights", "none"]

    def run(name: str) -> None:
        monkeypatch.setattr(sys, "argv", ["recipes.py", *words, "--only", name])
        main()

    run("mobilenetv2-finetune")
    run("small-cnn")
    table = pd.read_csv("results/recipes.csv")
    assert table["recipe"].tolist() == ["mobilenetv2-finetune"] * 3 + ["small-cnn"]
    assert table["variant"].tolist() == ["base", "fine-tuned", "mean of 2 members", "base"]
    assert set(table["backbone"]) == {"small_cnn"}
    assert set(table["weights"]) == {"random weights"}
    assert table["data"].tolist() == ["metu"] * 3 + ["tiles"]
    assert table["trainable_parameters"].tolist()[:2] == [130, 18_690]
    metrics = json.loads(Path("results/recipe-small-cnn/evaluation/metrics.json").read_text())
    assert table.loc[3, "test_f1"] == pytest.approx(metrics["best_single"]["f1"])
    assert table.loc[3, "stated"] == load_recipe("small-cnn").stated
    provenance = json.loads(Path("results/recipes.json").read_text())
    assert provenance["small-cnn"]["split_digest"] == metrics["split_digest"]
    run("small-cnn")
    ledger = pd.read_csv("results/recipe-small-cnn/evaluation/ledger.csv")
    assert len(ledger) == 1  # what is tested is not tested again


def test_a_recipe_without_its_data_is_named(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "evidence")
    main = runpy.run_path(str(ROOT / "scripts" / "evidence" / "recipes.py"))["main"]
    monkeypatch.setattr(sys, "argv", ["recipes.py", "--sdnet", "tiles"])
    with pytest.raises(InputError, match="mobilenetv2-augmented needs --metu PATH"):
        main()


def test_a_lost_member_of_a_recipe_is_left_out_and_said(tmp_path: Path):
    (tmp_path / "trials.csv").write_text("trial,state\n0,COMPLETE\n1,FAIL\n")
    said: list[str] = []
    empty = torch.zeros(0)
    run = RecipeRun(tmp_path, TrainingData(empty, empty, "digest"), said.append)
    assert run.finished_among(range(3)) == []
    assert len(said) == 1
    assert "members/0000" in said[0]
    assert said[0].endswith("trial 0 is left out")
