"""A run's folder → what is in it, read and not changed: the tables, the choice and the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_object, read_table, read_toml
from ensemble.evaluation.presentation import names_of
from ensemble.recipes.headline import describe_changes, describe_run, name_weights
from ensemble.report.checks import check_about, check_choice, check_metrics, check_table
from ensemble.training.config import parse_config

TEXT_COLUMNS = (
    "name",
    "tile",
    "photograph",
    "surface",
    "reason",
    "trials",
    "method",
    "threshold_rule",
)


@dataclass(frozen=True)
class Run:
    """What a run's folder holds; None or an empty table for what is not there."""

    folder: Path
    about: dict[str, Any]
    question: str
    trials: pd.DataFrame
    epochs: pd.DataFrame
    validation: pd.DataFrame | None
    choice: dict[str, Any] | None
    metrics: dict[str, Any] | None
    predictions: pd.DataFrame | None
    suspects: pd.DataFrame | None
    relabelled: pd.DataFrame | None
    ledger: pd.DataFrame | None

    @property
    def recipe(self) -> str | None:
        """The name of the recipe that trained the run; None for a search."""
        recipe = self.about.get("recipe")
        return str(recipe["name"]) if isinstance(recipe, dict) and "name" in recipe else None

    def describe_trial(self, trial: int) -> str:
        """A trial as a person calls it: by the name that a recipe gave it, and its number."""
        name = names_of(self.trials).get(trial)
        return f"trial {trial}" if name is None else f"{name} (trial {trial})"


def read_run(folder: Path) -> Run:
    """Read what there is of a run; the trials that wait or run are left out."""
    about = read_object(folder / "run.json")
    check_about(folder / "run.json", about)
    tested = folder / "evaluation"
    metrics: dict[str, Any] | None = None
    choice: dict[str, Any] | None = None
    if (tested / "metrics.json").exists():
        metrics = read_object(tested / "metrics.json")
        check_metrics(tested / "metrics.json", metrics)
        choice = check_choice(tested / "metrics.json", metrics.get("choice"))
    elif (folder / "ensemble.json").exists():
        choice = check_choice(folder / "ensemble.json", read_object(folder / "ensemble.json"))
    single = [f"trial_{metrics['best_single']['trial']}"] if metrics is not None else []
    trials = _read_table(folder / "trials.csv")
    epochs = _read_table(folder / "epochs.csv")
    return Run(
        folder=folder,
        about=about,
        question=_read_question(folder, about),
        trials=pd.DataFrame() if trials is None else trials,
        epochs=pd.DataFrame() if epochs is None else epochs,
        validation=_read_table(folder / "validation.csv"),
        choice=choice,
        metrics=metrics,
        **{
            name: _read_table(tested / f"{file}.csv", more) if metrics is not None else None
            for name, file, more in (
                ("predictions", "predictions", single),
                ("suspects", "suspect_labels", []),
                ("relabelled", "if_relabelled", []),
                ("ledger", "ledger", []),
            )
        },
    )


def _read_table(path: Path, more: Sequence[str] = ()) -> pd.DataFrame | None:
    """A CSV file, its text columns as text; None if it is missing, empty if it has no rows."""
    if not path.exists():
        return None
    return check_table(path, read_table(path, text=TEXT_COLUMNS), more=more)


def _read_question(folder: Path, about: dict[str, Any]) -> str:
    """The question of the search space, or what a recipe trained; empty where there is neither."""
    if (folder / "space.toml").exists():
        return str(read_toml(folder / "space.toml").get("question", ""))[:1000]
    if not (folder / "recipe.toml").exists():
        return ""
    file = read_toml(folder / "recipe.toml")
    what = str(file.get("what", ""))[:1000]
    try:
        asked = parse_config(file["config"], where=folder / "recipe.toml")
        base = parse_config(about["recipe"]["variants"]["base"]["config"], where=folder)
        origin = str(about["weights"][base.model.backbone]["origin"])
        data = str(about["data"])
    except (InputError, KeyError, TypeError):  # an older or a damaged one
        return what
    weights, asked_weights = (
        name_weights(origin),
        name_weights(str(file.get("weights", "imagenet"))),
    )
    changes = describe_changes(asked, base, asked_weights=asked_weights, weights=weights)
    return describe_run(what, base, weights=weights, data=data, changes=changes)
