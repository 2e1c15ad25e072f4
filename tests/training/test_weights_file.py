"""Weights as people save them are seen through, and what holds more than tensors is refused."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from ensemble.base.errors import InputError, one_line
from ensemble.training.backbone_table import find_backbone
from ensemble.training.checkpoint import open_member, write_member
from ensemble.training.initial_weights import InitialState, make_initial_state


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """A small network's tensors, its head among them."""
    return dict(make_initial_state("small_cnn", "none", seed=99).tensors)


def start(path: Path, backbone: str = "small_cnn") -> InitialState:
    return make_initial_state(backbone, path, seed=0)


def refusal(path: Path, backbone: str = "small_cnn") -> str:
    with pytest.raises(InputError) as refused:
        start(path, backbone)
    return one_line(str(refused.value))


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "backbone.", "_orig_mod.module.", "classifier.net.", "layer1.0."],
)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_prefix_and_wrapper_do_not_change_a_bit(
    tmp_path: Path, trained: dict[str, Tensor], prefix: str, wrapper: str | None
) -> None:
    tensors: dict[str, Any] = prefixed(prefix, trained)
    if wrapper is not None:
        tensors = {wrapper: tensors, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(tensors, tmp_path / "weights.pth")
    state = start(tmp_path / "weights.pth")
    in_head = find_backbone("small_cnn").in_head
    for name, tensor in trained.items():
        assert torch.equal(state.tensors[name], tensor) != in_head(name), name
    assert state.note == (f"names without their {prefix!r}" if prefix else "")


@pytest.mark.parametrize("backbone", ["resnet18", "swin_v2_t"])  # names repeat inside of these
def test_prefix_is_told_from_blocks_whose_names_are_alike(tmp_path: Path, backbone: str) -> None:
    with torch.random.fork_rng(devices=[]):
        theirs = torchvision.models.get_model(backbone, weights=None).state_dict()
    torch.save(theirs, tmp_path / "plain.pth")
    torch.save(prefixed("module.", theirs), tmp_path / "parallel.pth")
    plain, parallel = (start(tmp_path / name, backbone) for name in ("plain.pth", "parallel.pth"))
    assert plain.digest == parallel.digest
    assert (plain.note, parallel.note) == ("", "names without their 'module.'")


def test_prefix_in_safetensors_is_seen_through(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(prefixed("module.", trained), tmp_path / "weights.safetensors")
    assert start(tmp_path / "weights.safetensors").note == "names without their 'module.'"


def test_what_stands_beside_the_network_is_left_out_and_said(
    tmp_path: Path, trained: dict[str, Tensor]
) -> None:
    beside = {f"{name}.weight": torch.ones(2) for name in ("criterion", "a", "b", "c")}
    lightning = {"state_dict": prefixed("model.", trained) | beside, "global_step": 9}
    torch.save(lightning, tmp_path / "last.ckpt")
    assert start(tmp_path / "last.ckpt").describe() == (
        f"weights of {tmp_path}/last.ckpt (names without their 'model.'; left out: "
        "'criterion.weight', 'a.weight', 'b.weight' and 1 more)"
    )


def test_two_networks_in_a_file_are_refused(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    both = prefixed("model.", trained) | prefixed("ema.module.", trained)
    torch.save({"state_dict": both}, tmp_path / "last.ckpt")
    message = refusal(tmp_path / "last.ckpt")
    assert "holds 2 networks that fit small_cnn" in message
    assert "'model.', 'ema.module.'" in message
    assert "torch.save(" in message


@pytest.mark.parametrize("num_folds", [1, 2])
def test_a_member_is_such_a_file_without_its_head(
    tmp_path: Path, trained: dict[str, Tensor], make_trial_config: Any, num_folds: int
) -> None:
    """So that a network begins where a training on another data set ended."""
    tensors = trained
    if num_folds == 2:
        other = {name: tensor.clone() for name, tensor in trained.items()}
        tensors = prefixed("networks.0.", trained) | prefixed("networks.1.", other)
    write_member(
        tmp_path, tensors, np.zeros(3), trial=0, config=make_trial_config(), epoch=1,
        metrics={"val_f1": 0.5}, split_digest="", initial_weights_digest="", num_folds=num_folds,
    )  # fmt: skip
    path = open_member(tmp_path).weights_path()
    if num_folds == 2:
        assert "holds 2 networks that fit small_cnn" in refusal(path)
        return
    state, drawn = start(path), make_initial_state("small_cnn", "none", seed=0)
    assert state.origin == f"weights of {path}"
    in_head = find_backbone("small_cnn").in_head
    for name, tensor in state.tensors.items():
        assert torch.equal(tensor, (drawn.tensors if in_head(name) else trained)[name]), name


def test_what_does_not_fit_is_one_line_with_the_first_three(
    tmp_path: Path, trained: dict[str, Tensor]
) -> None:
    tensors = {f"unknown.{number}": torch.zeros(1) for number in range(5)}
    tensors |= {name: t for name, t in trained.items() if not name.endswith("running_var")}
    for name in ("features.0.weight", "features.1.weight", "features.1.bias", "features.4.weight"):
        tensors[name] = torch.zeros(7)
    torch.save(tensors, tmp_path / "weights.pth")
    message = refusal(tmp_path / "weights.pth")
    missing = ", ".join(f"'features.{n}.running_var'" for n in (1, 5, 9))
    assert f"it has no {missing}; " in message
    assert "it has the unknown 'unknown.0', 'unknown.1', 'unknown.2' and 2 more; " in message
    assert "'features.0.weight' has the shape (7,), expected (16, 3, 3, 3), " in message
    assert message.count("has the shape") == 3
    assert " and 1 more; give weights of small_cnn" in message


def test_weights_are_named_before_statistics_and_counters(tmp_path: Path) -> None:
    tensors = make_initial_state("resnet18", "none", seed=0).tensors
    theirs = dict(sorted(tensors.items()))  # as in a file: bn1.bias, bn1.num_batches_tracked, …
    safetensors.torch.save_file(theirs, tmp_path / "resnet18.safetensors")
    message = refusal(tmp_path / "resnet18.safetensors", "small_cnn")
    assert "it has no 'features.0.weight', 'features.1.weight', 'features.1.bias' and " in message
    assert "it has the unknown 'bn1.bias', 'bn1.weight', 'conv1.weight' and " in message
    theirs |= {"epoch.num_batches_tracked": torch.zeros(1), "other.weight": torch.zeros(1)}
    prefixed_file = tmp_path / "prefixed.safetensors"
    beside = ("epoch", "other")
    named = {k if k.startswith(beside) else f"net.{k}": v for k, v in theirs.items()}
    safetensors.torch.save_file(named, prefixed_file)
    note = start(prefixed_file, "resnet18").note
    assert note.endswith("left out: 'other.weight', 'epoch.num_batches_tracked'")


@pytest.mark.parametrize("kind", ["whole network", "network of several GPUs", "Lightning"])
def test_pickled_objects_are_refused_and_the_way_out_works(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng(devices=[]):
        model = torchvision.models.squeezenet1_1(weights=None)
    path = tmp_path / "a file's weights.pth"
    whole: Any = model
    if kind == "network of several GPUs":
        whole = torch.nn.DataParallel(model)
    if kind == "Lightning":
        tensors = prefixed("model.", model.state_dict())
        whole = {"state_dict": tensors, "hyper_parameters": argparse.Namespace(rate=1)}
    torch.save(whole, path)
    message = refusal(path, "squeezenet1_1")
    assert "pickled" in message
    monkeypatch.chdir(tmp_path)
    exec(message.partition("in Python: ")[2], {})
    state = start(tmp_path / "tensors.pth", "squeezenet1_1")
    assert torch.equal(state.tensors["features.0.weight"], model.state_dict()["features.0.weight"])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    message = refusal(tmp_path / "script.pt")
    assert "a TorchScript program" in message
    assert "torch.jit.load(" in message


def test_text_in_place_of_weights_is_said_to_be_text(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4567\n")
    assert refusal(path) == (
        f"weights file {path}: is text, not a file of tensors (it begins with "
        "'version https://git-lfs.github.com/spec/v1 oid sha256:0123 …'); "
        "download it again, or save tensors with torch.save(model.state_dict(), 'FILE')"
    )
