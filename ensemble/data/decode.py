"""Bytes of a picture → its pixels, or why it is not decoded; bounds hold before anything is."""

import io
import struct
import zipfile
import zlib
from typing import BinaryIO

from PIL import Image

from ensemble.errors import escape

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000")  # no other program is needed
MAX_TILE_PIXELS = 4096 * 4096
TIFF_TILE_SIDES = (322, 323)
MAX_SCANS = 100  # of a JPEG; cameras write 1, progressive ones have about 10
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def decode_picture(data: bytes) -> Image.Image:
    """Decode the bytes of a picture, in RGB.

    Raises:
        One of `UNREADABLE`: It cannot be decoded.
    """
    with open_image(data) as image:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


def open_image(data: bytes) -> Image.Image:
    """Read the head of a picture.

    Raises:
        One of `UNREADABLE`: It is none, or would take too much to decode.
    """
    file = io.BytesIO(data)
    image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_TILE_PIXELS:
        raise ValueError(f"{image.width} × {image.height} px is too large for a tile")
    if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255
        raise ValueError("more than 8 bits a channel; save it with 8")
    check_effort(image, file)
    return image


def check_effort(image: Image.Image, file: BinaryIO) -> None:
    """Refuse a picture that takes far more time or memory to decode than its size says.

    A JPEG may go over all its pixels in scans of 30 bytes, 20 ms each; a small TIFF may be cut from
    one tile of a gigabyte.

    Raises:
        ValueError: There are more than `MAX_SCANS` scans, or the tile is larger than the picture.
    """
    if image.format == "TIFF":
        width, length = (getattr(image, "tag_v2", {}).get(tag, 0) for tag in TIFF_TILE_SIDES)
        if width * length > 4 * max(image.width * image.height, 2**20):
            raise ValueError(f"a TIFF with a tile of {width} × {length} px; save it anew")
    if image.format not in ("JPEG", "MPO"):
        return
    place = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    file.seek(place)
    if scans > MAX_SCANS:
        raise ValueError(f"a JPEG of {scans:,} scans; save it anew")


def explain_unreadable(error: BaseException) -> str:
    """Why a picture cannot be read, in a few words."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    return escape(" ".join(str(error).split()))[:200] or type(error).__name__
