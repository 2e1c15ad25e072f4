"""Whether each network of a space takes what the search may give it: inputs, stochastic depth.

Networks of torchvision take any size of a tile that a configuration may name and a person would.
Some of timm's have patches that must divide the input, or windows or position embeddings of one
size. Only networks with residual blocks can leave some out of a training step, and not all do.
"""

from typing import Any

from optuna.distributions import IntDistribution

from ensemble.base.errors import InputError
from ensemble.data.view import View
from ensemble.search.space import Space, applies
from ensemble.training.backbone_table import TIMM
from ensemble.training.config import flatten

DROP_PATH_RATE = "model.drop_path_rate"


def check_networks(space: Space, tile_side_px: int | None = None) -> None:
    """Refuse a space that gives a network an input or a stochastic depth that it cannot take.

    Args:
        space: The space.
        tile_side_px: Side of a tile in its own pixels; None where it is not known yet, and then
            views with a margin are not checked.

    Raises:
        InputError: It does.
    """
    _check_drop_path(space)
    _check_input_sides(space, tile_side_px)


def _check_drop_path(space: Space) -> None:
    given = [name for name in space.backbones if _may_drop_path(space, name)]
    if not given:
        return
    from ensemble.training.backbones import check_drop_path  # torch takes seconds

    lacking = []
    for backbone in given:
        try:
            check_drop_path(backbone)
        except InputError:
            lacking.append(backbone)
    if not lacking:
        return
    others = ", ".join(f'"{name}"' for name in given if name not in lacking)
    way = "leave the setting out"
    if others:
        way = f'under [search.model], limit it by when = {{ "model.backbone" = [{others}] }}'
    raise InputError(
        f"{space.path}: {DROP_PATH_RATE} is given to {', '.join(lacking)}, which cannot leave "
        f"blocks out; {way}"
    )


def _may_drop_path(space: Space, backbone: str) -> bool:
    """Say whether a trial with a backbone may be given a rate of stochastic depth."""
    for parameter in space.parameters:
        allowed = parameter.when.get("model.backbone", (backbone,))
        if parameter.name == DROP_PATH_RATE and backbone in allowed:
            return True
    values = space.settle(flatten(space.default) | {"model.backbone": backbone})
    return values[DROP_PATH_RATE] is not None


def _check_input_sides(space: Space, tile_side_px: int | None) -> None:
    if not any(name.startswith(TIMM) for name in space.backbones):
        return
    from ensemble.training.backbones import check_input_side  # torch takes seconds

    for backbone in space.backbones:
        if not backbone.startswith(TIMM):
            continue
        for view in sorted(_list_views(space, backbone)):
            if view.context_px and tile_side_px is None:
                continue
            try:
                check_input_side(backbone, view.side_px(tile_side_px or 1))
            except InputError as error:
                margin = f" and data.context_px = {view.context_px}" * bool(view.context_px)
                raise InputError(
                    f"{space.path}: with data.image_size_px = {view.image_size_px}{margin}, {error}"
                ) from None


def _list_views(space: Space, backbone: str) -> set[View]:
    """The views that trials with a backbone may have."""
    values = flatten(space.default) | {"model.backbone": backbone}
    views = {
        View(size, context)
        for size in _list_values(space, "data.image_size_px", values)
        for context in _list_values(space, "data.context_px", values)
    }
    for start in space.starts:
        point = flatten(space.default) | start
        if point["model.backbone"] == backbone:
            views.add(View(point["data.image_size_px"], point["data.context_px"]))
    return views


def _list_values(space: Space, name: str, values: dict[str, Any]) -> list[int]:
    """Values of a setting beside others: its choices, or the ends of its range and one between."""
    for parameter in space.parameters:
        if parameter.name == name and applies(parameter, values):
            ends = parameter.ends()
            if isinstance(parameter.distribution, IntDistribution):
                ends.append(ends[0] + 1)  # which patches do not divide
            return ends
    return [values[name]]
