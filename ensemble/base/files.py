"""Reading and writing files. A file is written whole or not at all: synced, then renamed."""

import csv
import errno
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.errors import InputError, short_repr, writing
from ensemble.base.locks import lock

MAX_COLUMNS = 1000  # pandas takes minutes for a hundred thousand
# a missing number, as other programs write it
MISSING = ("", "NaN", "nan", "NA", "N/A", "None", "NULL", "null")
# text that a spreadsheet would run as a formula, which a foreign .zip may hold as a name of a file
# (https://owasp.org/www-community/attacks/CSV_Injection), and such text as it is written here
_FORMULA, _WRITTEN_FORMULA = re.compile(r"'*[=+\-@\t\r]"), re.compile(r"'+[=+\-@\t\r]")
MAX_TOML_BYTES = 32 * 1024  # parsing a dotted key takes time quadratic in its length


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which becomes `path` at the end.

    After an exception nothing is left of it, and an older `path` is unchanged.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            yield temporary
            sync_file(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, if they are missing.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove_file(path: Path) -> None:
    """Remove a file, if it exists.

    Raises:
        CannotWriteError: The file cannot be removed.
    """
    with writing(path):
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Make the content of a file survive a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_content_addressed(folder: Path, stem: str, suffix: str, data: bytes) -> tuple[str, str]:
    """Write `data` to a file of `folder` that is named by its content.

    Returns:
        Its name, `<stem>-<8 digits of the digest>.<suffix>`, and its SHA-256.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{stem}-{sha256[:8]}.{suffix}"
    with atomic_write(folder / name) as path:
        path.write_bytes(data)
    return name, sha256


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str, *, header: str) -> None:
    """Append a line to a file that only grows, in one write that survives a power cut.

    Args:
        path: Path of the file; made with its header if missing or empty.
        line: Line without line break.
        header: First line of the file, without line break.

    Raises:
        CannotWriteError: The disk does not take it; nothing is appended then.
    """
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            lock(descriptor)
            size = os.fstat(descriptor).st_size
            is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            start = "\n" * is_torn if size else f"{header}\n"
            data = f"{start}{line}\n".encode()
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not size:
            sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        InputError: The file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error})") from None


def read_object(path: Path, **keys: type) -> dict[str, Any]:
    """Read a JSON object that has `keys` with values of these types.

    Raises:
        InputError: The file is missing, unreadable or something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: damaged (expected an object, but got {short_repr(value)})")
    for key, kind in keys.items():
        if not isinstance(value.get(key), kind):
            raise InputError(
                f"{path}: damaged ({key} must be {kind.__name__}, "
                f"but got {short_repr(value.get(key))})"
            )
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a small TOML file.

    Raises:
        InputError: The file is missing, unreadable, too large or not TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOML_BYTES + 1)
        if len(content) > MAX_TOML_BYTES:
            raise InputError(f"{path}: at most {MAX_TOML_BYTES:,} bytes are read, it has more")
        return tomllib.loads(content.decode())
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable TOML file ({error})") from None


def find_toml(given: str, folder: Path, *, what: str, other: tuple[Path, str]) -> Path:
    """A TOML file by its path, or by its name in `folder`.

    Args:
        given: Path or name, without the suffix.
        folder: Folder of the files that have names.
        what: Option or kind of file that the message names.
        other: Folder of files of another kind, and what the message says of one that is named.

    Raises:
        InputError: There is no such file, it is one of the other kind, or it cannot be looked at.
    """
    try:
        if Path(given).is_file():
            return Path(given)
    except OSError as error:
        raise InputError(f"{what} {given}: cannot be read ({error.strerror})") from None
    known, others = (
        sorted(path.stem for path in each.glob("*.toml")) for each in (folder, other[0])
    )
    if given in others and given not in known:
        raise InputError(f"{what} {given}: is {other[1]}")
    if given not in known:
        raise InputError(f"{what} {given}: no such file, nor one of {', '.join(known)}")
    return folder / f"{given}.toml"


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV; text that a spreadsheet would run as a formula is protected."""
    write_text(path, protect(table).to_csv(index=False))


def table_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as JSON takes them: plain numbers, and None where there is nothing."""
    plain = table.astype(object).where(table.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in plain.to_dict("records")]


def read_table(
    path: Path, *, columns: Sequence[str] = (), text: Sequence[str] = ()
) -> pd.DataFrame:
    """Read CSV with a header; an empty file is a table without columns.

    Args:
        path: Path of the file.
        columns: Columns that must exist.
        text: Columns that are text, even if they hold numbers or NA; an empty cell is "".

    Raises:
        InputError: The file is missing or not CSV, a row is not as long as the header, or a column
            is missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            width = len(header)
            if width > MAX_COLUMNS:
                raise InputError(f"{path} has {width:,} columns, more than {MAX_COLUMNS:,}")
            for row in rows:
                if row and len(row) != width:
                    raise InputError(
                        f"{path}, line {rows.line_num}: {len(row)} cells under {width} columns"
                    )
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(text, str),
            index_col=False,
            keep_default_na=False,  # a surface may be called NA
            na_values={name: MISSING for name in header if name not in text},
        )
    except pd.errors.EmptyDataError:
        table = pd.DataFrame()
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error})") from None
    for name in columns:
        if name not in table:
            raise InputError(f"{path} has no column {short_repr(name)}")
    texts = [name for name in text if name in table]
    return table.assign(**{name: table[name].map(unprotect) for name in texts})


def protect(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with an apostrophe before text that a spreadsheet would run."""
    return table.map(_protect_cell) if len(table) else table


def unprotect(text: str) -> str:
    """Return the text that `protect` wrote as `text`."""
    return text[1:] if _WRITTEN_FORMULA.match(text) else text


def _protect_cell(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
