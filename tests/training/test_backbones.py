"""Facts about the networks: shapes, what is trained, where the weights come from."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from ensemble.base.errors import InputError
from ensemble.data.batches import SplitTiles
from ensemble.training.backbone_table import BACKBONES
from ensemble.training.backbones import (
    build_model,
    choose_trainable,
    parameter_groups,
)
from ensemble.training.config import (
    ModelConfig,
    OptimisationConfig,
    TrialConfig,
)
from ensemble.training.initial_weights import digest_tensors, make_initial_state, save_initial_state
from ensemble.training.loop import fit
from ensemble.training.optimiser import make_optimizer, make_schedule

SMALL = [name for name, backbone in BACKBONES.items() if backbone.filters]
OF_TORCHVISION = [name for name in BACKBONES if name not in SMALL]


def model_config(backbone: str, **values: Any) -> ModelConfig:
    return ModelConfig.model_validate({"backbone": backbone, **values})


def shapes_of_the_backbone(model: nn.Module, backbone: str) -> dict[str, torch.Size]:
    in_head = BACKBONES[backbone].in_head
    return {name: t.shape for name, t in model.state_dict().items() if not in_head(name)}


def num_trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, now in model.state_dict().items() if not torch.equal(before[name], now)}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_gives_two_logits_behind_dropout(backbone: str) -> None:
    model = build_model(backbone, dropout=0.35).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 2)
    modules = list(model.named_modules())
    kinds = [(name, module) for name, module in modules if isinstance(module, nn.Dropout)]
    assert kinds[-1][1].p == 0.35
    dropout = modules.index(kinds[-1])
    name, last = next(
        (name, m) for name, m in modules[dropout:] if isinstance(m, nn.Linear | nn.Conv2d)
    )
    assert BACKBONES[backbone].in_head(f"{name}.weight")
    assert last.weight.shape[0] == 2
    assert last is [m for _, m in modules if isinstance(m, nn.Linear | nn.Conv2d)][-1]


@pytest.mark.parametrize("backbone", OF_TORCHVISION)
def test_backbone_has_torchvisions_names_and_shapes(backbone: str) -> None:
    """So that a file of ImageNet weights fits all but the head."""
    with torch.device("meta"):
        ours = shapes_of_the_backbone(build_model(backbone), backbone)
        theirs = torchvision.models.get_model(backbone, weights=None)
    assert ours == shapes_of_the_backbone(theirs, backbone)


def test_squeezenet_logits_may_be_negative() -> None:
    model = build_model("squeezenet1_1").eval()
    nn.init.zeros_(model.get_submodule("classifier.1").weight)
    nn.init.constant_(model.get_submodule("classifier.1").bias, -3.0)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64)).tolist() == [[-3.0, -3.0]]


@pytest.mark.parametrize("backbone", SMALL)
def test_small_cnn_asks_whether_a_crack_is_anywhere(backbone: str) -> None:
    """The maximum over places is the same wherever the crack lies; a cell is 16 px at most."""
    model = build_model(backbone).eval()
    crack = torch.zeros(1, 3, 256, 256)
    crack[..., 104:120, 104:120] = 1
    moved_crack = crack.roll((16, -32), (2, 3))
    with torch.no_grad():
        torch.testing.assert_close(model(crack), model(moved_crack))


@pytest.mark.parametrize(
    ("backbone", "filters", "parameters"),
    [
        ("small_cnn", [16, 32, 64], 9 * (3 * 16 + 16 * 32 + 32 * 64) + 2 * 112 + 2 * 64 + 2),
        (
            "small_cnn_deep",
            [32, 64, 128, 128, 256],
            9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 128 + 128 * 256) + 2 * 608 + 2 * 256 + 2,
        ),
    ],
)
def test_deep_small_cnn_has_two_more_layers_and_more_filters(
    backbone: str, filters: list[int], parameters: int
) -> None:
    model = build_model(backbone)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == filters
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("backbone", SMALL)
def test_small_cnn_takes_the_smallest_tiles_that_a_configuration_may_name(backbone: str) -> None:
    with torch.no_grad():
        assert build_model(backbone).eval()(torch.rand(1, 3, 16, 16)).shape == (1, 2)


def test_frozen_mobilenet_v2_trains_the_2562_of_its_head() -> None:
    model = build_model("mobilenet_v2")
    choose_trainable(model, model_config("mobilenet_v2", fine_tuning="frozen"), epoch=1)
    assert num_trainable(model) == 1280 * 2 + 2 == 2562


def test_mobilenet_v2_from_features_12_conv_1_trains_1861440_of_the_backbone() -> None:
    model = build_model("mobilenet_v2")
    start = {"fine_tuning": "from_module", "trainable_from": "features.12.conv.1"}
    choose_trainable(model, model_config("mobilenet_v2", **start), epoch=1)
    assert num_trainable(model) - 2562 == 1_861_440
    assert not model.get_submodule("features.12.conv.0").training
    assert model.get_submodule("features.12.conv.1").training
    assert model.get_submodule("features.13").training


@pytest.mark.parametrize("backbone", BACKBONES)
def test_frozen_trains_the_head_and_full_trains_everything(backbone: str) -> None:
    with torch.device("meta"):
        model = build_model(backbone)
    choose_trainable(model, model_config(backbone, fine_tuning="frozen"), epoch=1)
    in_head = BACKBONES[backbone].in_head
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == in_head(name), name
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert not module.training, name
    choose_trainable(model, model_config(backbone), epoch=2)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("start", ["features.99", "feature", "features.1", "classifier", ""])
def test_unknown_trainable_from_is_refused(start: str) -> None:
    """`features.1` of squeezenet1_1 is a ReLU, which has no weights."""
    model = build_model("squeezenet1_1")
    config = model_config("squeezenet1_1", fine_tuning="from_module", trainable_from=start)
    with pytest.raises(InputError) as refused:
        choose_trainable(model, config, epoch=1)
    message = str(refused.value)
    assert f"trainable_from = {start!r}: squeezenet1_1 has no such module" in message
    assert "'features.0'" in message
    assert "\n" not in message


@pytest.mark.parametrize("backbone", ["small_cnn", "mobilenet_v2"])
def test_frozen_backbone_keeps_every_bit_through_training(
    backbone: str,
    make_trial_config: Callable[..., TrialConfig],
    make_bright_and_dark: Callable[..., SplitTiles],
) -> None:
    model = build_model(backbone)
    before = snapshot(model)
    config = make_trial_config(
        model={"backbone": backbone, "fine_tuning": "frozen"},
        optimisation={"learning_rate": 0.1},
        data={"image_size_px": 32},
    )
    tiles = make_bright_and_dark(32)
    assert len(list(fit(model, config, tiles, tiles))) == 2
    (head,) = BACKBONES[backbone].last_layers
    assert moved(before, model) == {f"{head}.weight", f"{head}.bias"}


def test_unfreeze_later_moves_the_backbone_only_after_its_frozen_epochs(
    make_trial_config: Callable[..., TrialConfig], make_bright_and_dark: Callable[..., SplitTiles]
) -> None:
    model = build_model("small_cnn")
    before = snapshot(model)
    config = make_trial_config(
        model={"fine_tuning": "unfreeze_later", "frozen_epochs": 2}, optimisation={"epochs": 3}
    )
    tiles = make_bright_and_dark(32)
    head = {"classifier.1.weight", "classifier.1.bias"}
    moved_after = [moved(before, model) for _ in fit(model, config, tiles, tiles)]
    assert moved_after == [head, head, set(before)]


def test_modules_before_trainable_from_keep_every_bit(
    make_trial_config: Callable[..., TrialConfig], make_bright_and_dark: Callable[..., SplitTiles]
) -> None:
    model = build_model("small_cnn")
    before = snapshot(model)
    config = make_trial_config(model={"fine_tuning": "from_module", "trainable_from": "features.4"})
    tiles = make_bright_and_dark(32)
    list(fit(model, config, tiles, tiles))
    kept = {name for name in before if name.startswith(("features.0.", "features.1."))}
    assert moved(before, model) == set(before) - kept


@pytest.mark.parametrize("backbone", BACKBONES)
def test_groups_hold_every_parameter_once_and_decay_no_vector(backbone: str) -> None:
    with torch.device("meta"):
        model = build_model(backbone)
    config = model_config(backbone, backbone_learning_rate_factor=0.1)
    optimisation = OptimisationConfig(learning_rate=0.02, weight_decay=0.3)
    groups: list[dict[str, Any]] = list(parameter_groups(model, config, optimisation))
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            in_head = BACKBONES[backbone].in_head(names[id(parameter)])
            assert group["lr"] == pytest.approx(0.02 if in_head else 0.002)
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)
    assert groups[0]["lr"] == 0.02  # the rate that epochs report is the head's


# --- layer-wise decay of the learning rate

LAYERS_TO_HEAD = {  # counted by hand
    "small_cnn": {
        "classifier.1.weight": 0,
        "features.8.weight": 1,
        "features.4.weight": 2,
        "features.1.weight": 3,  # BatchNorm goes with its convolution
        "features.0.weight": 3,
    },
    "resnet18": {
        "fc.1.bias": 0,
        "layer4.1.conv1.weight": 1,
        "layer4.0.downsample.0.weight": 2,
        "layer1.0.bn2.bias": 8,
        "bn1.weight": 9,
        "conv1.weight": 9,
    },
    "convnext_tiny": {  # 1 stem, blocks of 3, 3, 9 and 3, and a convolution between each two
        "classifier.2.1.weight": 0,
        "classifier.0.weight": 1,
        "features.7.2.layer_scale": 1,
        "features.7.0.block.0.weight": 3,
        "features.6.1.weight": 4,
        "features.5.0.block.0.weight": 13,
        "features.3.2.block.5.bias": 15,
        "features.2.1.weight": 18,
        "features.2.0.weight": 19,
        "features.0.0.weight": 22,
    },
    "timm/test_vit": {
        "head.weight": 0,
        "norm.weight": 1,
        "blocks.5.attn.qkv.weight": 1,
        "blocks.0.mlp.fc1.bias": 6,
        "patch_embed.proj.weight": 7,
        "pos_embed": 7,
    },
    "timm/test_convnext": {  # blocks of 1, 2, 4 and 2
        "head.fc.weight": 0,
        "head.norm.weight": 0,
        "stages.3.blocks.1.conv_dw.weight": 1,
        "stages.3.downsample.1.weight": 2,
        "stages.1.blocks.0.gamma": 8,
        "stages.0.blocks.0.mlp.fc1.weight": 9,
        "stem.0.weight": 10,
    },
    "timm/poolformer_s12": {  # of which timm says nothing: 4 stages are modules
        "head.fc.weight": 0,
        "head.norm.weight": 1,
        "stages.3.blocks.0.mlp.fc1.weight": 1,
        "stages.0.blocks.0.norm1.weight": 4,
        "stem.conv.weight": 5,
    },
}


def rates_by_name(backbone: str, **model_settings: Any) -> dict[str, float]:
    with torch.device("meta"):
        model = build_model(backbone)
    config = model_config(backbone, **model_settings)
    optimisation = OptimisationConfig(learning_rate=0.02)
    groups: list[dict[str, Any]] = list(parameter_groups(model, config, optimisation))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


@pytest.mark.parametrize("backbone", LAYERS_TO_HEAD)
def test_rate_falls_by_the_decay_from_each_layer_to_the_one_below(backbone: str) -> None:
    rates = rates_by_name(backbone, layer_decay=0.7, backbone_learning_rate_factor=0.5)
    distances = LAYERS_TO_HEAD[backbone]
    head = next(iter(distances))
    assert rates[head] == 0.02
    for name, distance in distances.items():
        if name != head:
            assert rates[name] == pytest.approx(0.02 * 0.5 * 0.7**distance), name
    assert min(rates.values()) == pytest.approx(0.02 * 0.5 * 0.7 ** max(distances.values()))


def test_schedule_scales_the_rates_of_all_layers() -> None:
    values = {
        "model": {"backbone": "resnet18", "layer_decay": 0.5},
        "optimisation": {"epochs": 2, "warmup_epochs": 0.5, "learning_rate": 0.1},
    }
    config = TrialConfig.model_validate(values)
    optimizer = make_optimizer(build_model("resnet18"), config)
    peaks = [group["lr"] for group in optimizer.param_groups]
    assert len(set(peaks)) == 10
    assert peaks[0] == 0.1
    schedule = make_schedule(optimizer, config.optimisation, steps_per_epoch=4)
    for share in (0.5, 1.0, 1.0, 0.5 * (1 + math.cos(math.pi / 6))):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([share * peak for peak in peaks])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"fine_tuning": "frozen"},
        {"fine_tuning": "from_module", "trainable_from": "features.4"},
    ],
)
def test_a_step_moves_each_layer_by_its_share_of_the_rate(
    part: dict[str, str],
    make_trial_config: Callable[..., TrialConfig],
    make_bright_and_dark: Callable[..., SplitTiles],
) -> None:
    tiles = make_bright_and_dark(8)
    torch.manual_seed(0)
    start = snapshot(build_model("small_cnn"))

    def moves(layer_decay: float) -> dict[str, Tensor]:
        model = build_model("small_cnn")
        model.load_state_dict(start)
        config = make_trial_config(
            model={"layer_decay": layer_decay, "dropout": 0.0, **part},
            optimisation={
                "optimizer": "sgd",
                "epochs": 1,
                "global_batch_size": 8,
                "warmup_epochs": 0.0,
                "precision": "float32",
            },
        )
        list(fit(model, config, tiles, tiles))
        return {name: p.detach() - start[name] for name, p in model.named_parameters()}

    plain, decayed = moves(1.0), moves(0.5)
    assert any(move.any() for move in plain.values())
    for name, distance in LAYERS_TO_HEAD["small_cnn"].items():
        torch.testing.assert_close(decayed[name], plain[name] * 0.5**distance, rtol=1e-3, atol=1e-7)


# --- stochastic depth


@pytest.mark.parametrize(
    ("backbone", "num_blocks"),
    [("efficientnet_b0", 16), ("convnext_tiny", 18), ("swin_v2_t", 12)],
)
def test_rate_of_stochastic_depth_grows_from_0_to_its_value_over_the_blocks(
    backbone: str, num_blocks: int
) -> None:
    def rates(drop_path_rate: float | None) -> list[float]:
        with torch.device("meta"):
            model = build_model(backbone, drop_path_rate=drop_path_rate)
        return [m.p for m in model.modules() if isinstance(m, torchvision.ops.StochasticDepth)]

    assert rates(0.3) == pytest.approx([0.3 * i / (num_blocks - 1) for i in range(num_blocks)])
    assert rates(0.0) == [0.0] * num_blocks
    with torch.device("meta"):
        theirs = torchvision.models.get_model(backbone)
    assert rates(None) == [
        m.p for m in theirs.modules() if isinstance(m, torchvision.ops.StochasticDepth)
    ]


def test_blocks_are_left_out_in_training_and_never_in_scoring() -> None:
    """With a rate of almost 1 the last blocks are left out in almost every training step."""
    torch.manual_seed(0)
    model = build_model("convnext_tiny", drop_path_rate=0.999)
    plain = build_model("convnext_tiny", drop_path_rate=0.0)
    plain.load_state_dict(model.state_dict())
    last: Any = model.get_submodule("features.7.2")
    images = torch.rand(4, 768, 2, 2)
    assert torch.equal(last.train()(images), images)
    assert not torch.equal(last.eval()(images), images)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("backbone", ["small_cnn", "squeezenet1_1", "resnet18", "mobilenet_v2"])
def test_a_network_whose_blocks_cannot_be_left_out_takes_no_rate(backbone: str) -> None:
    with pytest.raises(InputError, match=f"^{backbone} takes no drop_path_rate"):
        build_model(backbone, drop_path_rate=0.1)


# --- where the weights come from


def save_as(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def random_tensors(backbone: str, *, seed: int = 99) -> dict[str, Tensor]:
    return dict(make_initial_state(backbone, "none", seed=seed).tensors)


def refusal(weights: str | Path, backbone: str = "small_cnn") -> str:
    with pytest.raises(InputError) as refused:
        make_initial_state(backbone, weights, seed=0)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first = make_initial_state("small_cnn", "none", seed=1)
    again = make_initial_state("small_cnn", "none", seed=1)
    other = make_initial_state("small_cnn", "none", seed=2)
    assert first.digest == again.digest == digest_tensors(first.tensors)
    assert first.digest != other.digest
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)


def test_digest_depends_on_names_types_shapes_and_bytes_alone() -> None:
    a, b = torch.arange(6.0), torch.ones(2)
    digest = digest_tensors({"a": a, "b": b})
    assert digest_tensors({"b": b.clone(), "a": a.clone()}) == digest
    others = [
        {"a": a, "c": b},
        {"a": a.double(), "b": b},
        {"a": a.view(2, 3), "b": b},
        {"a": a + torch.finfo().eps, "b": b},
        {"a": a},
    ]
    assert digest not in {digest_tensors(other) for other in others}
    transposed = a.view(2, 3).t()
    assert digest_tensors({"a": transposed}) == digest_tensors({"a": transposed.contiguous()})


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_backbone_comes_from_the_file_and_head_from_the_seed(tmp_path: Path, suffix: str) -> None:
    tensors = random_tensors("squeezenet1_1")
    head = {name: tensors.pop(name) for name in list(tensors) if name.startswith("classifier.1.")}
    path = save_as(tmp_path / f"weights{suffix}", tensors)
    first = make_initial_state("squeezenet1_1", path, seed=1)
    assert first.digest == make_initial_state("squeezenet1_1", path, seed=1).digest
    assert all(torch.equal(first.tensors[name], tensors[name]) for name in tensors)
    drawn = make_initial_state("squeezenet1_1", "none", seed=1).tensors
    other = make_initial_state("squeezenet1_1", path, seed=2).tensors
    weight = "classifier.1.weight"
    assert torch.equal(first.tensors[weight], drawn[weight])
    assert not torch.equal(first.tensors[weight], other[weight])
    assert not torch.equal(first.tensors[weight], head[weight])
    assert str(path) in first.origin


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "mobilenet_v3_small", "resnet18"])
def test_file_with_a_head_of_1000_classes_fits(tmp_path: Path, backbone: str) -> None:
    with torch.random.fork_rng(devices=[]):
        theirs = torchvision.models.get_model(backbone, weights=None).state_dict()
    path = save_as(tmp_path / "imagenet.pth", theirs)
    state = make_initial_state(backbone, path, seed=1)
    build_model(backbone).load_state_dict(state.tensors)
    for name, tensor in state.tensors.items():
        if BACKBONES[backbone].in_head(name):
            assert 2 in tensor.shape
        else:
            assert torch.equal(tensor, theirs[name])


def test_file_without_batch_counters_fits(tmp_path: Path) -> None:
    """Files from before PyTorch 0.4.1 have no `num_batches_tracked`."""
    tensors = random_tensors("small_cnn")
    old = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    state = make_initial_state("small_cnn", save_as(tmp_path / "old.pt", old), seed=99)
    assert state.digest == digest_tensors(tensors)


def test_half_precision_file_becomes_float32(tmp_path: Path) -> None:
    tensors = random_tensors("small_cnn")
    half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    path = save_as(tmp_path / "half.safetensors", half)
    state = make_initial_state("small_cnn", path, seed=99)
    assert {k: v.dtype for k, v in state.tensors.items()} == {
        k: v.dtype for k, v in tensors.items()
    }


def test_file_whose_tensors_share_memory_can_be_saved_again(tmp_path: Path) -> None:
    tensors = random_tensors("small_cnn")
    zeros = torch.zeros_like(tensors["features.1.bias"])
    shared = {**tensors, "features.1.bias": zeros, "features.1.running_mean": zeros}
    state = make_initial_state("small_cnn", save_as(tmp_path / "shared.pt", shared), seed=0)
    save_initial_state(state, tmp_path / "initial.safetensors")
    written = safetensors.torch.load_file(tmp_path / "initial.safetensors")
    assert digest_tensors(written) == state.digest


def test_saved_initial_state_has_the_same_bits(tmp_path: Path) -> None:
    state = make_initial_state("mobilenet_v3_small", "none", seed=5)
    save_initial_state(state, tmp_path / "initial.safetensors")
    written = safetensors.torch.load_file(tmp_path / "initial.safetensors")
    assert digest_tensors(written) == state.digest


def test_missing_tensor_of_the_backbone_is_named(tmp_path: Path) -> None:
    tensors = random_tensors("small_cnn")
    del tensors["features.4.weight"]
    path = save_as(tmp_path / "weights.safetensors", tensors)
    assert refusal(path) == (
        f"weights file {path}: does not fit small_cnn: it has no 'features.4.weight'; give weights "
        "of small_cnn in this project's names"
    )


def test_unknown_tensor_is_named(tmp_path: Path) -> None:
    tensors = {**random_tensors("small_cnn"), "extra.weight": torch.zeros(1)}
    path = save_as(tmp_path / "weights.safetensors", tensors)
    assert "it has the unknown 'extra.weight'" in refusal(path)


def test_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    tensors = random_tensors("small_cnn")
    expected = tuple(tensors["features.0.weight"].shape)
    tensors["features.0.weight"] = torch.zeros(7, 3, 3, 3)
    message = refusal(save_as(tmp_path / "weights.pt", tensors))
    assert "'features.0.weight' has the shape (7, 3, 3, 3)" in message
    assert f"expected {expected}" in message


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = save_as(tmp_path / "weights.safetensors", random_tensors("mobilenet_v3_small"))
    assert "does not fit squeezenet1_1" in refusal(path, "squeezenet1_1")


class RunsCode:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickle_with_code_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    torch.save({"features.0.weight": RunsCode(tmp_path / "ran")}, tmp_path / "weights.pt")
    assert "not a file of tensors" in refusal(tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ""])
@pytest.mark.parametrize(
    "content", [b"", b"garbage\n" * 50, bytes(range(256)) * 8, b"PK\x03\x04" + bytes(60)]
)
def test_file_that_is_no_file_of_tensors_is_refused(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert refusal(path).startswith(f"weights file {path}: ")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save_as(tmp_path / f"weights{suffix}", random_tensors("small_cnn"))
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(path) in refusal(path)


@pytest.mark.parametrize(
    "loaded",
    [
        [torch.zeros(1)],
        torch.zeros(1),
        {"model": {"features.0.weight": torch.zeros(1)}, "state_dict": {"a": torch.zeros(1)}},
        {"epoch": 3},
        {1: torch.zeros(1)},
        {},
    ],
    ids=["list", "tensor", "two checkpoints", "numbers", "numbered", "nothing"],
)
def test_file_of_something_else_is_refused(tmp_path: Path, loaded: Any) -> None:
    torch.save(loaded, tmp_path / "weights.pt")
    assert "expected a state dict" in refusal(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    "tensor_like",
    [
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: tensor.to("meta"),
    ],
    ids=["complex", "without data"],
)
def test_weights_that_are_no_real_numbers_are_refused(
    tmp_path: Path, tensor_like: Callable[[Tensor], Tensor]
) -> None:
    tensors = random_tensors("small_cnn")
    tensors["features.0.weight"] = tensor_like(tensors["features.0.weight"])
    torch.save(tensors, tmp_path / "weights.pt")
    assert "features.0.weight" in refusal(tmp_path / "weights.pt")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.pt")
    assert "no such file" in refusal(tmp_path)


@pytest.mark.parametrize("weights", ["none", "file"])
def test_initial_state_leaves_the_global_generator_alone(tmp_path: Path, weights: str) -> None:
    if weights == "file":
        weights = str(save_as(tmp_path / "weights.pt", random_tensors("small_cnn")))
    before = torch.get_rng_state()
    make_initial_state("small_cnn", weights, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_imagenet_without_a_network_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    message = refusal("imagenet", "squeezenet1_1")
    assert message.startswith("cannot download the ImageNet weights of squeezenet1_1")
    assert "Name or service not known" in message
    assert "--weights squeezenet1_1=FILE" in message


@pytest.mark.parametrize("backbone", SMALL)
def test_small_cnn_has_no_imagenet_weights(backbone: str) -> None:
    assert f"--weights {backbone}=none" in refusal("imagenet", backbone)
