"""Reads where and when a photograph was taken, as its camera wrote it into the file.

EXIF 2.32, section 4.6.6 (GPS): degrees, minutes and seconds as fractions, with a letter for the
hemisphere. Nothing of it is needed to judge a picture, so what is damaged counts as not there.
"""

import math
import re
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from ensemble.data.reading.decode import DAMAGED_EXIF, any_size, readable_formats

EXIF_IFD, GPS_IFD = 0x8769, 0x8825
TAKEN_AT = 0x9003  # DateTimeOriginal, without a time zone
LATITUDE_REF, LATITUDE, LONGITUDE_REF, LONGITUDE = 1, 2, 3, 4
TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)")


class Origin(NamedTuple):
    """Place and time of a photograph.

    Attributes:
        latitude: Degrees north, −90 to 90; None where it is not known.
        longitude: Degrees east, −180 to 180; None where it is not known.
        taken_at: Local time of the camera, `2026-11-27T10:05:00`; empty where it is not known.
    """

    latitude: float | None = None
    longitude: float | None = None
    taken_at: str = ""


def read_origin(file: BinaryIO) -> Origin:
    """Read place and time from the head of a picture; it need not be one that can be decoded."""
    try:
        with any_size(), Image.open(file, formats=readable_formats()) as image:
            exif = image.getexif()
            place, times = exif.get_ifd(GPS_IFD), exif.get_ifd(EXIF_IFD)
    except DAMAGED_EXIF:
        return Origin()
    taken = TIME.match(str(times.get(TAKEN_AT, "")))
    taken_at = "{}-{}-{}T{}".format(*taken.groups()) if taken else ""
    latitude = _degrees(place.get(LATITUDE), place.get(LATITUDE_REF), {"N": 1, "S": -1}, 90)
    longitude = _degrees(place.get(LONGITUDE), place.get(LONGITUDE_REF), {"E": 1, "W": -1}, 180)
    if latitude is None or longitude is None or (latitude, longitude) == (0, 0):  # no fix
        return Origin(taken_at=taken_at)
    return Origin(latitude, longitude, taken_at)


def _degrees(parts: Any, reference: Any, signs: dict[str, int], most: int) -> float | None:
    """Degrees of an angle, with the sign of its letter; None where it is damaged."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
        sign = signs[str(reference).strip("\0 ").upper()]
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    angle = degrees + minutes / 60 + seconds / 3600
    return round(sign * angle, 7) if math.isfinite(angle) and 0 <= angle <= most else None
