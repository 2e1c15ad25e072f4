"""Facts about one training run: its loss, its schedule, its end, and that workers agree."""

import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from ensemble.base.errors import InputError
from ensemble.data.batches import SplitTiles
from ensemble.data.view import View
from ensemble.training.backbones import build_model
from ensemble.training.config import LossConfig, TrialConfig, derive_seed
from ensemble.training.data_parallel import share_statistics
from ensemble.training.loop import DivergedError, fit, predict_margins
from ensemble.training.losses import tile_weights, weighted_loss
from ensemble.training.metrics import validation_metrics

MakeTiles = Callable[..., SplitTiles]
MakeConfig = Callable[..., TrialConfig]


class PlainNetwork(nn.Module):
    """No BatchNorm and no dropout: what a worker computes for a tile depends on that tile alone."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(4, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).relu().mean((2, 3)))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def small_cnn(dropout: float = 0.0) -> nn.Module:
    return seeded(lambda: build_model("small_cnn", dropout=dropout))


def random_batch(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, 2, generator=generator)
    return logits, torch.arange(count) % 3 % 2


def loss_of(logits: Tensor, labels: Tensor, **values: Any) -> Tensor:
    config = LossConfig(**values)
    return weighted_loss(logits, labels, config, tile_weights(config, labels))


def parameters_of(model: nn.Module) -> np.ndarray:
    return flat(model.state_dict())


def flat(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([t.double().flatten() for t in tensors.values()]).numpy()


# --- the loss


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=1, max_size=50), st.floats(1e-3, 1000, allow_nan=False))
def test_weights_of_classes_have_their_ratio_and_mean_one_over_the_tiles(
    labels: list[int], crack_weight: float
) -> None:
    tensor = torch.tensor(labels)
    weights = tile_weights(LossConfig(crack_weight=crack_weight), tensor)
    assert weights.dtype == torch.float32
    assert weights.double().mean().item() == pytest.approx(1, rel=1e-5)
    for cracked in weights[tensor == 1]:
        for uncracked in weights[tensor == 0]:
            assert (cracked / uncracked).item() == pytest.approx(crack_weight, rel=1e-5)


def test_weights_of_tiles_by_hand() -> None:
    labels, doubted = torch.tensor([1, 0, 0, 0]), torch.tensor([True, False, True, False])
    weights = tile_weights(LossConfig(crack_weight=3.0), labels, doubted)
    assert weights.tolist() == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])
    weights = tile_weights(LossConfig(crack_weight=4.0, doubted_weight=0.25), labels, doubted)
    assert weights.tolist() == pytest.approx([1 / 0.8125, 1 / 0.8125, 0.25 / 0.8125, 1 / 0.8125])


def test_doubted_labels_count_less_only_where_somebody_says_which_these_are() -> None:
    with pytest.raises(InputError, match="only a refit says which labels are doubted"):
        tile_weights(LossConfig(doubted_weight=0.5), torch.tensor([1, 0]))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_unweighted_loss_is_torchs_cross_entropy(label_smoothing: float) -> None:
    logits, labels = random_batch()
    ours = loss_of(logits, labels, label_smoothing=label_smoothing)
    torch.testing.assert_close(
        ours, functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    )


def test_weighted_loss_over_all_tiles_is_torchs_weighted_mean() -> None:
    """Torch divides by the sum of the weights, ours are scaled so that it is the tiles' number."""
    logits, labels = random_batch()
    reference = functional.cross_entropy(logits, labels, weight=torch.tensor([1.0, 5.0]))
    torch.testing.assert_close(loss_of(logits, labels, crack_weight=5.0), reference)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_is_its_formula(gamma: float) -> None:
    logits, labels = random_batch()
    expected = 0.0
    for (zero, one), label in zip(logits.tolist(), labels.tolist(), strict=True):
        other, own = (zero, one) if label else (one, zero)
        p = 1 / (1 + math.exp(other - own))
        expected += -((1 - p) ** gamma) * math.log(p) / len(labels)
    ours = loss_of(logits, labels, kind="focal", focal_gamma=gamma)
    assert ours.item() == pytest.approx(expected, rel=1e-4)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits, labels = random_batch()
    ours = loss_of(logits, labels, kind="focal", focal_gamma=0.0)
    torch.testing.assert_close(ours, functional.cross_entropy(logits, labels))


