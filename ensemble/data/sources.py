"""Lists a folder or a .zip of tiles as one table: what each tile is, by its name alone.

Three layouts are known: SDNET2018 as published (`D/CD/7001-12.jpg`) or as its mirrors name it
(`Decks/Cracked/7001-12.jpg`), METU (`Positive/00001.jpg`), and any two class folders.

SDNET2018: Maguire, Dorafshan, Thomas (2018), doi 10.15142/T3TD19.
METU: Özgenel (2018), doi 10.17632/5y9wdsg2zt.2.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from ensemble.base.errors import InputError, short_repr
from ensemble.data.classes import find_classes, find_split_folders, find_surfaces
from ensemble.data.layout import Layout, read_tile_list
from ensemble.data.photographs import FOLDERS, doubt_photographs, find_photographs
from ensemble.data.reading.archive import CONTROL, Archive
from ensemble.data.reading.listing import Listing, explain_nothing, list_files

NO_CLASS = "pictures outside the class folders"
EXCLUDED = "left out by --exclude"


@dataclass(frozen=True)
class Source:
    """A listed data set.

    Attributes:
        path: Path of the folder or .zip.
        layout: Layout by which it was read.
        tiles: One row a tile, sorted by name: `tile` (path inside the source), `photograph` (empty
            where it is not known), `surface` (empty where there is one), `label` (1 = cracked),
            `folder_label` (before a list of corrections), `split_folder` (train, val, test or
            empty), `copy_key` (equal for tiles whose bytes may be equal), and the place in the
            photograph as `find_photographs` returns it.
        cracked_folders: Folders taken for the crack class.
        uncracked_folders: Folders taken for the other class.
        num_relabelled: Number of tiles whose label a list of corrections changed.
        doubt: Why numbers in names may be no photographs, if there is a doubt.
        fingerprint: Digest of the listing; changes when a file is added, removed or rewritten.
        passed_over: Names of files and folders that are not read, by the reason.
    """

    path: Path
    layout: Layout
    tiles: pd.DataFrame
    cracked_folders: tuple[str, ...]
    uncracked_folders: tuple[str, ...]
    num_relabelled: int
    doubt: str | None
    fingerprint: str
    passed_over: dict[str, list[str]]

    @property
    def has_photographs(self) -> bool:
        """Whether tiles can be grouped by the photograph they were cut from."""
        return bool((self.tiles["photograph"] != "").any())


def check_source(path: Path) -> None:
    """Refuse, before its tiles are listed, what is neither a folder nor a .zip that can be opened.

    Raises:
        InputError: It is neither, or the .zip is unsafe.
    """
    if (found := _existing(path)).is_file():
        Archive(found).close()


def open_source(path: Path, layout: Layout = Layout()) -> Source:  # noqa: B008 (frozen)
    """List the tiles under `path`, with class, surface and photograph of each.

    Args:
        path: Path of a folder or a .zip.
        layout: Layout of the data, as the person states it.

    Raises:
        InputError: There are no tiles, the classes cannot be told apart, what the person states
            does not hold, or the .zip is unsafe.
    """
    path = _existing(path)
    listing = _list_tiles(path, layout.exclude)
    if not listing.files:
        raise InputError(
            f"--data {path}: no tiles found; expected pictures in class folders, such as D/CD/"
            f"7001-1.jpg, Cracked/1.jpg or Positive/1.jpg{explain_nothing(listing.passed_over)}"
        )
    names = list(listing.files)
    for name in names:
        if CONTROL.search(name):
            raise InputError(
                f"--data {path}: the name {short_repr(name)} is not UTF-8 or has control "
                "characters; rename the file"
            )
    classes = find_classes(names, layout.positive, where=f"--data {path}")
    surfaces = find_surfaces(classes, photographs_are_folders=layout.photographs == FOLDERS)
    labels = [int(folders.class_folder in classes.cracked) for folders in classes.folders]
    corrected = _correct(labels, names, layout.labels)
    tiles = pd.DataFrame(
        {
            "tile": names,
            **find_photographs(names, classes, surfaces, layout),
            "surface": surfaces,
            "label": corrected,
            "folder_label": labels,
            "split_folder": find_split_folders(classes),
            "copy_key": [entry.copy_key for entry in listing.files.values()],
        }
    )
    digest = hashlib.sha256()
    for name, entry in listing.files.items():
        digest.update(f"{name}\0{entry.stamp}\n".encode())
    return Source(
        path=path,
        layout=layout,
        tiles=tiles,
        cracked_folders=classes.cracked,
        uncracked_folders=classes.uncracked,
        num_relabelled=sum(new != old for new, old in zip(corrected, labels, strict=True)),
        doubt=doubt_photographs(tiles, layout),
        fingerprint=digest.hexdigest(),
        passed_over=listing.passed_over,
    )


def _existing(given: Path) -> Path:
    try:
        path = given.expanduser().resolve()
        path.exists()
    except (OSError, RuntimeError) as error:  # no such home, a link to itself, too long a name
        raise InputError(f"--data {given}: cannot be opened ({error})") from None
    if not path.is_dir() and not path.is_file():
        raise InputError(f"--data {given}: no such folder or .zip")
    return path


def _list_tiles(path: Path, exclude: tuple[str, ...]) -> Listing:
    """List the pictures that lie in a folder; those beside the class folders have no class."""
    files, passed_over = list_files(path)
    for name in exclude:
        folder = _inside(path, name)
        excluded = {file: None for file in files if folder in PurePosixPath(file).parents}
        if not excluded:
            raise InputError(
                f"--exclude {name}: no such folder of tiles in {path}; give its path inside the "
                "data, such as D/old"
            )
        passed_over = {**passed_over, EXCLUDED: [*passed_over.get(EXCLUDED, ()), *excluded]}
        files = {file: entry for file, entry in files.items() if file not in excluded}
    loose = [name for name in files if "/" not in name]
    if loose:
        passed_over = {**passed_over, NO_CLASS: loose}
    return Listing({name: files[name] for name in files if "/" in name}, passed_over)


def _inside(path: Path, name: str) -> PurePosixPath:
    """A folder inside the data, which a person may name from there or from where they are."""
    here = Path(name).expanduser().absolute()
    if here.is_dir() and here != path and here.is_relative_to(path):
        return PurePosixPath(here.relative_to(path).as_posix())
    return PurePosixPath(name)


def _correct(labels: list[int], names: list[str], path: Path | None) -> list[int]:
    """Replace labels by those of a list of corrections."""
    if path is None:
        return labels
    rows = read_tile_list(path, ("label",), tiles=names)
    for tile, row in rows.items():
        if row["label"] not in ("0", "1"):
            raise InputError(
                f"{path}: the label of {short_repr(tile)} must be 0 or 1 (cracked), but got "
                f"{short_repr(row['label'])}"
            )
    return [
        int(rows[name]["label"]) if name in rows else label
        for name, label in zip(names, labels, strict=True)
    ]
