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

from ensemble.base.errors import InputError, short_repr
from ensemble.base.files import read_object, write_table
from ensemble.recipes.comparison import for_tables
from ensemble.recipes.recipe import BASE
from ensemble.recipes.runner import RecipeRun
from ensemble.run.folder import run_lock
from ensemble.run.pack import find_pack
from ensemble.training.checkpoint import Member
from ensemble.training.config import TrialConfig, flatten, parse_config, unflatten
from ensemble.training.member import open_training_data
from ensemble.training.metrics import (
    best_threshold,
    check_both_classes,
    margins_to_probabilities,
    threshold_metrics,
)

STRONGEST = 1.0  # full `data.augmentation`


def train_recall_remedies(run: Path, device: torch.device, console: Console) -> pd.DataFrame:
    """Train the answers that are missing and write `recall.csv`.

    Args:
        run: A run's folder.
        device: To train on.
        console: Of the person.

    Returns:
        Two rows a member, at 0.5 and at the threshold with its best F1.

    Raises:
        InputError: The run is none of a recipe, its base is not finished, or its tiles are gone.
    """
    about = read_object(run / "run.json", split_digest=str)
    base, first_number = _read_recipe(run, about)
    with run_lock(run, what="command"):
        data = open_training_data(find_pack(run), device)
        labels = data.train.labels.cpu().numpy()
        check_both_classes(labels, what="the training tiles")  # the weight is their ratio
        trained = RecipeRun(run, data, console.print)
        found = trained.finished_among(range(1))
        if not found or found[0].record.config != base:
            raise InputError(
                f"{run}: its base is not finished; run its scripts/train.py command to the end"
            )
        members = {BASE: found[0]}
        weight = round(float((labels == 0).sum() / (labels == 1).sum()), 3)
        for number, (name, changes) in enumerate(_remedies(base, weight).items(), first_number):
            config = parse_config(unflatten(flatten(base) | changes), where=name)
            start = run / "initial" / f"{base.model.backbone}.safetensors"
            member = trained.train(number, name, config, start, settings=changes)
            if member is not None:
                members[name] = member
    table = tabulate(members, data.val.labels.cpu().numpy())
    write_table(run / "recall.csv", table)
    return table


def _read_recipe(run: Path, about: dict[str, Any]) -> tuple[TrialConfig, int]:
    """The configuration of base, and the first trial number that the recipe leaves free."""
    recipe = about.get("recipe")
    if not isinstance(recipe, dict):
        raise InputError(f"{run} is no run of a recipe; train one with scripts/train.py --recipe")
    try:
        config, number = recipe["variants"][BASE]["config"], recipe["num_trials"]
    except (KeyError, TypeError):
        raise InputError(f"{run / 'run.json'}: damaged (its recipe has no base)") from None
    if type(number) is not int or not 0 < number < 10_000:
        raise InputError(f"{run / 'run.json'}: damaged (num_trials is {short_repr(number)})")
    return parse_config(config, where=run / "run.json"), number


def _remedies(base: TrialConfig, weight: float) -> dict[str, dict[str, Any]]:
    """Name → what is changed; stronger augmentation only where there is a stronger one."""
    weights = {"loss.crack_weight": weight}
    stronger = {"data.augmentation": STRONGEST}
    answers = {"class weights": weights}
    if base.data.augmentation < STRONGEST:
        answers |= {"stronger augmentation": stronger, "both": weights | stronger}
    return answers


def tabulate(members: dict[str, Member], labels: np.ndarray) -> pd.DataFrame:
    """Recall, precision and F1 of each member on validation, at 0.5 and where its F1 is best."""
    rows = []
    for name, member in members.items():
        probabilities = margins_to_probabilities(member.val_margins())
        tuned, _ = best_threshold(labels, probabilities)
        config = member.record.config
        for rule, threshold in (("0.5", 0.5), ("best F1", tuned)):
            figures = threshold_metrics(labels, probabilities, threshold)
            rows.append(
                {
                    "name": name,
                    "trial": member.trial,
                    "crack_weight": config.loss.crack_weight,
                    "augmentation": config.data.augmentation,
                    "best_epoch": member.record.epoch,
                    "threshold_rule": rule,
                    "threshold": threshold,
                    **{f"val_{key}": figures[key] for key in ("recall", "precision", "f1")},
                }
            )
    return pd.DataFrame(rows)


def print_recall(table: pd.DataFrame, console: Console) -> None:
    """Print the table."""
    titled = Table(title="On validation", title_justify="left", title_style="bold")
    for title in ("trained with", "epoch", "rule", "threshold", "recall", "precision", "F1"):
        titled.add_column(title, justify="left" if title in ("trained with", "rule") else "right")
    for row in table.to_dict("records"):
        figures = [f"{row[key]:.3f}" for key in ("threshold", "val_recall", "val_precision")]
        titled.add_row(
            str(row["name"]),
            str(row["best_epoch"]),
            str(row["threshold_rule"]),
            *figures,
            f"{row['val_f1']:.3f}",
        )
    for_tables(console).print(titled)
