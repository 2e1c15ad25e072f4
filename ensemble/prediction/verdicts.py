"""Pictures without labels → one row a tile: its place, each member's probability and a verdict."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import write_table
from ensemble.base.options import OVERLAPS, OVERLAPS_IN_WORDS
from ensemble.base.progress_bar import telling_progress
from ensemble.base.wording import plural
from ensemble.data.grid import UNKNOWN
from ensemble.data.reading.blank import is_one_colour
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.listing import describe_passed_over
from ensemble.data.reading.pictures import Picture, list_pictures, read_picture
from ensemble.prediction.overlays import NOT_JUDGED, draw_overlays
from ensemble.prediction.tiling import CutTiles, lay_grid, name_grids
from ensemble.selection.ensemble import Ensemble
from ensemble.selection.neighbours import Places

LOT_BYTES = 128 * 2**20  # pixels cut at a time: 682 tiles of 256 px


def check_csv(csv: Path) -> None:
    """Make sure, before hours of work, that a table can be written to a file.

    Raises:
        InputError: The file is no .csv in an existing folder, or its folder cannot be written.
    """
    folder = csv.resolve().parent
    if csv.suffix.lower() != ".csv" or csv.is_dir() or not folder.is_dir():
        raise InputError(f"--csv {csv}: must be a file called ….csv in an existing folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--csv {csv}: its folder cannot be written; name another place")


def predict_pictures(
    ensemble: Ensemble,
    paths: Sequence[Path | str],
    *,
    overlap: float = 0.0,
    csv: Path | None = None,
    overlays: Path | None = None,
    log: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Judge every tile of all pictures.

    Args:
        ensemble: The ensemble that judges.
        paths: Pictures, and folders and .zip files of pictures, in any layout.
        overlap: Part of a tile's side by which it overlaps the next one, one of `OVERLAPS`.
        csv: File for the rows in an existing folder, written whole when all pictures are scored;
            None for no file.
        overlays: Folder for overlays, made where there is something to draw; what lies in it is
            not read. None for no overlays.
        log: Takes lines about pictures that were not read, the precision, and written files.

    Returns:
        One row a tile, of each picture those of the grid that covers it first: `picture`, `tile`
        (row and column, with fractions in the grids between), `left_px`, `top_px`, `width_px`,
        `height_px`, `trial_<n>` of each member, `ensemble`, `calibrated`, `refined` (by the scores
        of the tiles around; equal to `calibrated` where there are none or the ensemble has no
        second stage), `threshold` (lowest refined probability that is called cracked), `context`
        ("neighbours" where members saw what lies around the tile, "tile" where they saw the tile
        alone) and `verdict` ("cracked", "uncracked", or "not judged" where the tile shows nothing).

    Raises:
        InputError: There is no such overlap, no path is given, a path does not exist or is
            unsafe, no picture can be read, a member is damaged, or the files cannot be written.
    """
    if overlap not in OVERLAPS:
        raise InputError(f"overlap={overlap}: must be {OVERLAPS_IN_WORDS}")
    with ExitStack() as archives:
        pictures, passed_over = list_pictures([Path(path) for path in paths], overlays, archives)
        if not pictures:
            raise InputError("no picture was given; name a picture, or a folder or .zip of some")
        tiles, unreadable = score_pictures(ensemble, pictures, overlap, log)
        if csv is not None:
            write_table(csv, tiles)
        num_overlays = 0
        if overlays is not None:
            num_overlays = draw_overlays(pictures, tiles, ensemble, overlays)
    if unreadable:
        log(f"skipped, cannot be read: {plural(len(unreadable), 'picture')}")
        for name, reason in unreadable.items():
            log(f"  {name}: {reason}")
    if note := ensemble.precision_note:
        log(note)
    for line in describe_passed_over(passed_over):
        log(line.strip())
    if csv is not None:
        log(f"written: {csv}")
    if num_overlays:
        log(f"written: {overlays} ({plural(num_overlays, 'overlay')})")
    return tiles


