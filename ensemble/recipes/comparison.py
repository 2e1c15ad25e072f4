"""The members of a recipe's run, compared on validation: a table, reports, curves, errors.

Nothing here opens the test split. Training tiles are measured like validation tiles, without
augmentation and dropout, so that the difference between the two is overfitting and nothing else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sklearn.metrics import classification_report

from ensemble.base.files import atomic_write, read_table, write_table, write_text
from ensemble.base.wording import plural
from ensemble.data.batches import SplitTiles
from ensemble.evaluation.presentation import print_widest, score_limits
from ensemble.explanation.gallery import draw_worst
from ensemble.recipes.recipe import Recipe
from ensemble.run.folder import display_path
from ensemble.run.members import rank_members, read_validation, score_tiles
from ensemble.training.checkpoint import Member
from ensemble.training.member import TrainingData
from ensemble.training.metrics import (
    best_threshold,
    confusion_counts,
    log_loss,
    margins_to_probabilities,
    threshold_metrics,
)

MEASURED_TRAINING_TILES = 2000
SHOWN = {  # what does not fit is left out from the end
    "name": "variant",
    "best_epoch": "epoch",
    "train_loss": "train\nloss",
    "train_accuracy": "train\naccuracy",
    "val_loss": "val\nloss",
    "val_accuracy": "val\naccuracy",
    "val_f1": "val\nF1",
    "val_precision": "val\nprecision",
    "val_recall": "val\nrecall",
    "loss_gap": "loss\ngap",
    "accuracy_gap": "accuracy\ngap",
}
ALWAYS_SHOWN = 5
VALIDATION: dict[str, Any] = {"marker": "o"}
TRAINING: dict[str, Any] = {"marker": "s", "markersize": 4, "linestyle": "--"}
KEPT: dict[str, Any] = {"marker": "*", "markersize": 15, "linestyle": "none"}


def write_comparison(
    run: Path,
    recipe: Recipe,
    members: Mapping[str, Member],
    checkpoints: Sequence[Member],
    data: TrainingData,
    console: Console,
) -> None:
    """Compare members on validation, and print the result.

    Writes `variants.csv`, `validation_report.txt`, `curves.png` and `worst_validation.png` into
    the run's folder. `members` are by name of their variant, `checkpoints` further epochs of base.
    """
    table = compare(members, checkpoints, data)
    write_table(run / "variants.csv", table)
    reports = "\n".join(report_validation(name, m, data) for name, m in members.items())
    write_text(run / "validation_report.txt", reports)
    starts = {v.name: v.starts_from for v in recipe.variants}
    needed = ("train_loss", "val_loss", "val_f1", "train_accuracy", "val_accuracy")
    epochs = read_table(run / "epochs.csv", columns=("trial", "epoch", *needed))
    with atomic_write(run / "curves.png") as temporary, mpl.rc_context():
        mpl.rcdefaults()  # nobody's own settings
        plot_curves(epochs, members, starts).savefig(temporary, format="png")
    best = rank_members(list(members.values()))[0]
    [name] = [name for name, member in members.items() if member is best]
    draw_worst(
        run / "worst_validation.png",
        read_validation(run).assign(probability=margins_to_probabilities(best.val_margins())),
        best,
        data.val,
        name=name,
    )
    console.print(reports)
    print_comparison(table, min(len(data.train), MEASURED_TRAINING_TILES), console)
    for file in ("variants.csv", "validation_report.txt", "curves.png", "worst_validation.png"):
        console.print(f"written: {display_path(run)}/{file}")


def compare(
    members: Mapping[str, Member], checkpoints: Sequence[Member], data: TrainingData
) -> pd.DataFrame:
    """Tabulate each member, and the mean of base's checkpoints, on training and validation.

    The threshold of a row is its best one on validation. `accuracy_gap` is training
    minus validation and `loss_gap` validation minus training, so that a larger one is worse.
    At most 2,000 training tiles are measured.
    """
    tiles = sample_tiles(data.train, MEASURED_TRAINING_TILES)
    rows = [
        {"name": name, **_compare([member], tiles, data.val)} for name, member in members.items()
    ]
    if checkpoints:
        together = [next(iter(members.values())), *checkpoints]
        name = f"mean of {plural(len(together), 'checkpoint')}"
        rows.append({"name": name, **_compare(together, tiles, data.val)})
    return pd.DataFrame(rows)


def _compare(members: list[Member], train: SplitTiles, val: SplitTiles) -> dict[str, Any]:
    scores = {
        "train": (_labels(train), score_tiles(members, train).mean(axis=0)),
        "val": (_labels(val), _validation_scores(members)),
    }
    threshold, _ = best_threshold(*scores["val"])
    row: dict[str, Any] = {
        "trials": " ".join(str(member.trial) for member in members),
        "best_epoch": members[0].record.epoch if len(members) == 1 else None,
        "threshold": threshold,
    }
    for split, (labels, probabilities) in scores.items():
        row[f"{split}_loss"] = log_loss(labels, probabilities)
        for metric, value in threshold_metrics(labels, probabilities, threshold).items():
            row[f"{split}_{metric}"] = value
    row["loss_gap"] = row["val_loss"] - row["train_loss"]
    row["accuracy_gap"] = row["train_accuracy"] - row["val_accuracy"]
    return row


def _validation_scores(members: Sequence[Member]) -> np.ndarray:
    return margins_to_probabilities(np.stack([m.val_margins() for m in members])).mean(axis=0)


def _labels(tiles: SplitTiles) -> np.ndarray:
    return tiles.labels.cpu().numpy()


def sample_tiles(tiles: SplitTiles, count: int) -> SplitTiles:
    """All tiles, or `count` of them, drawn evenly and always the same."""
    order = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))
    return tiles.take(order[:count].sort().values)


def report_validation(name: str, member: Member, data: TrainingData) -> str:
    """Write confusion matrix and classification report of a member at its threshold, as text."""
    labels, probabilities = _labels(data.val), _validation_scores([member])
    threshold, _ = best_threshold(labels, probabilities)
    counts = confusion_counts(labels, probabilities, threshold)
    report = classification_report(
        labels,
        probabilities >= threshold,
        target_names=["uncracked", "cracked"],
        digits=3,
        zero_division=0,
    )
    return (
        f"{name}, epoch {member.record.epoch}, on {len(labels):,} validation tiles, cracked where "
        f"the probability is at least {threshold:.3f}\n\n"
        f"{'':18}called uncracked  called cracked\n"
        f"{'uncracked tiles':18}{counts['true_negative']:16,}{counts['false_positive']:16,}\n"
        f"{'cracked tiles':18}{counts['false_negative']:16,}{counts['true_positive']:16,}\n\n"
        f"{report}"
    )


def print_comparison(table: pd.DataFrame, num_training_tiles: int, console: Console) -> None:
    """Print the table, with as many columns as fit."""
    title = (
        f"On validation, and on {plural(num_training_tiles, 'training tile')} without augmentation"
    )

    def draw(num_columns: int) -> Table:
        titled = Table(title=title, title_justify="left", title_style="bold")
        shown = list(SHOWN.items())[:num_columns]
        for column, header in shown:
            titled.add_column(header, justify="left" if column == "name" else "right")
        for row in table.to_dict("records"):
            epoch = "" if pd.isna(row["best_epoch"]) else f"{row['best_epoch']:.0f}"
            figures = (f"{row[column]:.3f}" for column, _ in shown[2:])
            titled.add_row(Text(row["name"]), epoch, *figures)
        return titled

    counts = range(len(SHOWN), ALWAYS_SHOWN - 1, -1)
    printed = print_widest((draw(count) for count in counts), for_tables(console))
    left_out = list(SHOWN.values())[len(printed.columns) :]
    if left_out:
        named = ", ".join(header.replace("\n", " ") for header in left_out)
        console.print(f"not shown here: {named}; all are in variants.csv")


def for_tables(console: Console) -> Console:
    """The console itself, or where it is no terminal, one wide enough for every table."""
    return console if console.is_terminal else Console(width=170, highlight=False)


def plot_curves(
    epochs: pd.DataFrame, members: Mapping[str, Member], starts: Mapping[str, str | None]
) -> Figure:
    """Draw losses, validation F1 and accuracies of all variants by epoch, in one figure.

    A variant that starts from another one begins behind the epoch whose weights it got; `starts`
    names that other one.
    """
    offsets = dict.fromkeys(members, 0)
    for name in members:  # a variant stands behind the one that it starts from
        start = starts[name]
        if start is not None:
            offsets[name] = offsets[start] + members[start].record.epoch
    figure = Figure(figsize=(7.5, 9), layout="constrained", dpi=120)
    panels = figure.subplots(3, sharex=True)
    last = 1
    for axes, what in zip(panels, ("loss", "f1", "accuracy"), strict=True):
        for number, (name, member) in enumerate(members.items()):
            rows = epochs[epochs["trial"] == member.trial].sort_values("epoch")
            x, colour = rows["epoch"] + offsets[name], f"C{number % 10}"
            last = max([last, *x])
            axes.plot(x, rows[f"val_{what}"], color=colour, label=name, **VALIDATION)
            if f"train_{what}" in rows:
                axes.plot(x, rows[f"train_{what}"], color=colour, **TRAINING)
            kept = rows["epoch"] == member.record.epoch
            axes.plot(x[kept], rows.loc[kept, f"val_{what}"], color=colour, **KEPT)
        axes.set_ylabel("F1 on validation" if what == "f1" else what)
        axes.grid(alpha=0.3)
        if what != "loss":
            axes.set_ylim(score_limits(*axes.get_ylim()))
    for what, style in (  # of every variant, and of single points, which have no line
        ("validation", VALIDATION),
        ("training (augmented, under dropout)", TRAINING),
        ("kept epoch", KEPT),
    ):
        panels[0].plot([], [], color="grey", label=what, **style)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    panels[-1].set_xlabel("epoch")
    panels[-1].set_xlim(0.5, last + 0.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure
