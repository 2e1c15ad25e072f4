"""Bytes of tiles → digests, sizes and pixels, in parallel; unreadable tiles are named."""

import hashlib
import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from ensemble.data.progress import progress_bar
from ensemble.data.sources import Reader, Source
from ensemble.errors import InputError, escape

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")  # no format that needs another program
MAX_TILE_PIXELS = 4096 * 4096
TIFF_TILE_SIDES = (322, 323)
CHUNK = 32  # tiles that a thread takes at a time
TILES_PER_FLUSH = 256
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

Result = TypeVar("Result")


def read_contents(source: Source, reader: Reader, bad: dict[str, str]) -> pd.DataFrame:
    """Digest every tile's bytes and read its size; unreadable ones go to `bad` with the reason."""

    def look(tile: str) -> tuple[str, tuple[int, int]] | str:
        try:
            data = reader.read(tile)
            with _open_image(data) as image:
                size = (image.height, image.width)
            return hashlib.blake2b(data, digest_size=16).hexdigest(), size
        except UNREADABLE as error:
            return explain_unreadable(error)

    contents: list[tuple[str, tuple[int, int] | None]] = []
    names = source.tiles["tile"].tolist()
    # one file's members are not there sooner by a second thread, which only waits for the GIL
    num_threads = None if source.path.is_dir() else 1
    for tile, seen in _in_parallel(look, names, "reading", num_threads=num_threads):
        if isinstance(seen, str):
            bad[tile] = seen
            contents.append(("", None))
        else:
            contents.append(seen)
    tiles = source.tiles.assign(
        content=[content for content, _ in contents],
        size=pd.Series([size for _, size in contents], dtype=object),
    )
    tiles = tiles[tiles["content"] != ""].reset_index(drop=True)
    if tiles.empty:
        name, reason = next(iter(bad.items()))
        raise InputError(f"{source.path}: no tile can be read ({name}: {reason})")
    return tiles


def decode_tiles(
    tiles: pd.DataFrame, reader: Reader, path: Path, size: tuple[int, int], bad: dict[str, str]
) -> None:
    """Decode the tiles of one split, each into its `row` of the array at `path`."""
    height, width = size
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (len(tiles), height, width, 3))
    start, row_of = array.offset, dict(zip(tiles["tile"], tiles["row"], strict=True))
    del array  # writing to mapped pages takes six times as long as to the file

    def decode(tile: str) -> str | None:
        try:
            picture = decode_picture(reader.read(tile))
        except UNREADABLE as error:
            return explain_unreadable(error)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        data = memoryview(picture.tobytes())
        place = start + row_of[tile] * len(data)
        while data:  # a disk that is nearly full takes a part
            written = os.pwrite(file.fileno(), data, place)
            data, place = data[written:], place + written
        return None

    with path.open("rb+") as file, ThreadPoolExecutor(1) as disk:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)  # a full disk is known at once
        flushes: list[Future[None]] = []
        decoded = _in_parallel(decode, list(row_of), f"packing {path.stem}")
        for number, (tile, reason) in enumerate(decoded):
            if reason is not None:
                bad[tile] = reason
            # the disk is as slow as the decoder: it works beside it, not after it
            if number % TILES_PER_FLUSH == 0 and (not flushes or flushes[-1].done()):
                flushes.append(disk.submit(os.fdatasync, file.fileno()))
        for flush in flushes:
            flush.result()  # the kernel tells of a disk's error once


def decode_picture(data: bytes) -> Image.Image:
    """Decode the bytes of a picture, in RGB.

    Raises:
        One of `UNREADABLE`: It cannot be decoded.
    """
    with _open_image(data) as image:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


def _open_image(data: bytes) -> Image.Image:
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


def _in_parallel(
    work: Callable[[str], Result], tiles: list[str], title: str, *, num_threads: int | None = None
) -> Iterator[tuple[str, Result]]:
    """Yield (tile, work(tile)) in order, from a thread for each core (decoders free the GIL)."""
    # handing over tiles one by one costs half as much as reading them
    chunks = [tiles[first : first + CHUNK] for first in range(0, len(tiles), CHUNK)]
    with (
        warnings.catch_warnings(),
        progress_bar() as progress,
        ThreadPoolExecutor(num_threads or os.cpu_count()) as threads,
    ):
        warnings.simplefilter("ignore")  # of damaged metadata, which nothing here depends on
        try:
            results = threads.map(lambda chunk: [(tile, work(tile)) for tile in chunk], chunks)
            done = chain.from_iterable(results)
            yield from progress.track(done, total=len(tiles), description=title)
        finally:
            threads.shutdown(cancel_futures=True)
