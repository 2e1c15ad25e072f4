"""Facts about a GPU: it sees, learns and says what a CPU does. Skipped where there is none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from person import EVALUATE, SEARCH, type_in
from torch import nn

from ensemble.base.files import read_object
from ensemble.data.batches import SplitTiles, make_batch, place_tiles
from ensemble.data.view import View
from ensemble.explanation.activation import class_activation_map
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import open_member, write_member
from ensemble.training.config import TrialConfig
from ensemble.training.loop import fit, predict_margins

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

FAMILIES = [
    "small_cnn",
    "squeezenet1_1",
    "resnet18",
    "convnext_tiny",
    "timm/regnety_002",
    "timm/tf_efficientnet_lite0",
    "timm/mobilenetv4_conv_small_035",
    "timm/fastvit_t8",
    "timm/test_vit",
    "timm/swin_tiny_patch4_window7_224",
]
MakeConfig = Callable[..., TrialConfig]
MakeTiles = Callable[..., SplitTiles]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def on_gpu(tiles: SplitTiles) -> SplitTiles:
    return replace(tiles, pixels=tiles.pixels.to(GPU), labels=tiles.labels.to(GPU), device=GPU)


def seeded(backbone: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(backbone)


@pytest.mark.parametrize("resident", [True, False], ids=["in GPU memory", "in the machine's"])
@pytest.mark.parametrize("context_px", [0, 8])
@pytest.mark.parametrize("augmentation", [0.0, 1.0])
def test_a_gpu_sees_what_a_cpu_sees(augmentation: float, context_px: int, resident: bool) -> None:
    smooth = np.add.outer(np.arange(48), np.arange(48))[None, :, :, None]
    pixels = (smooth + 15 * np.arange(9)[:, None, None, None] + 5 * np.arange(3)).astype(np.uint8)
    around = np.arange(9)[None].repeat(9, 0)
    view = View(image_size_px=32, context_px=context_px)

    def place(device: torch.device) -> SplitTiles:
        tiles = place_tiles(pixels, np.arange(9), np.arange(9) % 2, device, neighbours=around)
        return tiles if resident else replace(tiles, pixels=tiles.pixels.cpu())

    def see(tiles: SplitTiles) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return make_batch(
            tiles, torch.arange(9), view, augmentation=augmentation, generator=generator,
            context_dropout=0.3 if context_px else 0.0,
        )  # fmt: skip

    expected, expected_labels = see(place(CPU))
    tiles = place(GPU)
    see(tiles)  # tables that are kept are sent once
    torch.cuda.set_sync_debug_mode("error")  # where the GPU is waited for
    try:
        images, labels = see(tiles)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert images.device.type == "cuda"
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == expected_labels.tolist()
    # a CPU rounds to whole levels twice
    torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=2 / (255 * min(view.std)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_network_trained_on_a_gpu_scores_there_as_on_a_cpu(
    backbone: str,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_trial_config: MakeConfig,
    make_bright_and_dark: MakeTiles,
) -> None:
    config = make_trial_config(
        model={"backbone": backbone},
        optimisation={"epochs": 2, "global_batch_size": 8, "precision": precision,
                      "learning_rate": 1e-3},
        data={"image_size_px": 64, "augmentation": 0.5},
    )  # fmt: skip
    tiles = make_bright_and_dark(32)
    *_, last = fit(seeded(backbone).to(GPU), config, on_gpu(tiles), on_gpu(tiles))
    assert np.isfinite(last.train_loss)
    about: dict[str, Any] = {
        "trial": 0,
        "split_digest": "s",
        "initial_weights_digest": "i",
        "config": config,
    }
    write_member(tmp_path, last.weights, last.val_margins, **about, **last.describe_result())
    member = open_member(tmp_path)
    loaded = member.load_model()
    scored = predict_margins(loaded, tiles, member.record.view)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it rounds to 11 bits
    again = predict_margins(loaded.to(GPU), on_gpu(tiles), member.record.view)
    scale = max(1.0, float(np.abs(scored).max()))
    np.testing.assert_allclose(again, scored, rtol=0, atol=0.01 * scale)
    np.testing.assert_allclose(last.val_margins, scored, rtol=0, atol=0.1 * scale)
    images, _ = make_batch(on_gpu(tiles), torch.arange(2), member.record.view)
    maps = class_activation_map(loaded, backbone, images)
    assert maps.shape[0] == 2
    assert np.isfinite(maps).all()


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_training_goes_on_on_a_gpu_after_an_epoch(
    ema_decay: float, make_trial_config: MakeConfig, make_bright_and_dark: MakeTiles
) -> None:
    config = make_trial_config(
        optimisation={"epochs": 3, "learning_rate": 1e-3, "ema_decay": ema_decay},
        data={"image_size_px": 16, "augmentation": 0.5},
    )
    tiles = on_gpu(make_bright_and_dark(64))
    model = seeded("small_cnn").to(GPU)
    losses, kept = [], None
    for epoch in fit(model, config, tiles, tiles):
        losses.append(epoch.train_loss)
        if epoch.number == 1:
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            kept = epoch.model_copy(
                update={
                    "optimizer_state": {n: t.clone() for n, t in epoch.optimizer_state.items()},
                    "average": {n: t.clone() for n, t in epoch.average.items()},
                }
            )
    other = build_model("small_cnn").to(GPU)
    other.load_state_dict(state)
    again = [epoch.train_loss for epoch in fit(other, config, tiles, tiles, start=kept)]
    assert again == pytest.approx(losses, rel=1e-3)


@pytest.mark.slow
def test_a_search_on_a_gpu_and_what_follows(folder: Path) -> None:
    words = [*SEARCH, "--data", "tiles", "--space", "demo", "--epochs", "2", "--image-size", "32"]
    words += ["--trials", "3", "--gpus", "1", "--trials-per-gpu", "2", "--name", "gpu"]
    said = type_in(folder, *words)
    assert "2 trials at a time" in said
    run = folder / "results" / "gpu"
    trials = pd.read_csv(run / "trials.csv")
    assert trials["state"].isin(["COMPLETE", "PRUNED"]).all()
    assert read_object(run / "run.json", split_digest=str)["device"] == "cuda"
    type_in(folder, *EVALUATE, "gpu")
    assert (run / "evaluation" / "metrics.json").exists()
