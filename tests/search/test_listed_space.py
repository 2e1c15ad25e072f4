"""Facts about the trials of a refit: each configuration with each fold, until none has failed."""

from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from ensemble.search.listed_space import ListedSpace, list_space
from ensemble.search.study import StudyTables, open_study
from ensemble.search.variants import Variant, name_variants
from ensemble.training.member import Fold

NUM_FOLDS = 3


@pytest.fixture
def space(make_trial_config) -> ListedSpace:
    configurations = [make_trial_config(seed=7, model={"dropout": d}) for d in (0.1, 0.2)]
    return list_space(Path("run"), name_variants("run", [4, 2], configurations), NUM_FOLDS)


@pytest.fixture
def study(space, tmp_path) -> optuna.Study:
    return open_study(tmp_path / "study.db", space, sampler="random", seed=0)


def test_the_trials_are_each_configuration_with_each_fold_unchanged(space, study):
    asked = []
    for _ in range(2 * NUM_FOLDS):
        trial = study.ask()
        config = space.ask(trial, seed=5)
        asked.append((config.model.dropout, space.fold_of(trial.params)))
        assert config.seed == 7
        study.tell(trial, 0.5)
    assert asked == [
        (dropout, Fold(fold, NUM_FOLDS)) for dropout in (0.1, 0.2) for fold in range(NUM_FOLDS)
    ]


def test_no_trial_is_stopped_early(space, make_trial_config):
    longer = Variant("longer", make_trial_config(optimisation={"epochs": 9}))
    space = list_space(Path("run"), [*space.configurations, longer], 2)
    assert space.early_stopping.grace_epochs == space.default.optimisation.epochs == 9


def test_the_largest_of_a_setting_is_that_of_all_configurations(space, make_trial_config):
    larger = Variant("larger", make_trial_config(data={"image_size_px": 48, "context_px": 8}))
    space = list_space(Path("run"), [*space.configurations, larger], 2)
    assert [space.largest(f"data.{name}_px") for name in ("image_size", "context")] == [48, 8]


def test_the_table_of_trials_names_each_configuration_and_fold(space, study, tmp_path):
    for _ in range(2):
        trial = study.ask()
        space.ask(trial, seed=0)
        study.tell(trial, 0.5)
    half = study.ask()
    half.suggest_int("configuration", 0, 1)  # and then the search was killed
    StudyTables(tmp_path, space.name_of).write_trials(study)
    names = pd.read_csv(tmp_path / "trials.csv", keep_default_na=False)["name"].tolist()
    assert names == ["run/4, fold 1 of 3", "run/4, fold 2 of 3", ""]


def test_what_failed_is_asked_for_again_once(space, study, tmp_path):
    for number in range(2 * NUM_FOLDS):
        trial = study.ask()
        space.ask(trial, seed=0)
        trial.report(0.5, step=1)
        study.tell(trial, *((None, TrialState.FAIL) if number == 4 else (0.5,)))
    for _ in range(2):
        study = open_study(tmp_path / "study.db", space, sampler="random", seed=0)
    (waiting,) = study.get_trials(states=[TrialState.WAITING])
    trial = study.ask()
    assert trial.number == waiting.number
    assert space.ask(trial, seed=0).model.dropout == 0.2
    assert space.fold_of(trial.params) == Fold(1, NUM_FOLDS)
    trial.report(0.5, step=1)
    study.tell(trial, 0.5)
    study = open_study(tmp_path / "study.db", space, sampler="random", seed=0)
    assert not study.get_trials(states=[TrialState.WAITING])


def test_a_space_that_is_searched_knows_no_folds(space):
    plain = replace(space)
    assert super(ListedSpace, plain).fold_of({"model.dropout": 0.1}) is None
