"""Pictures of a run → data URLs, small enough to stand in one page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from ensemble.explanation.activation import SHEET_KEY

TILE_QUALITY = 82
MOST_BYTES = 400_000  # of a whole picture; in the page it is a third larger, as base64
ATTEMPTS = ((1.0, 88), (1.0, 78), (0.75, 78), (0.5, 75), (0.35, 70), (0.25, 60))  # scale, quality


@dataclass(frozen=True)
class EmbeddedPicture:
    """A JPEG as a data URL, and its size in pixels."""

    url: str
    width_px: int
    height_px: int


def embed_picture(path: Path, *, most_bytes: int = MOST_BYTES) -> EmbeddedPicture | None:
    """Make a JPEG of a picture, scaled down until it is small enough; None if it is damaged.

    `most_bytes` is the largest size of the JPEG, before base64.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    for scale, quality in ATTEMPTS:
        size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
        scaled = picture if scale == 1 else picture.resize(size, Image.Resampling.LANCZOS)
        embedded = _as_jpeg(scaled, quality)
        if len(embedded.url) * 3 / 4 <= most_bytes:
            break
    return embedded


class _Tile(BaseModel):
    box: tuple[int, int, int, int]
    caption: str = Field(max_length=2000)


class _Sheet(BaseModel):
    title: str = Field(max_length=2000)
    tiles: list[_Tile] = Field(min_length=1, max_length=48)


@dataclass(frozen=True)
class Sheet:
    """A gallery, cut into pictures.

    Attributes:
        title: Title of the gallery.
        tiles: Each tile beside itself with its heat map, and the lines below it.
        plain: Each tile by itself.
    """

    title: str
    tiles: list[tuple[EmbeddedPicture, list[str]]]
    plain: list[EmbeddedPicture]


def embed_sheet(path: Path) -> Sheet | None:
    """Cut a gallery into its tiles; None if it is missing, damaged, empty or of an older run."""
    try:
        with Image.open(path) as file:
            file.load()  # the text may stand behind the pixels
            sheet = _Sheet.model_validate_json(file.info.get(SHEET_KEY, ""))
            picture = file.convert("RGB")
    except (OSError, ValueError, ValidationError, Image.DecompressionBombError):
        return None
    tiles, plain = [], []
    for tile in sheet.tiles:
        left, top, right, bottom = tile.box
        if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
            return None
        tiles.append((_as_jpeg(picture.crop(tile.box), TILE_QUALITY), tile.caption.split("\n")))
        square = (left, top, min(left + bottom - top, right), bottom)
        plain.append(_as_jpeg(picture.crop(square), TILE_QUALITY))
    return Sheet(sheet.title, tiles, plain)


def _as_jpeg(picture: Image.Image, quality: int) -> EmbeddedPicture:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, optimize=True)
    url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
    return EmbeddedPicture(url, *picture.size)
