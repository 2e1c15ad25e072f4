"""What a person states about a data set: options, and CSV files with a row for each tile."""

import argparse
import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.base.errors import InputError, short_repr
from ensemble.base.files import unprotect
from ensemble.data.grid import file_stem


@dataclass(frozen=True)
class Layout:
    """How a folder or .zip of tiles is to be read.

    Attributes:
        positive: Name of the folder of cracked tiles; None to recognise it by its name.
        photographs: Source of the photograph of each tile: a CSV file, `folders`, `none`, or None
            for names as SDNET2018's.
        photograph_pattern: Regular expression with a group `photograph`, in place of that.
        exclude: Folders inside the data that are left out.
        labels: CSV file of corrected labels.
        keeps_split: Whether folders called train, val and test are kept as the split.
    """

    positive: str | None = None
    photographs: str | None = None
    photograph_pattern: str | None = None
    exclude: tuple[str, ...] = ()
    labels: Path | None = None
    keeps_split: bool = False


def layout_of(options: argparse.Namespace) -> Layout:
    """The layout that the options of a command state; one without `--split` splits nothing."""
    return Layout(
        positive=options.positive,
        photographs=options.photographs,
        photograph_pattern=options.photograph_pattern,
        exclude=tuple(options.exclude),
        labels=options.labels,
        keeps_split=vars(options).get("split") == "folders",
    )


def read_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells of each row, without outer spaces; other columns are ignored.

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
            header = list(reader.fieldnames or [])
            for name in columns:
                if header.count(name) != 1:
                    raise InputError(
                        f"{path}, line 1: one column {name!r} is needed, but its columns are "
                        f"{', '.join(header)[:200] or 'missing'}; write {','.join(columns)} "
                        "(with commas)"
                    )
            kept = [*columns, *(name for name in optional if name in header)]
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
    """Read the cells of a CSV file by the name of the tile.

    Args:
        path: CSV file with a column `tile` and `columns`, and perhaps `picture`, as the
            corrections that `inspect` saves; see `name_tile`.
        columns: Columns that must be there and filled.
        optional: Columns that may be there.
        tiles: Names of the tiles of the data; rows of others are ignored.

    Raises:
        InputError: The file cannot be read, names none of the tiles, leaves a cell empty, has two
            different rows for one tile, or a picture's name stands for several tiles.
    """
    known, by_stem = set(tiles), None
    rows: dict[str, dict[str, str]] = {}
    first = None
    for line, row in read_rows(path, ("tile", *columns), (*optional, "picture")):
        tile, picture = row.pop("tile"), row.pop("picture", "")
        if picture:
            by_stem = by_stem or index_stems(tiles)
            name = name_tile(picture, tile)
            tile = find_tile(name, by_stem, where=f"{path}, line {line}") or name
        first = first or tile
        if tile not in known:
            continue
        for name in columns:
            if not row[name]:
                raise InputError(
                    f"{path}, line {line}: tile {short_repr(tile)} has no {name}; give one"
                )
        if rows.setdefault(tile, row) != row:
            raise InputError(
                f"{path}, line {line}: tile {short_repr(tile)} stands further up with something "
                "else; keep one row"
            )
    if not rows:
        example = min(known, default="D/CD/7001-1.jpg")
        raise InputError(
            f"{path}: none of its tiles is among the {len(known):,} of the data (its first is "
            f"{short_repr(first or '')}); write tiles as paths inside the data, such as "
            f"{short_repr(example)}"
        )
    return rows


def name_tile(picture: str, tile: str) -> str:
    """The name that a tile of a picture has in a data set, without its folders there.

    Args:
        picture: Name of the picture, as `inspect` writes it, such as `photos/wall.jpg`.
        tile: Name of the tile in it, such as `r2-c3`; empty where the picture is one tile.

    Returns:
        `photos/wall-r2-c3.jpg`; `photos/wall.jpg` where the picture is one tile.
    """
    if not tile:
        return picture
    folders, slash, name = picture.rpartition("/")
    stem = file_stem(name)
    return f"{folders}{slash}{stem}-{tile}{name[len(stem) :]}"


def index_stems(tiles: Iterable[str]) -> dict[str, list[str]]:
    """The tiles of a data set by the names of their files without suffix, for `find_tile`."""
    by_stem: dict[str, list[str]] = {}
    for tile in tiles:
        by_stem.setdefault(file_stem(tile), []).append(tile)
    return by_stem


def find_tile(name: str, by_stem: dict[str, list[str]], *, where: str) -> str | None:
    """The tile of a data set that a person corrected, None where it is not there.

    Its file is called alike, whatever the suffix, and of several such, its path ends the name.

    Args:
        name: Name from `name_tile`.
        by_stem: Tiles of the data, as `index_stems` gives them.
        where: File and line, for the message.

    Raises:
        InputError: It may be several.
    """
    found = by_stem.get(file_stem(name), [])
    if len(found) > 1:
        found = [tile for tile in found if f"/{name}".endswith(f"/{tile}")] or found
    if len(found) > 1:
        shown = ", ".join(sorted(found)[:3])
        raise InputError(
            f"{where}: {short_repr(name)} may be {len(found)} tiles of the data ({shown}); write "
            "a column tile with the path inside the data, and no column picture"
        )
    return found[0] if found else None
