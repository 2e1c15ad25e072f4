"""A run's folder → what is in it, read and not changed: the tables, the choice and the metrics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_toml
from ensemble.evaluation.presentation import names_of
from ensemble.recipes.headline import describe_run
from ensemble.report.checks import read_checked_table, read_record
from ensemble.training.config import parse_config
from ensemble.training.metrics import trivial_f1

TESTED = ("predictions", "suspect_labels", "if_relabelled", "ledger")  # tables of a test


@dataclass(frozen=True)
class Run:
    """The contents of a run's folder; None or an empty table for what is missing."""

    folder: Path
    about: dict[str, Any]
    question: str
    trials: pd.DataFrame
    epochs: pd.DataFrame
    validation: pd.DataFrame | None
    choice: dict[str, Any] | None
    metrics: dict[str, Any] | None
    predictions: pd.DataFrame | None
    suspect_labels: pd.DataFrame | None
    if_relabelled: pd.DataFrame | None
    ledger: pd.DataFrame | None
    tried: pd.DataFrame | None
    judged: list[dict[str, Any]]

    @property
    def recipe(self) -> str | None:
        """The name of the recipe that trained the run; None for a search."""
        recipe = self.about.get("recipe")
        return str(recipe["name"]) if isinstance(recipe, dict) and "name" in recipe else None

    @property
    def refit_of(self) -> str | None:
        """The name of the run whose configurations were trained on folds; None for another run."""
        return str(self.about["refit_of"]) if "refit_of" in self.about else None

    @property
    def kind(self) -> str:
        """What the run is, for people: a recipe, a refit or a search."""
        return "recipe" if self.recipe else "refit" if self.refit_of else "search"

    @property
    def val_trivial_f1(self) -> float | None:
        """F1 of calling every validation tile cracked; None where the tiles are not known."""
        table = self.validation
        return None if table is None or table.empty else trivial_f1(table["label"].to_numpy())

    @property
    def num_folds(self) -> int:
        """How often each configuration was trained."""
        return int(self.about.get("folds", 1))

    def describe_trial(self, trial: int) -> str:
        """Name a trial by the name that a recipe gave it, and its number."""
        name = names_of(self.trials).get(trial)
        return f"trial {trial}" if name is None else f"{name} (trial {trial})"

    def backbone_of(self, trial: int) -> str:
        """The backbone of a trial; a further epoch of a variant has no row in `epochs.csv`."""
        for table in (self.epochs, self.trials):
            rows = (
                table if table.empty else table[table["trial"] == trial].dropna(subset="backbone")
            )
            if len(rows):
                return str(rows["backbone"].iloc[0])
        return "backbone not recorded"


def read_run(folder: Path) -> Run:
    """Read what there is of a run.

    Raises:
        InputError: The folder is no run, or a file of it is damaged.
    """
    about, metrics, choice = read_record(folder / "run.json"), None, None
    tables = dict.fromkeys(TESTED)
    if (folder / "evaluation" / "metrics.json").exists():
        metrics = read_record(folder / "evaluation" / "metrics.json")
        choice, single = metrics["choice"], f"trial_{metrics['best_single']['trial']}"
        for name in TESTED:
            more = [single] if name == "predictions" else []
            tables[name] = read_checked_table(folder / "evaluation" / f"{name}.csv", more)
    elif (folder / "ensemble.json").exists():
        choice = read_record(folder / "ensemble.json")
    trials, epochs = (read_checked_table(folder / f"{name}.csv") for name in ("trials", "epochs"))
    return Run(
        folder=folder,
        about=about,
        question=_read_question(folder, about),
        trials=pd.DataFrame() if trials is None else trials,
        epochs=pd.DataFrame() if epochs is None else epochs,
        validation=read_checked_table(folder / "validation.csv"),
        tried=read_checked_table(folder / "tried.csv"),
        judged=[read_record(path) for path in sorted(folder.glob("judged/*/metrics.json"))],
        choice=choice,
        metrics=metrics,
        **tables,
    )


def _read_question(folder: Path, about: dict[str, Any]) -> str:
    """Read the question of the search space, or what a recipe trained; "" without either."""
    if "refit_of" in about:
        best = f"the best configurations of {about['refit_of']}"
        return f"What do {best} reach on photographs that their networks never saw?"
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
    asked_weights = str(file.get("weights", "imagenet"))
    return describe_run(what, asked, base, asked_weights=asked_weights, weights=origin, data=data)
