"""How far below its head each layer of a network stands, for learning rates that fall downwards.

Clark et al. 2020 (ELECTRA, https://arxiv.org/abs/2003.10555) train each layer at a fixed share of
the learning rate of the layer above it. BEiT and ConvNeXt are fine-tuned so, with what timm calls
a group of parameters as a layer.
"""

from collections.abc import Iterator

from torch import nn

from ensemble.training.backbone_table import TIMM, find_backbone


def count_layers_to_head(model: nn.Module, backbone: str) -> dict[str, int]:
    """Count for each parameter how many layers it stands below the head.

    Of a network of timm's, timm says what a layer is: a block, as a rule, with what reduces the map
    before it. Of others, and where timm does not say, it is a module of the network or of an
    `nn.Sequential` in it, such as a convolution or a residual block; a module of vectors alone,
    such as BatchNorm, belongs to the layer before it.

    Args:
        model: Network that was built for `backbone`.
        backbone: A name that `check_backbone` knows.

    Returns:
        Name of each parameter → 1 for the uppermost layer of the backbone, and one more for each
        layer below; 0 for the head and for what timm counts with it, such as a last normalisation.
    """
    if backbone.startswith(TIMM) and hasattr(model, "group_matcher"):
        from ensemble.training.timm_networks import number_layers

        numbers = number_layers(model)
    else:
        numbers = _number_modules(model)
    in_head = find_backbone(backbone).in_head
    top = max(number for name, number in numbers.items() if in_head(name))
    # what the network itself owns, such as position embeddings, comes before its modules
    return {name: top - numbers.get(name, 0) for name, _ in model.named_parameters()}


def _number_modules(model: nn.Module) -> dict[str, int]:
    """Number the layers from the input on, by the names of their parameters."""
    numbers: dict[str, int] = {}
    number = -1
    for name, module in _list_modules(model):
        parameters = dict(module.named_parameters(prefix=name))
        if any(parameter.ndim > 1 for parameter in parameters.values()):
            number += 1
        numbers |= dict.fromkeys(parameters, max(number, 0))
    return numbers


def _list_modules(container: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in container.named_children():
        if type(module) is nn.Sequential:  # a block of its own class may be one, too
            yield from _list_modules(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module
