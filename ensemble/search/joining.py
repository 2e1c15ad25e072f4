"""Trials of a refit → a run whose members are its configurations.

The networks of a configuration, of which each left out another fold, become one member.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ensemble.base.files import read_object, read_table, write_json, write_table
from ensemble.run.members import FOLDS, member_folder, read_validation
from ensemble.search.variants import Variant
from ensemble.training.checkpoint import Member, drop_weights, open_member
from ensemble.training.config import flatten
from ensemble.training.cross_fitting import join_folds


def join_members(run: Path, variants: Sequence[Variant]) -> list[Member]:
    """Make a run of the trials in its folder `folds`, whose members are the configurations.

    The networks of a configuration become one member, and its row in `trials.csv` and its epochs
    are those of all folds together. `run.json` comes last: before, there is no run.

    Args:
        run: Folder of the run.
        variants: The configurations, in the order of their numbers.

    Returns:
        The members, by the number of their configuration.

    Raises:
        InputError: A network or a table is damaged.
    """
    inner = run / FOLDS
    about = read_object(inner / "run.json", split_digest=str, searched=list)
    validation = read_validation(inner)
    trials = read_table(inner / "trials.csv", columns=("trial", "configuration", "fold"))
    epochs = read_table(inner / "epochs.csv", columns=("trial", "epoch"))
    epochs = epochs.merge(trials[["trial", "configuration"]], on="trial")
    members = []
    for number in range(len(variants)):
        of_this = trials[(trials["configuration"] == number) & (trials["state"] != "FAIL")]
        parts = of_this.set_index("fold")["trial"].sort_index()
        folder = member_folder(run, number)
        if not (folder / "member.json").exists():
            join_folds(
                folder,
                [open_member(member_folder(inner, trial)) for trial in parts],
                number=number,
                split_digest=about["split_digest"],
                labels=validation["label"].to_numpy(),
                folds=validation["fold"].to_numpy(),
            )
        for trial in parts:
            drop_weights(member_folder(inner, trial))  # the joined member has them
        members.append(open_member(folder))
    write_table(run / "epochs.csv", _join_epochs(epochs))
    write_table(run / "trials.csv", _join_trials(trials, members, variants, about["searched"]))
    for name in ("validation.csv", "samples.png"):
        shutil.copy(inner / name, run / name)
    write_json(run / "run.json", about)
    return members


def _join_epochs(epochs: pd.DataFrame) -> pd.DataFrame:
    """The epochs of each configuration: sums of seconds, and means of all else over its folds."""
    how = {
        name: "sum" if name in ("train_seconds", "val_seconds") else "mean"
        for name in epochs.select_dtypes("number")
        if name not in ("trial", "configuration", "epoch")
    }
    joined = epochs.groupby(["configuration", "epoch"]).agg({"backbone": "first", **how})
    return joined.reset_index().rename(columns={"configuration": "trial"})


def _join_trials(
    trials: pd.DataFrame,
    members: Sequence[Member],
    variants: Sequence[Variant],
    searched: Sequence[str],
) -> pd.DataFrame:
    """A row for each configuration."""
    rows = []
    for member, variant in zip(members, variants, strict=True):
        of_this = trials[trials["configuration"] == member.trial]
        settings = flatten(variant.config)
        rows.append(
            {
                "trial": member.trial,
                "name": variant.name,
                "state": "COMPLETE",
                "val_f1": member.val_f1,
                "best_epoch": member.record.epoch,
                "epochs": int(of_this["epochs"].sum()),
                "seconds": of_this["seconds"].sum(),
                "reason": "",
                "backbone": settings["model.backbone"],
                **{name: settings[name] for name in searched},
            }
        )
    return pd.DataFrame(rows)