def test_focal_loss_of_a_certain_tile_has_a_finite_gradient() -> None:
    logits = torch.tensor([[-80.0, 80.0], [80.0, -80.0]], requires_grad=True)
    loss_of(logits, torch.tensor([1, 1]), kind="focal", focal_gamma=0.5).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# --- one run


def test_bright_tiles_are_told_from_dark_ones(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    config = make_trial_config(
        optimisation={"epochs": 5, "learning_rate": 1e-2}, data={"augmentation": 0.5}
    )
    train, val = make_bright_and_dark(96), make_bright_and_dark(40, seed=1)
    epochs = list(fit(small_cnn(), config, train, val))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5]
    assert [epoch.last for epoch in epochs] == [False] * 4 + [True]
    assert epochs[-1].val_metrics["f1"] > 0.95
    assert epochs[-1].train_loss < epochs[0].train_loss


def test_epoch_reports_the_model_as_the_caller_holds_it(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    train, val = make_bright_and_dark(32), make_bright_and_dark(10, seed=1)
    model = small_cnn()
    best = -1.0
    for epoch in fit(model, make_trial_config(optimisation={"epochs": 4}), train, val):
        margins = predict_margins(model, val, View(16))
        assert np.array_equal(epoch.val_margins, margins)
        assert epoch.val_metrics == validation_metrics(val.labels.numpy(), margins)
        assert epoch.improved == (epoch.val_metrics["f1"] > best)
        best = max(best, epoch.val_metrics["f1"])
        assert epoch.best_val_f1 == best
        assert epoch.row()["val_f1"] == epoch.val_metrics["f1"]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_share_of_each_epoch_is_told_after_each_batch(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig, ema_decay: float
) -> None:
    train, val = make_bright_and_dark(32), make_bright_and_dark(30, seed=1)
    told: list[tuple[int, float]] = []
    config = make_trial_config(
        optimisation={"epochs": 2, "global_batch_size": 8, "ema_decay": ema_decay}
    )
    list(fit(small_cnn(), config, train, val, each_batch=lambda *beat: told.append(beat)))
    scored = 30 * (2 if ema_decay else 1)  # the moving average is scored as well
    work = [3 * 8 * step for step in range(1, 5)] + [
        96 + 30 * n for n in range(1, scored // 30 + 1)
    ]
    shares = [done / (96 + scored) for done in work]
    assert told == [(number, pytest.approx(share)) for number in (1, 2) for share in shares]


def test_train_loss_and_accuracy_are_those_of_the_tiles(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    """At a rate of next to nothing the model stays, so the epoch's mean is the model's own."""
    train = make_bright_and_dark(30)
    model = seeded(PlainNetwork)
    margins = torch.from_numpy(predict_margins(model, train, View(16)))
    signed = torch.where(train.labels == 1, margins, -margins)
    config = make_trial_config(
        optimisation={"epochs": 1, "learning_rate": 1e-12, "global_batch_size": 10}
    )
    (epoch,) = fit(model, config, train, train)
    assert epoch.train_loss == pytest.approx(functional.softplus(-signed).mean().item(), rel=1e-5)
    assert epoch.train_accuracy == pytest.approx((signed > 0).double().mean().item())


def test_same_seed_gives_the_same_run_and_another_seed_another(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    train, val = make_bright_and_dark(48), make_bright_and_dark(20, seed=1)

    def run(seed: int, disturbance: int) -> tuple[np.ndarray, np.ndarray]:
        config = make_trial_config(seed=seed, model={"dropout": 0.5}, data={"augmentation": 1.0})
        model = small_cnn(dropout=0.5)
        torch.manual_seed(disturbance)  # what ran before in this process
        epochs = []
        for epoch in fit(model, config, train, val):
            torch.rand(disturbance)  # what the caller does between epochs
            epochs.append(epoch)
        return epochs[-1].val_margins, parameters_of(model)

    margins, parameters = run(0, disturbance=1)
    again, parameters_again = run(0, disturbance=2)
    other, _ = run(1, disturbance=1)
    assert np.array_equal(margins, again)
    assert np.array_equal(parameters, parameters_again)
    assert not np.array_equal(margins, other)


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_the_run_with_its_last_epoch(
    patience: int, make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    """A model that stays where it is has its best F1 in its first epoch."""
    config = make_trial_config(
        optimisation={
            "epochs": 9,
            "learning_rate": 1e-12,
            "weight_decay": 0.0,
            "early_stopping_patience": patience,
        }
    )
    tiles = make_bright_and_dark(16)
    epochs = list(fit(seeded(PlainNetwork), config, tiles, tiles))
    assert [epoch.improved for epoch in epochs] == [True] + [False] * patience
    assert [epoch.last for epoch in epochs] == [False] * patience + [True]


def test_best_f1_never_falls(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    config = make_trial_config(optimisation={"epochs": 6, "learning_rate": 0.3})
    train, val = make_bright_and_dark(32), make_bright_and_dark(20, seed=1)
    epochs = list(fit(small_cnn(), config, train, val))
    best = [epoch.best_val_f1 for epoch in epochs]
    assert best == sorted(best)
    assert best == np.maximum.accumulate([e.val_metrics["f1"] for e in epochs]).tolist()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_moves_every_parameter(
    optimizer: str, make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    model = small_cnn()
    before = [parameter.clone() for parameter in model.parameters()]
    config = make_trial_config(optimisation={"optimizer": optimizer, "epochs": 1})
    tiles = make_bright_and_dark(16)
    list(fit(model, config, tiles, tiles))
    pairs = zip(before, model.parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in pairs)


@pytest.mark.parametrize("epochs", [1, 4])
def test_cosine_falls_from_the_peak_after_the_warm_up_to_zero(
    epochs: int, make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    """Four steps an epoch, so that the rate after epoch e is that of step 4·e."""
    optimisation = {"epochs": epochs, "learning_rate": 0.02, "warmup_epochs": 0.5}
    config = make_trial_config(optimisation=optimisation)
    tiles = make_bright_and_dark(64)
    rates = [epoch.learning_rate for epoch in fit(seeded(PlainNetwork), config, tiles, tiles)]
    done = [(4 * number - 2) / (4 * epochs - 2) for number in range(1, epochs + 1)]
    expected = [0.02 * 0.5 * (1 + math.cos(math.pi * share)) for share in done]
    assert rates == pytest.approx(expected, abs=1e-12)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_warm_up_rises_step_by_step_to_a_constant(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    config = make_trial_config(
        optimisation={
            "epochs": 4,
            "learning_rate": 0.02,
            "warmup_epochs": 2.0,
            "schedule": "constant",
        }
    )
    tiles = make_bright_and_dark(64)  # four steps an epoch, eight of warm-up
    rates = [epoch.learning_rate for epoch in fit(seeded(PlainNetwork), config, tiles, tiles)]
    assert rates == pytest.approx([0.02 * 5 / 8, 0.02, 0.02, 0.02])


def test_run_without_warm_up_starts_at_the_peak(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    """One step of plain SGD moves the weights by rate × gradient."""
    config = make_trial_config(
        optimisation={
            "epochs": 1,
            "learning_rate": 0.02,
            "warmup_epochs": 0.0,
            "optimizer": "sgd",
            "weight_decay": 0.0,
        }
    )
    tiles = make_bright_and_dark(16)
    model = seeded(PlainNetwork)
    before = model.get_submodule("classifier.1").bias.detach().clone()
    list(fit(model, config, tiles, tiles))
    margins = torch.from_numpy(predict_margins(seeded(PlainNetwork), tiles, View(16)))
    gradient = (torch.sigmoid(margins) - tiles.labels).mean()  # of the bias of "cracked"
    step = model.get_submodule("classifier.1").bias.detach() - before
    torch.testing.assert_close(step, torch.stack([0.02 * gradient, -0.02 * gradient]))


def test_batch_larger_than_the_data_takes_all_of_it_at_once(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    tiles = make_bright_and_dark(20)
    ends = []
    for global_batch_size in (20, 64):
        model = small_cnn()
        config = make_trial_config(optimisation={"global_batch_size": global_batch_size})
        list(fit(model, config, tiles, tiles))
        ends.append(parameters_of(model))
    assert np.array_equal(*ends)


def test_run_with_a_huge_rate_diverges_and_says_where(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    config = make_trial_config(
        optimisation={
            "optimizer": "sgd",
            "learning_rate": 10.0,
            "weight_decay": 10.0,
            "epochs": 50,
            "warmup_epochs": 0.0,
            "schedule": "constant",
        }
    )
    tiles = make_bright_and_dark(32)
    with pytest.raises(DivergedError, match=r"in epoch \d+$|after epoch \d+$"):
        list(fit(seeded(PlainNetwork), config, tiles, tiles))


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ("features.0.weight", "the training loss is nan in epoch 1"),
        ("features.1.running_mean", "outputs are not finite after epoch 1"),
    ],
)
def test_weights_that_are_not_numbers_end_the_run(
    tensor: str, reason: str, make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    model = small_cnn()
    model.state_dict()[tensor].fill_(math.nan)
    tiles = make_bright_and_dark(16)
    with pytest.raises(DivergedError, match=reason):
        list(fit(model, make_trial_config(), tiles, tiles))


def test_margins_are_the_difference_of_the_logits_in_eval_mode(
    make_bright_and_dark: MakeTiles,
) -> None:
    tiles = make_bright_and_dark(10)
    model = small_cnn(dropout=0.9).train()
    margins = predict_margins(model, tiles, View(16))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((tiles.pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = model.eval()(images)
    assert margins.dtype == np.float32
    np.testing.assert_allclose(margins, (logits[:, 1] - logits[:, 0]).numpy(), atol=1e-5)


def test_margin_of_a_tile_does_not_depend_on_the_tiles_beside_it(
    make_bright_and_dark: MakeTiles,
) -> None:
    tiles = make_bright_and_dark(130)  # two batches
    model = small_cnn()
    margins = predict_margins(model, tiles, View(16))
    last = tiles.take(torch.arange(128, 130))
    np.testing.assert_allclose(margins[128:], predict_margins(model, last, View(16)), rtol=1e-5)


def test_bfloat16_trains_on_a_cpu(
    make_bright_and_dark: MakeTiles, make_trial_config: MakeConfig
) -> None:
    config = make_trial_config(optimisation={"precision": "bfloat16", "epochs": 1})
    tiles = make_bright_and_dark(16)
    (epoch,) = fit(small_cnn(), config, tiles, tiles)
    assert np.isfinite(epoch.val_margins).all()


def test_derived_seeds_are_the_same_on_every_machine_and_differ_by_purpose() -> None:
    assert derive_seed(0, "order", 1) == 4_489_457_307_835_839_548  # sha256sum of 0/order/1
    seeds = {derive_seed(seed, p, n) for seed in range(3) for p in ("a", "b") for n in range(50)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


# --- two workers

NUM_VAL_TILES = 300  # three batches of evaluation: one worker scores two, the other one


def run_all(
    train: SplitTiles, val: SplitTiles, plain: TrialConfig, cnn: TrialConfig, file: Path
) -> None:
    """What one process computes, alone or as one of several workers."""
    results = {"evaluated": predict_margins(small_cnn(), val, View(16))}
    for name, model, config in (
        ("plain", seeded(PlainNetwork), plain),
        ("cnn", small_cnn(dropout=0.3), cnn),
    ):
        epochs = list(fit(model, config, train, val))
        results[f"{name}_state"] = parameters_of(model)
        model.load_state_dict(epochs[-1].weights)
        results |= {
            f"{name}_average": flat(epochs[-1].average),
            f"{name}_margins": np.stack([epoch.val_margins for epoch in epochs]),
            f"{name}_losses": np.array([epoch.train_loss for epoch in epochs]),
            f"{name}_accuracies": np.array([epoch.train_accuracy for epoch in epochs]),
            f"{name}_evaluated": predict_margins(model, val, View(16)),
        }
    np.savez(file, **results)


def run_among_two(rank: int, folder: Path, *given_to_all: Any) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    try:
        run_all(*given_to_all, folder / f"{rank}.npz")
        trained, frozen = norms = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1).eval())
        for norm in norms:
            norm.running_mean.fill_(1 + 2 * rank)
            norm.running_var.fill_(2 + 2 * rank)
        share_statistics(norms)
        found = [[norm.running_mean.item(), norm.running_var.item()] for norm in (trained, frozen)]
        np.save(folder / f"{rank}.npy", found)
    finally:
        dist.destroy_process_group()


def run_second_worker(_: int, *arguments: Any) -> None:
    torch.set_num_threads(1)
    run_among_two(1, *arguments)


@pytest.fixture(scope="module")
def alone_and_two_workers(
    tmp_path_factory: pytest.TempPathFactory,
    make_bright_and_dark: MakeTiles,
    make_trial_config: MakeConfig,
) -> list[dict[str, np.ndarray]]:
    """The same runs by one process and by each of two; 15 tiles a batch, so 7 and 8 a worker."""
    folder = tmp_path_factory.mktemp("workers")
    optimisation = {
        "global_batch_size": 15,
        "epochs": 2,
        "learning_rate": 0.01,
        "ema_decay": 0.5,
    }
    plain = make_trial_config(optimisation=optimisation, loss={"crack_weight": 3.0})
    cnn = make_trial_config(
        model={"dropout": 0.3, "fine_tuning": "unfreeze_later"},
        optimisation=optimisation,
        data={"augmentation": 0.5},
    )
    given_to_all = (make_bright_and_dark(60), make_bright_and_dark(NUM_VAL_TILES, seed=1))
    given_to_all = (*given_to_all, plain, cnn)
    run_all(*given_to_all, folder / "alone.npz")
    second = torch.multiprocessing.spawn(
        run_second_worker, (folder, *given_to_all), nprocs=1, join=False
    )
    run_among_two(0, folder, *given_to_all)  # this process is the first worker
    while not second.join():
        pass
    results = [dict(np.load(folder / f"{name}.npz")) for name in ("alone", "0", "1")]
    for rank, result in enumerate(results[1:]):
        result["shared"] = np.load(folder / f"{rank}.npy")
    return results


def test_shared_variance_is_that_within_the_workers_and_between_their_means(
    alone_and_two_workers: list[dict[str, np.ndarray]],
) -> None:
    """Means 1 and 3, variances 2 and 4: the mean is 2, the variance 3 + 1."""
    _, first, second = alone_and_two_workers
    assert first["shared"].tolist() == [[2.0, 4.0], [1.0, 2.0]]  # a frozen layer stays as it is
    assert second["shared"].tolist() == [[2.0, 4.0], [3.0, 4.0]]


def test_two_workers_score_every_tile_as_one_does(
    alone_and_two_workers: list[dict[str, np.ndarray]],
) -> None:
    alone, first, second = (results["evaluated"] for results in alone_and_two_workers)
    assert len(alone) == NUM_VAL_TILES
    assert np.array_equal(alone, first)
    assert np.array_equal(alone, second)


@pytest.mark.parametrize("name", ["plain", "cnn"])
def test_two_workers_end_with_the_same_bits(
    name: str, alone_and_two_workers: list[dict[str, np.ndarray]]
) -> None:
    """Weights and BatchNorm statistics, and so every figure that is reported."""
    _, first, second = alone_and_two_workers
    for what in ("state", "average", "margins", "losses", "accuracies", "evaluated"):
        assert np.array_equal(first[f"{name}_{what}"], second[f"{name}_{what}"]), what
    assert np.array_equal(first[f"{name}_margins"][-1], first[f"{name}_evaluated"])


def test_two_workers_train_as_one_does_where_tiles_are_independent(
    alone_and_two_workers: list[dict[str, np.ndarray]],
) -> None:
    """Without BatchNorm, dropout and augmentation the gradient is that of the global batch."""
    alone, first, _ = alone_and_two_workers
    for what in ("state", "average", "margins", "losses", "accuracies"):
        np.testing.assert_allclose(
            first[f"plain_{what}"], alone[f"plain_{what}"], rtol=1e-4, atol=1e-5
        )
