"""Pictures of a visit → a folder of pages and tables; the ensemble judges as `predict` does."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import make_folder, read_object, remove_file, write_json, write_table
from ensemble.base.options import OVERLAPS, OVERLAPS_IN_WORDS
from ensemble.base.progress_bar import telling_progress
from ensemble.data.reading.listing import INSPECTION_FILE, NEEDS_HEIF, OTHER_KIND
from ensemble.data.reading.pictures import Picture, list_pictures
from ensemble.inspection.pages import ASSETS, Visit, write_pages
from ensemble.inspection.photograph import Photograph, add_photograph
from ensemble.inspection.tables import tabulate_photographs, write_boxes, write_points
from ensemble.prediction.overlays import name_files
from ensemble.prediction.verdicts import score_pictures
from ensemble.selection.ensemble import Ensemble
from ensemble.viewer.page import write_assets

FORMAT = 1
TILES, PHOTOGRAPHS, UNREAD = "tiles.csv", "photographs.csv", "unread.csv"
UNREAD_PICTURES = (NEEDS_HEIF, OTHER_KIND)  # reasons why a picture is passed over by its name
POINTS, BOXES = "photographs.geojson", "coco.json"


@dataclass(frozen=True)
class Inspection:
    """What an inspection found.

    Attributes:
        folder: Folder of the pages and tables.
        sentence: What was found in the whole visit.
        tiles: Rows of `predict_pictures`.
        photographs: Table of `tabulate_photographs`, the worst first.
        unread: `picture` and `reason` of what was not read.
        has_points: Whether a photograph says where it was taken.
    """

    folder: Path
    sentence: str
    tiles: pd.DataFrame
    photographs: pd.DataFrame
    unread: pd.DataFrame
    has_points: bool


def check_folder(folder: Path, record: str = INSPECTION_FILE) -> None:
    """Make sure, before hours of work, that a folder is new, empty, or an older result.

    Args:
        folder: Folder of the results.
        record: Name of the file by which an older result is known.

    Raises:
        InputError: It is anything else, or a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"--folder {folder}: is a file; name a folder")
    if not (folder / record).is_file() and any(folder.iterdir()):
        raise InputError(
            f"--folder {folder}: holds other files, which stay as they are; name a new folder"
        )


def inspect_pictures(
    ensemble: Ensemble,
    paths: Sequence[Path | str],
    folder: Path,
    *,
    run_name: str,
    overlap: float = 0.0,
    mm_per_px: float | None = None,
    log: Callable[[str], None] = print,
) -> Inspection:
    """Judge every tile of all pictures and write what an inspector looks through.

    Args:
        ensemble: The ensemble that judges.
        paths: Pictures, and folders and .zip files of pictures, in any layout.
        folder: Folder to write; files of an older inspection in it are replaced.
        run_name: Name of the run, for people.
        overlap: Part of a tile's side by which it overlaps the next one, one of `OVERLAPS`.
        mm_per_px: Millimetres of concrete that a pixel shows, for lengths in metres.
        log: Takes lines about the progress.

    Raises:
        InputError: There is no such overlap, no path is given, a path does not exist or is unsafe,
            no picture can be read, a member is damaged, the folder holds other files, or it
            cannot be written.
    """
    if overlap not in OVERLAPS:
        raise InputError(f"overlap={overlap}: must be {OVERLAPS_IN_WORDS}")
    check_folder(folder)
    with ExitStack() as archives:
        pictures, passed_over = list_pictures(
            [Path(path) for path in paths], folder, archives, option="--folder"
        )
        if not pictures:
            raise InputError("no picture was given; name a picture, or a folder or .zip of some")
        tiles, unreadable = score_pictures(ensemble, pictures, overlap, log)
        _clear(folder)
        photographs = _add_photographs(ensemble, pictures, tiles, folder, log)
    reasons = list(unreadable.items())
    num_unread = len(unreadable) + sum(len(passed_over.get(kind, ())) for kind in UNREAD_PICTURES)
    reasons += [(name, reason) for reason, names in passed_over.items() for name in names]
    unread = pd.DataFrame(reasons, columns=["picture", "reason"])
    photographs.sort(key=lambda each: (-each.num_called_in_all, -each.highest))
    table = tabulate_photographs(photographs, mm_per_px)
    visit = Visit(run_name, overlap, mm_per_px, photographs, table, unread, num_unread)
    write_table(folder / TILES, tiles)
    write_table(folder / PHOTOGRAPHS, table)
    write_table(folder / UNREAD, unread)
    write_boxes(folder / BOXES, photographs)
    has_points = write_points(folder / POINTS, table)
    write_assets(folder / "assets", ASSETS)
    write_pages(visit, folder, has_points=has_points)
    return Inspection(folder, visit.sentence, tiles, table, unread, has_points)


def _clear(folder: Path) -> None:
    """Remove what an older inspection wrote for its photographs, and say that this is one.

    What a person put into the folder stays.
    """
    record = folder / INSPECTION_FILE
    old = read_object(record, files=list)["files"] if record.is_file() else []
    for name in [*old, POINTS]:
        path = folder / str(name)
        if path.resolve().is_relative_to(folder.resolve()) and path.is_file():
            remove_file(path)
    for part in ("pages", "photographs", "thumbnails"):
        make_folder(folder / part)


def _add_photographs(
    ensemble: Ensemble,
    pictures: Sequence[Picture],
    tiles: pd.DataFrame,
    folder: Path,
    log: Callable[[str], None],
) -> list[Photograph]:
    """Write the files of each photograph that was judged, after noting their names."""
    parts = {str(name): rows for name, rows in tiles.groupby("picture", sort=False)}
    stems = name_files(parts)
    files = [
        f"{part}/{stem}{suffix}"
        for stem in stems.values()
        for part, suffixes in (
            ("pages", (".html",)),
            ("photographs", (".jpg", ".png", ".webp")),
            ("thumbnails", (".jpg",)),
        )
        for suffix in suffixes
    ]
    write_json(folder / INSPECTION_FILE, {"format": FORMAT, "files": files})
    photographs = []
    with telling_progress("writing photographs", len(parts), log) as tell:
        for picture in pictures:
            if picture.name not in parts:
                continue
            photographs.append(
                add_photograph(
                    picture,
                    stems[picture.name],
                    parts[picture.name],
                    folder,
                    tile_size_px=ensemble.tile_size_px,
                    threshold=ensemble.calibrated_threshold,
                )
            )
            tell(1)
    return photographs
