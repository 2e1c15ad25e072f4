"""Pictures without labels → one row a tile: its place, each member's probability and a verdict."""

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import make_folder, write_table
from ensemble.base.progress_bar import progress_bar
from ensemble.base.wording import plural
from ensemble.data.batches import place_tiles
from ensemble.data.reading.blank import is_one_colour
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.listing import describe_passed_over
from ensemble.data.reading.pictures import Picture, list_pictures, read_picture
from ensemble.prediction.overlays import NOT_JUDGED, draw_overlays
from ensemble.prediction.tiling import Box, cut_tile, lay_grid
from ensemble.selection.ensemble import Ensemble

LOT_BYTES = 128 * 2**20  # pixels scored at a time: 682 tiles of 256 px


def predict_pictures(
    ensemble: Ensemble,
    paths: Sequence[Path | str],
    *,
    csv: Path | None = None,
    overlays: Path | None = None,
    log: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Judge every tile of all pictures.

    Args:
        ensemble: The ensemble that judges.
        paths: Pictures, and folders and .zip files of pictures, in any layout.
        csv: File for the rows, written whole when all pictures are scored; None for no file.
        overlays: Folder for overlays, made where there is something to draw; what lies in it is
            not read. None for no overlays.
        log: Takes lines about pictures that were not read, the precision, and written files.

    Returns:
        One row a tile: `picture`, `tile`, `left_px`, `top_px`, `width_px`, `height_px`,
        `trial_<n>` of each member, `ensemble`, `calibrated` and `verdict` ("cracked", "uncracked",
        or "not judged" where the tile shows nothing).

    Raises:
        InputError: A path does not exist or is unsafe, no picture can be read, a member is
            damaged, or the files cannot be written.
    """
    with ExitStack() as archives:
        pictures, passed_over = list_pictures([Path(path) for path in paths], overlays, archives)
        tiles, unreadable = score_pictures(ensemble, pictures)
        if csv is not None:
            make_folder(csv.parent)
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
    ensemble: Ensemble, pictures: Sequence[Picture]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Cut pictures into tiles and judge these, a lot at a time.

    Returns:
        The rows of `predict_pictures`, and the names of pictures that cannot be read with the
        reason.

    Raises:
        InputError: No picture can be read, or a member is damaged.
    """
    height, width = ensemble.tile_size_px
    unreadable: dict[str, str] = {}
    tiles = _cut_pictures(pictures, ensemble, unreadable)
    tables = []
    with progress_bar() as progress:
        task = progress.add_task("looking for cracks", total=len(pictures))
        while lot := list(itertools.islice(tiles, max(1, LOT_BYTES // (3 * height * width)))):
            places = pd.DataFrame([{"picture": name, **box._asdict()} for name, box, *_ in lot])
            tables.append(places.assign(**_judge(ensemble, [pixels for *_, pixels in lot])))
            progress.update(task, completed=lot[-1][2])
    if not tables:
        name, reason = next(iter(unreadable.items()))
        raise InputError(
            f"none of {plural(len(pictures), 'picture')} can be read ({name}: {reason})"
        )
    return pd.concat(tables, ignore_index=True), unreadable


def _judge(ensemble: Ensemble, tiles: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
    """The columns of the members, the ensemble and the verdict; NaN for a tile without pixels."""
    judged = [place for place, pixels in enumerate(tiles) if pixels is not None]
    scores = np.full((len(ensemble.members), len(tiles)), np.nan)  # (M, N)
    if judged:
        pixels = np.stack([tile for tile in tiles if tile is not None])  # (N, H, W, 3)
        unknown = np.zeros(len(judged), dtype=np.int64)  # labels
        placed = place_tiles(
            pixels,
            np.arange(len(judged)),
            unknown,
            ensemble.device,
            tile_size_px=ensemble.tile_size_px,
        )
        scores[:, judged] = ensemble.score(placed)
    mean = ensemble.weigh(scores)
    verdicts = np.where(ensemble.judge(mean), "cracked", "uncracked").astype(object)
    verdicts[np.isnan(mean)] = NOT_JUDGED
    members = {f"trial_{m.trial}": row for m, row in zip(ensemble.members, scores, strict=True)}
    return {
        **members,
        "ensemble": mean,
        "calibrated": ensemble.calibrate(mean),
        "verdict": verdicts,
    }


def _cut_pictures(
    pictures: Sequence[Picture], ensemble: Ensemble, unreadable: dict[str, str]
) -> Iterator[tuple[str, Box, float, np.ndarray | None]]:
    """Yield picture, place, how many pictures are done by then, and pixels, of every tile.

    A tile that shows nothing has no pixels. Pictures that cannot be read go into `unreadable`.
    """
    for index, picture in enumerate(pictures):
        try:
            with picture.open() as file:
                image = read_picture(file, ensemble.tile_size_px)
        except (*UNREADABLE, struct.error) as error:
            unreadable[picture.name] = explain_unreadable(error)
            continue
        boxes = lay_grid(image.size, ensemble.tile_size_px)
        for number, box in enumerate(boxes, 1):
            pixels = cut_tile(image, box, ensemble.stored_size_px)
            if pixels is not None and is_one_colour(pixels):
                pixels = None
            yield picture.name, box, index + number / len(boxes), pixels
