"""Members of a refit → what each gains over the first one, on photographs that it never saw."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.base.files import read_table, write_table
from ensemble.base.progress_bar import telling_progress
from ensemble.base.wording import clock, format_number, plural
from ensemble.evaluation.figures import photograph_of, unit_of
from ensemble.evaluation.intervals import describe_difference, paired_intervals
from ensemble.run.members import check_scored, read_validation
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import METRICS, best_threshold, margins_to_probabilities

COMPARED = ("f1", "average_precision")


def compare_members(
    run: Path, members: Sequence[Member], log: Callable[[str], None] = print
) -> pd.DataFrame:
    """Write `tried.csv`: each configuration on the folds, and what it gains over the first one.

    F1 is that at each configuration's own best threshold. The interval of a difference resamples
    photographs, the same ones for both; thresholds are taken as they are.

    Args:
        run: Folder of the run, with its table of trials.
        members: The members, by the number of their configuration; the first one is the base.
        log: Takes a line now and then, as many tiles take a while.

    Returns:
        The table.
    """
    validation = read_validation(run)
    trials = read_table(run / "trials.csv", text=("name",)).set_index("trial")
    rows = []
    with telling_progress("comparing configurations", len(members), log) as tell:
        for member in members:
            row: dict[str, Any] = {"trial": member.trial, "name": trials.loc[member.trial, "name"]}
            row |= measure_gain(member, members[0], validation)
            rows.append({**row, "seconds": trials.loc[member.trial, "seconds"]})
            tell(1)
    table = pd.DataFrame(rows)
    table = table[[*table.columns.drop("seconds"), "seconds"]]
    write_table(run / "tried.csv", table)
    return table


def measure_gain(member: Member, base: Member, validation: pd.DataFrame) -> dict[str, Any]:
    """What a member reaches on the folds and gains over another one, as a row of `tried.csv`.

    Args:
        member: The member.
        base: The other one, trained on the same folds; of the base itself no gain is told.
        validation: Tiles of the folds.

    Raises:
        InputError: The scores of one are damaged, or of other tiles.
    """
    row: dict[str, Any] = {metric: member.record.metrics[f"val_{metric}"] for metric in COMPARED}
    if member is base:
        return row
    for each in (member, base):
        check_scored(each, len(validation))
    labels, unit = validation["label"].to_numpy(), unit_of(validation)
    own, others = (margins_to_probabilities(each.val_margins()) for each in (member, base))
    gains = paired_intervals(
        labels,
        own,
        others,
        photograph_of(validation),
        thresholds=(best_threshold(labels, own)[0], best_threshold(labels, others)[0]),
        metrics=COMPARED,
    )
    for metric, gain in gains.items():
        row[f"{metric}_difference"] = gain.value
        row[f"{metric}_low"], row[f"{metric}_high"] = gain.low, gain.high
        row[f"{metric}_verdict"] = describe_difference(metric, gain, unit=unit)
    return row


def describe_comparison(tried: pd.DataFrame, validation: pd.DataFrame) -> list[str]:
    """What `tried.csv` holds, a line a configuration.

    Args:
        tried: The table.
        validation: Tiles of the folds.
    """
    unit = unit_of(validation)
    base = tried.iloc[0]
    lines = [
        f"tried on the folds, against {base['name']}: F1 {format_number(base['f1'])}, AP "
        f"{format_number(base['average_precision'])} (95 % intervals resample "
        f"{plural(validation[unit].nunique(), unit)})"
    ]
    for _, row in tried.iloc[1:].iterrows():
        figures = [_describe_gain(row, metric) for metric in COMPARED]
        lines.append(f"  {row['name']}: {'; '.join(figures)}; {clock(row['seconds'])}")
    return lines


def _describe_gain(row: pd.Series, metric: str) -> str:
    low, high = (row[f"{metric}_{end}"] for end in ("low", "high"))
    bounds = "" if np.isnan(low) else f" [{format_number(low)}, {format_number(high)}]"
    difference = format_number(row[f"{metric}_difference"], "+.3f")
    figure = f"{METRICS[metric].column} {format_number(row[metric])}"
    return f"{figure}, {difference}{bounds}, {row[f'{metric}_verdict']}"
