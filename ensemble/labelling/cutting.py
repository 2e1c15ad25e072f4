"""Photographs → a folder of pages to label their tiles on, which open without a server.

The grid of a photograph begins in its upper left corner and has whole tiles only: what is left at
the right and lower rim is no tile. A tile's name, `r03-c12`, says its row and column from 1, so
that a search knows photograph and place by the names of the files.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ensemble.base.errors import InputError
from ensemble.base.files import atomic_write, make_folder, read_object, write_json, write_text
from ensemble.base.progress_bar import telling_progress
from ensemble.base.wording import plural
from ensemble.data.reading.blank import fill_blank, is_one_colour
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.listing import CUT_FILE, describe_passed_over
from ensemble.data.reading.pictures import Picture, list_pictures, read_picture
from ensemble.inspection.inspecting import check_folder
from ensemble.inspection.pages import ASSETS as PAGE_ASSETS
from ensemble.inspection.photograph import BOX, THUMBNAIL_PX, digest_file, write_shown
from ensemble.prediction.overlays import short_stem
from ensemble.viewer.page import describe_photograph, make_environment, write_assets

FORMAT = 1
LABELLING = Path(__file__).parent
NAME_PARTS = re.compile(r"[^\w.-]+")


class Sheet(NamedTuple):
    """A photograph that is cut.

    Attributes:
        picture: Name, as a person gave it.
        stem: Name of its page, and what its tiles' names begin with.
        sha256: Digest of its file.
        shown: Name of its file in `photographs/`.
        size_px: (width, height) of the upright picture.
        tiles: `tile`, `left_px`, `top_px`, `width_px`, `height_px` and `is_blank` of each tile.
    """

    picture: str
    stem: str
    sha256: str
    shown: str
    size_px: tuple[int, int]
    tiles: pd.DataFrame


def lay_whole_tiles(size_px: tuple[int, int], side_px: int) -> pd.DataFrame:
    """The whole tiles of a picture, row by row from its upper left corner.

    Args:
        size_px: (width, height) of the picture.
        side_px: Side of a tile.

    Returns:
        `tile`, `left_px`, `top_px`, `width_px` and `height_px`; no row where none fits.
    """
    num_columns, num_rows = (length // side_px for length in size_px)
    rows, columns = np.divmod(np.arange(num_rows * num_columns), max(1, num_columns))
    digits = [max(2, len(str(count))) for count in (num_rows, num_columns)]
    names = [
        f"r{row + 1:0{digits[0]}}-c{column + 1:0{digits[1]}}"
        for row, column in zip(rows, columns, strict=True)
    ]
    return pd.DataFrame(
        {
            "tile": names,
            "left_px": columns * side_px,
            "top_px": rows * side_px,
            "width_px": side_px,
            "height_px": side_px,
        }
    )


def read_cut(folder: Path) -> dict[str, Any]:
    """What `cut.json` says: `tile_px`, and `photographs`, a list in the order of the pages.

    Raises:
        InputError: It is missing or damaged.
    """
    path = folder / CUT_FILE
    if not path.is_file():
        raise InputError(f"--folder {folder}: holds no {CUT_FILE}; cut photographs first")
    record = read_object(path, tile_px=int, photographs=list)
    keys = {"picture": str, "stem": str, "sha256": str, "shown": str}
    for each in record["photographs"]:
        if not isinstance(each, dict) or any(
            not isinstance(each.get(key), kind) for key, kind in keys.items()
        ):
            raise InputError(f"{path}: damaged; cut the photographs again")
    return record


def cut_pictures(
    paths: Sequence[Path | str], folder: Path, *, side_px: int, log: Callable[[str], None] = print
) -> list[Sheet]:
    """Write a page for each photograph, on which its tiles can be labelled.

    Photographs that the folder has already stay in it, with their names.

    Args:
        paths: Pictures, and folders and .zip files of pictures, in any layout.
        folder: Folder to write: `index.html`, `pages/`, `photographs/`, and `cut.json`.
        side_px: Side of a tile in pixels.
        log: Takes lines about progress, and about what was not read.

    Returns:
        The photographs of this call.

    Raises:
        InputError: A path does not exist or is unsafe, no photograph can be cut, the folder holds
            other files or tiles of another size, or it cannot be written.
    """
    check_folder(folder, CUT_FILE)
    record = read_cut(folder) if (folder / CUT_FILE).is_file() else None
    known = {each["sha256"]: each for each in record["photographs"]} if record else {}
    if record is not None and known and record["tile_px"] != side_px:
        raise InputError(
            f"--tile {side_px}: {folder} has tiles of {record['tile_px']} px; name another --folder"
        )
    unread: dict[str, str] = {}
    sheets: dict[str, Sheet] = {}
    with ExitStack() as archives:
        pictures, passed_over = list_pictures(
            [Path(path) for path in paths], folder, archives, option="--folder"
        )
        for part in ("pages", "photographs", "thumbnails"):
            make_folder(folder / part)
        _write_record(folder, side_px, known)  # by which the folder is known, also after Ctrl-C
        with telling_progress("cutting photographs", len(pictures), log) as tell:
            for picture in pictures:
                try:
                    sheet = _cut(picture, folder, side_px, known, sheets)
                    sheets[sheet.sha256], known[sheet.sha256] = sheet, _describe(sheet)
                except UNREADABLE as error:
                    unread[picture.name] = explain_unreadable(error)
                tell(1)
    for name, reason in unread.items():
        log(f"not cut: {name}: {reason}")
    for line in describe_passed_over(passed_over):
        log(line.strip())
    if not sheets:
        raise InputError(f"none of {plural(len(pictures), 'picture')} can be cut")
    _write_record(folder, side_px, known)
    _write_pages([*sheets.values()], [*known.values()], folder, side_px)
    return [*sheets.values()]


def _write_record(folder: Path, side_px: int, known: dict[str, dict[str, Any]]) -> None:
    record = {"format": FORMAT, "tile_px": side_px, "photographs": [*known.values()]}
    write_json(folder / CUT_FILE, record)


def _cut(
    picture: Picture,
    folder: Path,
    side_px: int,
    known: dict[str, dict[str, Any]],
    sheets: dict[str, Sheet],
) -> Sheet:
    """Write a photograph's file and thumbnail, and lay its tiles.

    Args:
        picture: The photograph.
        folder: Folder of the pages.
        side_px: Side of a tile.
        known: Photographs of the folder, as `cut.json` holds them, by the digest of the file.
        sheets: Those of this call.

    Raises:
        ValueError: It is smaller than a tile, a copy, or called like another one: labels are saved
            under the name.
        One of `UNREADABLE`: It cannot be decoded.
    """
    size, named = (side_px, side_px), {each["picture"]: key for key, each in known.items()}
    with picture.open() as file:
        sha256 = digest_file(file)
        if sha256 in sheets:
            raise ValueError(f"is a copy of {sheets[sha256].picture}")
        if named.get(picture.name, sha256) != sha256:
            raise ValueError(f"{folder} has another photograph of this name; rename the file")
        file.seek(0)
        image = read_picture(file, size)
        tiles = lay_whole_tiles(image.size, side_px)
        if tiles.empty:
            raise ValueError(f"{image.width} × {image.height} px is smaller than a tile")
        taken = {each["stem"].casefold() for each in known.values()}
        name = known[sha256]["picture"] if sha256 in known else picture.name
        stem = known[sha256]["stem"] if sha256 in known else name_photograph(name, taken)
        file.seek(0)
        shown = write_shown(file, folder / "photographs", stem, image.size, size)
    tiles["is_blank"] = [crop(image, box) is None for box in tiles[BOX].to_numpy().tolist()]
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    with atomic_write(folder / "thumbnails" / f"{stem}.jpg") as path:
        small.save(path, "JPEG", quality=85)
    return Sheet(name, stem, sha256, shown, image.size, tiles)


def crop(image: Image.Image, box: Sequence[int]) -> Image.Image | None:
    """A tile of an upright picture; None where it shows nothing."""
    left, top, width, height = box
    tile = fill_blank(image.crop((left, top, left + width, top + height)))
    return None if tile is None or is_one_colour(np.asarray(tile)) else tile


def plain_stem(picture: str) -> str:
    """The name of a picture without folders, suffix, and what is no part of a plain name."""
    return NAME_PARTS.sub("_", short_stem(picture)).strip("_.") or "photograph"


def name_photograph(picture: str, taken: set[str]) -> str:
    """A stem that no other photograph has, which is added to those that are taken.

    Args:
        picture: Name of the picture, as a person gave it.
        taken: Stems of other photographs, casefolded.
    """
    stem = plain_stem(picture)
    name, number = stem, 2
    while name.casefold() in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name.casefold())
    return name


def _describe(sheet: Sheet) -> dict[str, Any]:
    """A photograph, as `cut.json` holds it."""
    return {
        "picture": sheet.picture,
        "stem": sheet.stem,
        "sha256": sheet.sha256,
        "shown": sheet.shown,
        "num_tiles": len(sheet.tiles),
        "num_blank": int(sheet.tiles["is_blank"].sum()),
    }


def _write_pages(
    sheets: Sequence[Sheet], photographs: list[dict[str, Any]], folder: Path, side_px: int
) -> None:
    environment = make_environment(LABELLING)
    page = environment.get_template("sheet.html.jinja")
    for sheet in sheets:
        tiles = sheet.tiles.assign(probability=np.nan, is_called=False, is_between=False)
        shown = describe_photograph(
            tiles,
            picture=sheet.picture,
            key=sheet.sha256,
            image_url=f"../photographs/{sheet.shown}",
            size_px=sheet.size_px,
            threshold=None,
        )
        text = page.render(sheet=sheet, shown=shown, side_px=side_px)
        write_text(folder / "pages" / f"{sheet.stem}.html", text)
    index = environment.get_template("sheets.html.jinja")
    shown_name = folder.resolve().name
    text = index.render(photographs=photographs, side_px=side_px, folder=shown_name)
    write_text(folder / "index.html", text)
    assets = [path for path in PAGE_ASSETS if path.suffix == ".css"]
    write_assets(folder / "assets", [*assets, LABELLING / "sheets.js"])
    listed = [{key: each[key] for key in ("picture", "stem", "sha256")} for each in photographs]
    text = f"const CRACK_SHEETS = {json.dumps(listed)};\n"  # a file, as all pages read it
    write_text(folder / "assets" / "list.js", text)
