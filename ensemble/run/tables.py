"""Tables of a run: `epochs.csv`, a row per epoch of a trial, and `trials.csv`, a row per trial."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_table, write_table, write_text

TEXT = ("name", "reason", "backbone", "state")


class RunTables:
    """Writes `epochs.csv` and `trials.csv`, each time the whole file.

    Args:
        folder: Folder of the run; epochs in its table are read.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._epochs: dict[int, list[dict[Any, Any]]] = {}  # by trial, in their order
        self._columns: dict[Any, None] = {}
        self._texts: dict[int, str] = {}  # lines by trial, kept as only one trial changes at a time
        path = folder / "epochs.csv"
        if path.exists():
            for row in read_table(path, columns=("trial", "epoch")).to_dict("records"):
                self._epochs.setdefault(row["trial"], []).append(row)
                self._columns |= dict.fromkeys(row)

    def add_epoch(self, number: int, backbone: str, row: dict[str, Any]) -> None:
        """Add an epoch; it replaces the epochs of an earlier attempt from its number on."""
        before = [old for old in self.epochs_of(number) if old["epoch"] < row["epoch"]]
        row = {"trial": number, "backbone": backbone, **row}
        self._epochs[number] = [*before, row]
        self._texts.pop(number, None)
        if row.keys() - self._columns.keys():
            self._columns |= dict.fromkeys(row)
            self._texts.clear()
        self.write_epochs()

    def write_epochs(self) -> None:
        """Replace `epochs.csv`, if there is an epoch."""
        if not self._epochs:
            return
        head = pd.DataFrame(columns=list(self._columns)).to_csv(index=False)
        text = head + "".join(self._text_of(trial) for trial in sorted(self._epochs))
        write_text(self._folder / "epochs.csv", text)

    def _text_of(self, number: int) -> str:
        """Return the lines of a trial in the table."""
        if number not in self._texts:
            rows = pd.DataFrame(self._epochs[number], columns=list(self._columns))
            self._texts[number] = rows.to_csv(index=False, header=False)
        return self._texts[number]

    def epochs_of(self, number: int) -> list[dict[Any, Any]]:
        """Return the rows of a trial."""
        return self._epochs.get(number, [])

    def backbone_of(self, number: int) -> str:
        """Return the backbone of a trial, or "" if it has no epoch."""
        epochs = self.epochs_of(number)
        return str(epochs[0]["backbone"]) if epochs else ""

    def describe_trial(
        self, number: int, state: str, *, reason: str, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the row of a trial: state, best F1, cost, reason of a failure, and settings."""
        epochs = self.epochs_of(number)
        best = max(epochs, key=lambda row: row["val_f1"], default=None)
        return {
            "trial": number,
            "state": state,
            "val_f1": best["val_f1"] if best else None,
            "best_epoch": best["epoch"] if best else None,
            "epochs": len(epochs),
            "seconds": sum(row["train_seconds"] + row["val_seconds"] for row in epochs),
            "reason": reason,
            "backbone": self.backbone_of(number) or None,
            **settings,
        }

    def write_trial_rows(self, rows: Iterable[dict[Any, Any]]) -> None:
        """Replace `trials.csv`."""
        write_table(self._folder / "trials.csv", pd.DataFrame(list(rows)))

    def read_trial_rows(self) -> list[dict[Any, Any]]:
        """Read the rows of `trials.csv`; none if it is missing.

        Raises:
            InputError: The table is damaged.
        """
        path = self._folder / "trials.csv"
        if not path.exists():
            return []
        table = read_table(path, columns=("trial", "state"), text=TEXT)
        if not pd.api.types.is_integer_dtype(table["trial"]):
            raise InputError(f"{path}: damaged (a trial is no whole number)")
        return table.to_dict("records")
