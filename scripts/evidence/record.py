"""Keep a run's figures: `record.py RUN NAME` writes them to results/evidence/.

The table is generated from `evaluation/metrics.json`; beside it stands what it came from.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.door import run_command
from ensemble.base.files import (
    make_folder,
    read_json,
    read_object,
    read_table,
    write_json,
    write_table,
)
from ensemble.evaluation.figures import flat_row
from ensemble.run.folder import digests_of_weights
from ensemble.run.members import FINISHED_STATES, find_run

KEPT = (
    *("commit", "versions", "hardware", "evaluated_at", "split_digest", "split_by"),
    *("num_test_tiles", "num_test_photographs", "num_test_openings", "intervals"),
)


def main() -> None:
    """Write one row for the ensemble, each member and each surface, with intervals."""
    parser = run_parser("Keep the figures of an evaluated run.")
    parser.add_argument("name", help="name of the table")
    options = parser.parse_args()
    run = find_run(options.run, under=options.out)
    metrics, about = read_json(run / "evaluation" / "metrics.json"), read_json(run / "run.json")
    rows = [
        flat_row("ensemble", metrics["ensemble"]),
        *(flat_row(f"trial {m['trial']} ({m['backbone']})", m) for m in metrics["members"]),
        *(flat_row(f"ensemble on {name}", part) for name, part in metrics["surfaces"].items()),
    ]
    epochs = pd.read_csv(run / "epochs.csv")
    seconds = epochs["train_seconds"] + epochs["val_seconds"]
    origin = {
        "best_single_trial": metrics["best_single"]["trial"],
        "gain_over_best_single": metrics["gain_over_best_single"],
        "choice": {k: metrics["choice"][k] for k in ("method", "threshold_rule", "threshold")},
        "num_trials": int(epochs["trial"].nunique()),
        "num_epochs_trained": len(epochs),
        "training_and_validation_seconds": float(seconds.sum()),
        **describe_origin(about, metrics),
    }
    write_evidence(options.out / "evidence" / f"{options.name}.csv", pd.DataFrame(rows), origin)


def is_tested(run: Path, result: Path | None = None) -> bool:
    """Whether an evaluation is there, of the ensemble that a run has, chosen among all its trials.

    Args:
        run: Folder of the run.
        result: `metrics.json` of the evaluation, or of a judgement; None takes the evaluation's.
    """
    result, choice = result or run / "evaluation" / "metrics.json", run / "ensemble.json"
    if not result.exists() or not choice.exists():
        return False
    tested = read_object(result)["choice"]
    if read_object(choice) != tested:
        return False
    trials = read_table(run / "trials.csv", columns=("state",))
    return int(trials["state"].isin(FINISHED_STATES).sum()) == tested["num_finished"]


def run_parser(description: str) -> argparse.ArgumentParser:
    """A parser of a command that takes a run and writes to `results/evidence/`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run", help="name under --out, or a path")
    parser.add_argument("--out", type=Path, default=Path("results"), help="(default: results)")
    return parser


def describe_origin(about: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Seed, weights, code, machine and split of a test, from `run.json` and `metrics.json`."""
    return {
        "seed": about["seed"],
        "initial_weights": digests_of_weights(about["weights"]),
        **{key: metrics[key] for key in KEPT},
    }


def write_evidence(path: Path, table: pd.DataFrame, origin: dict[str, Any]) -> None:
    """Write a table as CSV and what it came from as JSON beside it, and print where."""
    make_folder(path.parent)
    write_table(path, table)
    write_json(path.with_suffix(".json"), origin)
    print(f"written: {path} and {path.with_suffix('.json').name}")


if __name__ == "__main__":
    run_command(main)
