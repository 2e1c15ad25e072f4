"""Ensembles that were all chosen on validation → their figures on the same tiles, side by side.

The first is the one that was chosen; the others are tested in the same opening of the test split,
so that a table of them costs no further one. Nothing is chosen by these rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ensemble.base.wording import format_number
from ensemble.data.batches import SplitTiles
from ensemble.evaluation.figures import Way, compare_ways, compute_figures, flat_row, is_same
from ensemble.evaluation.presentation import count_networks, describe_f1, print_widest
from ensemble.evaluation.scoring import MemberScores, judge_tiles
from ensemble.selection.choice import EnsembleRecord
from ensemble.selection.contenders import Contender
from ensemble.selection.ensemble import Ensemble
from ensemble.selection.neighbours import Places

COMPARED = ("f1", "average_precision")  # with the reference
SHOWN = {"f1": "F1", "precision": "precision", "recall": "recall", "average_precision": "AP"}
WARNING = (
    "all rows were chosen on validation, and the first is the ensemble: choose nothing by them"
)


class Rival(NamedTuple):
    """One of the ensembles that are compared, ready to judge tiles."""

    contender: Contender
    ensemble: Ensemble


def describe_compared(
    table: pd.DataFrame, tiles: SplitTiles, scores: MemberScores, rivals: Sequence[Rival]
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """The figures of each ensemble each way, with the differences from the reference.

    Args:
        table: Test tiles, as a pack holds them.
        tiles: The same tiles, which were scored.
        scores: Scores of all members.
        rivals: The chosen ensemble first; one of the others is the reference, which is judged with
            what lies around a tile, as far as it sees that. None where nothing is compared.

    Returns:
        What `metrics.json` holds of each, and the probabilities: `tile`, and three columns each.
    """
    places, ways = Places.of(table), []
    columns: dict[str, np.ndarray] = {}
    for contender, ensemble in rivals:
        prefix = f"{contender.name}_"
        judged = judge_tiles(ensemble, scores, tiles, places, prefix=prefix)
        columns |= {
            f"{prefix}alone": judged.alone,
            f"{prefix}ensemble": judged.mean,
            f"{prefix}refined": judged.refined,
        }
        ways.append(judged.ways)
    if not rivals:
        return [], pd.DataFrame()
    predictions = table[["tile", "photograph", "label"]].assign(**columns)
    number = [rival.contender.is_reference for rival in rivals].index(True)
    reference = ways[number][1]
    rows = [
        {
            "name": contender.name,
            "what": _name(contender),
            "is_chosen": own is ways[0],
            "is_reference": contender.is_reference,
            "method": contender.record.method,
            "members": _describe_members(ensemble),
            "tta": ensemble.tta,
            "ways": _describe_ways(predictions, own, reference, contender.record),
        }
        for (contender, ensemble), own in zip(rivals, ways, strict=True)
    ]
    return rows, predictions[["tile", *columns]]


def _name(contender: Contender) -> str:
    """The name for people, with the number of networks of a member of a refit by itself."""
    members = contender.record.model_dump()["members"]
    if len(members) > 1 or members[0]["num_folds"] == 1:
        return contender.what
    return f"{contender.what}, {count_networks(members[0])}"


def networks_sentence(metrics: dict[str, Any]) -> str:
    """Say which member answers with other networks by itself than within the ensemble.

    Args:
        metrics: What `metrics.json` holds.

    Returns:
        A sentence without a full stop; empty where no member does.
    """
    within = {member["trial"]: member.get("num_networks") for member in metrics["members"]}
    parts = []
    for row in metrics.get("compared", []):
        only = row["members"][0]
        trial, own = only["trial"], only.get("num_networks")
        if len(row["members"]) == 1 and within.get(trial) not in (None, own):
            parts.append(f"trial {trial} ({own} here, {within[trial]} within the ensemble)")
    if not parts:
        return ""
    return (
        "under --budget-members a member answers with more of its networks by itself than within "
        f"an ensemble, so two figures of it differ: {', '.join(dict.fromkeys(parts))}"
    )


def _describe_members(ensemble: Ensemble) -> list[dict[str, Any]]:
    return [
        {
            "trial": member.trial,
            "backbone": member.record.config.model.backbone,
            "context_px": member.record.config.data.context_px,
            "weight": float(weight),
            "num_networks": member.num_networks or member.record.num_folds,
        }
        for member, weight in zip(ensemble.members, ensemble.weights, strict=True)
    ]


def _describe_ways(
    predictions: pd.DataFrame, ways: Sequence[Way], reference: Way, record: EnsembleRecord
) -> dict[str, Any]:
    """By name of the way: `same_as` the one before, or figures and `difference` from another."""
    described: dict[str, Any] = {}
    val_f1 = _validation_f1(record)
    for way, before in zip(ways, [None, *ways], strict=False):
        if before is not None and is_same(predictions, way, before):
            described[way.name] = {"same_as": before.name}
            continue
        described[way.name] = {
            "figures": {"val_f1": val_f1.get(way.name), **compute_figures(predictions, way)},
            "difference": compare_ways(predictions, way, reference, COMPARED),
        }
    return described


def _validation_f1(record: EnsembleRecord) -> dict[str, float]:
    """Validation F1 of each way for which it is recorded."""
    seen = record.val_metrics["f1"]
    alone = seen if record.alone is None else record.alone.val_metrics["f1"]
    return {"tile alone": alone, "with context": seen}


def told_ways(
    rows: Iterable[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Yield each row with the name and the content of each way that differs from the one before."""
    for row in rows:
        for name, way in row["ways"].items():
            if "same_as" not in way:
                yield row, name, way


