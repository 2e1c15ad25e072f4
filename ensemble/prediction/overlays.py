"""Scored pictures → a folder of overlays, which show where the cracks are.

Where tiles overlap, a place is shown as cracked if any tile over it is called so: their maximum
counts, not their mean. A crack that one tile shows whole is cut off at the rim of the others, so
that in a mean these could outvote it, and a missed crack costs more than a false alarm.

`overlays.json` says which overlay is of which picture. By that file the folder is known as a
result, so that its pictures are never taken for photographs.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion  # type: ignore[import-untyped]

from ensemble.base.errors import InputError
from ensemble.base.files import atomic_write, make_folder, read_object, remove_file, write_json
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.listing import OVERLAYS_FILE
from ensemble.data.reading.pictures import Picture, read_picture
from ensemble.data.samples import DARK, LIGHT, line_px, outline_tile
from ensemble.prediction.tiling import in_first_grid
from ensemble.selection.ensemble import Ensemble

PALENESS = 0.4  # of what no cracked tile covers, where tiles overlap
NOT_JUDGED = "not judged"  # verdict on a tile that shows nothing
OVERLAY_PX = 2000  # long side
PNG_LEVEL = 3  # of compression: no larger than with Pillow's 6, in less than half of the time
LEGEND_PX = (560, 110)  # width and height of the strip under the picture
GRID_STEP = 30  # by which the grid is lighter than dark concrete and darker than bright
LEAST_TEXT_PX, TEXT_PX = 9, 17
MARGIN_PX, SAMPLE_PX = 12, 60
STEM_BYTES = 150  # of a file's name, of which a disk takes 255 in all


def draw_overlays(
    pictures: Sequence[Picture],
    tiles: pd.DataFrame,
    ensemble: Ensemble,
    folder: Path,
) -> int:
    """Read each picture of several tiles again, reduced, and draw where its cracks are.

    Args:
        pictures: Pictures that were scored, and perhaps others.
        tiles: Rows of `predict_pictures`.
        ensemble: The ensemble that judged the tiles.
        folder: Folder of the overlays; made if one is drawn.

    Returns:
        Number of overlays.

    Raises:
        InputError: They cannot be written, or a picture has changed since it was scored.
    """
    by_name = {picture.name: picture for picture in pictures}
    parts = {str(n): part for n, part in tiles[tiles["tile"] != ""].groupby("picture", sort=False)}
    files = {name: f"{stem}.png" for name, stem in name_files(parts).items()}
    _remove_older(folder, kept=set(files.values()))
    if files:
        make_folder(folder)
        write_json(
            folder / OVERLAYS_FILE, {"pictures": {file: name for name, file in files.items()}}
        )
    for name, part in parts.items():
        try:
            with by_name[name].open() as content:
                image = read_picture(content, ensemble.tile_size_px, reduced_px=OVERLAY_PX)
        except UNREADABLE as error:
            reason = explain_unreadable(error)
            raise InputError(f"{name}: changed since it was scored ({reason})") from None
        overlay = draw_overlay(image, part)
        with atomic_write(folder / files[name]) as path:
            overlay.save(path, "PNG", compress_level=PNG_LEVEL)
    return len(files)


def _remove_older(folder: Path, *, kept: set[str]) -> None:
    """Remove the overlays of an older prediction, which show what the new table does not say.

    What a person put into the folder stays.

    Args:
        folder: Folder of the overlays; it need not exist.
        kept: Names of files that are about to be written anew.

    Raises:
        InputError: The older record is damaged, or an overlay cannot be removed.
    """
    record = folder / OVERLAYS_FILE
    if not record.is_file():
        return
    for name in read_object(record, pictures=dict)["pictures"]:
        path = folder / name
        if name not in kept and path.name == name and path.is_file():
            remove_file(path)
    if not kept:
        remove_file(record)
        if not any(folder.iterdir()):
            folder.rmdir()


def name_files(pictures: Iterable[str]) -> dict[str, str]:
    """Picture → stem of a file for it, numbered where two pictures have one name."""
    files: dict[str, str] = {}
    taken: set[str] = set()
    for picture in pictures:
        stem = short_stem(picture)
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        free = next(n for n in itertools.chain([stem], numbered) if n.casefold() not in taken)
        taken.add(free.casefold())
        files[picture] = free
    return files


def short_stem(picture: str) -> str:
    """The name of a picture without folders and suffix, which leaves room for a number and more."""
    return Path(picture).stem.encode()[:STEM_BYTES].decode(errors="ignore")


def draw_overlay(picture: Image.Image, tiles: pd.DataFrame) -> Image.Image:
    """The picture, at most 2000 px long, with cracked tiles outlined, a grid and a legend.

    Within the outline and its number the pixels stay as they are, so that the crack can be judged.
    Where tiles overlap, one line goes around all that cracked ones cover.

    Args:
        picture: Upright RGB picture of any scale.
        tiles: All of its tiles: `tile`, `left_px`, `top_px`, `width_px`, `height_px`, `refined`
            (written into cracked tiles where there is room), `threshold` (for the legend) and
            `verdict`.
    """
    is_first = in_first_grid(tiles["tile"])
    right, bottom = tiles["left_px"] + tiles["width_px"], tiles["top_px"] + tiles["height_px"]
    width, height = int(right.max()), int(bottom.max())
    scale = min(1.0, OVERLAY_PX / width, (OVERLAY_PX - LEGEND_PX[1]) / height)
    shown_width, shown_height = max(1, round(width * scale)), max(1, round(height * scale))
    grid = np.zeros((shown_height, shown_width, 1), dtype=bool)
    edges = np.stack([tiles["left_px"], tiles["top_px"], right, bottom], axis=1) * scale
    boxes = np.rint(edges).astype(int)
    for x1, y1, x2, y2 in boxes[is_first]:
        grid[y1:y2, x1] = grid[y1, x1:x2] = True
    shown_size = (shown_width, shown_height)
    resized = picture.convert("RGB").resize(shown_size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    pixels = np.asarray(resized).astype(np.int16)  # (H, W, 3)
    step = np.where(pixels.mean(axis=2, keepdims=True) < 128, GRID_STEP, -GRID_STEP)
    pixels = np.where(grid, pixels + step, pixels).clip(0, 255)
    sheet_size = max(shown_width, LEGEND_PX[0]), shown_height + LEGEND_PX[1]
    sheet = Image.new("RGB", sheet_size, "white")
    sheet.paste(Image.fromarray(pixels.astype(np.uint8)), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for box in boxes[is_first & (tiles["verdict"] == NOT_JUDGED).to_numpy()].tolist():
        _cross_out(draw, box)
    cracked = tiles["verdict"] == "cracked"
    found = tiles["refined"][cracked].to_numpy()
    order = np.argsort(found, kind="stable")
    marked, probabilities = boxes[cracked.to_numpy()][order], found[order]
    if is_first.all():
        for box, probability in zip(marked.tolist(), probabilities, strict=True):
            _mark(draw, tuple(box), f"{probability:.2f}")  # the surest on top
    elif len(marked):
        _mark_together(sheet, marked, probabilities)
    _draw_legend(draw, shown_height, _name_thresholds(tiles), overlap=not is_first.all())
    return sheet


def _mark(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], text: str) -> None:
    """Outline a tile and write its probability in a corner."""
    _write(draw, box, outline_tile(draw, box), text)


def _mark_together(sheet: Image.Image, boxes: np.ndarray, probabilities: np.ndarray) -> None:
    """Draw one outline around tiles that overlap, with all else paler, and number the surest.

    A probability is not written over that of a surer tile: of boxes that overlap, the surest has
    its number, as in the suppression of detections that are not maximal.

    Args:
        sheet: Picture to draw in.
        boxes: (K, 4) left, top, right and bottom of the tiles in pixels, the surest last.
        probabilities: (K,) probabilities of the tiles.
    """
    covered = np.zeros((sheet.height, sheet.width), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        covered[y1:y2, x1:x2] = True
    pale = Image.blend(sheet, Image.new("RGB", sheet.size, "white"), PALENESS)
    sheet.paste(pale, (0, 0), Image.fromarray(np.uint8(255) * ~covered))
    x1, y1, x2, y2 = boxes[0]
    line = line_px(min(x2 - x1, y2 - y1))
    for colour in (DARK, LIGHT):
        inner = binary_erosion(covered, np.ones((3, 3)), iterations=line)
        sheet.paste(colour, (0, 0), Image.fromarray(np.uint8(255) * (covered & ~inner)))
        covered = inner
    draw = ImageDraw.Draw(sheet)
    is_free = np.ones(len(boxes), dtype=bool)
    while is_free.any():
        surest = int(np.flatnonzero(is_free)[-1])
        left, top, right, bottom = boxes[surest].tolist()
        _write(draw, (left, top, right, bottom), 2 * line, f"{probabilities[surest]:.2f}")
        lefts, tops, rights, bottoms = boxes.T
        is_free[surest] = False
        is_free &= (rights <= left) | (lefts >= right) | (bottoms <= top) | (tops >= bottom)


def _write(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], inset: int, text: str
) -> None:
    """Write a tile's probability in its corner, within its outline, where there is room."""
    x1, y1, x2, y2 = box
    side = min(x2 - x1, y2 - y1)
    size = min(TEXT_PX, side // 4)
    if size < LEAST_TEXT_PX:
        return
    font = ImageFont.load_default(size)
    left, top = x1 + inset, y1 + inset
    length = math.ceil(draw.textlength(text, font))
    draw.rectangle((left, top, left + length + 4, top + size + 3), fill=DARK)
    draw.text((left + 2, top + 1 + size // 2), text, LIGHT, font, anchor="lm")


def _cross_out(draw: ImageDraw.ImageDraw, box: list[int]) -> None:
    """Draw the diagonals of a tile, light on dark."""
    x1, y1, x2, y2 = box
    for colour, width in ((DARK, 3), (LIGHT, 1)):
        draw.line((x1, y1, x2 - 1, y2 - 1), fill=colour, width=width)
        draw.line((x1, y2 - 1, x2 - 1, y1), fill=colour, width=width)


def _name_thresholds(tiles: pd.DataFrame) -> str:
    """In brackets the thresholds of the tiles that were judged, that of most tiles first."""
    counts = tiles["threshold"].dropna().value_counts()
    named = " or ".join(f"{threshold:.3f}" for threshold in counts.index)
    return f" (from {named})" if named else ""


def _draw_legend(draw: ImageDraw.ImageDraw, top: int, thresholds: str, *, overlap: bool) -> None:
    """Draw a marked tile, and what the mark and the lines mean."""
    font = ImageFont.load_default(TEXT_PX)
    sample = MARGIN_PX, top + MARGIN_PX, MARGIN_PX + SAMPLE_PX, top + MARGIN_PX + SAMPLE_PX
    draw.rectangle((sample[0], sample[1], sample[2] - 1, sample[3] - 1), fill=(150, 150, 150))
    _mark(draw, sample, "0.87")
    lines = (
        f"called cracked, with its probability{thresholds}",
        "thin lines alone: called uncracked",
        "crossed out: not judged, as most of it is blank",
    )
    if overlap:
        lines = (
            f"in a cracked tile; highest probability{thresholds}",
            "paler: in no tile that is called cracked",
            lines[-1],
        )
    for number, line in enumerate(lines):
        place = 2 * MARGIN_PX + SAMPLE_PX, top + MARGIN_PX + 6 + 26 * number
        draw.text(place, line, "black", font)
