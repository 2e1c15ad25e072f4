"""CSV files in which a person says something of tiles: one row a tile, by its name."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from ensemble.base.cells import unprotect
from ensemble.base.errors import InputError, short_repr


def read_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the cells of each row, without outer spaces; other columns are ignored.

    Args:
        path: CSV file with a header.
        columns: Columns that must be there, once each.
        optional: Columns that may be there.

    Raises:
        InputError: The file is missing or no CSV, or a column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = list(reader.fieldnames or [])
            for name in columns:
                if found.count(name) != 1:
                    raise InputError(
                        f"{path}, line 1: one column {name!r} is needed, but its columns are "
                        f"{', '.join(found)[:200] or 'missing'}; write {','.join(columns)} "
                        "(with commas)"
                    )
            kept = [*columns, *(name for name in optional if name in found)]
            for row in reader:
                cells = {name: unprotect((row[name] or "").strip()) for name in kept}
                yield reader.line_num, cells
    except FileNotFoundError:
        raise InputError(f"{path} cannot be read as CSV: there is no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error})") from None


def read_tile_list(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), *, tiles: Sequence[str]
) -> dict[str, dict[str, str]]:
    """What a list says of tiles, by their names.

    Args:
        path: CSV file with a column `tile` and those that are asked for.
        columns: Columns that must be there and filled.
        optional: Columns that may be there.
        tiles: Names of the tiles there are; rows of others are ignored.

    Raises:
        InputError: The file cannot be read, names none of the tiles, leaves a cell empty, or says
            two things of one tile.
    """
    known = set(tiles)
    said: dict[str, dict[str, str]] = {}
    first = None
    for line, row in read_rows(path, ("tile", *columns), optional):
        tile = row.pop("tile")
        first = first or tile
        if tile not in known:
            continue
        for name in columns:
            if not row[name]:
                raise InputError(
                    f"{path}, line {line}: tile {short_repr(tile)} has no {name}; give one"
                )
        if said.setdefault(tile, row) != row:
            raise InputError(
                f"{path}, line {line}: tile {short_repr(tile)} stands further up with something "
                "else; keep one row"
            )
    if not said:
        example = min(known, default="D/CD/7001-1.jpg")
        raise InputError(
            f"{path}: none of its tiles is among the {len(known):,} of the data (its first is "
            f"{short_repr(first or '')}); write tiles as paths inside the data, such as "
            f"{short_repr(example)}"
        )
    return said
