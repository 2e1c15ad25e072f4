"""A folder or a .zip of tiles → one table of tiles: what each one is, by its name alone.

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
from ensemble.data.classes import split_folders_of, surfaces_of, tell_classes
from ensemble.data.layout import Layout
from ensemble.data.photographs import FOLDERS, doubt_photographs, tell_photographs
from ensemble.data.reading.archive import CONTROL
from ensemble.data.reading.listing import Listing, explain_nothing, list_files
from ensemble.data.tile_lists import read_tile_list

NO_CLASS = "pictures outside the class folders"
EXCLUDED = "left out by --exclude"


@dataclass(frozen=True)
class Source:
    """A listed data set.

    Attributes:
        path: The folder or .zip.
        layout: How it was asked to be read.
        tiles: One row a tile, sorted by name: `tile` (path inside the source), `photograph` (empty
            where nothing tells it), `surface` (empty where there is one), `label` (1 = cracked),
            `folder_label` (before a list of corrections), `split_folder` (train, val, test or
            empty), `copy_key` (equal for tiles whose bytes may be equal), and, if told, the place
            in the photograph.
        cracked_folders: The folders that were taken for the crack class.
        uncracked_folders: The folders that were taken for the other class.
        num_relabelled: Tiles whose label a list of corrections changed.
        doubt: Why what the names seem to tell may be no photographs, if there is a doubt.
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


def open_source(path: Path, layout: Layout = Layout()) -> Source:  # noqa: B008 (frozen)
    """List the tiles under `path` and say what each one is.

    Args:
        path: A folder or a .zip.
        layout: What a person says of it.

    Raises:
        InputError: There are no tiles, the classes cannot be told apart, what the person says does
            not hold, or the .zip is unsafe.
    """
    try:
        path = path.expanduser().resolve()
        path.exists()
    except (OSError, RuntimeError) as error:  # no such home, a link to itself, too long a name
        raise InputError(f"--data {path}: cannot be opened ({error})") from None
    if not path.is_dir() and not path.is_file():
        raise InputError(f"--data {path}: no such folder or .zip")
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
    classes = tell_classes(names, layout.positive, where=f"--data {path}")
    surfaces = surfaces_of(names, classes, photographs_are_folders=layout.photographs == FOLDERS)
    labels = [
        int(PurePosixPath(name).parts[level] in classes.cracked)
        for name, level in zip(names, classes.levels, strict=True)
    ]
    corrected = _correct(labels, names, layout.labels)
    tiles = pd.DataFrame(
        {
            "tile": names,
            **tell_photographs(names, classes, surfaces, layout),
            "surface": surfaces,
            "label": corrected,
            "folder_label": labels,
            "split_folder": split_folders_of(names, classes),
            "copy_key": [listing.files[name].copy_key for name in names],
        }
    )
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{listing.files[name].stamp}\n".encode())
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


def _list_tiles(path: Path, exclude: tuple[str, ...]) -> Listing:
    """The pictures that lie in a folder; those beside the class folders have no class."""
    files, passed_over = list_files(path)
    for given in exclude:
        folder = _inside(path, given)
        found = {name: None for name in files if folder in PurePosixPath(name).parents}
        if not found:
            raise InputError(
                f"--exclude {given}: no such folder of tiles in {path}; give its path inside the "
                "data, such as D/old"
            )
        passed_over = {**passed_over, EXCLUDED: [*passed_over.get(EXCLUDED, ()), *found]}
        files = {name: entry for name, entry in files.items() if name not in found}
    loose = [name for name in files if "/" not in name]
    if loose:
        passed_over = {**passed_over, NO_CLASS: loose}
    return Listing({name: files[name] for name in files if "/" in name}, passed_over)


def _inside(path: Path, given: str) -> PurePosixPath:
    """A folder inside the data, which a person may name from there or from where they are."""
    here = Path(given).expanduser().absolute()
    if here.is_dir() and here != path and here.is_relative_to(path):
        return PurePosixPath(here.relative_to(path).as_posix())
    return PurePosixPath(given)


def _correct(labels: list[int], names: list[str], path: Path | None) -> list[int]:
    """The labels, with those of a list of corrections in place of their own."""
    if path is None:
        return labels
    said = read_tile_list(path, ("label",), tiles=names)
    for tile, row in said.items():
        if row["label"] not in ("0", "1"):
            raise InputError(
                f"{path}: the label of {short_repr(tile)} must be 0 or 1 (cracked), but got "
                f"{short_repr(row['label'])}"
            )
    return [
        int(said[name]["label"]) if name in said else label
        for name, label in zip(names, labels, strict=True)
    ]
