"""Facts about pixels that show nothing, and about pictures of more than 8 bits a channel."""

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ensemble.data.reading.blank import fill_blank, is_one_colour, mark_blank
from ensemble.data.reading.decode import MAX_SCANS, count_scans, decode_picture
from ensemble.data.reading.pictures import read_picture

TILE = (64, 64)


def concrete(height: int = 192, width: int = 256, *, low: int = 90, high: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (height, width, 3)).astype(np.uint8)


def outside(height: int = 192, width: int = 256) -> np.ndarray:
    """Mask of the black corners around a mosaic that lies askew."""
    y, x = np.mgrid[:height, :width]
    return (x + y < 100) | (x + y > 380)


def encode(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def hidden(data: bytes) -> np.ndarray:
    picture = read_picture(io.BytesIO(data), TILE)
    if picture.mode == "RGB":
        return np.zeros((picture.height, picture.width), dtype=bool)
    return np.asarray(picture)[..., 3] == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_nothing_in_every_mode(mode: str):
    pixels = np.dstack([concrete(), np.where(outside(), 0, 255).astype(np.uint8)])
    picture = Image.fromarray(pixels)
    if mode == "P":
        grey = np.where(outside(), 7, np.maximum(concrete()[..., 0], 8)).astype(np.uint8)
        picture = Image.fromarray(grey).convert("P")
        data = encode(picture, transparency=7)
    else:
        data = encode(picture.convert(mode))
    assert (hidden(data) == outside()).all()


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 60}), ("WEBP", {"quality": 80})]
)
def test_a_black_or_white_frame_shows_nothing(colour: int, kind: str, options: dict[str, int]):
    pixels = concrete()
    pixels[outside()] = colour
    found = hidden(encode(Image.fromarray(pixels), kind, **options))
    assert (found & ~outside()).mean() < 0.01
    assert (~found & outside()).mean() < 0.02


def test_the_value_that_gdal_notes_shows_nothing():
    pixels = concrete()
    pixels[80:120, 80:120] = 0  # inside, where no frame is looked for
    assert not hidden(encode(Image.fromarray(pixels), "TIFF")).any()
    found = hidden(encode(Image.fromarray(pixels), "TIFF", tiffinfo={42113: "0"}))
    assert found.sum() == 1600
    assert found[80:120, 80:120].all()


@pytest.mark.parametrize("note", ["nan", "-9999", "", "1e999", "x"])
def test_a_value_that_no_pixel_has_hides_nothing(note: str):
    data = encode(Image.fromarray(concrete()), "TIFF", tiffinfo={42113: note})
    assert not hidden(data).any()


def test_a_black_crack_that_comes_in_from_the_edge_is_no_frame():
    pixels = concrete()
    pixels[90:110] = 0  # from the left edge to the right one, 20 px wide
    assert not hidden(encode(Image.fromarray(pixels))).any()


def test_a_tile_keeps_its_black_edge():
    pixels = concrete(*TILE)
    pixels[:, :40] = 0
    assert not hidden(encode(Image.fromarray(pixels))).any()


def test_what_shows_nothing_gets_the_mean_colour_of_the_rest():
    pixels = np.full((64, 64, 4), (100, 110, 120, 255), dtype=np.uint8)
    pixels[:, :20] = (0, 0, 0, 0)
    filled = fill_blank(Image.fromarray(pixels))
    assert filled is not None
    assert (np.asarray(filled) == (100, 110, 120)).all()


@pytest.mark.parametrize(("blank_px", "is_judged"), [(32, True), (33, False), (64, False)])
def test_a_tile_of_which_more_than_half_is_blank_is_left_out(blank_px: int, is_judged: bool):
    pixels = np.full((64, 64, 4), 255, dtype=np.uint8)
    pixels[:, :blank_px, 3] = 0
    assert (fill_blank(Image.fromarray(pixels)) is not None) == is_judged


def test_training_tiles_are_filled_as_those_to_predict():
    pixels = np.dstack([concrete(*TILE), np.full(TILE, 255, np.uint8)])
    pixels[:, :20, 3] = 0
    picture = Image.fromarray(pixels)
    filled = fill_blank(mark_blank(picture, has_frame=False))
    assert filled is not None
    assert (np.asarray(decode_picture(encode(picture))) == np.asarray(filled)).all()
    pixels[..., 3] = 0
    with pytest.raises(ValueError, match="more than half of it is transparent"):
        decode_picture(encode(Image.fromarray(pixels)))


