"""What --summary counts: against torchvision's own figures, and against the network itself."""

import pytest
import torch
from torchvision.models import get_model_weights

from ensemble.training.backbone_table import BACKBONES
from ensemble.training.backbones import build_model
from ensemble.training.config import parse_config
from ensemble.training.cost import summarise


def summary_of(backbone, *, size=224, context=0, batch=4, **model):
    """What a configuration costs, for tiles of 256 px."""
    sections = {
        "model": {"backbone": backbone, **model},
        "optimisation": {"global_batch_size": batch},
        "data": {"image_size_px": size, "context_px": context},
    }
    return summarise(parse_config(sections, where="test"), tile_side_px=256)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50", "efficientnet_b0"])
def test_multiply_adds_are_torchvisions_but_for_the_classes(backbone):
    meta = get_model_weights(backbone).DEFAULT.meta
    summary = summary_of(backbone, size=224)
    inputs = summary.head_parameters / 2 - 1  # weights of a class, without its bias
    expected = meta["_ops"] * 1e9 - 998 * inputs
    assert summary.multiply_adds == pytest.approx(expected, abs=1.5e6)  # it is rounded to 1e6
    backbone_parameters = meta["num_params"] - 1000 * (inputs + 1)
    assert summary.backbone_parameters == backbone_parameters


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_multiply_adds_in_the_table_are_those_that_are_counted(backbone):
    counted = summary_of(backbone, size=224).multiply_adds
    assert BACKBONES[backbone].million_multiply_adds == round(counted / 1e6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_layers_add_up_to_the_network(backbone):
    summary = summary_of(backbone, size=64)
    model = build_model(backbone)
    total = sum(p.numel() for p in model.parameters())
    assert sum(layer.num_parameters for layer in summary.layers) == total
    assert summary.backbone_parameters + summary.head_parameters == total
    assert sum(layer.num_trainable for layer in summary.layers) == total
    assert summary.weight_bytes == sum(
        t.numel() * t.element_size() for t in model.state_dict().values()
    ) + sum(
        b.numel() * b.element_size()
        for name, b in model.named_buffers()
        if name not in model.state_dict()
    )


def test_the_activations_of_a_network_by_hand():
    """One tile of 16 px through small_cnn's three blocks, in float32 and int64."""
    sides, channels = (16, 8, 4), (16, 32, 64)
    block_bytes = 0
    inputs = 3
    for side, outputs in zip(sides, channels, strict=True):
        block_bytes += 4 * inputs * side**2  # the convolution keeps its input
        block_bytes += 4 * outputs * side**2  # BatchNorm its input
        block_bytes += 4 * outputs * side**2  # ReLU its output, which is the pooling's input
        block_bytes += 8 * outputs * (side // 2) ** 2  # and the pooling where each maximum was
        inputs = outputs
    # global pooling keeps its input and places, the linear layer its input; the loss keeps its
    # logarithms, the label and the label's weight
    head_bytes = 4 * 64 * 2**2 + 8 * 64 + 4 * 64 + 4 * 2 + 8 + 4
    two, three = (summary_of("small_cnn", size=16, batch=n, dropout=0.0) for n in (2, 3))
    assert three.activation_bytes - two.activation_bytes == block_bytes + head_bytes


def test_a_frozen_network_keeps_almost_no_activations_and_no_optimizer_state():
    full = summary_of("mobilenet_v2", size=64, batch=32)
    frozen = summary_of("mobilenet_v2", size=64, batch=32, fine_tuning="frozen")
    assert frozen.activation_bytes < full.activation_bytes / 100
    assert frozen.optimizer_bytes == 3 * 4 * 2562
    assert full.optimizer_bytes == 3 * 4 * (full.backbone_parameters + 2562)
    assert frozen.multiply_adds == full.multiply_adds


def test_context_costs_what_a_tile_of_the_input_s_size_costs():
    """64 of a tile's 256 px are 16 of the 64 that the network sees of it, on each side."""
    context, larger = summary_of("resnet18", size=64, context=64), summary_of("resnet18", size=96)
    assert context == larger
    assert context.input_side_px == 96
    assert summary_of("resnet18", size=64).input_side_px == 64


def test_output_shapes_are_those_of_the_network():
    layers = {layer.name: layer for layer in summary_of("resnet18", size=64).layers}
    assert layers["conv1"].shape == (64, 32, 32)
    assert layers["fc.1"].shape == (2,)
    assert layers["fc.1"].num_parameters == 1026
    with torch.no_grad():
        model = build_model("resnet18").eval()
        found = []
        hook = model.get_submodule("layer3.1.conv2").register_forward_hook(
            lambda module, inputs, output: found.append(tuple(output.shape[1:]))
        )
        model(torch.zeros(1, 3, 64, 64))
        hook.remove()
    assert layers["layer3.1.conv2"].shape == found[0]
