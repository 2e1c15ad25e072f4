"""The run's tables: one row a trial and epoch, and one row a trial."""

from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from ensemble.files import read_table, write_text


class RunTables:
    """Writes `epochs.csv` and `trials.csv` whole each time, from what is known so far."""

    def __init__(self, folder: Path):
        self._folder = folder
        path = folder / "epochs.csv"
        self._epochs: list[dict[Any, Any]] = (
            read_table(path, columns=("trial", "epoch")).to_dict("records") if path.exists() else []
        )

    def add_epoch(self, number: int, backbone: str, row: dict[str, Any]) -> None:
        """Add an epoch; a trial that started again replaces what it had from there on."""
        self._epochs = [
            old for old in self._epochs if old["trial"] != number or old["epoch"] < row["epoch"]
        ]
        self._epochs.append({"trial": number, "backbone": backbone, **row})
        table = pd.DataFrame(self._epochs).sort_values(["trial", "epoch"])
        write_text(self._folder / "epochs.csv", table.to_csv(index=False))

    def write_trials(self, study: optuna.Study) -> None:
        """One row a trial of the study: state, reason, best F1, cost and parameters."""
        rows = []
        for trial in study.get_trials(deepcopy=False):
            if not trial.params:
                continue  # a start point that waits for its turn
            epochs = [row for row in self._epochs if row["trial"] == trial.number]
            best = max(epochs, key=lambda row: row["val_f1"], default=None)
            rows.append(
                {
                    "trial": trial.number,
                    "state": trial.state.name,
                    "val_f1": best["val_f1"] if best else None,
                    "best_epoch": best["epoch"] if best else None,
                    "epochs": len(epochs),
                    "seconds": sum(row["train_seconds"] + row["val_seconds"] for row in epochs),
                    "reason": trial.user_attrs.get("reason", ""),
                    "backbone": epochs[0]["backbone"] if epochs else None,
                    **trial.params,
                }
            )
        write_text(self._folder / "trials.csv", pd.DataFrame(rows).to_csv(index=False))