def test_only_equal_pixels_are_one_colour():
    pixels = np.full((8, 8, 3), (1, 2, 3), dtype=np.uint8)
    assert is_one_colour(pixels)
    pixels[7, 7, 2] = 4
    assert not is_one_colour(pixels)


# bits a channel


def deep(pixels: np.ndarray, kind: str) -> bytes:
    """Pixels (H, W) or (H, W, 3) uint16 as a picture of 16 bits a channel."""
    if pixels.ndim == 2:
        return encode(Image.fromarray(pixels), kind)
    height, width, _ = pixels.shape
    values = ((256, width), (257, height), (259, 1), (262, 2), (273, 8), (277, 3), (278, height))
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in values]
    place = 8 + pixels.nbytes
    entries.insert(2, struct.pack("<HHII", 258, 3, 3, place))
    entries.append(struct.pack("<HHII", 279, 4, 1, pixels.nbytes))
    body = pixels.astype("<u2").tobytes() + struct.pack("<3H", 16, 16, 16)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


@pytest.mark.parametrize(("kind", "num_channels"), [("PNG", 1), ("TIFF", 1), ("TIFF", 3)])
def test_16_bits_are_read_as_their_upper_8_and_never_as_black(kind: str, num_channels: int):
    pixels = concrete(*TILE)
    grey = pixels[..., 0] if num_channels == 1 else pixels
    wide = grey.astype(np.uint16)
    expected = np.broadcast_to(grey[..., None], (*TILE, 3)) if num_channels == 1 else grey
    for read in (decode_picture, lambda data: read_picture(io.BytesIO(data), TILE)):
        assert (np.asarray(read(deep(wide * 257, kind))) == expected).all()
        with pytest.raises(ValueError, match="upper two are not used"):
            read(deep(wide * 16, kind))  # 12 bits


def test_bits_of_jpeg_2000_are_scaled_as_its_head_says():
    grey = concrete(*TILE)[..., 0].astype(np.uint16)
    data = encode(Image.fromarray(grey * 257), "JPEG2000")
    assert (np.asarray(decode_picture(data))[..., 0] == grey).all()
    with pytest.raises(ValueError, match="upper two are not used"):
        decode_picture(encode(Image.fromarray(grey * 16), "JPEG2000"))


def test_the_first_picture_of_an_animation_is_read():
    first, second = Image.new("RGB", TILE, (200, 0, 0)), Image.new("RGB", TILE, (0, 0, 200))
    data = encode(first, "GIF", save_all=True, append_images=[second])
    assert decode_picture(data).getpixel((0, 0)) == (200, 0, 0)


# scans of a JPEG


def test_scans_are_counted_up_to_the_end_of_the_picture():
    plain = encode(Image.fromarray(concrete()), "JPEG")
    progressive = encode(Image.fromarray(concrete()), "JPEG", progressive=True)
    assert count_scans(plain) == 1
    assert count_scans(plain + b"\xff\xda" * 1000) == 1
    assert count_scans(progressive) == progressive.count(b"\xff\xda") > 5


def test_a_video_behind_a_phones_photograph_does_not_count(tmp_path: Path):
    plain = encode(Image.fromarray(concrete(*TILE)), "JPEG")
    video = b"\0\0\0\x18ftypmp42" + np.random.default_rng(1).bytes(2**22) + b"\xff\xda" * 200
    assert decode_picture(plain + video).tobytes() == decode_picture(plain).tobytes()


def test_a_picture_hidden_in_a_segment_adds_no_scan_and_hides_none():
    plain = encode(Image.fromarray(concrete()), "JPEG")
    thumbnail = b"\xff\xd8\xff\xda\xff\xd9"
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    assert count_scans(plain[:2] + segment + plain[2:]) == 1
    scan = plain[plain.index(b"\xff\xda") : -2]
    many = plain[:2] + segment + plain[2:-2] + scan * MAX_SCANS + b"\xff\xd9"
    assert count_scans(many) == MAX_SCANS + 1
    with pytest.raises(ValueError, match=f"a JPEG of {MAX_SCANS + 1} scans"):
        decode_picture(many)


def test_the_frame_of_a_very_long_picture_is_found_in_seconds():
    start = time.process_time()
    assert mark_blank(Image.new("RGB", (64, 200_000)), has_frame=True).mode == "RGBA"
    assert time.process_time() - start < 5
