"""A search space: a default configuration, distributions, conditions and starting points."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from pydantic import Field

from ensemble.training.config import (
    Section,
    TrialConfig,
    can_be_null,
    derive_seed,
    flatten,
    parse_config,
    unflatten,
)
from ensemble.training.member import Fold

SettingValue = str | int | float | bool


class EarlyStopping(Section):
    """Settings of ASHA: after 1, 3, 9 … `grace_epochs` all but one in `reduction_factor` stop."""

    grace_epochs: int = Field(1, ge=1, le=10_000)
    reduction_factor: int = Field(3, ge=2, le=10_000)


@dataclass(frozen=True)
class Parameter:
    """One searched setting.

    Attributes:
        name: `section.field` of `TrialConfig`.
        distribution: Distribution of its values.
        when: Condition: each of these settings has one of these values.
    """

    name: str
    distribution: BaseDistribution
    when: dict[str, tuple[SettingValue, ...]]

    def ends(self) -> list[Any]:
        """Return all choices, or both ends of a range."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        return [self.distribution.low, self.distribution.high]

    def contains(self, value: Any) -> bool:
        """Say whether the search can reach `value`."""
        if isinstance(self.distribution, CategoricalDistribution):
            return value in self.distribution.choices
        low, high = self.ends()
        return isinstance(value, int | float) and low <= value <= high


@dataclass(frozen=True)
class Space:
    """A search space, checked: every value it can give makes a valid configuration."""

    path: Path
    question: str
    weights: str
    workers_per_trial: int
    default: TrialConfig
    parameters: tuple[Parameter, ...]
    starts: tuple[dict[str, SettingValue], ...]
    early_stopping: EarlyStopping
    weights_of: dict[str, str] = field(default_factory=dict)  # of backbones that start otherwise

    @property
    def can_grow(self) -> bool:
        """Whether there are always further trials to ask for."""
        return True

    @property
    def initial_weights(self) -> dict[str, str]:
        """Backbone → `imagenet` or `none`, unless --weights says something else."""
        return {name: self.weights_of.get(name, self.weights) for name in self.backbones}

    @property
    def backbones(self) -> list[str]:
        """Backbones that the search can reach."""
        for parameter in self.parameters:
            if parameter.name == "model.backbone":
                assert isinstance(parameter.distribution, CategoricalDistribution)
                return [str(choice) for choice in parameter.distribution.choices]
        return [self.default.model.backbone]

    def describe(self) -> dict[str, Any]:
        """All that decides which trials come, as plain JSON."""
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

    def start_points(self) -> list[dict[str, SettingValue]]:
        """Parameters of trial 0 (the default) and of the further starts.

        The search chooses those that are null there, as each of its values is a number or a name.
        """
        return [self._point({}), *(self._point(start) for start in self.starts)]

    def _point(self, changes: dict[str, SettingValue]) -> dict[str, SettingValue]:
        values = flatten(self.default) | changes
        applying = [p.name for p in self.parameters if applies(p, values)]
        return {name: values[name] for name in applying if values[name] is not None}

    def ask(self, trial: optuna.trial.BaseTrial, *, seed: int) -> TrialConfig:
        """Have Optuna suggest the parameters of `trial`, in the file's order.

        Args:
            trial: Optuna's trial.
            seed: Seed of the study, from which the trial's is derived.
        """
        values = flatten(self.default)
        for parameter in self.parameters:
            if applies(parameter, values):
                values[parameter.name] = _suggest(trial, parameter)
        values = self.settle(values)
        values["seed"] = derive_seed(seed, "trial", trial.number)
        return parse_config(unflatten(values), where=f"{self.path}, trial {trial.number}")

    def settle(self, values: dict[str, Any]) -> dict[str, Any]:
        """Settings with null for what is searched under a condition that they do not meet.

        So a value of the default that belongs to its network stays with it. A setting that cannot
        be null keeps its value, and so does one whose condition the default does not meet either.
        """
        default = flatten(self.default)
        return values | {
            p.name: None
            for p in self.parameters
            if can_be_null(p.name) and applies(p, default) and not applies(p, values)
        }

    def fold_of(self, params: Mapping[str, Any]) -> Fold | None:
        """The fold that a trial with these parameters is validated on; None for the split's."""
        return None

    def name_of(self, params: Mapping[str, Any]) -> str:
        """Name of a trial with these parameters; "" where its number is all there is."""
        return ""

    def largest(self, name: str) -> float:
        """The largest value that a numeric setting takes in any trial."""
        values = [flatten(self.default)[name], *(s[name] for s in self.starts if name in s)]
        for parameter in self.parameters:
            if parameter.name == name:
                distribution = parameter.distribution
                if isinstance(distribution, CategoricalDistribution):
                    values += distribution.choices
                elif isinstance(distribution, IntDistribution | FloatDistribution):
                    values.append(distribution.high)
        return float(max(values))

    def searches(self, name: str) -> bool:
        """Say whether trials differ in a setting by `section.field`."""
        return any(p.name == name for p in self.parameters)

    def changed(self, *, epochs: int | None, image_size_px: int | None) -> "Space":
        """The space with settings from the command line, which are then no longer searched."""
        asked = {"optimisation.epochs": epochs, "data.image_size_px": image_size_px}
        changes = {name: value for name, value in asked.items() if value is not None}
        return self.fixed(changes, where="command line") if changes else self

    def fixed(self, changes: Mapping[str, SettingValue], *, where: str) -> "Space":
        """The space with some settings given, which are then no longer searched.

        A start that differs from trial 0 in nothing else is dropped.
        """
        values = self.settle({**flatten(self.default), **changes}) | dict(changes)
        starts = [{k: v for k, v in s.items() if k not in changes} for s in self.starts]
        return replace(
            self,
            default=parse_config(unflatten(values), where=where),
            parameters=tuple(p for p in self.parameters if p.name not in changes),
            starts=tuple(start for start in starts if start),
        )


def _suggest(trial: optuna.trial.BaseTrial, parameter: Parameter) -> SettingValue:
    name, distribution = parameter.name, parameter.distribution
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)  # type: ignore[return-value]
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def applies(parameter: Parameter, values: dict[str, Any]) -> bool:
    """Say whether `parameter` is searched beside these settings."""
    return all(values[key] in allowed for key, allowed in parameter.when.items())
