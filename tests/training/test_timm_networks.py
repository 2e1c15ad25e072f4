"""Facts about timm's networks: each family does all that those of torchvision do."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.distributed as dist
from timm.layers import DropPath
from torch import Tensor, nn

from ensemble.base.errors import InputError
from ensemble.data.batches import SplitTiles
from ensemble.explanation.activation import class_activation_map
from ensemble.explanation.feature_maps import find_feature_maps
from ensemble.recipes.export import FromPixels, export_member
from ensemble.training.backbone_table import check_backbone, find_backbone, suggest_backbones
from ensemble.training.backbones import (
    build_model,
    check_input_side,
    choose_trainable,
    parameter_groups,
)
from ensemble.training.checkpoint import open_member, write_member
from ensemble.training.config import ModelConfig, OptimisationConfig, TrialConfig
from ensemble.training.cost import summarise
from ensemble.training.initial_weights import digest_tensors, make_initial_state, parse_weights
from ensemble.training.layers import count_layers_to_head
from ensemble.training.loop import Epoch, fit, predict_margins
from ensemble.training.timm_networks import find_weights, list_networks

FAMILIES = {  # small members, and sides of inputs that they take
    "timm/test_resnet": (64, 72),
    "timm/regnety_002": (64, 72),
    "timm/test_convnext": (64, 72),
    "timm/tf_efficientnet_lite0": (64, 72),
    "timm/mobilenetv4_conv_small_035": (64, 72),
    "timm/ghostnet_050": (64, 72),
    "timm/densenet121": (64, 72),
    "timm/fastvit_t8": (64, 96),
    "timm/test_nfnet": (64, 72),
    "timm/test_mambaout": (64, 72),
    "timm/test_vit": (64, 96),
    "timm/deit_tiny_distilled_patch16_224": (64, 96),
    "timm/eva02_tiny_patch14_224": (56, 84),
    "timm/swin_tiny_patch4_window7_224": (64, 96),
    "timm/test_maxvit": (160,),
}
CANNOT_DROP_PATH = ["timm/densenet121", "timm/ghostnet_050"]
CAN_DROP_PATH = [backbone for backbone in FAMILIES if backbone not in CANNOT_DROP_PATH]
QUICK = "timm/test_vit"
EXPORTED = ["timm/test_resnet", "timm/test_convnext", "timm/test_vit", "timm/test_mambaout"]
SLOWLY_EXPORTED = [  # a minute for the others, whose layers are of the kinds of these
    "timm/test_nfnet",
    "timm/deit_tiny_distilled_patch16_224",
    "timm/test_maxvit",
]
MakeConfig = Callable[..., TrialConfig]
MakeTiles = Callable[..., SplitTiles]


def model_config(backbone: str, **values: Any) -> ModelConfig:
    return ModelConfig.model_validate({"backbone": backbone, **values})


def seeded(backbone: str, **settings: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(backbone, **settings)


def on_meta(backbone: str) -> nn.Module:
    with torch.device("meta"):
        return build_model(backbone)


def refusal(weights: str | Path, backbone: str) -> str:
    with pytest.raises(InputError) as refused:
        make_initial_state(backbone, weights, seed=0)
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


# --- each family


@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_family_is_trained_saved_loaded_and_explained(
    backbone: str,
    tmp_path: Path,
    make_trial_config: MakeConfig,
    make_bright_and_dark: MakeTiles,
) -> None:
    sides = FAMILIES[backbone]
    drop_path_rate = 0.5 if backbone in CAN_DROP_PATH else None
    model = seeded(backbone, dropout=0.1, drop_path_rate=drop_path_rate)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = make_trial_config(
        model={"backbone": backbone, "dropout": 0.1, "drop_path_rate": drop_path_rate},
        optimisation={"epochs": 1, "global_batch_size": 4, "learning_rate": 1e-3},
        data={"image_size_px": sides[0]},
    )
    tiles = make_bright_and_dark(4)
    (epoch,) = fit(model, config, tiles, tiles)
    assert np.isfinite(epoch.train_loss)
    changed = [
        name for name, now in model.state_dict().items() if not torch.equal(before[name], now)
    ]
    assert any(map(find_backbone(backbone).in_head, changed))
    assert not all(map(find_backbone(backbone).in_head, changed))

    about = {"trial": 3, "split_digest": "s", "initial_weights_digest": "i", "config": config}
    fields = {**about, **epoch.describe_result()}
    write_member(tmp_path, model.state_dict(), epoch.val_margins, **fields)
    member = open_member(tmp_path)
    loaded = member.load_model()
    assert digest_tensors(loaded.state_dict()) == digest_tensors(model.state_dict())
    np.testing.assert_array_equal(
        predict_margins(loaded, tiles, member.record.view), epoch.val_margins
    )
    assert member.record.versions["timm"] == timm.__version__

    images = torch.randn(2, 3, sides[-1], sides[-1], generator=torch.Generator().manual_seed(0))
    kept = digest_tensors(loaded.state_dict())
    maps = class_activation_map(loaded, backbone, images)
    assert maps.shape[0] == 2
    assert maps.shape[1] == maps.shape[2] > 1
    assert np.isfinite(maps).all()
    assert set(maps.max((1, 2)).round(6)) <= {0.0, 1.0}
    assert find_feature_maps(loaded, images[:1])
    assert digest_tensors(loaded.state_dict()) == kept
    assert not any(module._forward_hooks for module in loaded.modules())


@pytest.mark.parametrize("backbone", CAN_DROP_PATH)
def test_rate_of_stochastic_depth_grows_over_the_blocks_of_a_family(backbone: str) -> None:
    with torch.device("meta"):
        model = build_model(backbone, drop_path_rate=0.5)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates)
    assert 0 < rates[0] < 0.4 < rates[-1] <= 0.5


@pytest.mark.parametrize("backbone", CANNOT_DROP_PATH)
def test_a_family_whose_blocks_cannot_be_left_out_takes_no_rate(backbone: str) -> None:
    with pytest.raises(InputError, match=f"^{backbone} takes no drop_path_rate"):
        build_model(backbone, drop_path_rate=0.1)


def test_a_cut_run_with_stochastic_depth_goes_on_with_the_same_bits(
    make_trial_config: MakeConfig, make_bright_and_dark: MakeTiles
) -> None:
    config = make_trial_config(
        model={"backbone": QUICK, "drop_path_rate": 0.5},
        optimisation={"epochs": 2, "global_batch_size": 4},
        data={"image_size_px": 64},
    )
    tiles = make_bright_and_dark(8)

    def build() -> nn.Module:
        return seeded(QUICK, drop_path_rate=0.5)

    whole = build()
    first, second = fit(whole, config, tiles, tiles)
    cut = build()
    run = fit(cut, config, tiles, tiles)
    start = next(run)
    run.close()
    torch.manual_seed(1)  # what the process drew meanwhile
    continued = build()
    continued.load_state_dict(cut.state_dict())
    _, again = fit(continued, config, tiles, tiles, start=start)
    np.testing.assert_array_equal(again.val_margins, second.val_margins)
    assert digest_tensors(continued.state_dict()) == digest_tensors(whole.state_dict())
    masked = first.train_loss
    (plain, _) = fit(seeded(QUICK), config, tiles, tiles)
    assert plain.train_loss != masked  # else nothing was left out


@pytest.mark.parametrize("backbone", FAMILIES)
def test_the_head_is_trained_alone_and_has_groups_of_its_own(backbone: str) -> None:
    model, about = on_meta(backbone), find_backbone(backbone)
    choose_trainable(model, model_config(backbone, fine_tuning="frozen"), epoch=1)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == about.in_head(name), name
    for layer in about.last_layers:
        last: Any = model.get_submodule(layer)
        assert last.weight.shape[0] == 2
    choose_trainable(model, model_config(backbone), epoch=1)
    assert all(parameter.requires_grad for parameter in model.parameters())
    groups: list[dict[str, Any]] = list(
        parameter_groups(
            model,
            model_config(backbone, backbone_learning_rate_factor=0.1),
            OptimisationConfig(learning_rate=0.02, weight_decay=0.3),
        )
    )
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            in_head = about.in_head(names[id(parameter)])
            assert group["lr"] == pytest.approx(0.02 if in_head else 0.002)
    spared = {names[id(p)] for g in groups if not g["weight_decay"] for p in g["params"]}
    assert {"pos_embed", "cls_token"} & set(names.values()) <= spared


@pytest.mark.parametrize("backbone", FAMILIES)
def test_layers_of_a_family_are_counted_from_the_head_down_to_the_stem(backbone: str) -> None:
    model, in_head = on_meta(backbone), find_backbone(backbone).in_head
    distances = count_layers_to_head(model, backbone)
    assert all(distances[name] == 0 for name, _ in model.named_parameters() if in_head(name))
    assert set(distances.values()) == set(range(max(distances.values()) + 1))
    stem = next(name for name, parameter in model.named_parameters() if parameter.ndim == 4)
    assert distances[stem] == max(distances.values()) >= 4


@pytest.mark.parametrize("backbone", FAMILIES)
def test_the_map_of_a_class_token_and_of_places_has_a_gradient_at_places(backbone: str) -> None:
    """A map behind the last layer in which places meet the class token would be empty for ever."""
    side = FAMILIES[backbone][-1]
    model, images = seeded(backbone), torch.randn(2, 3, side, side)
    seen = 0.0
    for sign in (1, -1):  # for a crack, then against it: one of the two has evidence somewhere
        with torch.no_grad():
            for layer in find_backbone(backbone).last_layers:
                weight = model.get_submodule(layer).get_parameter("weight")
                nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
                weight *= sign
        seen += float(class_activation_map(model, backbone, images).sum())
    assert seen > 0


def test_a_map_shows_a_place_where_it_is_in_the_image() -> None:
    """Blocks that add nothing leave each token its own place, and the head likes one of them."""
    backbone = "timm/test_vit2"
    about, model = find_backbone(backbone), seeded(backbone)
    assert (about.last_map, about.layout, about.num_prefix_tokens) == ("norm", "NLC", 1)
    images, tokens = torch.zeros(1, 3, 96, 96), []
    images[:, :, 16:32, 64:80] = 1  # row 1, column 4 of 6 patches
    hook = model.get_submodule("norm").register_forward_hook(lambda m, i, out: tokens.append(out))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".attn.proj." in name or ".mlp.fc2." in name or name == "pos_embed":
                parameter.zero_()
        model.eval()(images)
        hook.remove()
        seen = tokens[0][0, about.num_prefix_tokens :]  # (36, C)
        weight = model.get_parameter("head.weight")
        weight.zero_()
        weight[1] = seen[1 * 6 + 4] - seen[0]
    (evidence,) = class_activation_map(model, backbone, images)
    assert evidence.shape == (6, 6)
    assert np.unravel_index(evidence.argmax(), evidence.shape) == (1, 4)
    assert (np.delete(evidence.ravel(), 1 * 6 + 4) < 0.5).all()


def test_the_map_of_a_class_token_comes_before_the_block_in_which_it_reads_the_places() -> None:
    about = find_backbone("timm/vit_small_patch14_reg4_dinov2")
    assert (about.last_map, about.layout, about.num_prefix_tokens) == ("blocks.10", "NLC", 5)


@pytest.mark.parametrize(
    "backbone",
    [*EXPORTED, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWLY_EXPORTED)],
)
def test_each_kind_of_family_is_exported(
    backbone: str, tmp_path: Path, make_trial_config: MakeConfig, make_epoch: Callable[..., Epoch]
) -> None:
    side = FAMILIES[backbone][0]
    config = make_trial_config(model={"backbone": backbone}, data={"image_size_px": side})
    about = {"trial": 0, "split_digest": "s", "initial_weights_digest": "i", "config": config}
    epoch = make_epoch(margins=[0.0])
    model = seeded(backbone)
    write_member(
        tmp_path, model.state_dict(), epoch.val_margins, **about, **epoch.describe_result()
    )
    member = open_member(tmp_path)
    export_member(member, tmp_path / "out", name="t", tile_size_px=(side, side))
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    pixels = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    with torch.no_grad():
        expected = FromPixels(member.load_model(), member.record.view)(pixels)
    torch.testing.assert_close(program(pixels), expected, rtol=1e-4, atol=1e-5)
    assert "timm" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("backbone", ["timm/test_resnet", QUICK])
def test_summary_counts_what_the_network_has(backbone: str, make_trial_config: MakeConfig) -> None:
    config = make_trial_config(model={"backbone": backbone}, data={"image_size_px": 160})
    summary = summarise(config, tile_side_px=160)
    model = on_meta(backbone)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert summary.backbone_parameters + summary.head_parameters == parameters
    head: Any = model.get_submodule(find_backbone(backbone).last_layers[0])
    assert summary.head_parameters == head.weight.numel() + head.bias.numel()
    about = find_backbone(backbone)
    assert about.counted_side_px == 160
    assert round(summary.multiply_adds / 1e6) == about.million_multiply_adds > 0
    assert summary.activation_bytes > 0


@pytest.mark.parametrize("backbone", ["timm/fastvit_t8", "timm/repvgg_a0", "timm/mobileone_s0"])
def test_no_convolution_is_left_whose_gradient_onednn_gets_wrong(backbone: str) -> None:
    """Its gradient in channels-last memory is that in float64, where a stride once ended Python."""
    model = seeded(backbone).eval()
    strided = timm.create_model(backbone.removeprefix("timm/"), num_classes=2).eval()
    strided.load_state_dict(model.state_dict())
    found: list[str] = []
    for name, module in strided.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels < 16 and module.groups == 1:
            ours: Any = model.get_submodule(name)
            assert ours.stride == ((1, 1) if module.kernel_size == (1, 1) else module.stride)
            found += [name] if ours.stride != module.stride else []
    (name,) = found
    images = torch.randn(16, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images[:2]), strided(images[:2]), rtol=1e-4, atol=1e-5)
    images = images.contiguous(memory_format=torch.channels_last)
    layer = model.get_submodule(name).to(memory_format=torch.channels_last)
    layer(images).square().sum().backward()
    exact = strided.get_submodule(name).double()
    exact(images.double()).square().sum().backward()
    expected = exact.get_parameter("weight").grad
    assert expected is not None
    torch.testing.assert_close(
        layer.get_parameter("weight").grad, expected.float(), rtol=1e-3, atol=1
    )


# --- names


def test_every_name_of_timms_is_known_and_an_unknown_one_gets_the_nearest() -> None:
    for name in ("timm/convnextv2_nano.fcmae_ft_in22k_in1k", "timm/vit_small_patch14_reg4_dinov2"):
        assert check_backbone(name) == name
    assert len(list_networks()) > 1300
    for wrong, right in (
        ("timm/tf_efficientnet_light0", "timm/tf_efficientnet_lite0"),
        ("tf_efficientnet_lite0", "timm/tf_efficientnet_lite0"),
        ("resnet81", "resnet18"),
        ("timm/resnet50.a1_in1", "timm/resnet50.a1_in1k"),
    ):
        with pytest.raises(ValueError, match="must be a backbone") as refused:
            check_backbone(wrong)
        assert right in str(refused.value), wrong


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("resnet-18", ["resnet18", "timm/resnet18", "timm/resnet18d"]),
        ("ResNet_50", ["resnet50", "timm/resnet50", "timm/resnet50c"]),
        ("resnt18", ["resnet18", "timm/resnet18", "timm/resnet18d"]),
        ("efficientnetb0", ["efficientnet_b0", "timm/efficientnet_b0", "timm/efficientnet_b0_gn"]),
        ("mobilenetv3", ["mobilenet_v3_large", "mobilenet_v3_small", "timm/mobilenetv3_rw"]),
        ("convnext", ["convnext_tiny", "timm/convnext_", "timm/convnext_"]),
        ("vit_small", ["timm/vit_small_"] * 3),
        ("vit_b_16", ["timm/vit_base_r50_s16_224", "timm/vit_base_", "timm/vit_base_patch16_224"]),
        ("dinov2", ["timm/vit_base_patch14_dinov2", "timm/vit_giant_patch14_d", "timm/vit_large"]),
        ("swin", ["swin_v2_t", "timm/swin_", "timm/swin_"]),
        ("swin_tiny", ["timm/swin_tiny_patch4_window7_224", "timm/swin_s3_tiny_224", "timm/swin"]),
        ("squeezenet", ["squeezenet1_1"]),
        ("lite0", ["timm/efficientnet_lite0", "timm/tf_efficientnet_lite0"]),
        ("regnet", ["timm/regnet"] * 3),
        ("timm/resnet-18", ["timm/resnet18", "resnet18", "timm/resnet18d"]),
        ("nonsense", []),
        ("_", []),
    ],
)
def test_the_names_that_a_wrong_one_may_stand_for(typed: str, meant: list[str]) -> None:
    nearest = suggest_backbones(typed)
    assert nearest is not None
    assert len(nearest) == len(meant), nearest
    assert all(name.startswith(start) for name, start in zip(nearest, meant, strict=True)), nearest


def test_each_network_says_what_its_weights_were_trained_on() -> None:
    lite = find_backbone("timm/tf_efficientnet_lite0")
    assert (lite.mean, lite.std, lite.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    first = find_backbone("timm/vit_base_patch16_224.augreg_in1k")
    assert first.mean == (0.5, 0.5, 0.5)
    assert find_backbone("timm/vit_base_patch16_224.mae").mean == (0.485, 0.456, 0.406)


# --- sizes of inputs


@pytest.mark.parametrize("backbone", [name for name in FAMILIES if FAMILIES[name] != (64, 72)])
def test_a_family_with_sides_of_its_own_takes_those_that_it_is_tested_with(backbone: str) -> None:
    for side in FAMILIES[backbone]:
        check_input_side(backbone, side)


@pytest.mark.parametrize(
    ("backbone", "side", "taken"),
    [
        ("timm/eva02_tiny_patch14_224", 128, "it takes 126 or 140 px"),
        ("timm/test_vit", 100, "it takes 96 or 112 or 128 px"),
        ("timm/test_maxvit", 128, "it takes 160 px"),
        ("timm/levit_128s", 128, "it takes 224 px"),
    ],
)
def test_a_side_that_a_network_cannot_take_is_refused_with_those_that_it_can(
    backbone: str, side: int, taken: str
) -> None:
    with pytest.raises(InputError) as refused:
        check_input_side(backbone, side)
    assert str(refused.value).startswith(f"{backbone} takes no input of {side} × {side} px (")
    assert str(refused.value).endswith(taken)


@pytest.mark.parametrize(
    "backbone", ["timm/cait_xxs24_224", "timm/hiera_tiny_224", "timm/nest_tiny"]
)
def test_a_network_without_a_map_of_places_is_refused(backbone: str) -> None:
    with pytest.raises(InputError, match="cannot be a backbone: it has no map of places"):
        find_backbone(backbone)


# --- weights


def random_weights(backbone: str) -> dict[str, Tensor]:
    return dict(make_initial_state(backbone, "none", seed=99).tensors)


def test_a_file_without_the_head_fits_and_the_head_is_the_seeds(tmp_path: Path) -> None:
    backbone = "timm/test_efficientnet"
    in_head = find_backbone(backbone).in_head
    tensors = {k: v for k, v in random_weights(backbone).items() if not in_head(k)}
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tensors, path)
    state = make_initial_state(backbone, path, seed=1)
    drawn = make_initial_state(backbone, "none", seed=1).tensors
    for name, tensor in state.tensors.items():
        assert torch.equal(tensor, drawn[name] if in_head(name) else tensors[name]), name
    assert parse_weights([f"{backbone}={path}"], {backbone: "imagenet"}) == {backbone: path}
    build_model(backbone).load_state_dict(state.tensors)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_file_with_1000_classes_fits_in_its_usual_wrappings(tmp_path: Path, prefix: str) -> None:
    with torch.random.fork_rng(devices=[]):
        theirs = timm.create_model("test_convnext").state_dict()
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": {prefix + k: v for k, v in theirs.items()}}, path)
    state = make_initial_state("timm/test_convnext", path, seed=1)
    in_head = find_backbone("timm/test_convnext").in_head
    for name, tensor in state.tensors.items():
        assert in_head(name) or torch.equal(tensor, theirs[name])


def test_position_embeddings_of_another_size_are_resized(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        theirs = timm.create_model("test_vit", img_size=96).state_dict()
    path = tmp_path / "vit.safetensors"
    safetensors.torch.save_file(theirs, path)
    state = make_initial_state(QUICK, path, seed=1)
    assert theirs["pos_embed"].shape[1] == 6 * 6 + 1
    assert state.tensors["pos_embed"].shape[1] == 10 * 10 + 1
    assert torch.equal(state.tensors["pos_embed"][:, 0], theirs["pos_embed"][:, 0])
    assert torch.equal(state.tensors["norm.weight"], theirs["norm.weight"])


def test_a_file_of_another_network_is_refused_in_timms_words(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(random_weights("timm/test_resnet"), path)
    message = refusal(path, QUICK)
    assert f"{path}: does not fit {QUICK}: it has no" in message
    assert message.endswith(f"give weights of {QUICK} in timm's names")


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which may not be asked for anything."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def empty_hub(offline_hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A hub without any file, which may be asked, and from which nothing is here."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # 501 whatever is asked
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with server:
        yield server


def test_a_hub_that_cannot_be_reached_is_told_in_seconds(empty_hub: HTTPServer) -> None:
    empty_hub.server_close()  # its port refuses connections
    began = time.monotonic()
    message = refusal("imagenet", "timm/test_resnet")
    assert time.monotonic() - began < 10  # the hub's client by itself takes 23 s
    url = huggingface_hub.constants.ENDPOINT
    assert message.startswith("cannot download the weights of timm/test_resnet (")
    assert f"{url} cannot be reached: " in message


def test_a_hub_that_answers_is_asked_for_the_weights(empty_hub: HTTPServer) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(empty_hub.serve_forever)
        try:
            message = refusal("imagenet", "timm/test_resnet")
        finally:
            empty_hub.shutdown()
    assert message.startswith("cannot download the weights of timm/test_resnet (")
    assert "cannot be reached" not in message


def test_weights_that_are_not_here_are_refused_offline_with_the_way_on(offline_hub: Path) -> None:
    assert find_weights("timm/test_resnet") == "to download"
    message = refusal("imagenet", "timm/test_resnet")
    assert message.startswith("cannot download the weights of timm/test_resnet (")
    assert f"HF_HUB_OFFLINE is set, and they are not in the hub's cache {offline_hub}" in message
    assert "--weights timm/test_resnet=FILE" in message
    assert "--weights timm/test_resnet=none" in message
    assert "--backbone NAME" in message


def test_weights_in_the_hubs_cache_are_used_without_a_network(offline_hub: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        theirs = timm.create_model("test_resnet").state_dict()
    folder = offline_hub / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    safetensors.torch.save_file(theirs, folder / "snapshots" / "abc" / "model.safetensors")
    assert find_weights("timm/test_resnet") == "here"
    state = make_initial_state("timm/test_resnet", "imagenet", seed=1)
    assert state.origin == "pretrained weights (timm/test_resnet.r160_in1k)"
    drawn = make_initial_state("timm/test_resnet", "none", seed=1).tensors
    in_head = find_backbone("timm/test_resnet").in_head
    for name, tensor in state.tensors.items():
        assert torch.equal(tensor, drawn[name] if in_head(name) else theirs[name]), name


def test_a_network_that_timm_has_no_weights_of_says_so() -> None:
    assert find_weights("timm/ghostnet_050") == "none"
    assert "timm has no weights of timm/ghostnet_050" in refusal("imagenet", "timm/ghostnet_050")


# --- data-parallel


def train(backbone: str, config: TrialConfig, tiles: SplitTiles, file: Path) -> None:
    model = seeded(backbone)
    epochs = list(fit(model, config, tiles, tiles))
    np.savez(
        file,
        margins=epochs[-1].val_margins,
        loss=epochs[-1].train_loss,
        state=torch.cat([p.detach().flatten() for p in model.parameters()]).numpy(),
    )


def train_among_two(rank: int, folder: Path, *given: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    try:
        train(*given, folder / f"{rank}.npz")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_train_as_one_does(
    tmp_path: Path,
    make_trial_config: MakeConfig,
    make_bright_and_dark: MakeTiles,
) -> None:
    """Without BatchNorm, whose statistics are those of a worker's part of a batch."""
    config = make_trial_config(
        model={"backbone": QUICK},
        optimisation={"epochs": 2, "global_batch_size": 8, "learning_rate": 1e-3},
        data={"image_size_px": 64},
    )
    given = QUICK, config, make_bright_and_dark(16)
    train(*given, tmp_path / "alone.npz")
    torch.multiprocessing.spawn(train_among_two, (tmp_path, *given), nprocs=2)
    alone, first, second = (dict(np.load(tmp_path / f"{n}.npz")) for n in ("alone", "0", "1"))
    for name in alone:
        assert np.array_equal(first[name], second[name]), name
    np.testing.assert_allclose(first["loss"], alone["loss"], rtol=1e-4)
    np.testing.assert_allclose(first["margins"], alone["margins"], atol=1e-3)
