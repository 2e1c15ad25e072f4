"""Importance of each parameter, from a run's `study.db`, and the importance that chance gives.

PED-ANOVA (Watanabe, Bansal and Hutter 2023, https://arxiv.org/abs/2304.10255) compares how a
parameter is distributed among the best trials and among all. Trials that early stopping ended count
with their best score, as the bad regions would be missing without them. Scores shuffled among the
trials show which importance a parameter without any effect would have.
"""

import shutil
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from ensemble.search.study import finished_trials

LEAST_TRIALS = 16  # four of them are the best quarter
BEST_SHARE = 0.25
NUM_SHUFFLES = 40


@dataclass(frozen=True)
class Importance:
    """Importance of each parameter.

    Attributes:
        shares: Shares that sum to 1, the largest first; empty where `reason` says why.
        by_chance: Share below which 95 % of shuffles stay.
        num_trials: Finished trials of the study.
        reason: Why there are no shares; "" where there are.
    """

    shares: dict[str, float] = field(default_factory=dict)
    by_chance: dict[str, float] = field(default_factory=dict)
    num_trials: int = 0
    reason: str = ""


def find_importance(study_file: Path, *, seed: int = 0) -> Importance:
    """Find how much each parameter decides whether a trial is among the best quarter.

    A copy of the file is opened, so that nothing is written beside it. Nothing is raised: where
    there is no importance, `reason` says why.

    Args:
        study_file: Path of the run's `study.db`.
        seed: Seed of the shuffles.
    """
    if not study_file.is_file():
        return Importance(reason="the run has no study.db")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        trials = _read_trials(study_file)
    except Exception as error:  # whatever is wrong with the file, the page is written without it
        return Importance(reason=f"study.db cannot be read ({type(error).__name__})")
    if len(trials) < LEAST_TRIALS:
        return Importance(
            num_trials=len(trials),
            reason=f"importance needs at least {LEAST_TRIALS} finished trials, "
            f"but the study has {len(trials)}",
        )
    scores = np.array([trial.value for trial in trials], dtype=np.float64)
    if np.ptp(scores) == 0:
        return Importance(num_trials=len(trials), reason="all trials have the same score")
    try:
        found = _importances(trials, scores)
        generator = np.random.default_rng(seed)
        shuffled = [
            _importances(trials, generator.permutation(scores)) for _ in range(NUM_SHUFFLES)
        ]
    except Exception as error:  # a space that the estimator cannot judge
        return Importance(num_trials=len(trials), reason=f"PED-ANOVA gives none: {error}")
    total = sum(found.values())
    if not total > 0:
        return Importance(num_trials=len(trials), reason="no parameter differs among the best")
    chance = {
        name: float(np.quantile([each.get(name, 0.0) for each in shuffled], 0.95)) / total
        for name in found
    }
    shares = {name: value / total for name, value in found.items()}
    return Importance(shares=shares, by_chance=chance, num_trials=len(trials))


def _read_trials(study_file: Path) -> list[FrozenTrial]:
    """Read the finished trials, each as a complete one with its best score."""
    with tempfile.TemporaryDirectory(prefix="crack-ensemble-study-") as folder:
        for suffix in ("", "-wal"):
            part = study_file.with_name(study_file.name + suffix)
            if part.exists():
                shutil.copyfile(part, Path(folder) / f"study.db{suffix}")
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db")
        try:
            study = optuna.load_study(study_name=None, storage=storage)
            trials = finished_trials(study)
        finally:
            storage.engine.dispose()
    return [
        optuna.trial.create_trial(
            params=trial.params,
            distributions=trial.distributions,
            value=max([*trial.intermediate_values.values(), *(trial.values or [])]),
        )
        for trial in trials
        if trial.params and (trial.intermediate_values or trial.values)
    ]


def _importances(trials: list[FrozenTrial], scores: np.ndarray) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a small study and of conditional parameters
        study = optuna.create_study(direction="maximize")
        for trial, score in zip(trials, scores, strict=True):
            study.add_trial(
                optuna.trial.create_trial(
                    params=trial.params, distributions=trial.distributions, value=float(score)
                )
            )
        return get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE),
            normalize=False,
        )
