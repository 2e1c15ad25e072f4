"""Text in our tables never becomes a formula in a spreadsheet, and is read back as it was."""

import csv
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.base.files import protect, read_table, unprotect, write_table
from ensemble.evaluation.mistakes import correct_labels, read_labels

NAMES = ["=1+1.jpg", "+1.jpg", "-1.jpg", "@SUM(A1).jpg", "\ta.jpg", "'=1.jpg", "''.jpg", "a=1", ""]


@settings(deadline=None)
@given(st.text(alphabet="'=+-@\t\r a1"))
def test_any_text_is_read_back_as_it_was_and_begins_no_formula(text: str) -> None:
    written = protect(pd.DataFrame({"tile": [text]})).loc[0, "tile"]
    assert written[:1] not in tuple("=+-@\t\r")
    assert unprotect(written) == text


def test_tables_hold_no_formula_and_are_read_back_as_they_were(tmp_path: Path) -> None:
    table = pd.DataFrame({"tile": NAMES, "label": [-1.5] * len(NAMES)})
    write_table(tmp_path / "table.csv", table)
    with (tmp_path / "table.csv").open(newline="") as file:
        cells = [row["tile"] for row in csv.DictReader(file)]
    assert [cell for cell in cells if cell[:1] in tuple("=+-@\t\r") and cell] == []
    assert cells[0] == "'=1+1.jpg"
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.csv", text=("tile",)), table)


def test_surface_called_na_is_a_name_and_an_empty_number_is_none(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("surface,f1\nNA,0.5\nnull,\n,NaN\n")
    table = read_table(path, text=("surface",))
    assert table["surface"].tolist() == ["NA", "null", ""]
    assert [math.isnan(value) for value in table["f1"]] == [False, True, True]


def test_corrected_labels_name_tiles_as_our_tables_write_them(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("tile,label\n'=1+1.jpg,1\n")
    tested = pd.DataFrame({"tile": ["=1+1.jpg", "b.jpg"], "label": [0, 0]})
    assert correct_labels(tested, read_labels(path)).tolist() == [1, 0]


@pytest.mark.parametrize("rows", [[], [{"tile": "a"}]])
def test_table_without_rows_is_written(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    write_table(tmp_path / "table.csv", pd.DataFrame(rows, columns=["tile"]))
    assert len(read_table(tmp_path / "table.csv", text=("tile",))) == len(rows)
