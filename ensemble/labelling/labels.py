"""Labels of tiles that a person gave on pages, from the CSV files that the pages saved.

The pages of `cut` and those of `inspect` save one format, a row for each tile: `picture`, `tile`,
its box in pixels of the upright picture, and `label`, 1 where there is a crack.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ensemble.base.errors import InputError, short_repr
from ensemble.data.grid import UNKNOWN, number_of
from ensemble.data.layout import read_rows
from ensemble.inspection.photograph import BOX

LABELS = ("0", "1")
SAVED = ("picture", "tile", *BOX, "label")  # columns of a file that the pages saved


def read_labels(files: Sequence[Path]) -> pd.DataFrame:
    """Read every label of these files, in their order.

    Args:
        files: CSV files that pages saved.

    Returns:
        `picture` and `tile` (text), `left_px`, `top_px`, `width_px`, `height_px` and `label`
        (int64), and `where` (file and line, for messages); more than one row where several labels
        are of one tile.

    Raises:
        InputError: A file is missing or no CSV, a column is missing, a box or a label is none, or
            there is no row.
    """
    rows: list[dict[str, str | int]] = []
    for path in files:
        for line, cells in read_rows(path, SAVED):
            where = f"{path}, line {line}"
            rows.append({**_check(cells, where), "where": where})
    if not rows:
        raise InputError(f"{files[0]}: has no label")
    return pd.DataFrame(rows)


def _check(cells: dict[str, str], where: str) -> dict[str, str | int]:
    """The cells of a row with their numbers.

    Raises:
        InputError: No picture is named, or a box or a label is none.
    """
    if not cells["picture"]:
        raise InputError(f"{where}: names no picture")
    if cells["label"] not in LABELS:
        raise InputError(
            f"{where}: the label must be 0 or 1 (cracked), but got {short_repr(cells['label'])}"
        )
    numbers = {name: number_of(cells[name]) for name in BOX}
    for name, number in numbers.items():
        if number == UNKNOWN:
            raise InputError(
                f"{where}: {name} must be a whole number from 0 to 999999, but got "
                f"{short_repr(cells[name])}"
            )
    named = {name: cells[name] for name in ("picture", "tile")}
    return {**named, **numbers, "label": int(cells["label"])}
