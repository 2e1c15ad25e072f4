"""A recipe or a run as the start of a search: its configurations are the first trials.

The space is widened to hold the first one.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ensemble.base.errors import InputError
from ensemble.base.files import read_object
from ensemble.recipes.recipe import Recipe, load_recipe
from ensemble.run.members import find_run, open_members, rank_members
from ensemble.search.space import Parameter, Space, applies
from ensemble.search.space_file import check_values
from ensemble.training.config import TrialConfig, flatten

NUM_STARTS = 5  # of a run: as many as are averaged by default


def start(space: Space, given: str, *, under: Path) -> tuple[Space, Recipe | None, str]:
    """Start a search from what a person names: a recipe, or a run by its path or name.

    Args:
        space: Search space.
        given: Value of `--start-from`.
        under: Folder of the runs.

    Returns:
        The space, the recipe if it is one, and in one line what was changed of the space.

    Raises:
        InputError: There is neither, or the space cannot hold its configurations.
    """
    if any((folder / "run.json").is_file() for folder in (Path(given), under / given)):
        space, how = start_from_run(space, find_run(given, under=under))
        return space, None, how
    recipe = load_recipe(given)
    space, how = start_from(space, recipe)
    return space, recipe, how


def start_from(space: Space, recipe: Recipe) -> tuple[Space, str]:
    """Make a recipe's base the default of a space, and hence its trial 0.

    A searched setting whose domain lacks the recipe's value gains it: a choice is added, a range
    extended. Where the recipe trains its network from a module on, backbone and fine-tuning are no
    longer searched, as the module is that network's; nor is a setting that is null in the recipe.

    Args:
        space: Search space.
        recipe: Recipe whose base becomes trial 0.

    Returns:
        The space, and in one line what was changed of it.

    Raises:
        InputError: A range in the logarithm cannot be extended to the recipe's value, or a value
            of the space does not go with the recipe's settings.
    """
    started, changes = _hold(space, recipe.base, name=recipe.name)
    if recipe.backbone not in space.backbones:
        weights_of = space.weights_of | {recipe.backbone: recipe.weights}
        started = replace(started, weights_of=weights_of)
    check_values(started)
    return started, f"trial 0 is the recipe {recipe.name}{changes}"


def start_from_run(space: Space, run: Path) -> tuple[Space, str]:
    """Make the best configurations of a run the first trials of a search.

    Args:
        space: Search space, which is widened to hold the best one.
        run: Folder of a run with finished trials.

    Returns:
        The space, and in one line what its first trials are and what was changed of it.

    Raises:
        InputError: No trial of the run is finished, or the space lacks its best network.
    """
    digest = read_object(run / "run.json", split_digest=str)["split_digest"]
    best = rank_members(open_members(run, split_digest=digest))[:NUM_STARTS]
    if not best:
        raise InputError(f"--start-from {run}: none of its trials is finished; name another run")
    config = best[0].record.config
    if config.model.backbone not in space.backbones:
        raise InputError(
            f"--start-from {run}: the space {space.path.stem} lacks the network of its best trial, "
            f"{config.model.backbone}; name it with --backbone, or give a --space that has it"
        )
    loss = config.loss.model_copy(update={"doubted_weight": 1.0})
    started, changes = _hold(space, config.model_copy(update={"loss": loss}), name=run.name)
    if loss != config.loss:
        changes += "; all labels count alike, as only a refit knows which are doubted"
    starts = []
    numbers = [best[0].trial]
    for member in best[1:]:
        values = flatten(member.record.config)
        if all(p.contains(values[p.name]) for p in started.parameters if applies(p, values)):
            starts.append({p.name: values[p.name] for p in started.parameters})
            numbers.append(member.trial)
    started = replace(started, starts=(*starts, *started.starts))
    check_values(started)
    first = ", ".join(str(number) for number in numbers)
    what = f"the first trials are the best of {run.name}, there with the numbers {first}"
    return started, what + changes


def _hold(space: Space, base: TrialConfig, *, name: str) -> tuple[Space, str]:
    """The space with `base` as its default, widened to hold it; and the changes in words."""
    values = flatten(base)
    # the search would choose what is null in the base, and trial 0 would not be the base
    fixed = {p.name for p in space.parameters if values[p.name] is None and applies(p, values)}
    if base.model.trainable_from:
        fixed |= {"model.backbone", "model.fine_tuning", "model.trainable_from"}
    notes = [f"{p.name} is no longer searched" for p in space.parameters if p.name in fixed]
    parameters = []
    for parameter in space.parameters:
        value = values[parameter.name]
        if parameter.name in fixed:
            continue
        if value is not None and not parameter.contains(value):
            before = _describe(parameter.distribution)
            parameter = _widen(parameter, value, name)
            notes.append(f"{parameter.name} {before} → {_describe(parameter.distribution)}")
        parameters.append(parameter)
    changes = f"; widened for it: {', '.join(notes)}" if notes else ""
    return replace(space, default=base, parameters=tuple(parameters)), changes


def _widen(parameter: Parameter, value: Any, name: str) -> Parameter:
    old = parameter.distribution
    new: BaseDistribution
    if isinstance(old, CategoricalDistribution):
        new = CategoricalDistribution([*old.choices, value])
    else:
        assert isinstance(old, FloatDistribution | IntDistribution)
        if old.log and value <= 0:
            raise InputError(
                f"--start-from {name}: its {parameter.name} = {value:g} cannot be in a range "
                "that is searched in the logarithm; give a positive value, or another --space"
            )
        new = type(old)(min(old.low, value), max(old.high, value), log=old.log)
    return replace(parameter, distribution=new)


def _describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"[{', '.join(str(choice) for choice in distribution.choices)}]"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return f"{distribution.low:g} … {distribution.high:g}"
