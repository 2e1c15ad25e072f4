"""The moving average of the weights: its arithmetic, and which weights are kept."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ensemble.data.batches import SplitTiles
from ensemble.data.view import View
from ensemble.training.averaging import WeightAverage
from ensemble.training.backbones import build_model
from ensemble.training.config import TrialConfig
from ensemble.training.loop import Epoch, fit, predict_margins
from ensemble.training.metrics import validation_metrics


class Counted(nn.Module):
    """A weight, a statistic and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("statistic", torch.zeros(1))
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))

    def become(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
        self.statistic.fill_(2 * value)
        self.counter.fill_(int(value))


def test_average_of_steps_worked_out_by_hand() -> None:
    model = Counted()
    average = WeightAverage(model, 0.25, done_steps=0, weights={})
    for value in (11.0, 22.0, 33.0):
        model.become(value)
        average.update(model)
    second = 2 / 11 * 11 + 9 / 11 * 22  # the decay of the second step is (1 + 1) / (10 + 1)
    third = 0.25 * second + 0.75 * 33  # and that of the third 3 / 12
    found = average.model.state_dict()
    assert found["weight"].item() == pytest.approx(third)
    assert found["statistic"].item() == pytest.approx(2 * third)
    assert found["counter"].item() == 33  # a counter has no mean
    assert model.weight.item() == 33


def test_average_of_a_cut_run_goes_on() -> None:
    model = Counted()
    whole = WeightAverage(model, 0.9, done_steps=0, weights={})
    for step in range(6):
        if step == 3:
            saved = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
            continued = WeightAverage(Counted(), 0.9, done_steps=3, weights=saved)
        model.become(float(step**2))
        whole.update(model)
        if step >= 3:
            continued.update(model)
    assert continued.model.state_dict() == whole.model.state_dict()


@pytest.fixture(scope="module")
def trained(
    make_bright_and_dark: Callable[..., SplitTiles], make_trial_config: Callable[..., TrialConfig]
) -> tuple[list[Epoch], list[dict[str, torch.Tensor]], SplitTiles]:
    """Epochs with a moving average, the latest weights after each, and the validation tiles."""
    torch.manual_seed(1)
    model = build_model("small_cnn", dropout=0.3)
    optimisation = {"epochs": 6, "learning_rate": 0.05, "schedule": "constant", "ema_decay": 0.8}
    config = make_trial_config(optimisation=optimisation, data={"augmentation": 1.0})
    val = make_bright_and_dark(80, seed=1)
    # a third of the labels wrong, so that now the one and now the other comes out better
    is_wrong = torch.from_numpy(np.random.default_rng(0).random(80) < 0.3)
    val = replace(val, labels=val.labels ^ is_wrong)
    epochs, latest = [], []
    for epoch in fit(model, config, make_bright_and_dark(64), val):
        epochs.append(epoch.model_copy(update={"average": copy_of(epoch.average)}))
        latest.append(copy_of(model.state_dict()))
    return epochs, latest, val


def copy_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_the_better_of_latest_and_average_is_kept(
    trained: tuple[list[Epoch], list[dict[str, torch.Tensor]], SplitTiles],
) -> None:
    epochs, latest, val = trained
    assert {epoch.is_average for epoch in epochs} == {False, True}  # else this shows nothing
    for epoch, weights in zip(epochs, latest, strict=True):
        scored = []
        for tensors in (weights, epoch.average):
            model = build_model("small_cnn")
            model.load_state_dict(tensors)
            margins = predict_margins(model, val, View(16))
            scored.append((validation_metrics(val.labels.numpy(), margins)["f1"], margins))
        is_better = scored[1][0] > scored[0][0]
        assert epoch.is_average == is_better
        np.testing.assert_allclose(epoch.val_margins, scored[is_better][1], rtol=1e-5, atol=1e-5)


def test_without_a_decay_there_is_no_average(
    make_bright_and_dark: Callable[..., SplitTiles], make_trial_config: Callable[..., TrialConfig]
) -> None:
    tiles = make_bright_and_dark(32)
    (epoch,) = fit(
        build_model("small_cnn"), make_trial_config(optimisation={"epochs": 1}), tiles, tiles
    )
    assert epoch.average == {}
    assert not epoch.is_average
