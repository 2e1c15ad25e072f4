"""A TOML file → what a search asks: a default configuration, distributions, conditions, starts.

question = "…"                     # for people
weights = "imagenet"               # or "none"; --weights overrides it by backbone
workers_per_trial = 1              # above 1: Ray Train workers

[default.model]                    # trial 0, and the value of whatever is not searched
backbone = "resnet18"

[search.model]
backbone = ["resnet18", "swin_v2_t"]                       # one of these
dropout = { low = 0.0, high = 0.6 }                        # uniform; log = true: in the logarithm
drop_path_rate = { low = 0.0, high = 0.3, when = { "model.backbone" = ["swin_v2_t"] } }
[search.loss]
focal_gamma = { low = 0.5, high = 4.0, when = { "loss.kind" = ["focal"] } }

[[start]]                          # tried right after trial 0; differences from the default
"model.backbone" = "swin_v2_t"
"model.drop_path_rate" = 0.2

[early_stopping]                   # ASHA (Li et al. 2018, https://arxiv.org/abs/1810.05934)
grace_epochs = 1
reduction_factor = 3
"""

from itertools import product
from pathlib import Path
from typing import Any, Literal

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field, ValidationError, model_validator

from ensemble.base.errors import InputError, short_repr
from ensemble.base.files import read_toml
from ensemble.search.networks import check_networks
from ensemble.search.space import (
    EarlyStopping,
    Parameter,
    SettingValue,
    Space,
    applies,
)
from ensemble.training.backbone_table import suggest_backbones
from ensemble.training.config import (
    Section,
    explain_validation,
    find_type,
    flatten,
    parse_config,
    unflatten,
)

DOUBTED_WEIGHT = "loss.doubted_weight"


