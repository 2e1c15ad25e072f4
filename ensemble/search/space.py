"""A TOML file → what a search asks: a default configuration, distributions, conditions, starts.

question = "…"                     # for people
weights = "imagenet"               # or "none"; --weights overrides it by backbone
workers_per_trial = 1              # above 1: Ray Train workers

[default.model]                    # trial 0, and the value of whatever is not searched
backbone = "resnet18"

[search.model]
backbone = ["resnet18", "swin_v2_t"]                       # one of these
dropout = { low = 0.0, high = 0.6 }                        # uniform; log = true: in the logarithm
[search.loss]
focal_gamma = { low = 0.5, high = 4.0, when = { "loss.kind" = ["focal"] } }

[[start]]                          # tried right after trial 0; differences from the default
"model.backbone" = "swin_v2_t"

[early_stopping]                   # ASHA (Li et al. 2018, https://arxiv.org/abs/1810.05934)
grace_epochs = 1
reduction_factor = 3
"""

import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemble.errors import InputError
from ensemble.training.config import TrialConfig, explain_validation, parse_config
from ensemble.training.seeds import derive_seed

Choice = str | int | float | bool


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class EarlyStopping(_Strict):
    """ASHA's settings: after 1, 3, 9 … `grace_epochs` all but one in `reduction_factor` stop."""

    grace_epochs: int = Field(1, ge=1)
    reduction_factor: int = Field(3, ge=2)


class _Range(_Strict):
    low: float
    high: float
    log: bool = False
    when: dict[str, list[Choice]] = {}

    @model_validator(mode="after")
    def _has_room(self) -> "_Range":
        if not self.low < self.high:
            raise ValueError("low < high must hold")
        if self.log and self.low <= 0:
            raise ValueError("low > 0 must hold where log = true")
        return self


class _Choices(_Strict):
    choices: list[Choice] = Field(min_length=1)
    when: dict[str, list[Choice]] = {}


class _File(_Strict):
    question: str
    weights: Literal["imagenet", "none"] = "imagenet"
    workers_per_trial: int = Field(1, ge=1)
    default: dict[str, Any]
    search: dict[str, dict[str, list[Choice] | _Choices | _Range]] = {}
    start: list[dict[str, Choice]] = []
    early_stopping: EarlyStopping = EarlyStopping()


@dataclass(frozen=True)
class Parameter:
    """One searched setting.

    Attributes:
        name: `section.field` of `TrialConfig`.
        distribution: Where its values come from.
        when: It is asked for only where each of these settings has one of these values.
    """

    name: str
    distribution: BaseDistribution
    when: dict[str, tuple[Choice, ...]]


@dataclass(frozen=True)
class Space:
    """A search space, checked: every value it can give makes a valid configuration."""

    path: Path
    question: str
    weights: str
    workers_per_trial: int
    default: TrialConfig
    parameters: tuple[Parameter, ...]
    starts: tuple[dict[str, Choice], ...]
    early_stopping: EarlyStopping

    @property
    def backbones(self) -> list[str]:
        """Every backbone that the search can reach."""
        for parameter in self.parameters:
            if parameter.name == "model.backbone":
                assert isinstance(parameter.distribution, CategoricalDistribution)
                return [str(choice) for choice in parameter.distribution.choices]
        return [self.default.model.backbone]

    def describe(self) -> dict[str, Any]:
        """All that decides what is asked, as plain JSON."""
        return {
            "default": self.default.model_dump(mode="json"),
            "parameters": {
                p.name: {
                    "distribution": json.loads(distribution_to_json(p.distribution)),
                    "when": {key: list(allowed) for key, allowed in p.when.items()},
                }
                for p in self.parameters
            },
            "starts": list(self.starts),
            "early_stopping": self.early_stopping.model_dump(),
        }

    def start_points(self) -> list[dict[str, Choice]]:
        """Parameters of trial 0 (the default) and of the further starts."""
        return [self._point({}), *(self._point(start) for start in self.starts)]

    def _point(self, changes: dict[str, Choice]) -> dict[str, Choice]:
        values = flatten(self.default) | changes
        return {p.name: values[p.name] for p in self.parameters if _applies(p, values)}

    def ask(self, trial: optuna.trial.BaseTrial, *, seed: int) -> TrialConfig:
        """Have Optuna suggest the parameters of `trial`, in the file's order.

        Args:
            trial: Of Optuna.
            seed: Of the study; the trial's own is derived from it.
        """
        values = flatten(self.default)
        for parameter in self.parameters:
            if _applies(parameter, values):
                values[parameter.name] = _suggest(trial, parameter)
        values["seed"] = derive_seed(seed, "trial", trial.number)
        return parse_config(unflatten(values), where=f"{self.path}, trial {trial.number}")

    def changed(self, *, epochs: int | None, image_size_px: int | None) -> "Space":
        """The space with settings from the command line, which are then no longer searched."""
        changes: dict[str, Any] = {}
        if epochs is not None:
            changes["optimisation.epochs"] = epochs
        if image_size_px is not None:
            changes["data.image_size_px"] = image_size_px
        if not changes:
            return self
        values = flatten(self.default) | changes
        return replace(
            self,
            default=parse_config(unflatten(values), where="command line"),
            parameters=tuple(p for p in self.parameters if p.name not in changes),
            starts=tuple({k: v for k, v in s.items() if k not in changes} for s in self.starts),
        )


