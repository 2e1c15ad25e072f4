"""Networks of timm (Wightman 2019, https://github.com/huggingface/pytorch-image-models) by name.

All that touches timm is here, and nothing imports this module before a name begins with `timm/`.
What training and explanation need to know of a network is found by running it once on torch's meta
device, which has shapes and no numbers. A network whose position embeddings timm can resize in
each forward pass takes tiles of any size that its patches divide; others take what they can.
"""

import fnmatch
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ensemble.base.errors import InputError, one_line
from ensemble.training.backbone_table import BACKBONES, TIMM, Backbone

MODELS = "https://huggingface.co/timm"
# the client's errors by name, as their module changes from one of its versions to the next
NO_CONNECTION = ("ConnectError", "ConnectTimeout")
HUB_PAUSE_SECONDS = 1.0
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
ONEDNN_BLOCK = 16  # channels that oneDNN computes at once, at most


@cache
def list_networks() -> tuple[str, ...]:
    """List the names of timm's networks, with and without the tags of their weights."""
    names = {*timm.list_models(), *timm.list_models(include_tags=True)}
    return tuple(TIMM + name for name in sorted(names))


def find_names(pattern: str) -> list[str]:
    """List the backbones whose name matches a shell's pattern, or holds a text.

    Tags are listed where the pattern has a dot.
    """
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = [*BACKBONES, *(n for n in list_networks() if "." in pattern or "." not in n)]
    return fnmatch.filter(names, wanted)


def build_network(
    name: str, *, dropout: float = 0.0, drop_path_rate: float | None = None
) -> nn.Module:
    """Build a network with random weights from torch's global generator.

    Args:
        name: A name of `list_networks`.
        dropout: Probability of dropout before the last layer.
        drop_path_rate: Rate of stochastic depth of a network that has it; None: its own.

    Returns:
        A module (B, 3, S, S) → (B, 2) logits.
    """
    settings: dict[str, Any] = dict(_options(name))
    if drop_path_rate is not None:
        settings["drop_path_rate"] = drop_path_rate
    model = _create(name, drop_rate=dropout, **settings)
    _avoid_strides(model)
    return model


def _avoid_strides(model: nn.Module) -> None:
    """Let 1 × 1 convolutions of few channels skip places before they compute, to the same result.

    Their gradient in float32 and channels-last memory is wrong on a CPU where they have a stride,
    and writes beyond its memory (https://github.com/uxlfoundation/oneDNN/issues/6035). The first
    layers of FastViT, MobileOne and RepVGG are such.
    """
    for module in model.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
            and module.padding == (0, 0)
            and module.in_channels < ONEDNN_BLOCK
        ):
            module.register_forward_pre_hook(_skip_places(*module.stride))
            module.stride = (1, 1)


def _skip_places(down: int, right: int) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
    return lambda _, inputs: inputs[0][..., ::down, ::right]


def has_drop_path(name: str) -> bool:
    """Say whether blocks of a network can be left out of a training step: not in all families."""
    try:
        with torch.device("meta"):
            model = _create(name, drop_path_rate=0.5)
    except TypeError:  # its family has no such setting
        return False
    return any(isinstance(module, DropPath) and module.drop_prob for module in model.modules())


def _create(name: str, **settings: Any) -> nn.Module:
    return timm.create_model(name.removeprefix(TIMM), num_classes=2, **settings)


@cache
def _options(name: str) -> dict[str, bool]:
    """Settings that let a network take inputs of other sizes than its weights were trained at."""
    if not _find_config(name).fixed_input_size:
        return {}
    options = {"dynamic_img_size": True}
    try:
        with torch.device("meta"):
            _create(name, **options)
    except TypeError:  # its family has no such setting
        return {}
    return options


def _find_config(name: str) -> Any:
    """What timm knows of the weights: where they are, and what they were trained on."""
    return timm.get_pretrained_cfg(name.removeprefix(TIMM))


@cache
def describe_network(name: str) -> Backbone:
    """Work out what training and explanation need to know of a network.

    Args:
        name: A name of `list_networks`.

    Raises:
        InputError: It has no map of places before its head, so no activation map can be drawn.
    """
    config = _find_config(name)
    side = int(config.input_size[-1])  # of the images that the weights were trained on
    with torch.device("meta"):
        model: Any = build_network(name).eval()
        images = torch.zeros(1, 3, side, side)
    names = {module: name for name, module in model.named_modules()}
    outputs: list[tuple[str, Any]] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append((names[module], output))

    hooks = [module.register_forward_hook(note) for module in names]
    counter = FlopCounterMode(display=False)
    with counter:  # with gradients, as without it fails at parameters that are expanded
        features = model.forward_features(images)
        num_before_head = len(outputs)
        model.forward_head(features)
    for hook in hooks:
        hook.remove()
    last_map, layout, num_prefix_tokens = _find_map(
        name, model, features, outputs[:num_before_head]
    )
    classifiers = model.get_classifier()
    layers = [classifiers] if isinstance(classifiers, nn.Module) else list(classifiers)
    return Backbone(
        last_layers=tuple(names[layer] for layer in layers),
        million_multiply_adds=round(counter.get_total_flops() / 2e6),
        last_map=last_map,
        layout=layout,
        num_prefix_tokens=num_prefix_tokens,
        counted_side_px=side,
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
    )


