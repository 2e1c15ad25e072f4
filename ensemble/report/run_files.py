"""A run's folder → what is in it, read and not changed: the tables, the choice and the metrics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.errors import InputError
from ensemble.files import read_object, read_table, read_toml
from ensemble.result_table import names_of

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
    errors: pd.DataFrame | None
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
    tested = folder / "evaluation"
    metrics: dict[str, Any] | None = None
    choice: dict[str, Any] | None = None
    if (tested / "metrics.json").exists():
        metrics = read_object(tested / "metrics.json")
        choice = metrics.get("choice")
        if not isinstance(choice, dict):
            raise InputError(f"{tested / 'metrics.json'}: damaged (no 'choice'); evaluate again")
    elif (folder / "ensemble.json").exists():
        choice = read_object(folder / "ensemble.json")
    trials = _read_table(folder / "trials.csv")
    epochs = _read_table(folder / "epochs.csv")
    return Run(
        folder=folder,
        about=about,
        question=_read_question(folder),
        trials=pd.DataFrame() if trials is None else trials,
        epochs=pd.DataFrame() if epochs is None else epochs,
        validation=_read_table(folder / "validation.csv"),
        choice=choice,
        metrics=metrics,
        **{
            name: _read_table(tested / f"{file}.csv") if metrics is not None else None
            for name, file in (
                ("predictions", "predictions"),
                ("errors", "errors"),
                ("suspects", "suspect_labels"),
                ("relabelled", "if_relabelled"),
                ("ledger", "ledger"),
            )
        },
    )


def _read_table(path: Path) -> pd.DataFrame | None:
    """A CSV file, its text columns as text; None if it is missing, empty if it has no rows."""
    return read_table(path, text=TEXT_COLUMNS) if path.exists() else None


def _read_question(folder: Path) -> str:
    """The question of the search space, or what the recipe is; empty where there is neither."""
    for name, key in (("space.toml", "question"), ("recipe.toml", "what")):
        if (folder / name).exists():
            return str(read_toml(folder / name).get(key, ""))[:1000]
    return ""
