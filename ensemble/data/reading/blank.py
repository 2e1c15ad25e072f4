"""Finds pixels that show nothing: transparent ones, and the frame around a turned mosaic.

An orthomosaic lies askew in its rectangle; outside there is no concrete but transparency, or pure
black or white. The edge between the two looks like a crack to a network. Such pixels are given the
mean colour of those that show something, and a tile of which more than half shows nothing is not
judged at all.
"""

import numpy as np
from PIL import Image, ImageChops, ImageFilter

LEAST_SHOWN = 0.5  # part of a tile that shows something
LEAST_ALPHA = 128
PURE, NEARLY_PURE = 3, 12  # distances of a frame from black or white after a lossy format,
BLOCK_PX = 16  # the second within this distance of its edge
LEAST_FRAME_PX = 32  # wide and deep
CHUNK_PX = 2**24  # of a large picture, looked at together
EDGE_PX = 4  # width of the mixture beside blank pixels
GDAL_NODATA = 42113  # a TIFF's tag: the value of pixels that hold no data


def mark_blank(image: Image.Image, *, has_frame: bool) -> Image.Image:
    """Convert a loaded picture of 8 bits a channel to RGB, or to RGBA if some of it is blank.

    Args:
        image: Picture of any mode.
        has_frame: Whether pure black or white from the edge inward shows nothing.

    Returns:
        Alpha is 0 where a pixel shows nothing, 255 elsewhere.
    """
    hidden = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        hidden = np.asarray(image.getchannel("A")) < LEAST_ALPHA
    nodata = getattr(image, "tag_v2", {}).get(GDAL_NODATA)
    picture = image if image.mode == "RGB" else image.convert("RGB")  # one copy, if it is large
    if nodata is not None:
        hidden = _either(hidden, _find_value(picture, str(nodata)))
    if has_frame:
        hidden = _either(hidden, _find_frame(picture))
    if hidden is None or not hidden.any():
        return picture
    picture.putalpha(Image.fromarray((~hidden).astype(np.uint8) * np.uint8(255)))
    return picture


def fill_blank(tile: Image.Image) -> Image.Image | None:
    """Give pixels that show nothing the mean colour of the others.

    Args:
        tile: A picture from `mark_blank`, or a part of it.

    Returns:
        The tile in RGB, or None where more than half of it shows nothing.
    """
    if tile.mode == "RGB":
        return tile
    pixels = np.array(tile)  # (H, W, 4)
    if (pixels[..., 3] > 0).mean() < LEAST_SHOWN:
        return None
    shown = np.asarray(tile.getchannel("A").filter(ImageFilter.MinFilter(2 * EDGE_PX + 1))) > 0
    if not shown.any():
        return None
    pixels[~shown, :3] = pixels[shown, :3].mean(axis=0).round()
    return Image.fromarray(pixels[..., :3])


def is_one_colour(pixels: np.ndarray) -> bool:
    """Whether all pixels of a tile (H, W, 3) are equal; no camera's are."""
    return all(bool((part == pixels[:1, :1]).all()) for part in (pixels[:1], pixels))


def _either(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    return other if one is None else one if other is None else one | other


def _find_value(picture: Image.Image, nodata: str) -> np.ndarray | None:
    try:
        value = int(float(nodata.strip(" \0")))
    except (ValueError, OverflowError):
        return None
    return (np.asarray(picture) == value).all(axis=2) if 0 <= value <= 255 else None


def _find_frame(picture: Image.Image) -> np.ndarray | None:
    """Mark runs of pure black or pure white that begin at the edge of the picture, (H, W) bool."""
    width, height = picture.size
    sides = (0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height)
    frame = None
    for impurity_of in (_distance_to_black, _distance_to_white):
        edges = (picture.crop(side) for side in (*sides, (width - 1, 0, width, height)))
        if all(_longest_run(impurity_of(edge).ravel() == 0) < LEAST_FRAME_PX for edge in edges):
            continue  # a large picture without a frame costs nothing
        impurity = impurity_of(picture)
        frame = np.zeros((height, width), dtype=bool) if frame is None else frame
        _mark_runs(frame, impurity)
        _mark_runs(frame[:, ::-1], impurity[:, ::-1])
        impurity = np.ascontiguousarray(impurity.T)
        _mark_runs(frame.T, impurity)
        _mark_runs(frame[::-1].T, impurity[:, ::-1])
    return frame


def _longest_run(is_in: np.ndarray) -> int:
    """Length of the longest row of True in (N,) bool."""
    ends = np.flatnonzero(np.diff(is_in, prepend=False, append=False))
    return int((ends[1::2] - ends[::2]).max(initial=0))


def _distance_to_black(picture: Image.Image) -> np.ndarray:
    red, green, blue = picture.split()
    return np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue))


def _distance_to_white(picture: Image.Image) -> np.ndarray:
    red, green, blue = picture.split()
    return 255 - np.asarray(ImageChops.darker(ImageChops.darker(red, green), blue))


def _mark_runs(frame: np.ndarray, impurity: np.ndarray) -> None:
    """Mark the runs of pure pixels that begin at the left edge, and nearly pure ones behind them.

    A crack that comes in from the edge may be as black; it is not as wide as a frame.
    """
    width = impurity.shape[1]
    rows = np.flatnonzero(impurity[:, 0] == 0)
    if len(rows) == 0:
        return
    step = max(1, CHUNK_PX // width)
    chunks = [slice(first, first + step) for first in range(0, len(rows), step)]
    runs = np.concatenate([_measure_runs(impurity[rows[chunk]] <= PURE) for chunk in chunks])
    starts = np.flatnonzero(np.diff(rows, prepend=-2) > 1)  # of neighbouring rows
    num_rows = np.diff(starts, append=len(rows))
    is_frame = np.minimum(num_rows, np.maximum.reduceat(runs, starts)) >= LEAST_FRAME_PX
    is_marked = np.repeat(is_frame, num_rows)
    rows, runs = rows[is_marked], runs[is_marked]
    for chunk in chunks:
        marked, pure_px = rows[chunk], runs[chunk, None]
        behind = np.minimum(pure_px + np.arange(BLOCK_PX), width - 1)
        near_px = _measure_runs(impurity[marked[:, None], behind] <= NEARLY_PURE)[:, None]
        frame[marked] |= np.arange(width) < pure_px + near_px


def _measure_runs(is_in: np.ndarray) -> np.ndarray:
    """Count the pixels of each row from the left up to the first that is False."""
    return np.where(is_in.all(axis=1), is_in.shape[1], is_in.argmin(axis=1))
