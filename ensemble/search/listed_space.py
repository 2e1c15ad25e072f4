"""Listed configurations, each trained once without each fold, in place of a space to search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import IntDistribution

from ensemble.search.space import EarlyStopping, Parameter, Space
from ensemble.search.variants import Variant
from ensemble.training.config import TrialConfig, flatten
from ensemble.training.member import Fold


@dataclass(frozen=True)
class ListedSpace(Space):
    """Given configurations, each with each fold, instead of ranges to search.

    Attributes:
        configurations: What is trained.
        num_folds: Number of folds.
    """

    configurations: tuple[Variant, ...] = ()
    num_folds: int = 2

    @property
    def can_grow(self) -> bool:
        """Whether there are further trials; there are as many as configurations and folds say."""
        return False

    @property
    def backbones(self) -> list[str]:
        """Backbones of the configurations."""
        return list(dict.fromkeys(each.config.model.backbone for each in self.configurations))

    def start_points(self) -> list[dict[str, Any]]:
        """All trials: the folds of the first configuration, then those of the next one."""
        return [
            {"configuration": number, "fold": fold}
            for number in range(len(self.configurations))
            for fold in range(self.num_folds)
        ]

    def ask(self, trial: optuna.trial.BaseTrial, *, seed: int) -> TrialConfig:
        """The configuration of a trial, which has a seed of its own."""
        number = trial.suggest_int("configuration", 0, len(self.configurations) - 1)
        trial.suggest_int("fold", 0, self.num_folds - 1)
        return self.configurations[number].config

    def fold_of(self, params: Mapping[str, Any]) -> Fold:
        """The fold that a trial with these parameters leaves out."""
        return Fold(params["fold"], self.num_folds)

    def name_of(self, params: Mapping[str, Any]) -> str:
        """Name of a trial: its configuration, and the fold that it leaves out, counted from 1."""
        if len(params) < len(self.parameters):
            return ""  # the search was killed while it wrote them
        name = self.configurations[params["configuration"]].name
        return f"{name}, fold {params['fold'] + 1} of {self.num_folds}"

    def largest(self, name: str) -> float:
        """The largest value that a numeric setting takes in any trial."""
        return float(max(flatten(each.config)[name] for each in self.configurations))


def list_space(run: Path, configurations: Sequence[Variant], num_folds: int) -> ListedSpace:
    """The space of these configurations with each of the folds; nothing is stopped early.

    Args:
        run: Folder of the run that they come from.
        configurations: What is trained.
        num_folds: Number of folds.
    """
    longest = max((each.config for each in configurations), key=lambda c: c.optimisation.epochs)
    return ListedSpace(
        path=run,
        question="",
        weights="",
        workers_per_trial=1,
        default=longest,
        parameters=(
            Parameter("configuration", IntDistribution(0, len(configurations) - 1), {}),
            Parameter("fold", IntDistribution(0, num_folds - 1), {}),
        ),
        starts=(),
        early_stopping=EarlyStopping(grace_epochs=longest.optimisation.epochs),
        configurations=tuple(configurations),
        num_folds=num_folds,
    )