def score_pictures(
    ensemble: Ensemble,
    pictures: Sequence[Picture],
    overlap: float,
    log: Callable[[str], None],
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Cut pictures into tiles and judge these, a lot at a time.

    Returns:
        The rows of `predict_pictures`, and the names of pictures that cannot be read with the
        reason.

    Raises:
        InputError: No picture can be read, or a member is damaged.
    """
    with telling_progress("looking for cracks", len(pictures), log) as tell:
        tiles, unreadable = score_readable(ensemble, pictures, overlap, tell)
    if tiles is None:
        name, reason = next(iter(unreadable.items()))
        raise InputError(
            f"none of {plural(len(pictures), 'picture')} can be read ({name}: {reason})"
        )
    return tiles, unreadable


def score_readable(
    ensemble: Ensemble,
    pictures: Sequence[Picture],
    overlap: float,
    tell: Callable[[float], None] = lambda done: None,
) -> tuple[pd.DataFrame | None, dict[str, str]]:
    """Judge as `score_pictures` does, also where no picture can be read: there are no rows then.

    Args:
        ensemble: The ensemble that judges.
        pictures: Pictures, each of another name.
        overlap: Part of a tile's side by which it overlaps the next one, one of `OVERLAPS`.
        tell: Told how many pictures, or parts of one, were done since it was told last.

    Raises:
        InputError: A member is damaged.
    """
    unreadable: dict[str, str] = {}
    tables = []
    num_done = 0.0
    for lot in _cut_lots(pictures, ensemble, overlap, unreadable):
        tables.append(_score(ensemble, lot))
        tell(lot.num_done - num_done)
        num_done = lot.num_done
    if not tables:
        return None, unreadable
    return _judge(ensemble, pd.concat(tables, ignore_index=True)), unreadable


@dataclass
class _Lot:
    """Tiles that are scored together.

    Attributes:
        cut: Pixels of the tiles that show something.
        places: Picture and place of every tile.
        shown: Numbers of the tiles that show something.
        num_done: Number of pictures that are cut by then.
    """

    cut: CutTiles
    places: list[dict[str, object]] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    num_done: float = 0.0


def _cut_lots(
    pictures: Sequence[Picture], ensemble: Ensemble, overlap: float, unreadable: dict[str, str]
) -> Iterator[_Lot]:
    """Cut pictures into tiles, a lot at a time; those that cannot be read go into `unreadable`."""
    height, width = ensemble.stored_size_px
    most_bricks = max(1, LOT_BYTES // (3 * height * width))
    lot = _Lot(CutTiles(ensemble.stored_size_px, ensemble.sees_context))
    for number, picture in enumerate(pictures):
        try:
            with picture.open() as file:
                image = read_picture(file, ensemble.tile_size_px)
        except UNREADABLE as error:
            unreadable[picture.name] = explain_unreadable(error)
            continue
        boxes = lay_grid(image.size, ensemble.tile_size_px, overlap)
        for count, box in enumerate(boxes, 1):
            pixels = lot.cut.cut(image, number, box)
            if pixels is not None and not is_one_colour(pixels):
                lot.cut.add(image, number, box)
                lot.shown.append(len(lot.places))
            lot.places.append({"picture": picture.name, **box._asdict()})
            lot.num_done = number + count / len(boxes)
            if len(lot.cut.bricks) >= most_bricks:
                yield lot
                lot = _Lot(CutTiles(ensemble.stored_size_px, ensemble.sees_context))
    if lot.places:
        yield lot


def _score(ensemble: Ensemble, lot: _Lot) -> pd.DataFrame:
    """The rows of a lot up to the members' columns, and `context`; NaN for what shows nothing."""
    scores = np.full((len(ensemble.members), len(lot.places)), np.nan)  # (M, N)
    context = np.full(len(lot.places), "", dtype=object)
    if lot.shown:
        tiles = lot.cut.place(ensemble.device, ensemble.tile_size_px)
        scores[:, lot.shown] = ensemble.score(tiles)
        context[lot.shown] = ensemble.name_context(tiles)
    members = {f"trial_{m.trial}": row for m, row in zip(ensemble.members, scores, strict=True)}
    return pd.DataFrame(lot.places).assign(**members, context=context)


def _judge(ensemble: Ensemble, tiles: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of the ensemble and the verdict."""
    scores = tiles[[f"trial_{member.trial}" for member in ensemble.members]].to_numpy()
    mean = ensemble.weigh(scores.T)
    lone = (tiles["context"] == "tile").to_numpy()
    calibrated = ensemble.calibrate(mean, lone=lone)
    refined, thresholds = np.full(len(tiles), np.nan), np.full(len(tiles), np.nan)
    verdicts = np.full(len(tiles), NOT_JUDGED, dtype=object)
    shown = ~np.isnan(mean)
    places = _find_places(tiles[shown])
    judged = ensemble.refine(calibrated[shown], places, lone=lone[shown])
    refined[shown], thresholds[shown] = judged.probabilities, judged.thresholds
    # without a second stage on the mean itself, which calibration may round
    called = judged.called
    if ensemble.neighbours is None:
        called = ensemble.judge(mean[shown], lone=lone[shown])
    verdicts[shown] = np.where(called, "cracked", "uncracked")
    return tiles.drop(columns="context").assign(
        ensemble=mean,
        calibrated=calibrated,
        refined=refined,
        threshold=thresholds,
        context=tiles["context"],
        verdict=verdicts,
    )


def _find_places(tiles: pd.DataFrame) -> Places:
    """Places of tiles in the grid of their photograph; a picture of one tile has none.

    Where tiles overlap, each grid is a photograph by itself: a tile that overlaps another is no
    neighbour of it, as validation tiles, which the second stage was fitted to, have none such.

    The last row and column are shifted inward. A tile that shows less than half a tile of its own
    pixels stands in the place of the one that it overlaps, as a copy: it has the neighbours of that
    tile, and no tile has it as a neighbour, because the same pixels would count twice.
    """
    is_part = (tiles["tile"] != "").to_numpy()
    rows, columns = (
        ((tiles[start] + tiles[size] // 2) // tiles[size]).to_numpy()
        for start, size in (("top_px", "height_px"), ("left_px", "width_px"))
    )
    grids = tiles.groupby(["picture", name_grids(tiles["tile"])]).ngroup().astype(str)
    return Places(
        np.where(is_part, grids.to_numpy(dtype=object), ""),
        np.where(is_part, rows, UNKNOWN),
        np.where(is_part, columns, UNKNOWN),
    )
