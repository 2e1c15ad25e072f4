"""Pictures of a run → data URLs, small enough to stand in one page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

MOST_BYTES = 900_000  # three pictures, a third more as base64: well below 6 MB
ATTEMPTS = ((1.0, 88), (1.0, 78), (0.75, 78), (0.5, 75), (0.35, 70), (0.25, 60))  # scale, quality


@dataclass(frozen=True)
class Picture:
    """A JPEG as a data URL, and its size in pixels."""

    url: str
    width_px: int
    height_px: int


def embed_picture(path: Path, *, most_bytes: int = MOST_BYTES) -> Picture | None:
    """A picture as JPEG, scaled down as far as it needs; None if it is missing or damaged.

    Args:
        path: Of the picture.
        most_bytes: Of the JPEG, before base64.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    for scale, quality in ATTEMPTS:
        size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
        data = io.BytesIO()
        scaled = picture if scale == 1 else picture.resize(size, Image.Resampling.LANCZOS)
        scaled.save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() <= most_bytes:
            break
    url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
    return Picture(url, *size)
