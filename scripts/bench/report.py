"""The benchmark's files: a row is written as soon as it is known."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from bench.row import Row
from ensemble.base.files import read_object, read_table, write_json, write_text


class Report:
    """`<path>.csv`, `.json` and `.md`: figures, what each part was measured on, a table for people.

    What a part had there is replaced with its first new row; other parts stay. So a long benchmark
    may be measured part by part, and a killed one costs the part it was in.

    Args:
        path: Path of the .csv file; its folder is made.
        parts: All there are, in their order in the table.
        about: What this run of the benchmark measures on.
    """

    def __init__(self, path: Path, parts: Sequence[str], about: dict[str, Any]):
        self._path, self._parts, self._about = path, parts, about
        self._rows: dict[str, list[Row]] = {}
        self._known: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            table = read_table(path, columns=[*Row.__dataclass_fields__], text=("target",))
            for values in table.itertuples():
                found = {name: getattr(values, name) for name in Row.__dataclass_fields__}
                self._rows.setdefault(found["part"], []).append(Row(**found))
            self._known = read_object(path.with_suffix(".json"))
        self._begun: set[str] = set()

    def add(self, row: Row) -> None:
        """Write the files anew, with this row."""
        if row.part not in self._begun:
            self._begun.add(row.part)
            self._rows[row.part] = []
        self._rows[row.part].append(row)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._known[row.part] = {"measured_at": now, **self._about}
        rows = [row for part in self._parts for row in self._rows.get(part, [])]
        table = pd.DataFrame([{**asdict(row), "verdict": row.verdict} for row in rows])
        write_json(self._path.with_suffix(".json"), self._known)  # read where there is a table
        write_text(self._path, table.to_csv(index=False))
        write_text(self._path.with_suffix(".md"), _markdown(rows))


def _markdown(rows: Sequence[Row]) -> str:
    lines = ["| what | measured | target |", "| --- | --- | --- |"]
    for row in rows:
        unit = "" if row.unit == "ratio" else f" {row.unit}"
        asked = row.target.replace(">=", "≥").replace("<=", "≤")
        lines.append(f"| {row.part}: {row.what} | {row.value:.3g}{unit} | {asked} {row.verdict} |")
    return "\n".join(lines) + "\n"
