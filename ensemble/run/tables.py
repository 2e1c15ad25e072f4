"""The run's tables: one row a trial and epoch, and one row a trial."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_table, write_table, write_text

TEXT = ("name", "reason", "backbone", "state")


class RunTables:
    """Writes `epochs.csv` and `trials.csv` whole each time, from what is known so far.

    Args:
        folder: Folder of the run; the epochs that its table holds are known.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._epochs: dict[int, list[dict[Any, Any]]] = {}  # by trial, in their order
        self._columns: dict[Any, None] = {}
        self._texts: dict[int, str] = {}  # of the table, by trial: only one changes at a time
        path = folder / "epochs.csv"
        if path.exists():
            for row in read_table(path, columns=("trial", "epoch")).to_dict("records"):
                self._epochs.setdefault(row["trial"], []).append(row)
                self._columns |= dict.fromkeys(row)

    def add_epoch(self, number: int, backbone: str, row: dict[str, Any]) -> None:
        """Add an epoch; a trial that started again replaces what it had from there on."""
        before = [old for old in self.epochs_of(number) if old["epoch"] < row["epoch"]]
        row = {"trial": number, "backbone": backbone, **row}
        self._epochs[number] = [*before, row]
        self._texts.pop(number, None)
        if row.keys() - self._columns.keys():
            self._columns |= dict.fromkeys(row)
            self._texts.clear()
        self.write_epochs()

    def write_epochs(self) -> None:
        """Replace `epochs.csv`, once there is an epoch."""
        if not self._epochs:
            return
        head = pd.DataFrame(columns=list(self._columns)).to_csv(index=False)
        text = head + "".join(self._text_of(trial) for trial in sorted(self._epochs))
        write_text(self._folder / "epochs.csv", text)

    def _text_of(self, number: int) -> str:
        """The lines of a trial in the table."""
        if number not in self._texts:
            rows = pd.DataFrame(self._epochs[number], columns=list(self._columns))
            self._texts[number] = rows.to_csv(index=False, header=False)
        return self._texts[number]

    def epochs_of(self, number: int) -> list[dict[Any, Any]]:
        """The rows of a trial."""
        return self._epochs.get(number, [])

    def backbone_of(self, number: int) -> str:
        """The backbone of a trial that has an epoch; "" of another one."""
        epochs = self.epochs_of(number)
        return str(epochs[0]["backbone"]) if epochs else ""

    def describe_trial(
        self, number: int, state: str, *, reason: str, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """The row of a trial: state, best F1, cost, why it failed if it did, and its settings."""
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
        """The rows of `trials.csv`; none where it is missing.

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