def load_space(path: Path) -> Space:
    """Read and check a search space.

    Raises:
        InputError: The file is missing or no TOML, or a key, type or value is wrong.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--space {path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a readable TOML file ({error})") from None
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {explain_validation(error)}") from None
    default = parse_config(file.default, where=f"{path}, [default]")
    known = flatten(default)
    parameters = []
    for section, fields in file.search.items():
        for field, domain in fields.items():
            name = f"{section}.{field}"
            if name not in known:
                raise InputError(f"{path}: unknown key 'search.{name}'")
            parameters.append(_parameter(name, domain, known, path))
    space = Space(
        path=path.resolve(),
        question=file.question,
        weights=file.weights,
        workers_per_trial=file.workers_per_trial,
        default=default,
        parameters=tuple(parameters),
        starts=tuple(file.start),
        early_stopping=file.early_stopping,
    )
    _check_values(space)
    return space


def _parameter(
    name: str, domain: list[Choice] | _Choices | _Range, known: dict[str, Any], path: Path
) -> Parameter:
    if isinstance(domain, list):
        domain = _Choices(choices=domain) if domain else _fail(path, f"'search.{name}' is empty")
    for condition in domain.when:
        if condition not in known:
            raise InputError(f"{path}: 'search.{name}': unknown key {condition!r} in when")
    when = {key: tuple(values) for key, values in domain.when.items()}
    if isinstance(domain, _Choices):
        return Parameter(name, CategoricalDistribution(domain.choices), when)
    section, field = name.split(".")
    kind = TrialConfig.model_fields[section].annotation.model_fields[field].annotation  # type: ignore[union-attr]
    if kind is int:
        if not domain.low.is_integer() or not domain.high.is_integer():
            raise InputError(f"{path}: 'search.{name}' is a whole number; so must low and high be")
        low, high = int(domain.low), int(domain.high)
        return Parameter(name, IntDistribution(low, high, log=domain.log), when)
    if kind is not float:
        raise InputError(f"{path}: 'search.{name}' is no number; give a list of choices")
    return Parameter(name, FloatDistribution(domain.low, domain.high, log=domain.log), when)


def _check_values(space: Space) -> None:
    """Every choice and both ends of every range must make a valid configuration."""
    for parameter in space.parameters:
        distribution = parameter.distribution
        if isinstance(distribution, CategoricalDistribution):
            ends = list(distribution.choices)
        else:
            assert isinstance(distribution, FloatDistribution | IntDistribution)
            ends = [distribution.low, distribution.high]
        for value in ends:
            values = flatten(space.default)
            values |= {key: allowed[0] for key, allowed in parameter.when.items()}
            values[parameter.name] = value
            for dependent in space.parameters:  # settings that come with this value
                if dependent.when and _applies(dependent, values):
                    values.setdefault(dependent.name, _any_value(dependent))
                    if values[dependent.name] is None:
                        values[dependent.name] = _any_value(dependent)
            parse_config(unflatten(values), where=f"{space.path}, 'search.{parameter.name}'")
    for start in space.starts:
        unknown = sorted(set(start) - set(flatten(space.default)))
        if unknown:
            raise InputError(f"{space.path}: unknown key {unknown[0]!r} in [[start]]")
        where = f"{space.path}, [[start]]"
        parse_config(unflatten(flatten(space.default) | start), where=where)
    names = {parameter.name: parameter for parameter in space.parameters}
    for point in space.start_points():
        for name, value in point.items():
            distribution = names[name].distribution
            if isinstance(distribution, CategoricalDistribution):
                inside = value in distribution.choices
            else:
                assert isinstance(distribution, FloatDistribution | IntDistribution)
                inside = distribution.low <= float(value) <= distribution.high
            if not inside:
                raise InputError(
                    f"{space.path}: a start has {name} = {value!r}, outside of what is searched"
                )


def _any_value(parameter: Parameter) -> Choice:
    distribution = parameter.distribution
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]  # type: ignore[return-value]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low


def _suggest(trial: optuna.trial.BaseTrial, parameter: Parameter) -> Choice:
    name, distribution = parameter.name, parameter.distribution
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)  # type: ignore[return-value]
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _applies(parameter: Parameter, values: dict[str, Any]) -> bool:
    return all(values[key] in allowed for key, allowed in parameter.when.items())


def flatten(config: TrialConfig) -> dict[str, Any]:
    """Settings by `section.field`, and `seed`."""
    values: dict[str, Any] = {}
    for section, content in config.model_dump().items():
        if isinstance(content, dict):
            values |= {f"{section}.{field}": value for field, value in content.items()}
        else:
            values[section] = content
    return values


def unflatten(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        section, _, field = name.partition(".")
        if field:
            nested.setdefault(section, {})[field] = value
        else:
            nested[name] = value
    return nested


def _fail(path: Path, message: str) -> Any:
    raise InputError(f"{path}: {message}")
