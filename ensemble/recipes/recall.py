"""Class weights and stronger augmentation: what they do about a low recall of a recipe's base.

Base is trained again with either and with both, from the same weights with the same seed, as
further members of the same run. They are compared on validation; nothing opens the test split.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from ensemble.base.door import spell_command
from ensemble.base.errors import InputError, short_repr
from ensemble.base.files import read_object, write_table
from ensemble.recipes.comparison import for_tables
from ensemble.recipes.recipe import BASE
from ensemble.recipes.runner import RecipeRun
from ensemble.run.folder import run_lock
from ensemble.run.pack import find_pack
from ensemble.training.backbone_table import name_weights_file
from ensemble.training.checkpoint import Member
from ensemble.training.config import TrialConfig, flatten, parse_config, unflatten
from ensemble.training.member import DevelopmentTiles
from ensemble.training.metrics import (
    best_threshold,
    check_both_classes,
    margins_to_probabilities,
    threshold_metrics,
)

STRONGEST = 1.0  # full `data.augmentation`
SHOWN = ("recall", "precision", "f1")


def train_recall_remedies(run: Path, device: torch.device, console: Console) -> pd.DataFrame:
    """Train the remedies that are missing, write `recall.csv` and return it: see `tabulate`.

    Raises:
        InputError: The run is not a recipe's, its base is not finished, or its tiles are missing.
    """
    about = read_object(run / "run.json", split_digest=str)
    base, first_number = _read_recipe(run, about)
    with run_lock(run, what="command"):
        data = DevelopmentTiles(find_pack(run), device).open()
        labels = data.train.labels.cpu().numpy()
        check_both_classes(labels, what="the training tiles")  # the weight is their ratio
        recipe_run = RecipeRun(run, data, console.print)
        members = dict(zip([BASE], recipe_run.finished_among(range(1)), strict=False))
        if not members or members[BASE].record.config != base:
            raise InputError(f"{run}: its base is not finished; run its train command to the end")
        weight = round(float((labels == 0).sum() / (labels == 1).sum()), 3)
        for number, (name, changes) in enumerate(_remedies(base, weight).items(), first_number):
            config = parse_config(unflatten(flatten(base) | changes), where=name)
            start = run / "initial" / name_weights_file(base.model.backbone)
            member = recipe_run.train(number, name, config, start, settings=changes)
            if member is not None:
                members[name] = member
    table = tabulate(members, data.val.labels.cpu().numpy())
    write_table(run / "recall.csv", table)
    return table


def _read_recipe(run: Path, about: dict[str, Any]) -> tuple[TrialConfig, int]:
    """The configuration of base, and the first trial number after those of the recipe."""
    recipe = about.get("recipe")
    if not isinstance(recipe, dict):
        train = spell_command("train")
        raise InputError(f"{run} is no run of a recipe; train one with {train} --recipe NAME")
    try:
        config, number = recipe["variants"][BASE]["config"], recipe["num_trials"]
    except (KeyError, TypeError):
        raise InputError(f"{run / 'run.json'}: damaged (its recipe has no base)") from None
    if type(number) is not int or not 0 < number < 10_000:
        raise InputError(f"{run / 'run.json'}: damaged (num_trials is {short_repr(number)})")
    return parse_config(config, where=run / "run.json"), number


def _remedies(base: TrialConfig, weight: float) -> dict[str, dict[str, Any]]:
    """Name → changed settings; stronger augmentation only where base has less than the full one."""
    weights, stronger = {"loss.crack_weight": weight}, {"data.augmentation": STRONGEST}
    if base.data.augmentation >= STRONGEST:
        return {"class weights": weights}
    both = weights | stronger
    return {"class weights": weights, "stronger augmentation": stronger, "both": both}


def tabulate(members: dict[str, Member], labels: np.ndarray) -> pd.DataFrame:
    """Tabulate each member on validation, at 0.5 and at the threshold with its best F1.

    Args:
        members: Members by name.
        labels: (N,) of 0 and 1, those of the validation tiles.
    """
    rows = []
    for name, member in members.items():
        probabilities = margins_to_probabilities(member.val_margins())
        tuned, _ = best_threshold(labels, probabilities)
        config = member.record.config
        for rule, threshold in (("0.5", 0.5), ("best F1", tuned)):
            figures = threshold_metrics(labels, probabilities, threshold, SHOWN)
            rows.append(
                {
                    "name": name,
                    "trial": member.trial,
                    "crack_weight": config.loss.crack_weight,
                    "augmentation": config.data.augmentation,
                    "best_epoch": member.record.epoch,
                    "threshold_rule": rule,
                    "threshold": threshold,
                    **{f"val_{key}": value for key, value in figures.items()},
                }
            )
    return pd.DataFrame(rows)


def print_recall(table: pd.DataFrame, console: Console) -> None:
    """Print the table of `tabulate`."""
    titled = Table(title="On validation", title_justify="left", title_style="bold")
    for title in ("trained with", "epoch", "rule", "threshold", "recall", "precision", "F1"):
        titled.add_column(title, justify="left" if title in ("trained with", "rule") else "right")
    for row in table.to_dict("records"):
        words = [str(row[key]) for key in ("name", "best_epoch", "threshold_rule")]
        figures = [row[key] for key in ("threshold", *(f"val_{key}" for key in SHOWN))]
        titled.add_row(*words, *(f"{figure:.3f}" for figure in figures))
    for_tables(console).print(titled)
