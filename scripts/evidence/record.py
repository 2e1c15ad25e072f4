"""Keep a run's figures: `record.py RUN NAME` writes them to results/evidence/.

The table is generated from `evaluation/metrics.json`; beside it stands what it came from.
"""

import argparse
from pathlib import Path

import pandas as pd

from ensemble.base.door import run_command
from ensemble.base.files import read_json, write_json, write_text
from ensemble.evaluation.figures import flat_row
from ensemble.run.members import find_run

PROVENANCE = ("commit", "versions", "hardware", "evaluated_at", "split_digest", "split_by")


def main() -> None:
    """Write one row for the ensemble, each member and each surface, with intervals."""
    parser = argparse.ArgumentParser(description="Keep the figures of an evaluated run.")
    parser.add_argument("run", help="name under --out, or a path")
    parser.add_argument("name", help="of the table")
    parser.add_argument("--out", type=Path, default=Path("results"), help="(default: results)")
    options = parser.parse_args()
    run = find_run(options.run, under=options.out)
    metrics, about = read_json(run / "evaluation" / "metrics.json"), read_json(run / "run.json")
    rows = [
        flat_row("ensemble", metrics["ensemble"]),
        *(flat_row(f"trial {m['trial']} ({m['backbone']})", m) for m in metrics["members"]),
        *(flat_row(f"ensemble on {name}", part) for name, part in metrics["surfaces"].items()),
    ]
    epochs = pd.read_csv(run / "epochs.csv")
    folder = options.out / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{options.name}.csv", pd.DataFrame(rows).to_csv(index=False))
    write_json(
        folder / f"{options.name}.json",
        {
            "best_single_trial": metrics["best_single"]["trial"],
            "gain_over_best_single": metrics["gain_over_best_single"],
            "num_test_tiles": metrics["num_test_tiles"],
            "num_test_photographs": metrics["num_test_photographs"],
            "num_test_openings": metrics["num_test_openings"],
            "intervals": metrics["intervals"],
            "choice": {k: metrics["choice"][k] for k in ("method", "threshold_rule", "threshold")},
            "seed": about["seed"],
            "initial_weights": {b: w["digest"] for b, w in about["weights"].items()},
            "num_trials": int(epochs["trial"].nunique()),
            "num_epochs_trained": len(epochs),
            "training_and_validation_seconds": float(
                (epochs["train_seconds"] + epochs["val_seconds"]).sum()
            ),
            **{key: metrics[key] for key in PROVENANCE},
        },
    )
    print(f"written: {folder / options.name}.csv and .json")


if __name__ == "__main__":
    run_command(main)