def flatten_compared(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row an ensemble and way that differs, with all figures, as `compared.csv` holds them."""
    return pd.DataFrame(
        {
            **flat_row(row["what"], way["figures"]),
            "judged": name,
            "is_chosen": row["is_chosen"],
            "is_reference": row["is_reference"],
            "members": " ".join(f"{m['trial']}:{m['weight']:.4f}" for m in row["members"]),
            **{
                f"{metric}_minus_reference{end}": difference[key]
                for metric, difference in way["difference"].items()
                for key, end in (("difference", ""), ("low", "_low"), ("high", "_high"))
            },
        }
        for row, name, way in told_ways(rows)
    )


def print_compared(metrics: dict[str, Any], console: Console) -> None:
    """Print the table, with intervals where there is room, and that nothing is chosen by it."""
    rows = metrics["compared"]
    print_widest((draw_compared(rows, bounds=each) for each in (True, False)), console)
    if note := networks_sentence(metrics):
        console.print(note, highlight=False, markup=False)
    console.print(WARNING, highlight=False)


def draw_compared(rows: Sequence[dict[str, Any]], *, bounds: bool) -> Table:
    """A table of the ensembles for the terminal.

    Args:
        rows: What `describe_compared` returned.
        bounds: Whether F1 and its difference have intervals.
    """
    reference = next(row["what"] for row in rows if row["is_reference"])
    trivial = next(way["figures"]["trivial_f1"] for _, _, way in told_ways(rows))
    title = (
        f"Tested beside it; difference in F1 from {reference}; F1 of calling every tile cracked: "
        f"{format_number(trivial)}"
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("tested", "judged"):
        table.add_column(name, overflow="fold")
    for name in ("networks", "threshold", "val F1", *SHOWN.values(), "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    before: dict[str, Any] = {}
    for row, name, way in told_ways(rows):
        figures, difference = way["figures"], way["difference"]["f1"]
        about = ["", ""]
        if row is not before:
            about = [row["what"], str(sum(m["num_networks"] for m in row["members"]))]
            if before.get("is_chosen"):
                table.add_section()
        before = row
        cells = [format_number(figures[each]) for each in ("threshold", "val_f1", *SHOWN)]
        cells[2] = describe_f1(figures["f1"], figures["intervals"]["f1"], is_bounded=bounds)
        gain = describe_f1(difference["difference"], difference, is_bounded=bounds, is_gain=True)
        table.add_row(*map(Text, (about[0], name, about[1], *cells, gain)))
    return table
