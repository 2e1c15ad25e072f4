"""A recipe as the start of a search: trial 0 is its base, and the space is widened to hold it."""

from dataclasses import replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ensemble.errors import InputError
from ensemble.recipe import Recipe
from ensemble.search.space import Parameter, Space
from ensemble.search.space_file import check_values
from ensemble.training.settings import flatten


def start_from(space: Space, recipe: Recipe) -> tuple[Space, str]:
    """Make a recipe's base the default of a space, and hence its trial 0.

    A searched setting whose domain lacks the recipe's value gains it: a choice is added, a range
    extended. Where the recipe trains its network from a module on, backbone and fine-tuning are no
    longer searched, as the module is that network's.

    Args:
        space: To search.
        recipe: To start from.

    Returns:
        The space, and in one line what was changed of it.

    Raises:
        InputError: A range in the logarithm cannot be extended to the recipe's value, or a value
            of the space does not go with the recipe's settings.
    """
    values = flatten(recipe.base)
    fixed: tuple[str, ...] = ()
    if recipe.base.model.trainable_from:
        fixed = ("model.backbone", "model.fine_tuning", "model.trainable_from")
    notes = [f"{p.name} is no longer searched" for p in space.parameters if p.name in fixed]
    parameters = []
    for parameter in space.parameters:
        value = values[parameter.name]
        if parameter.name in fixed:
            continue
        if value is not None and not parameter.contains(value):
            before = _describe(parameter.distribution)
            parameter = _widen(parameter, value, recipe)
            notes.append(f"{parameter.name} {before} → {_describe(parameter.distribution)}")
        parameters.append(parameter)
    started = replace(
        space,
        default=recipe.base,
        parameters=tuple(parameters),
        weights_of=space.weights_of
        | ({} if recipe.backbone in space.backbones else {recipe.backbone: recipe.weights}),
    )
    check_values(started)
    changes = f"; widened for it: {', '.join(notes)}" if notes else ""
    return started, f"trial 0 is the recipe {recipe.name}{changes}"


def _widen(parameter: Parameter, value: Any, recipe: Recipe) -> Parameter:
    old = parameter.distribution
    new: BaseDistribution
    if isinstance(old, CategoricalDistribution):
        new = CategoricalDistribution([*old.choices, value])
    else:
        assert isinstance(old, FloatDistribution | IntDistribution)
        if old.log and value <= 0:
            raise InputError(
                f"--start-from {recipe.name}: its {parameter.name} = {value:g} cannot be in a "
                "range that is searched in the logarithm; give the recipe a positive value, or "
                "another --space"
            )
        new = type(old)(min(old.low, value), max(old.high, value), log=old.log)
    return replace(parameter, distribution=new)


def _describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"[{', '.join(str(choice) for choice in distribution.choices)}]"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return f"{distribution.low:g} … {distribution.high:g}"
