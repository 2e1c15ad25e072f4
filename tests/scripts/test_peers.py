"""The benchmark's peers do the same work: same tiles, network, loss and figures, and all of it."""

import argparse
import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PEERS = Path(__file__).parents[2] / "scripts" / "peers"
NUM_TRAIN, NUM_VAL = 24, 16
NO_AUTOCAST = torch.autocast("cpu", enabled=False)

needs_lightning = pytest.mark.skipif(
    importlib.util.find_spec("lightning") is None, reason="needs the extra `bench`"
)


@pytest.fixture(scope="module")
def same():
    spec = importlib.util.spec_from_file_location("same", PEERS / "same.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """40 grey tiles of 32 px, the cracked ones with a dark line."""
    folder = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        for number in range(count):
            pixels = rng.integers(100, 200, (32, 32, 3), dtype=np.uint8)
            if number % 2:
                pixels[:, 12:18] = 0
            name = "Cracked" if number % 2 else "Non-cracked"
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg")
    return folder


def type_in(peer, tiles, out, *more):
    """Run a peer as a person would: one trial of one epoch in batches of ten."""
    words = [sys.executable, PEERS / f"{peer}.py", "--data", tiles, "--out", out, "--trials", "1"]
    words += ["--epochs", "1", "--image-size", "32", "--batch-size", "10", "--slots", "1", *more]
    done = subprocess.run(words, cwd=out.parent, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def options_for(tiles, **changed):
    defaults = {"data": tiles, "image_size": 32, "batch_size": 10, "weights": "none"}
    return argparse.Namespace(**{**defaults, "backbone": "squeezenet1_1", **changed})


@pytest.mark.parametrize(
    ("peer", "package", "precision"),
    [
        pytest.param("optuna_loop", "optuna", "float32", marks=pytest.mark.slow),
        pytest.param(
            "lightning_optuna",
            "lightning",
            "bfloat16",
            marks=[pytest.mark.slow, needs_lightning],
        ),
        pytest.param("ray_recipe", "ray", "bfloat16", marks=pytest.mark.long),
    ],
)
def test_a_peer_trains_and_says_what_it_did(peer, package, precision, tiles, tmp_path):
    out = tmp_path / "result.json"
    said = type_in(peer, tiles, out, "--precision", precision)
    assert str(out) in said
    result = json.loads(out.read_text())
    (trial,) = result["trials"]
    assert set(trial) == {"val_f1", "val_ap", "train_images", "seconds"}
    assert 0 <= trial["val_f1"] <= 1
    assert 0 < trial["val_ap"] <= 1
    assert trial["train_images"] == result["train_images"] == 20  # whole batches of ten
    assert 0 < trial["seconds"] <= result["search_seconds"] < result["wall_seconds"]
    assert result["options"]["precision"] == precision
    assert {"torch", "torchvision", "optuna", package} <= set(result["versions"])
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_peers_use_nothing_of_the_package():
    for path in PEERS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("ensemble"), path
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("ensemble") for alias in node.names), path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "nowhere"], "nowhere/train/Cracked is missing"),
        (["--batch-size", "25"], "--batch-size: 25 is more than the 24 tiles"),
        (["--weights", "nothing.pth"], "nothing.pth is no file; say none for random weights"),
        (["--trials", "0"], "a whole number from 1 on, but got '0'"),
    ],
)
def test_a_wrong_argument_is_named(same, tiles, words, said, monkeypatch, capsys):
    usual = ["peer", "--data", str(tiles), "--out", "r.json", "--batch-size", "10"]
    monkeypatch.setattr(sys, "argv", [*usual, *words])
    with pytest.raises(SystemExit) as ended:
        same.parse_arguments("A peer.")
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_loaders_give_whole_training_batches_and_every_validation_tile(same, tiles):
    train_loader, val_loader = same.make_loaders(options_for(tiles), num_trials=1)
    assert train_loader.dataset.class_to_idx["Cracked"] == same.CRACKED
    assert len(train_loader) == NUM_TRAIN // 10
    labels = torch.cat([labels for _, labels in val_loader])
    assert len(labels) == NUM_VAL
    assert (labels == same.CRACKED).sum() == NUM_VAL // 2
    images, _ = next(iter(train_loader))
    assert images.shape == (10, 3, 32, 32)


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "resnet18", "efficientnet_v2_s"])
def test_backbones_end_in_two_logits_and_the_dropout_that_is_searched(same, tiles, backbone):
    with torch.device("meta"):  # shapes without the sums
        model = same.make_model(options_for(tiles, backbone=backbone), dropout=0.35)
        assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 2)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.35]


def test_weights_of_the_backbone_are_taken_and_others_refused(same, tiles, tmp_path):
    path = tmp_path / "features.pth"
    state = same.make_model(options_for(tiles), dropout=0.0).state_dict()
    features = {name: value for name, value in state.items() if name.startswith("features.")}
    torch.save(features, path)
    loaded = same.make_model(options_for(tiles, weights=path), dropout=0.0).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in features.items())
    del features["features.0.weight"]
    torch.save(features, path)
    with pytest.raises(SystemExit, match=r"not the weights of squeezenet1_1"):
        same.make_model(options_for(tiles, weights=path), dropout=0.0)


def test_cracked_is_the_class_that_is_weighted_and_scored(same):
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([0, 0, 1, 1])  # 0 = cracked: one found, one missed, one false alarm
    per_tile = nn.functional.cross_entropy(logits, labels, reduction="none")
    by_hand = (4 * per_tile[:2].sum() + per_tile[2:].sum()) / 10
    torch.testing.assert_close(same.make_loss(4.0)(logits, labels), by_hand)
    loader = DataLoader(TensorDataset(logits, labels), batch_size=3)
    metrics = same.validate(nn.Identity(), loader, torch.device("cpu"), NO_AUTOCAST)
    assert metrics["val_f1"] == pytest.approx(1 / 2)
    assert metrics["val_ap"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