class _Range(Section):
    low: float
    high: float
    log: bool = False
    when: dict[str, list[SettingValue]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_room(self) -> "_Range":
        if not self.low < self.high:
            raise ValueError("low < high must hold")
        if self.log and self.low <= 0:
            raise ValueError("low > 0 must hold where log = true")
        return self


class _Choices(Section):
    choices: list[SettingValue] = Field(min_length=1)
    when: dict[str, list[SettingValue]] = Field(default_factory=dict)


class _File(Section):
    question: str
    weights: Literal["imagenet", "none"] = "imagenet"
    workers_per_trial: int = Field(1, ge=1)
    default: dict[str, Any]
    search: dict[str, dict[str, Any]] = Field(default_factory=dict)
    start: list[dict[str, SettingValue]] = Field(default_factory=list)
    early_stopping: EarlyStopping = EarlyStopping()


def load_space(path: Path) -> Space:
    """Read and check a search space.

    Raises:
        InputError: The file is missing or no TOML, or a key, type or value is wrong.
    """
    if not path.exists():
        raise InputError(f"--space {path}: no such file")
    try:
        file = _File.model_validate(read_toml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {explain_validation(error)}") from None
    default = parse_config(file.default, where=f"{path}, [default]")
    known = flatten(default)
    parameters = [
        _parameter(f"{section}.{field}", domain, known, path)
        for section, fields in file.search.items()
        for field, domain in fields.items()
    ]
    if default.loss.needs_doubted or DOUBTED_WEIGHT in (each.name for each in parameters):
        raise InputError(
            f"{path}: {DOUBTED_WEIGHT} is for `refit --try` alone, as no label is doubted before "
            "there are scores on folds; leave it out"
        )
    space = Space(
        path=path.resolve(),
        question=file.question,
        weights=file.weights,
        workers_per_trial=file.workers_per_trial,
        default=default,
        parameters=_order(parameters, path),
        starts=tuple(file.start),
        early_stopping=file.early_stopping,
    )
    _check_starts(space)
    check_values(space)
    check_networks(space)
    return space


def _order(parameters: list[Parameter], path: Path) -> tuple[Parameter, ...]:
    """The parameters as the file has them, but each behind those that its condition names."""
    ordered, left = [], list(parameters)
    while left:
        names = {parameter.name for parameter in left}
        first = next((each for each in left if names.isdisjoint(each.when)), None)
        if first is None:
            raise InputError(
                f"{path}: the conditions of {', '.join(sorted(names))} wait for each other; "
                "leave one of them out"
            )
        ordered.append(first)
        left.remove(first)
    return tuple(ordered)


def _check_starts(space: Space) -> None:
    """Refuse a start that gives what is no setting, or what is not searched."""
    searched = {parameter.name for parameter in space.parameters}
    for name in dict.fromkeys(name for start in space.starts for name in start):
        if name not in flatten(space.default):
            raise InputError(f"{space.path}: unknown key {short_repr(name)} in [[start]]")
        if name not in searched:
            raise InputError(
                f"{space.path}: a start has {name}, which is not searched; name its values in "
                "[search], or give it in [default]"
            )


def _parameter(name: str, domain: Any, known: dict[str, Any], path: Path) -> Parameter:
    if name not in known:
        raise InputError(f"{path}: unknown key {short_repr(f'search.{name}')}")
    where = f"{path}: 'search.{name}'"
    try:
        if isinstance(domain, list):
            domain = {"choices": domain}
        choices = isinstance(domain, dict) and "choices" in domain
        checked = (_Choices if choices else _Range).model_validate(domain)
    except ValidationError as error:
        raise InputError(f"{where}: {explain_validation(error)}") from None
    for condition in checked.when:
        if condition not in known:
            raise InputError(f"{where}: unknown key {short_repr(condition)} in when")
        if not checked.when[condition]:
            raise InputError(f"{where}: {condition!r} in when has no values; give at least one")
    when = {key: tuple(values) for key, values in checked.when.items()}
    if isinstance(checked, _Choices):
        if name == "model.backbone":
            _check_names(checked.choices, where)
        return Parameter(name, CategoricalDistribution(checked.choices), when)
    kind = find_type(name)
    if kind in (float, float | None):
        return Parameter(name, FloatDistribution(checked.low, checked.high, checked.log), when)
    if kind is not int:
        raise InputError(f"{where}: not a number; give a list of choices")
    if not checked.low.is_integer() or not checked.high.is_integer():
        raise InputError(f"{where}: a whole number; so must low and high be")
    return Parameter(name, IntDistribution(int(checked.low), int(checked.high), checked.log), when)


def _check_names(choices: list[SettingValue], where: str) -> None:
    """Refuse names that are no network's, all of them in one line."""
    wrong = []
    for name in choices:
        if not isinstance(name, str):
            continue  # refused with the other values
        try:
            nearest = suggest_backbones(name)
        except ValueError as error:
            raise InputError(f"{where}: {short_repr(name)}: {error}") from None
        if nearest is not None:
            like = f" (like it: {', '.join(nearest)})" if nearest else ""
            wrong.append(f"{short_repr(name)}{like}")
    if wrong:
        raise InputError(f"{where}: no backbone: {'; '.join(wrong)}; `backbones` lists them all")


def check_values(space: Space) -> None:
    """Every choice, both ends of every range and every start must make a valid configuration.

    Raises:
        InputError: One does not, or a start is outside of what is searched.
    """
    for parameter in space.parameters:
        first = {key: allowed[0] for key, allowed in parameter.when.items()}
        others = [{key: value} for key, allowed in parameter.when.items() for value in allowed[1:]]
        for value, condition in product(parameter.ends(), [first, *others]):
            values = flatten(space.default) | first | condition
            values = space.settle(values | {parameter.name: value})
            for other in space.parameters:  # settings that are asked for only with this value
                if other.when and values[other.name] is None and applies(other, values):
                    values[other.name] = other.ends()[0]
            parse_config(unflatten(values), where=f"{space.path}, 'search.{parameter.name}'")
    known = flatten(space.default)
    for start in space.starts:
        parse_config(unflatten(space.settle(known | start)), where=f"{space.path}, [[start]]")
    parameters = {parameter.name: parameter for parameter in space.parameters}
    for point in space.start_points():
        for name, value in point.items():
            if not parameters[name].contains(value):
                raise InputError(
                    f"{space.path}: a start has {name} = {short_repr(value)}, "
                    "outside of what is searched"
                )
