"""python -m ensemble.evaluate: the ensemble of a run, tested once. The only reader of test tiles.

Members and threshold are chosen on the validation split before the test split is opened; each
opening is written to `evaluation/ledger.csv`. Every figure of `metrics.json` follows from
`predictions.csv` and the thresholds in `metrics.json`.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from ensemble.data.batches import place_tiles
from ensemble.data.pack import open_pack
from ensemble.errors import InputError, run_command
from ensemble.files import read_json, write_json, write_text
from ensemble.members import choose_device, find_run, open_members, score_tiles
from ensemble.provenance import describe_code_and_machine
from ensemble.selection import average_probabilities, choose_top_k, val_probabilities
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import (
    best_threshold,
    confusion_counts,
    log_loss,
    ranking_metrics,
    threshold_metrics,
)

TABLE_COLUMNS = ("f1", "precision", "recall", "average_precision", "roc_auc", "accuracy", "loss")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, evaluate, print the table and where the files are."""
    parser = argparse.ArgumentParser(
        prog="python -m ensemble.evaluate",
        description="Average the best members of a run and test them once on the held-out split.",
    )
    parser.add_argument(
        "run", nargs="?", help="name under --out, or a path (default: the last run)"
    )
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="members (default: 5, or all if there are fewer)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder of the runs (default: results)"
    )
    options = parser.parse_args(arguments)
    run = find_run(options.run, under=options.out)
    metrics = evaluate(run, top_k=options.top_k)
    print_table(metrics, Console(width=None if Console().is_terminal else 120))
    print(f"written: {run / 'evaluation' / 'metrics.json'}")
    print(f"written: {run / 'evaluation' / 'predictions.csv'}")


def evaluate(run: Path, *, top_k: int | None = None) -> dict[str, Any]:
    """Choose on validation, open the test split, write `evaluation/` and return its metrics.

    Args:
        run: A run's folder.
        top_k: Members; five, or all if there are fewer, where it is not given.

    Raises:
        InputError: Too few or damaged members, or the packed tiles are gone or others.
    """
    about = read_json(run / "run.json")
    split_digest = about["split_digest"]
    members = choose_top_k(open_members(run, split_digest=split_digest), top_k)
    val_labels = pd.read_csv(run / "validation.csv")["label"].to_numpy()
    val_rows = val_probabilities(members)
    threshold, val_f1 = best_threshold(val_labels, average_probabilities(val_rows))
    thresholds = [best_threshold(val_labels, row)[0] for row in val_rows]

    pack = open_pack(Path(about["pack_folder"]))
    if pack.about["split_digest"] != split_digest:
        raise InputError(f"{pack.folder} holds another split than the run's; search again")
    _note_opening(run, members, threshold)
    table = pack.table("test")
    rows, labels = table["row"].to_numpy(), table["label"].to_numpy()
    device = choose_device()
    scores = score_tiles(members, place_tiles(pack.pixels("test"), rows, labels, device))
    predictions = table[["tile", "photograph", "surface", "label"]].assign(
        **{f"trial_{member.trial}": row for member, row in zip(members, scores, strict=True)},
        ensemble=average_probabilities(scores),
    )
    metrics = {
        "ensemble": {
            **_figures(labels, predictions["ensemble"].to_numpy(), threshold),
            "val_f1": val_f1,
        },
        "members": [
            _member_figures(member, labels, row, own)
            for member, row, own in zip(members, scores, thresholds, strict=True)
        ],
        "best_single": _member_figures(members[0], labels, scores[0], thresholds[0]),
        "surfaces": {
            str(surface): {
                **_figures(part["label"].to_numpy(), part["ensemble"].to_numpy(), threshold),
                "num_tiles": len(part),
            }
            for surface, part in predictions.groupby("surface")
        },
        "num_test_tiles": len(table),
        "num_test_photographs": pack.about["num_photographs"]["test"],
        "split_by": pack.about["split_by"],
        "split_digest": split_digest,
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_code_and_machine(),
    }
    folder = run / "evaluation"
    write_text(folder / "predictions.csv", predictions.to_csv(index=False))
    write_json(folder / "metrics.json", metrics)
    return metrics


def _note_opening(run: Path, members: list[Member], threshold: float) -> None:
    """Write down that the test split is opened, with what, before it is."""
    path = run / "evaluation" / "ledger.csv"
    path.parent.mkdir(exist_ok=True)
    line = {
        "opened_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": "mean",
        "trials": " ".join(str(member.trial) for member in members),
        "threshold": threshold,
    }
    earlier = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(line))
    lines = [*earlier.to_dict("records"), line]
    write_text(path, pd.DataFrame(lines).to_csv(index=False))


def _figures(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "loss": log_loss(labels, probabilities),
        **threshold_metrics(labels, probabilities, threshold),
        **ranking_metrics(labels, probabilities),
        "threshold": threshold,
        "confusion_matrix": confusion_counts(labels, probabilities, threshold),
    }
    return {key: None if value != value else value for key, value in figures.items()}


def _member_figures(
    member: Member, labels: np.ndarray, probabilities: np.ndarray, threshold: float
) -> dict[str, Any]:
    return {
        "trial": member.trial,
        "backbone": member.record.config.model.backbone,
        "epoch": member.record.epoch,
        "val_f1": member.val_f1,
        **_figures(labels, probabilities, threshold),
    }


def print_table(metrics: dict[str, Any], console: Console) -> None:
    """Print ensemble, members and surfaces, a row each."""
    photographs = metrics["num_test_photographs"]
    of = f" of {photographs} photographs" if photographs else ""
    title = f"Test split: {metrics['num_test_tiles']:,} tiles{of}"
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in (
        "",
        "threshold",
        "val F1",
        *(column.replace("_", " ") for column in TABLE_COLUMNS),
    ):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    names = {"average precision": "AP", "roc auc": "AUC", "f1": "F1"}
    for column in table.columns:
        column.header = names.get(str(column.header), column.header)

    def add(name: str, figures: dict[str, Any], style: str | None = None) -> None:
        cells = [figures["threshold"], figures.get("val_f1"), *(figures[c] for c in TABLE_COLUMNS)]
        table.add_row(name, *("" if c is None else f"{c:.3f}" for c in cells), style=style)

    add("ensemble", metrics["ensemble"], "bold")
    best = metrics["best_single"]["trial"]
    for member in metrics["members"]:
        note = ", best single" if member["trial"] == best else ""
        add(f"trial {member['trial']} ({member['backbone']}{note})", member)
    if len(metrics["surfaces"]) > 1:
        table.add_section()
        for surface, figures in metrics["surfaces"].items():
            add(f"ensemble on surface {surface}", figures)
    console.print(table)


if __name__ == "__main__":
    run_command(main)
