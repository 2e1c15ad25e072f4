"""What a run knows of tiles and photographs: its split, and whether a picture is one of its own.

A picture is known by its bytes: as a tile of the run, or as a photograph whose tiles `cut` or
`learn-from` wrote, which record its digest. One that is only called like a photograph of the run
may be that or another, which nobody can tell.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_object
from ensemble.data.grid import PLACE, UNKNOWN, file_stem
from ensemble.data.pack import open_pack
from ensemble.data.photographs import read_name
from ensemble.data.reading.listing import CUT_FILE
from ensemble.data.split import SPLITS
from ensemble.labelling.cutting import plain_stem, read_cut
from ensemble.labelling.labelled import CLASSES, TILES
from ensemble.labelling.record import LEARNED_FILE, read_record
from ensemble.run.members import name_run, read_tile_size
from ensemble.run.pack import find_pack

PLACE_IN_NAME = re.compile(r"(?:.*[-_])?r(\d+(?:\.\d+)?)[-_]?c(\d+(?:\.\d+)?)(?:_\d+)?", re.I)
COLUMNS = ["tile", "photograph", "surface", "label", "content", *PLACE]
USED = {"train": "trained on", "val": "chosen on", "test": "tested on"}


class Home(NamedTuple):
    """The place of the tiles of a photograph of the run.

    Attributes:
        photograph: Name of the photograph; empty where the run knows of none.
        split: Split of the run that it is in.
        surface: Surface that it shows.
        tile: Number of the tile that the picture is; None where it is a whole photograph.
    """

    photograph: str
    split: str
    surface: str
    tile: int | None = None


class KnownTiles(NamedTuple):
    """The tiles of a run.

    Attributes:
        name: Name of the run.
        split_digest: Digest of its split.
        tile_size_px: (height, width) of a tile.
        data: Folder or .zip that holds the tiles; None for an exported ensemble, which has none.
        table: One row a tile: `tile` (path inside the data), `photograph`, `surface`, `label`,
            `content`, row and column, `split`, and `file`, its path in a data set that keeps the
            split in folders.
        photographs: Digest of a photograph's file → its name in the table.
    """

    name: str
    split_digest: str
    tile_size_px: tuple[int, int]
    data: Path | None
    table: pd.DataFrame
    photographs: dict[str, str]

    @property
    def has_photographs(self) -> bool:
        """Whether tiles are grouped by the photograph that they were cut from."""
        return self.table.empty or bool((self.table["photograph"] != "").all())

    def find_home(self, sha256: str, content: str) -> Home | None:
        """The place of a picture of the run, by digests of its file; None if it is another one.

        Args:
            sha256: SHA-256 of the file.
            content: BLAKE2b of the file, as a pack's tables hold it.
        """
        tiles = self.table[self.table["content"] == content]
        if not tiles.empty:
            number = tiles.index[0]
            row = tiles.loc[number]
            return Home(row["photograph"], row["split"], row["surface"], int(number))
        name = self.photographs.get(sha256)
        tiles = self.table[self.table["photograph"] == name] if name else tiles
        return None if tiles.empty else Home(str(name), *tiles.iloc[0][["split", "surface"]])

    def find_namesake(self, picture: str) -> tuple[str, str] | None:
        """A photograph of the run that is called like a picture, and its split; the test's first.

        Args:
            picture: Name of the picture, as a person gave it.
        """
        stem = PurePosixPath(picture).stem
        names = {each.casefold() for each in (stem, plain_stem(picture), read_name(stem)[0])} - {""}
        known = self.table[["photograph", "split"]].drop_duplicates()
        whole, last = (
            known["photograph"].map(change)
            for change in (str.casefold, lambda name: name.rpartition("/")[2].casefold())
        )
        known = known[whole.isin(names) | last.isin(names)].sort_values("split")
        return None if known.empty else tuple(known.iloc[0])

    def find_tile(self, home: Home, tile: str) -> int | None:
        """Number of the run's tile at a place of one of its photographs; None if it has none there.

        Args:
            home: The photograph.
            tile: Name of the place, such as `r2-c3`; empty where the picture is one tile.
        """
        if home.tile is not None and not tile:
            return home.tile
        mine = self.table[self.table["photograph"] == home.photograph] if home.photograph else None
        if mine is None:
            return None
        if not tile:
            return int(mine.index[0]) if len(mine) == 1 else None
        place = read_place(tile)
        for number, name in zip(mine.index, mine["tile"], strict=True):
            if place is not None and read_place(file_stem(name)) == place:
                return int(number)
        return None

    def place_of(self, home: Home | None, tile: str) -> tuple[int, int]:
        """Row and column from 0 of a tile of the grid, counted as the run counts them.

        Args:
            home: Photograph of the run; None for another one.
            tile: Name of the tile, with whole numbers of row and column.

        Returns:
            -1 twice where it is not known how the run counts.
        """
        place = read_place(tile)
        if place is None:
            return UNKNOWN, UNKNOWN
        row, column = (int(number) for number in place)
        if home is None:
            return row - 1, column - 1
        mine = self.table[self.table["photograph"] == home.photograph]
        for _, known in mine[mine[PLACE[0]] >= 0].iterrows():
            if named := read_place(file_stem(known["tile"])):
                down, right = (int(known[part]) - n for part, n in zip(PLACE, named, strict=True))
                return int(row + down), int(column + right)
        return UNKNOWN, UNKNOWN


def read_place(name: str) -> tuple[float, float] | None:
    """Row and column at the end of a name without suffix, as in `r2.5-c1`; None if none."""
    match = PLACE_IN_NAME.fullmatch(name)
    return (float(match[1]), float(match[2])) if match else None


def read_known_tiles(run: Path, data: Path | None = None) -> KnownTiles:
    """Read which tiles a run was trained, chosen and tested on, and which photographs it knows.

    The tables of all splits are read, the test's for the names of its tiles: these are carried into
    a data set as packing does it, and nothing is judged.

    Args:
        run: A run's folder, or a file that `export` wrote, which knows no tiles.
        data: Folder or .zip that holds the run's tiles; None takes the one that it was made from.

    Raises:
        InputError: The run's tables are gone or damaged, it was split by tile on purpose, or its
            tiles are no longer there.
    """
    name = name_run(run)
    if run.is_file():
        if data is not None:
            raise InputError(f"--data {data}: {run} does not say how its tiles were split")
        empty = pd.DataFrame(columns=[*COLUMNS, "split", "file"])
        return KnownTiles(name, "", read_tile_size(run), None, empty, {})
    about = read_object(run / "run.json", data=str, split_digest=str)
    if about.get("leaky_split"):
        raise InputError(
            f"{run}: was split by tile on purpose (--leaky-split), so that no photograph is kept "
            "for a test; name a run that was split by photograph"
        )
    source = Path(about["data"]) if data is None else data.expanduser().absolute()
    if not source.exists():
        raise InputError(
            f"the tiles of {run} are not in {source}; say with --data where that folder or .zip is"
        )
    packed = open_pack(find_pack(run))
    tables = [packed.table(split, COLUMNS).assign(split=split) for split in SPLITS]
    table = pd.concat(tables, ignore_index=True)
    return KnownTiles(
        name,
        about["split_digest"],
        read_tile_size(run),
        source,
        table.assign(file=list(_lay_out(table))),
        _read_photographs(source),
    )


def _lay_out(table: pd.DataFrame) -> Iterator[str]:
    """Yield the file of each tile: split, surface, class and the name that it had."""
    taken: set[str] = set()
    for row in table[["split", "surface", "label", "tile"]].to_dict("records"):
        yield name_file(row["split"], row["surface"], row["label"], row["tile"], taken)


def name_file(split: str, surface: str, label: int, name: str, taken: set[str]) -> str:
    """The path of a tile in a data set; no other of its surface and split has the same name.

    Args:
        split: Name of the split.
        surface: Name of the surface; empty where there is none.
        label: 1 for a cracked tile.
        name: Name of the file that is wanted, whose folders do not count.
        taken: Names of other tiles, casefolded, to which this one is added.
    """
    folder = "/".join(filter(None, (split, surface)))
    path = PurePosixPath(name)
    file, number = path.name, 2
    while f"{folder}/{file}".casefold() in taken:
        file, number = f"{path.stem}_{number}{path.suffix}", number + 1
    taken.add(f"{folder}/{file}".casefold())
    return f"{folder}/{CLASSES[label]}/{file}"


def _read_photographs(data: Path) -> dict[str, str]:
    """Photographs whose tiles `cut` or `learn-from` wrote there: digest → name in their tiles'."""
    if (data / LEARNED_FILE).is_file():
        return {each.sha256: each.photograph for each in read_record(data).photographs}
    if data.name == TILES and (data.parent / CUT_FILE).is_file():
        return {each["sha256"]: each["stem"] for each in read_cut(data.parent)["photographs"]}
    return {}