def _find_map(
    name: str, model: Any, features: Any, outputs: list[tuple[str, Any]]
) -> tuple[str, Literal["NCHW", "NHWC", "NLC"], int]:
    """Find the module whose output the head reads by place.

    Args:
        name: Name of the network.
        model: The network.
        features: What its head gets of one image.
        outputs: Name and output of every module that was called before the head.

    Returns:
        Name of the module, axes of its output, and number of tokens before those of the places.
    """
    modules = [module for module, output in outputs if output is features]
    if not modules or hasattr(model, "reroll"):  # of the latter, tokens are not in rows
        raise _without_map(name)
    if features.ndim == 4:
        is_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return modules[-1], "NHWC" if is_last else "NCHW", 0
    prefix = getattr(model, "num_prefix_tokens", 0)
    if getattr(model, "global_pool", None) == "token":
        # its head reads the class token alone, which reads the places in the last block
        modules = [
            module
            for module, output in outputs
            if re.fullmatch(r"blocks\.\d+", module)
            and isinstance(output, Tensor)
            and output.shape == features.shape
        ][:-1]
    places = features.shape[1] - prefix
    if not modules or places < 4 or math.isqrt(places) ** 2 != places:
        raise _without_map(name)
    return modules[-1], "NLC", prefix


def _without_map(name: str) -> InputError:
    return InputError(
        f"{name} cannot be a backbone: it has no map of places before its head, which the pictures "
        "of where a member saw a crack need; choose another network"
    )


def number_layers(model: Any) -> dict[str, int]:
    """Number the layers from the input on, as timm groups parameters, by the parameters' names."""
    numbers: dict[str, int] = timm.models.group_parameters(
        model, model.group_matcher(coarse=False), reverse=True
    )
    return numbers


def find_weights(name: str) -> Literal["here", "to download", "none"]:
    """Say where the pretrained weights of a network are."""
    config = _find_config(name)
    if not config.has_weights:
        return "none"
    if config.hf_hub_id:
        files = [config.hf_hub_filename] if config.hf_hub_filename else HUB_FILES
        repository, _, revision = config.hf_hub_id.partition("@")
        look = huggingface_hub.try_to_load_from_cache
        if any(isinstance(look(repository, f, revision=revision or None), str) for f in files):
            return "here"
    if config.url and (Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url).name).exists():
        return "here"
    return "to download"


def find_licence(name: str) -> str:
    """Name the licence of the pretrained weights of a network; "" where timm has or names none."""
    config = _find_config(name)
    return (config.has_weights and config.license) or ""


def download_weights(name: str) -> tuple[str, dict[str, Tensor]]:
    """Download the weights that a name means, unless they are in the hub's cache.

    `HF_HOME` and `HF_HUB_OFFLINE` count as everywhere with the hub.

    Returns:
        Name of the weights, with their tag, and the tensors of the network, whose head is random.

    Raises:
        InputError: There are no such weights, or they cannot be had.
    """
    config = _find_config(name)
    if not config.has_weights:
        raise InputError(
            f"timm has no weights of {name}; say --weights {name}=none or --weights {name}=FILE"
        )
    try:
        with torch.random.fork_rng(devices=[]), _quiet_hub():
            if config.hf_hub_id and find_weights(name) != "here":
                _reach_hub(config.hf_hub_id)
            model = _create(name, pretrained=True, **_options(name))
    except Exception as error:  # the hub's client raises whatever its transport does
        raise InputError(
            f"cannot download the weights of {name} ({_why_no_download(error)}); without a network "
            f"say --weights {name}=FILE with a file from {MODELS}, --weights {name}=none to start "
            "from random ones, or --backbone NAME for another one"
        ) from None
    tag = f".{config.tag}" if config.tag else ""
    return f"{TIMM}{config.architecture}{tag}", dict(model.state_dict())


def _reach_hub(weights: str) -> None:
    """Find out whether the hub can be reached, as its client would try so for most of a minute.

    Whatever else may be wrong, a slow network too, is left to the download.

    Args:
        weights: Name of weights on the hub.

    Raises:
        ConnectionError: No connection was made, twice.
    """
    hub = huggingface_hub.constants
    if hub.HF_HUB_OFFLINE:
        return
    url = huggingface_hub.hf_hub_url(weights.partition("@")[0], HUB_FILES[0])
    for seconds in (HUB_PAUSE_SECONDS, 0):
        try:
            huggingface_hub.get_hf_file_metadata(url)
        except Exception as error:
            if type(error).__name__ not in NO_CONNECTION:
                return
            if not seconds:
                raise ConnectionError(f"{hub.ENDPOINT} cannot be reached: {error}") from None
            time.sleep(seconds)
        else:
            return


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's client from telling each of its tries; an error says what there is to say."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _why_no_download(error: Exception) -> str:
    hub = huggingface_hub.constants
    if hub.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set, and they are not in the hub's cache {hub.HF_HUB_CACHE}"
    return one_line(str(error) or type(error).__name__)[:200]


def adapt_tensors(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors in their authors' names or sizes into those of a network, where timm can.

    Position embeddings of another size are resized. What timm cannot read comes back as it was.
    """
    model = build_network(name)
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt is None:
        return dict(tensors)
    try:
        return dict(adapt(dict(tensors), model))
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
        return dict(tensors)  # of another network
