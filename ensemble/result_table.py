"""The result of a test as a table on the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "average_precision": "AP",
    "roc_auc": "AUC",
    "accuracy": "accuracy",
    "loss": "loss",
}
WITH_INTERVAL = ("f1", "average_precision")


def print_result(metrics: dict[str, Any], console: Console) -> None:
    """Print ensemble, members and surfaces, a row each, and what the comparison says."""
    photographs = metrics["num_test_photographs"]
    of = f" of {photographs} photographs" if photographs else ""
    table = Table(
        title=f"Test split: {metrics['num_test_tiles']:,} tiles{of}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("")
    for name in ("threshold", "val F1", *COLUMNS.values()):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, figures: dict[str, Any], style: str | None = None) -> None:
        cells = [_number(figures["threshold"]), _number(figures.get("val_f1"))]
        for metric in COLUMNS:
            bounds = figures["intervals"][metric]
            cell = _number(figures[metric])
            if metric in WITH_INTERVAL and bounds["low"] is not None:
                cell += f" [{bounds['low']:.2f}, {bounds['high']:.2f}]"
            cells.append(cell)
        table.add_row(name, *cells, style=style)

    choice = metrics["choice"]
    add(f"ensemble ({choice['method']} of {_count(choice)})", metrics["ensemble"], "bold")
    for member in metrics["members"]:
        single = member["trial"] == metrics["best_single"]["trial"]
        note = ", best single" if single else ""
        add(f"trial {member['trial']} ({member['backbone']}{note})", member)
    if len(metrics["surfaces"]) > 1:
        table.add_section()
        for surface, figures in metrics["surfaces"].items():
            add(f"ensemble on surface {surface}", figures)
    console.print(table)
    reached = choice["val_metrics"]
    console.print(
        f"threshold by {choice['threshold_rule']}: precision {reached['precision']:.3f} and recall "
        f"{reached['recall']:.3f} on validation",
        highlight=False,
    )
    if "relabelled" in metrics:
        new = metrics["relabelled"]
        console.print(
            f"on corrected labels ({new['num_changed']} changed): F1 {_number(new['f1'])}, "
            f"precision {_number(new['precision'])}, recall {_number(new['recall'])}",
            highlight=False,
        )
    for score in choice["methods"]:
        console.print(
            f"cross-validation of {score['method']}: F1 {score['inner_f1']:.3f} on the validation "
            f"photographs it chose with, {score['outer_f1']:.3f} on those left out",
            highlight=False,
        )
    gain = metrics["gain_over_best_single"]["f1"]
    if gain["difference"] is not None:
        span = "" if gain["low"] is None else f" [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        line = f"F1 minus the best single member's: {gain['difference']:+.3f}{span}"
        console.print(f"{line}, {gain['verdict']}", highlight=False, markup=False)
    console.print(metrics["intervals"], highlight=False)
    if metrics["leaky_split"]:
        console.print(
            "LEAKY SPLIT: tiles of one photograph stand in train and test; this shows what leakage "
            "is worth and is no result",
            style="bold red",
        )
    elif metrics["split_by"] != "photograph":
        console.print(
            "split by content: tiles of one photograph may be in train and test, so leakage cannot "
            "be ruled out",
            style="bold",
        )
    openings = metrics["num_test_openings"]
    console.print(f"the test split of this run was opened {openings} time{'s' * (openings > 1)}")


def _count(choice: dict[str, Any]) -> int:
    return len(choice["ingredients"]) or len(choice["members"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
