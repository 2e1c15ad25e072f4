"""Text in CSV files that a spreadsheet would run as a formula.

A file in a foreign .zip may be called `=HYPERLINK(…)`. Such text is written with an apostrophe
before it (https://owasp.org/www-community/attacks/CSV_Injection) and read back without it.
"""

import re
from typing import Any

import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_WRITTEN = re.compile(r"'+[=+\-@\t\r]")


def protect(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with an apostrophe before text that a spreadsheet would run."""
    return table.map(_protect_cell) if len(table) else table


def unprotect(text: str) -> str:
    """Return the text that `protect` wrote as `text`."""
    return text[1:] if _WRITTEN.match(text) else text


def _protect_cell(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
