"""One judged photograph → its own file for browsers, a thumbnail with a heat map, its figures."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_erosion  # type: ignore[import-untyped]

from ensemble.base.errors import InputError
from ensemble.base.files import atomic_write
from ensemble.data.reading.decode import (
    UNREADABLE,
    any_size,
    explain_unreadable,
    is_turned,
    open_checked,
)
from ensemble.data.reading.exif import Origin, read_origin
from ensemble.data.reading.pictures import Picture, is_one_tile, read_picture
from ensemble.data.samples import DARK
from ensemble.prediction.overlays import NOT_JUDGED
from ensemble.prediction.tiling import in_first_grid
from ensemble.viewer.figures import Figures, measure_tiles
from ensemble.viewer.page import colour_of, describe_photograph

THUMBNAIL_PX = 640  # long side
BOX = ["left_px", "top_px", "width_px", "height_px"]
AS_THEY_ARE = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp"}  # that browsers show
MOST_JPEG_PX = 65_500  # long side


class Photograph(NamedTuple):
    """A photograph of a visit.

    Attributes:
        picture: Name, as CSV files call it.
        stem: Name of its files without the suffix.
        tiles: Rows of `predict_pictures` for it, with `probability`, `is_called`, `is_blank` and
            `is_between` for the viewer.
        figures: What its called tiles come to.
        size_px: (width, height) of the upright picture.
        threshold: Lowest probability of most tiles that is called cracked.
        origin: Place and time, as the camera wrote them.
        sha256: Digest of its file.
        shown: Name of the file that browsers show.
    """

    picture: str
    stem: str
    tiles: pd.DataFrame
    figures: Figures
    size_px: tuple[int, int]
    threshold: float
    origin: Origin
    sha256: str
    shown: str

    @property
    def num_tiles(self) -> int:
        """Number of tiles of the grid that covers it."""
        return int((~self.tiles["is_between"]).sum())

    @property
    def num_not_judged(self) -> int:
        """Number of tiles of the grid that covers it that show nothing."""
        return int((self.tiles["is_blank"] & ~self.tiles["is_between"]).sum())

    @property
    def num_called_in_all(self) -> int:
        """Number of its tiles that are called cracked, in all of its grids."""
        return self.figures.num_called + self.figures.num_called_between

    @property
    def highest(self) -> float:
        """Highest probability of its tiles; 0 where none was judged."""
        found = self.tiles["probability"].max()
        return 0.0 if np.isnan(found) else float(found)

    def for_viewer(self, image_url: str, *, mm_per_px: float | None = None) -> dict[str, Any]:
        """What the viewer is told of it, as `describe_photograph` does.

        Args:
            image_url: Address of its file, from the page.
            mm_per_px: Millimetres of concrete that a pixel shows.
        """
        return describe_photograph(
            self.tiles,
            picture=self.picture,
            key=self.sha256,
            image_url=image_url,
            size_px=self.size_px,
            threshold=self.threshold,
            mm_per_px=mm_per_px,
        )


def add_photograph(
    picture: Picture,
    stem: str,
    rows: pd.DataFrame,
    folder: Path,
    *,
    tile_size_px: tuple[int, int],
    threshold: float,
    has_thumbnail: bool = True,
) -> Photograph:
    """Write a photograph's file and thumbnail into `photographs/` and `thumbnails/` of a folder.

    Args:
        picture: The picture, which was judged.
        stem: Name of its files without the suffix.
        rows: Rows of `predict_pictures` for it.
        folder: Folder with these two folders.
        tile_size_px: (height, width) of the tiles that members were trained on.
        threshold: Threshold of tiles of which none was judged.
        has_thumbnail: Whether to write a thumbnail, too.

    Raises:
        InputError: It has changed since it was judged.
        CannotWriteError: The disk does not take it.
    """
    tiles = rows.assign(
        probability=rows["refined"],
        is_called=rows["verdict"] == "cracked",
        is_blank=rows["verdict"] == NOT_JUDGED,
        is_between=~in_first_grid(rows["tile"]),
    )
    right, bottom = tiles["left_px"] + tiles["width_px"], tiles["top_px"] + tiles["height_px"]
    size_px = int(right.max()), int(bottom.max())
    try:
        with picture.open() as file:
            sha256 = digest_file(file)
            file.seek(0)
            origin = read_origin(file)
            file.seek(0)
            shown = write_shown(file, folder / "photographs", stem, size_px, tile_size_px)
            if has_thumbnail:
                file.seek(0)
                reduced = read_picture(file, tile_size_px, reduced_px=THUMBNAIL_PX)
                with atomic_write(folder / "thumbnails" / f"{stem}.jpg") as path:
                    draw_thumbnail(reduced, tiles, size_px).save(path, "JPEG", quality=85)
    except UNREADABLE as error:
        reason = explain_unreadable(error)
        raise InputError(f"{picture.name}: changed since it was judged ({reason})") from None
    called, blank, between = tiles[["is_called", "is_blank", "is_between"]].to_numpy().T
    return Photograph(
        picture=picture.name,
        stem=stem,
        tiles=tiles,
        figures=measure_tiles(tiles[BOX].to_numpy(), called, ~blank, ~between),
        size_px=size_px,
        threshold=float(tiles["threshold"].mode().get(0, threshold)),
        origin=origin,
        sha256=sha256,
        shown=shown,
    )


def digest_file(file: BinaryIO) -> str:
    """SHA-256 of a file, by which a browser keeps the labels of a photograph."""
    digest = hashlib.sha256()
    while part := file.read(2**20):
        digest.update(part)
    return digest.hexdigest()


def write_shown(
    file: BinaryIO,
    folder: Path,
    stem: str,
    size_px: tuple[int, int],
    tile_size_px: tuple[int, int],
) -> str:
    """Write a file that browsers show as the picture was judged, and return its name.

    It is a copy where they do: they turn a JPEG upright as EXIF says, so one that is a single tile,
    which is judged as it lies, is not copied where that says something. Anything else becomes a
    JPEG, or a PNG where it is partly transparent.

    Args:
        file: Open file of the picture.
        folder: Folder to write into.
        stem: Name of the file without the suffix.
        size_px: (width, height) of the upright picture.
        tile_size_px: (height, width) of a tile.
    """
    with any_size(), open_checked(file) as image:
        kind, mode = str(image.format), image.mode
        turned = is_turned(image)
    turns_alike = kind in ("JPEG", "MPO") and not is_one_tile(size_px, tile_size_px)
    if kind in AS_THEY_ARE and mode != "CMYK" and (turns_alike or not turned):
        name = f"{stem}{AS_THEY_ARE[kind]}"
        file.seek(0)
        with atomic_write(folder / name) as path, path.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        return name
    file.seek(0)
    picture = read_picture(file, tile_size_px)
    is_jpeg = picture.mode == "RGB" and max(picture.size) <= MOST_JPEG_PX
    name = f"{stem}{'.jpg' if is_jpeg else '.png'}"
    settings: dict[str, Any] = {"quality": 95} if is_jpeg else {"compress_level": 3}
    with atomic_write(folder / name) as path:
        picture.save(path, "JPEG" if is_jpeg else "PNG", **settings)
    return name


def draw_thumbnail(
    picture: Image.Image, tiles: pd.DataFrame, size_px: tuple[int, int]
) -> Image.Image:
    """The picture, at most 640 px long, under its heat map, with a line around called tiles.

    Args:
        picture: Upright picture of any scale, RGB or RGBA.
        tiles: All of its tiles: their boxes, `probability` and `is_called`.
        size_px: (width, height) in which the boxes are.
    """
    scale = THUMBNAIL_PX / max(size_px)
    width, height = (max(1, round(side * scale)) for side in size_px)
    small = picture.convert("RGBA").resize((width, height), Image.Resampling.BILINEAR)
    sheet = Image.new("RGBA", small.size, "white")
    sheet.alpha_composite(small)
    judged = tiles[tiles["probability"].notna()].sort_values("probability", kind="stable")
    left, top = judged["left_px"], judged["top_px"]
    edges = np.stack([left, top, left + judged["width_px"], top + judged["height_px"]], axis=1)
    heat = np.zeros((height, width, 4), dtype=np.uint8)
    called = np.zeros((height, width), dtype=bool)
    colours = colour_of(judged["probability"].to_numpy())
    boxes = np.rint(edges * scale).astype(int)
    for (x1, y1, x2, y2), colour, is_called in zip(
        boxes, colours, judged["is_called"], strict=True
    ):
        heat[y1:y2, x1:x2] = colour  # the surest last, where tiles overlap
        called[y1:y2, x1:x2] |= is_called
    line = called & ~binary_erosion(called, np.ones((3, 3)), iterations=2)
    heat[line] = (*DARK, 255)
    sheet.alpha_composite(Image.fromarray(heat))
    return sheet.convert("RGB")
