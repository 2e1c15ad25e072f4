"""Networks that a person names with `--backbone`, in place of those of a space."""

from collections.abc import Sequence
from dataclasses import replace

from optuna.distributions import CategoricalDistribution

from ensemble.base.errors import InputError
from ensemble.search.space import Parameter, Space
from ensemble.search.space_file import check_values
from ensemble.training.config import flatten, parse_config, unflatten

BACKBONE = "model.backbone"


def give_backbones(space: Space, given: Sequence[str]) -> tuple[Space, str]:
    """Search among the networks that a person names, and no others.

    Trial 0 keeps its network if it is among them, and trains the first of them otherwise. Settings
    that are searched for other networks alone, and starts of such networks, are left out.

    Args:
        space: Search space.
        given: Names of the networks, at least one.

    Returns:
        The space, and in one line what it lost; "" for nothing.

    Raises:
        InputError: Trial 0 trains its network from a module on that others lack, or a value of the
            space does not go with one of the networks.
    """
    names = tuple(dict.fromkeys(given))
    model = space.default.model
    if model.trainable_from and names != (model.backbone,):
        raise InputError(
            f"--backbone {' '.join(names)}: trial 0 trains {model.backbone} from its module "
            f"{model.trainable_from} on, which is no other network's; leave --backbone out, or "
            "start from something else"
        )
    first = model.backbone if model.backbone in names else names[0]
    values = space.settle(flatten(space.default) | {BACKBONE: first})
    starts = [start for start in space.starts if start.get(BACKBONE, first) in names]
    chosen = replace(
        space,
        default=parse_config(unflatten(values), where=f"--backbone {first}"),
        parameters=_narrow(space.parameters, names),
        starts=tuple(starts),
    )
    if len(names) == 1:
        chosen = chosen.fixed({BACKBONE: first}, where=f"--backbone {first}")
    check_values(chosen)
    return chosen, _describe_losses(space, first, names)


def _narrow(parameters: Sequence[Parameter], names: tuple[str, ...]) -> tuple[Parameter, ...]:
    """The parameters that apply to some of the networks, which are a parameter themselves."""
    networks = CategoricalDistribution(names)
    narrowed = []
    if all(parameter.name != BACKBONE for parameter in parameters):
        narrowed.append(Parameter(BACKBONE, networks, {}))
    for parameter in parameters:
        when = dict(parameter.when)
        if parameter.name == BACKBONE:
            parameter = replace(parameter, distribution=networks)
        if BACKBONE in when:
            when[BACKBONE] = tuple(name for name in when[BACKBONE] if name in names)
            if not when[BACKBONE]:
                continue
        narrowed.append(replace(parameter, when=when))
    return tuple(narrowed)


def _describe_losses(space: Space, first: str, names: tuple[str, ...]) -> str:
    lost = []
    if first != space.default.model.backbone:
        lost.append(f"trial 0 trains {first} in place of {space.default.model.backbone}")
    others = [str(start[BACKBONE]) for start in space.starts if BACKBONE in start]
    if others := [name for name in others if name not in names]:
        are = "a start is" if len(others) == 1 else f"{len(others)} starts are"
        lost.append(f"{are} left out ({', '.join(others)})")
    return f"--backbone {' '.join(names)}: {'; '.join(lost)}" if lost else ""
