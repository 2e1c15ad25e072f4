"""The folder of a data set that corrections go into: made whole or not at all, and added to.

A tile lies in SPLIT/SURFACE/CLASS/, and its name is that of no other tile of its split and surface,
so that it may change its class.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from PIL import Image

from ensemble.base.errors import InputError, writing
from ensemble.base.files import atomic_write, make_folder, read_table, table_rows, write_table
from ensemble.base.locks import file_lock
from ensemble.base.options import OVERLAPS
from ensemble.base.progress_bar import telling_progress
from ensemble.data.grid import PLACE, UNKNOWN
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.listing import Reader
from ensemble.data.reading.pictures import Picture, read_picture
from ensemble.data.tiles import digest_content
from ensemble.inspection.photograph import BOX, digest_file
from ensemble.labelling.cutting import crop, name_photograph, plain_stem
from ensemble.labelling.known_tiles import USED, Home, KnownTiles, name_file
from ensemble.labelling.labelled import CLASSES
from ensemble.labelling.record import LearnedPhotograph, LearnedTile, Record
from ensemble.prediction.tiling import Box, lay_grid

PHOTOGRAPHS = "photographs.csv"
NEW = "train"  # split of photographs that the run does not know


@contextmanager
def renewed(folder: Path) -> Iterator[Path]:
    """Yield a copy of a folder, made of links, or a new one; it takes its place at the end.

    After an exception the folder is as it was.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    folder, partial, old = _places(folder)
    shutil.rmtree(partial, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a call that ended before it did that itself
    try:
        with writing(folder):
            if folder.exists():
                shutil.copytree(folder, partial, copy_function=_link)
            else:
                partial.mkdir(parents=True)
        yield partial
        with writing(folder):
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def alone(folder: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Keep other calls from a folder while the block runs: what both added would be of one only.

    Args:
        folder: Folder of the data set; the lock's file lies beside it, and stays.
        log: Takes a line where another call is at work, which is waited for.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    lock = folder.resolve().with_name(f".{folder.resolve().name}.lock")
    make_folder(lock.parent)
    with file_lock(lock, on_wait=lambda: log(f"waiting for another learn-from into {folder}")):
        _restore(folder)
        yield


def _restore(folder: Path) -> None:
    """Give a folder its name again, where the process ended while it was being replaced.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    folder, _, old = _places(folder)
    if old.is_dir() and not folder.exists():
        with writing(folder):
            old.rename(folder)


def _places(folder: Path) -> tuple[Path, Path, Path]:
    """The whole path of a folder, of the one that is made, and of the one that it replaces."""
    folder = folder.resolve()
    return (
        folder,
        folder.with_name(f".{folder.name}.partial"),
        folder.with_name(f".{folder.name}.old"),
    )


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the disk cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def copy_tiles(known: KnownTiles, folder: Path, log: Callable[[str], None]) -> None:
    """Copy the run's tiles into the folders of their splits and classes.

    Raises:
        InputError: One of them is gone, or is no longer what the run was trained on.
    """
    if known.data is None:
        return
    for part in {str(PurePosixPath(file).parent) for file in known.table["file"]}:
        make_folder(folder / part)
    rows = known.table[["tile", "content", "file"]].to_dict("records")
    with (
        closing(Reader(known.data)) as reader,
        telling_progress("copying the run's tiles", len(rows), log) as tell,
    ):
        for row in rows:
            try:
                content = reader.read(row["tile"])
            except (*UNREADABLE, KeyError) as error:
                raise InputError(
                    f"{known.data}: {row['tile']} cannot be read ({explain_unreadable(error)}); "
                    "put the tiles of the run back, or say with --data where they are"
                ) from None
            if digest_content(content) != row["content"]:
                raise InputError(
                    f"{known.data}: {row['tile']} is not what {known.name} was trained on; put the "
                    "old file back, or say with --data where it is"
                )
            with writing(folder / row["file"]):
                (folder / row["file"]).write_bytes(content)
            tell(1)


class DataSet:
    """A data set that corrected tiles are written into.

    Attributes:
        tiles: Corrected tiles, by the digest of their photograph and their name in it.
        left_out: Names of photographs whose corrections were left out, with the reason.
        counts: Number of corrections by what became of them: `added`, `relabelled`, `same`,
            `blank` and `overruled`.
    """

    def __init__(self, folder: Path, known: KnownTiles, old: Record | None) -> None:
        """Go on from what is in the folder.

        Args:
            folder: Folder of the data set, which may be written.
            known: Tiles of the run.
            old: Record of what is in the folder already; None for nothing.
        """
        self.folder, self.known, self.is_new = folder, known, old is None
        self.tiles = {(each.sha256, each.tile): each for each in old.tiles} if old else {}
        self.left_out: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self._photographs = {each.sha256: each for each in old.photographs} if old else {}
        for sha256, name in known.photographs.items():
            own = LearnedPhotograph(sha256=sha256, picture=name, photograph=name)
            self._photographs.setdefault(sha256, own)
        self._labels = {_key(each.file): each.label for each in self.tiles.values()}
        names = [*known.table["photograph"], *(p.photograph for p in self._photographs.values())]
        self._names = {part for name in names for part in (name.casefold(), _last(name))}
        self._files = {_key(file).casefold() for file in [*known.table["file"], *self._labels]}
        self._rows: list[dict[str, str]] = []
        self._moves: list[tuple[str, str]] = []

    def learn(self, picture: Picture, labels: pd.DataFrame) -> None:
        """Write the corrected tiles of a picture, or note why they are left out.

        Args:
            picture: The picture that was judged.
            labels: Rows of `read_labels` for it; of two of one tile the later one counts.

        Raises:
            InputError: The picture cannot be read, or a label is of no tile of it.
        """
        rows = labels.drop_duplicates("tile", keep="last")
        try:
            with picture.open() as file:
                sha256 = digest_file(file)
                file.seek(0)
                home = self.known.find_home(sha256, digest_content(file.read()))
                if reason := self._refuse(picture, sha256, home):
                    self.left_out[picture.name] = reason
                    return
                file.seek(0)
                image = read_picture(file, self.known.tile_size_px)
        except UNREADABLE as error:
            raise InputError(
                f"{picture.name}: cannot be read ({explain_unreadable(error)})"
            ) from None
        self.counts["overruled"] += len(labels) - len(rows)
        boxes = {
            box.tile: box for box in lay_grid(image.size, self.known.tile_size_px, max(OVERLAPS))
        }
        for row in table_rows(rows):
            box = boxes.get(row["tile"])
            if box is None or list(box[1:]) != [row[name] for name in BOX]:
                raise InputError(self._explain_foreign(picture, image, row))
            self._correct(picture, sha256, home, image, box, row["label"])

    def _refuse(self, picture: Picture, sha256: str, home: Home | None) -> str | None:
        """Why the corrections of a picture are not learnt from; None if they are."""
        run = self.known.name
        if home is not None:
            is_tested = home.split == "test"
            return f"{run} is tested on it, so it is not learnt from" if is_tested else None
        if sha256 in self._photographs:
            return None
        namesake = self.known.find_namesake(picture.name)
        if namesake is None:
            return None
        name, split = namesake
        return (
            f"is called like photograph {name}, which {run} was {USED[split]}, and nobody can say "
            "whether it is the same; rename the file if it is another one"
        )

    def _explain_foreign(self, picture: Picture, image: Image.Image, row: dict[str, Any]) -> str:
        height, width = self.known.tile_size_px
        left, top, *_ = (row[name] for name in BOX)
        return (
            f"{row['where']}: {row['tile']!r} at {left}, {top} is no tile of {picture.name}, which "
            f"has {image.width} × {image.height} px, for a run with tiles of {width} × {height} px"
        )

    def _correct(
        self,
        picture: Picture,
        sha256: str,
        home: Home | None,
        image: Image.Image,
        box: Box,
        label: int,
    ) -> None:
        """Give a tile its label: one that is there changes its class, another one is cut."""
        file = self._find(sha256, home, box.tile)
        if file is not None:
            self._learn_photograph(sha256, picture, home)
            if self._labels.get(_key(file), _label_of(file)) == label:
                self.counts["same"] += 1
                return
            new = _file_of(file, label)
            self._moves.append((_file_of(file, 1 - label), new))
            self.tiles = {k: v for k, v in self.tiles.items() if _key(v.file) != _key(new)}
            self.counts["relabelled"] += 1
        else:
            tile = crop(image, box[1:])
            if tile is None:
                self.counts["blank"] += 1
                return
            new = self._add(self._learn_photograph(sha256, picture, home), home, tile, box, label)
            self.counts["added"] += 1
        self._labels[_key(new)] = label
        self.tiles[sha256, box.tile] = LearnedTile(
            sha256=sha256, tile=box.tile, label=label, file=new
        )

    def _find(self, sha256: str, home: Home | None, tile: str) -> str | None:
        """The file of a tile in the data set, by any of its labels; None if it is not there."""
        if (sha256, tile) in self.tiles:
            return self.tiles[sha256, tile].file
        number = self.known.find_tile(home, tile) if home is not None else None
        return None if number is None else str(self.known.table["file"][number])

    def _learn_photograph(self, sha256: str, picture: Picture, home: Home | None) -> str:
        """The name of a photograph, which is noted."""
        if sha256 not in self._photographs:
            name = name_photograph(picture.name, self._names) if home is None else home.photograph
            self._photographs[sha256] = LearnedPhotograph(
                sha256=sha256, picture=picture.name, photograph=name
            )
        return self._photographs[sha256].photograph

    def _add(
        self, photograph: str, home: Home | None, tile: Image.Image, box: Box, label: int
    ) -> str:
        """Write a tile that was cut, as its pixels are, and return its path in the data set."""
        split, surface = (home.split, home.surface) if home is not None else (NEW, "")
        stem = "-".join(filter(None, (plain_stem(f"{photograph}.png"), box.tile)))
        file = name_file(split, surface, label, f"{stem}.png", self._files)
        make_folder((self.folder / file).parent)
        with atomic_write(self.folder / file) as path:
            tile.save(path, "PNG")
        is_whole = "." not in box.tile and not box.left_px % box.width_px
        is_whole = is_whole and not box.top_px % box.height_px
        place = self.known.place_of(home, box.tile) if is_whole else (UNKNOWN, UNKNOWN)
        self._rows.append({"tile": file, "photograph": photograph, **_as_text(*place)})
        return file

    def finish(self) -> None:
        """Move what has another class now, and write the tables and the record.

        Raises:
            InputError: A file of the data set is gone, or its table is damaged.
        """
        for old, new in self._moves:
            if ".." in PurePosixPath(old).parts or not (self.folder / old).is_file():
                raise InputError(
                    f"{self.folder / old} is missing; put it back, or name a new --folder"
                )
            make_folder((self.folder / new).parent)
            with writing(self.folder / new):
                (self.folder / old).rename(self.folder / new)
        if self.known.has_photographs:
            write_table(self.folder / PHOTOGRAPHS, self._tabulate())
        Record(
            run=self.known.name,
            split_digest=self.known.split_digest,
            tile_size_px=self.known.tile_size_px,
            photographs=list(self._photographs.values()),
            tiles=list(self.tiles.values()),
        ).save(self.folder)

    def _tabulate(self) -> pd.DataFrame:
        """The photograph and place of every tile, as `--photographs` reads them."""
        columns = ["tile", "photograph", "row", "column"]
        if self.is_new:
            table = pd.DataFrame(
                [
                    {"tile": file, "photograph": photograph, **_as_text(row, column)}
                    for file, photograph, row, column in self.known.table[
                        ["file", "photograph", *PLACE]
                    ].itertuples(index=False)
                ],
                columns=columns,
            )
        else:
            table = read_table(self.folder / PHOTOGRAPHS, columns=columns, text=columns)
        added = pd.DataFrame(self._rows, columns=columns)
        table = pd.concat([table, added], ignore_index=True)
        for old, new in self._moves:
            table.loc[table["tile"] == old, "tile"] = new
        return table


def _as_text(row: int, column: int) -> dict[str, str]:
    """A place as cells of a table, empty where it is not known."""
    is_known = row >= 0 and column >= 0
    return {"row": str(row) if is_known else "", "column": str(column) if is_known else ""}


def _last(name: str) -> str:
    return name.rpartition("/")[2].casefold()


def _file_of(file: str, label: int) -> str:
    """The path of a tile with this label, from that with any."""
    path = PurePosixPath(file)
    return str(path.parent.parent / CLASSES[label] / path.name)


def _label_of(file: str) -> int:
    return CLASSES.index(PurePosixPath(file).parent.name)


def _key(file: str) -> str:
    """What is the same for a tile whatever its label: its split, surface and name."""
    path = PurePosixPath(file)
    return str(path.parent.parent / path.name)
