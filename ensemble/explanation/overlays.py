"""Scored pictures → a folder of overlays, which show where the cracks are.

Its `overlays.json` says which overlay is of which picture. By that file the folder is known as a
result, so that its pictures are never taken for photographs.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import atomic_write, make_folder, write_json
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.listing import OVERLAYS_FILE
from ensemble.data.reading.pictures import Picture, read_picture
from ensemble.explanation.mosaic import OVERLAY_PX, draw_overlay
from ensemble.selection.choice import EnsembleRecord


def draw_overlays(
    pictures: Sequence[Picture],
    tiles: pd.DataFrame,
    choice: EnsembleRecord,
    tile_size: tuple[int, int],
    folder: Path,
) -> int:
    """Read each picture of several tiles again, reduced, and draw where its cracks are.

    Args:
        pictures: Those that were scored, and perhaps others.
        tiles: Their rows.
        choice: For the legend.
        tile_size: (height, width) of a tile.
        folder: Of the overlays; made if one is drawn.

    Returns:
        How many overlays there are.

    Raises:
        InputError: They cannot be written, or a picture has changed since it was scored.
    """
    by_name = {picture.name: picture for picture in pictures}
    cut = tiles[tiles["tile"] != ""].groupby("picture", sort=False)
    parts = {str(name): part for name, part in cut}
    files = _name_files(parts)
    if files:
        make_folder(folder)
        write_json(
            folder / OVERLAYS_FILE, {"pictures": {file: name for name, file in files.items()}}
        )
    for name, part in parts.items():
        try:
            with by_name[name].open() as content:
                image = read_picture(content, tile_size, reduced_px=OVERLAY_PX)
        except UNREADABLE as error:
            reason = explain_unreadable(error)
            raise InputError(f"{name}: changed since it was scored ({reason})") from None
        overlay = draw_overlay(image, part, threshold=choice.calibrated_threshold)
        with atomic_write(folder / files[name]) as path:
            overlay.save(path, "PNG")
    return len(files)


def _name_files(pictures: Iterable[str]) -> dict[str, str]:
    """An overlay is called as its picture, and numbered where two pictures have one name."""
    files: dict[str, str] = {}
    taken: set[str] = set()
    for picture in pictures:
        stem = Path(picture).stem
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        free = next(n for n in itertools.chain([stem], numbered) if n.casefold() not in taken)
        taken.add(free.casefold())
        files[picture] = f"{free}.png"
    return files
