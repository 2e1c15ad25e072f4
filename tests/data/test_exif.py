"""Facts about what a camera writes of place and time: it is read, or counts as not there."""

import io

import pytest
from PIL import Image

from ensemble.data.reading.decode import load_image
from ensemble.data.reading.exif import EXIF_IFD, GPS_IFD, TAKEN_AT, Origin, read_origin

ZURICH = {1: "N", 2: (47.0, 22.0, 36.9), 3: "E", 4: (8.0, 32.0, 30.12)}
ANDES = {1: "S", 2: (16.0, 24.0, 0.0), 3: "W", 4: (71.0, 32.0, 13.2)}


def picture(gps: dict[int, object], taken_at: str = "", kind: str = "JPEG") -> io.BytesIO:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(GPS_IFD).update(gps)
    if taken_at:
        exif.get_ifd(EXIF_IFD)[TAKEN_AT] = taken_at
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, kind, exif=exif)
    file.seek(0)
    return file


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_place_and_time_are_read_from_a_file(kind):
    origin = read_origin(picture(ZURICH, "2026:11:27 10:05:06", kind))
    assert origin.latitude == pytest.approx(47.37692, abs=1e-5)
    assert origin.longitude == pytest.approx(8.54170, abs=1e-5)
    assert origin.taken_at == "2026-11-27T10:05:06"


def test_south_and_west_are_negative():
    origin = read_origin(picture(ANDES))
    assert (origin.latitude, origin.longitude) == (pytest.approx(-16.4), pytest.approx(-71.537))


@pytest.mark.parametrize(
    "gps",
    [
        {},
        {**ZURICH, 1: "X"},
        {**ZURICH, 1: ""},
        {**ZURICH, 2: (91.0, 0.0, 0.0)},
        {**ZURICH, 4: (8.0, 32.0)},
        {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)},  # no fix
        {1: "N", 2: (47.0, 22.0, 36.9)},
    ],
)
def test_a_damaged_place_is_none(gps):
    assert read_origin(picture(gps, "yesterday")) == Origin()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photograph_with_damaged_exif_is_read_as_it_lies(kind):
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, kind, exif=b"Exif\0\0no more of a camera")
    with Image.open(file) as image:
        assert load_image(image, is_photograph=True).size == (40, 30)


def test_what_is_no_picture_has_no_origin():
    whole = picture(ZURICH).getvalue()
    for content in (b"", b"text", whole[:60], whole[:12] + b"\xff" * 200 + whole[212:]):
        assert read_origin(io.BytesIO(content)).latitude is None
