"""Decodes the bytes of a picture, or says why not; bounds hold before anything is decoded."""

import io
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ensemble.base.errors import escape
from ensemble.data.reading.blank import fill_blank, mark_blank

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000")  # no other program is needed
HEIF = "HEIF"  # by pillow-heif, which is an extra
MAX_TILE_PIXELS = 4096 * 4096
TIFF_TILE_SIDES = (322, 323)
TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262
MAX_SCANS = 100  # of a JPEG; cameras write 1, progressive ones have about 10
MARKER = re.compile(rb"\xff([^\x00\xff])")
START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"
WITHOUT_LENGTH = {bytes([code]) for code in (0x01, *range(0xD0, 0xD9))}
JPEG2000_SIZE = re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL)  # bits of the first channel
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
DAMAGED_EXIF = (*UNREADABLE, ArithmeticError, AttributeError, KeyError, TypeError)
ORIENTATION = 0x0112  # of EXIF


def decode_picture(data: bytes) -> Image.Image:
    """Decode the bytes of a tile, in RGB; transparent pixels get the mean colour of the others.

    Raises:
        One of `UNREADABLE`: It cannot be decoded, or more than half of it is transparent.
    """
    with open_image(data) as image:
        picture = fill_blank(load_image(image, is_photograph=False))
    if picture is None:
        raise ValueError("more than half of it is transparent")
    return picture


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Read the head of a tile.

    Raises:
        One of `UNREADABLE`: It is no picture, or would take too much to decode.
    """
    image = open_checked(io.BytesIO(data))
    if image.width * image.height > MAX_TILE_PIXELS:
        raise ValueError(f"{image.width} × {image.height} px is too large for a tile")
    return image


def open_checked(file: BinaryIO) -> ImageFile.ImageFile:
    """Read the head of a picture of any size, unless it would be decoded wrongly or with effort."""
    image = Image.open(file, formats=readable_formats())
    _check_image(image, file)
    return image


@contextmanager
def any_size() -> Iterator[None]:
    """Lift Pillow's bound on pixels, where another one holds before anything is decoded.

    Within, Pillow's warnings of damaged metadata are ignored, too.
    """
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read here."""
    return (*FORMATS, HEIF) if can_read_heif() else FORMATS


@cache
def can_read_heif() -> bool:
    """Whether pillow-heif is installed; then Pillow is told to read HEIC with it."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def load_image(image: ImageFile.ImageFile, *, is_photograph: bool) -> Image.Image:
    """Decode an opened picture.

    Args:
        image: Picture from `Image.open`.
        is_photograph: Whether it is turned upright, and may have a frame.

    Returns:
        RGB, or RGBA where some of it shows nothing; see `mark_blank`.

    Raises:
        ValueError: It has more than 8 bits a channel, and how many it uses is not known.
        One of `UNREADABLE`: It cannot be decoded.
    """
    num_bits = _count_bits(image)
    try:
        image.load()
    except TypeError as error:  # Pillow's, of a TIFF whose places in the file are fractions
        raise OSError(str(error)) from None
    if is_photograph and is_turned(image):
        ImageOps.exif_transpose(image, in_place=True)
    picture = image if num_bits <= 8 else _to_8_bits(image, num_bits)
    return mark_blank(picture, has_frame=is_photograph)


def is_turned(image: Image.Image) -> bool:
    """Whether an opened picture says that it has to be turned or mirrored to be upright.

    Where its EXIF is damaged it says nothing.
    """
    try:
        return image.getexif().get(ORIENTATION, 1) != 1
    except DAMAGED_EXIF:
        return False


def _check_image(image: ImageFile.ImageFile, file: BinaryIO) -> None:
    """Refuse an opened picture that Pillow would decode wrongly, or only with great effort.

    A JPEG may go over all its pixels in scans of 30 bytes, 20 ms each; a small TIFF may be cut from
    one tile of a gigabyte.

    Raises:
        ValueError: It has more than 16 bits a channel or 16 in CMYK, there are more than
            `MAX_SCANS` scans, or a TIFF's tile is larger than the picture.
    """
    if image.mode in ("I", "F") or (image.mode == "CMYK" and _count_bits(image) > 8):
        raise ValueError("more than 8 bits a channel, which is not read; save it with 8")
    if image.format == "TIFF":
        width, length = (getattr(image, "tag_v2", {}).get(tag, 0) for tag in TIFF_TILE_SIDES)
        if not (isinstance(width, int) and isinstance(length, int)):
            raise ValueError("a TIFF whose tiles have no whole sides; save it anew")
        if width * length > 4 * max(image.width * image.height, 2**20):
            raise ValueError(f"a TIFF with a tile of {width} × {length} px; save it anew")
    if image.format not in ("JPEG", "MPO"):
        return
    place = file.tell()
    file.seek(0)
    scans = count_scans(file.read())
    file.seek(place)
    if scans > MAX_SCANS:
        raise ValueError(f"a JPEG of {scans:,} scans; save it anew")


def count_scans(data: bytes) -> int:
    """Count how often a JPEG goes over its pixels; a video behind its end is no part of it.

    The markers are found as libjpeg finds them: a segment is skipped by its length, anything else
    up to the next marker.
    """
    scans, place = 0, 2
    while (marker := MARKER.search(data, place)) and marker[1] != END_OF_IMAGE:
        place = marker.end()
        if marker[1] == START_OF_SCAN:
            scans += 1
        if marker[1] not in WITHOUT_LENGTH:
            place += max(2, int.from_bytes(data[place : place + 2]))
    return scans


def _count_bits(image: ImageFile.ImageFile) -> int:
    """Bits a channel of an opened file; Pillow decodes 8 of them in RGB and all in grey."""
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(TIFF_BITS, 1)
        return int(max(bits) if isinstance(bits, tuple) else bits)
    if image.format == "JPEG2000" and image.fp is not None:
        image.fp.seek(0)
        size = JPEG2000_SIZE.search(image.fp.read(2**16))
        return 1 + (size[1][0] & 127) if size else 8
    return 16 if any(";16" in str(tile[3]) for tile in image.tile) else 8


def _to_8_bits(image: Image.Image, num_bits: int) -> Image.Image:
    """Keep the upper 8 of the bits that a channel has in the file.

    Cameras put 10 to 14 bits into 16, and few programs note it: such a picture would be black. Its
    upper two bits are never used.

    Raises:
        ValueError: The upper two bits are never used.
    """
    if image.mode.startswith("I;16"):
        if image.format == "JPEG2000":
            num_bits = 16  # Pillow has scaled it to that
        upper = (np.asarray(image) >> (num_bits - 8)).astype(np.uint8)
        is_inverted = getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == 0
        image = Image.fromarray(255 - upper if is_inverted else upper)
    brightest = max(np.asarray(image.getchannel(band)).max() for band in image.getbands()[:3])
    if brightest < 64:
        raise ValueError(
            f"{num_bits} bits a channel, of which the upper two are not used, so that its real "
            "depth is not known; save it with 8"
        )
    return image


def explain_unreadable(error: BaseException) -> str:
    """Why a picture cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    words = escape(" ".join(str(error).split()))[:200] or type(error).__name__
    if isinstance(error, ValueError):  # in words of our own, but for a few of Pillow's
        return words
    if "truncated" in words or isinstance(error, EOFError):
        return "it is cut off before its end; copy it anew from where it came from"
    if isinstance(error, OSError) and error.errno is not None:
        return f"it cannot be read from the disk ({error.strerror}); mend that, then run again"
    return f"it is damaged ({words}); copy it anew from where it came from"
