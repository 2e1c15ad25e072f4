"""All tiles of a source: which are copies, how large most are, and their pixels; in parallel.

Tiles that cannot be read are left out, and named with the reason, up to a number.
"""

import hashlib
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from ensemble.base.errors import InputError
from ensemble.base.process import count_cores
from ensemble.base.progress_bar import progress_bar
from ensemble.base.wording import plural
from ensemble.data.reading.decode import UNREADABLE, decode_picture, explain_unreadable, open_image
from ensemble.data.reading.listing import Reader
from ensemble.data.sizes import most_common_size

CHUNK = 32  # tiles that a thread takes at a time
TILES_PER_FLUSH = 256
TILES_TO_LOOK_AT = 32  # for the size of most

Seen = TypeVar("Seen")
Kept = TypeVar("Kept")


class Unreadable(NamedTuple):
    """A tile that cannot be read, and why."""

    reason: str


class _Decoded(NamedTuple):
    """What is known of a tile once its pixels are written."""

    content: str
    size: tuple[int, int]
    pixels_sum: int


def digest_tiles(
    tiles: list[str],
    reader: Reader,
    bad: dict[str, str],
    *,
    max_bad_tiles: int,
    num_threads: int | None = None,
) -> dict[str, str]:
    """BLAKE2b of the bytes of tiles; those that are no pictures go to `bad` with the reason.

    Raises:
        InputError: There are more bad ones than `max_bad_tiles`.
    """

    def digest(tile: str) -> str:
        data = reader.read(tile)
        open_image(data).close()  # damaged files are often equal, and no copies for that
        return _digest(data)

    def keep(_: str, content: str) -> str:
        return content

    return dict(
        _read_all(
            digest, tiles, "comparing", bad, max_bad_tiles, keep=keep, num_threads=num_threads
        )
    )


def find_common_size(tiles: list[str], reader: Reader) -> tuple[int, int]:
    """The most common (height, width) by the heads of a few tiles, of more where these differ.

    Raises:
        InputError: No tile can be read, or no size is common.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    reasons: list[str] = []
    few = tiles[:: -(-len(tiles) // TILES_TO_LOOK_AT)]
    with _without_warnings():
        for tile in dict.fromkeys((*few, *tiles)):
            try:
                with open_image(reader.read(tile)) as image:
                    sizes[image.height, image.width] += 1
            except UNREADABLE as error:
                reasons.append(f"{tile}: {explain_unreadable(error)}")
            if sizes.total() >= len(few) and 2 * max(sizes.values()) > sizes.total():
                break
    if not sizes:
        raise InputError(f"{reader.path}: no tile can be read ({reasons[0]})")
    return most_common_size(sizes, where=reader.path)


def decode_tiles(
    tiles: pd.DataFrame,
    reader: Reader,
    folder: Path,
    size: tuple[int, int],
    bad: dict[str, str],
    *,
    max_bad_tiles: int,
) -> pd.DataFrame:
    """Decode each tile into its `row` of its `split`'s array in `folder`, `train.npy` and so on.

    Args:
        tiles: `tile`, `split` and `row`, which counts from 0 in each split.
        reader: Of their bytes.
        folder: Has room for (rows, height, width, 3) uint8 of each split.
        size: (height, width); tiles of another one are resized.
        bad: Takes those that cannot be decoded, with the reason.
        max_bad_tiles: Of which there may be so many.

    Returns:
        The tiles that were decoded, with their `content`, BLAKE2b of the bytes, the `size` that
        they had, and `pixels_sum`, CRC-32 of their row.

    Raises:
        InputError: There are more bad ones.
    """
    height, width = size

    def decode(tile: str) -> tuple[str, tuple[int, int], bytes]:
        data = reader.read(tile)
        picture = decode_picture(data)
        size = (picture.height, picture.width)
        if size != (height, width):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        return _digest(data), size, picture.tobytes()

    def keep(tile: str, seen: tuple[str, tuple[int, int], bytes]) -> _Decoded:
        content, size, pixels = seen
        file, place = places[tile]
        left = memoryview(pixels)
        while left:  # a disk that is nearly full takes a part
            written = os.pwrite(file, left, place)
            left, place = left[written:], place + written
        return _Decoded(content, size, zlib.crc32(pixels))

    def flush() -> None:
        for file in files.values():
            os.fdatasync(file)

    with ExitStack() as stack:
        files: dict[str, int] = {}
        starts: dict[str, int] = {}
        for split, num_rows in Counter(tiles["split"]).items():
            path = folder / f"{split}.npy"
            shape = (num_rows, height, width, 3)
            starts[split] = np.lib.format.open_memmap(path, "w+", np.uint8, shape).offset
            # writing to mapped pages takes six times as long as to the file
            files[split] = stack.enter_context(path.open("rb+")).fileno()
            os.posix_fallocate(files[split], 0, path.stat().st_size)  # a full disk is known at once
        places = {
            tile: (files[split], starts[split] + row * height * width * 3)
            for tile, split, row in zip(tiles["tile"], tiles["split"], tiles["row"], strict=True)
        }
        disk = stack.enter_context(ThreadPoolExecutor(1))
        flushes: list[Future[None]] = []
        results = stack.enter_context(
            closing(_read_all(decode, list(places), "packing", bad, max_bad_tiles, keep=keep))
        )
        decoded: dict[str, _Decoded] = {}
        for tile, seen in results:
            decoded[tile] = seen
            # the disk is as slow as the decoder: it works beside it, not after it
            if len(decoded) % TILES_PER_FLUSH == 0 and (not flushes or flushes[-1].done()):
                flushes.append(disk.submit(flush))
        for flushed in flushes:
            flushed.result()  # the kernel tells of a disk's error once
    return tiles[tiles["tile"].isin(decoded)].assign(
        content=[one.content for one in decoded.values()],
        size=pd.Series([one.size for one in decoded.values()], dtype=object).to_numpy(),
        pixels_sum=[one.pixels_sum for one in decoded.values()],
    )


def check_bad_tiles(bad: dict[str, str], max_bad_tiles: int, *, so_far: bool = False) -> None:
    """Make sure that there are no more unusable tiles than may be left out.

    Args:
        bad: The reasons, by tile.
        max_bad_tiles: That may be left out.
        so_far: Whether there may be more than these.

    Raises:
        InputError: There are.
    """
    if len(bad) > max_bad_tiles:
        named = "; ".join(f"{tile}: {reason}" for tile, reason in list(bad.items())[:3])
        at_least = "at least " if so_far else ""
        raise InputError(
            f"{at_least}{plural(len(bad), 'tile')} must be left out, more than --max-bad-tiles "
            f"{max_bad_tiles} ({named}); mend or remove them, or allow more"
        )


def _without_warnings() -> AbstractContextManager[object]:
    """Pillow's are about damaged metadata, which nothing here depends on."""
    return warnings.catch_warnings(action="ignore")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _read_all(
    read: Callable[[str], Seen],
    tiles: list[str],
    title: str,
    bad: dict[str, str],
    max_bad_tiles: int,
    *,
    keep: Callable[[str, Seen], Kept],
    num_threads: int | None = None,
) -> Generator[tuple[str, Kept], None, None]:
    """Yield each tile and what is kept of it, in order, from a thread for each core.

    Args:
        read: Bytes and decoders, which free the interpreter; may raise one of `UNREADABLE`.
        tiles: To be read.
        title: Of the bar.
        bad: Takes the tiles that cannot be read, with the reason.
        max_bad_tiles: At the most.
        keep: What is done with what was read, in the same thread; its errors are not the tile's.
        num_threads: If not one a core.

    Raises:
        InputError: Too many tiles cannot be read.
    """

    def read_chunk(chunk: list[str]) -> list[tuple[str, Kept | Unreadable]]:
        results: list[tuple[str, Kept | Unreadable]] = []
        for tile in chunk:
            try:
                seen = read(tile)
            except UNREADABLE as error:
                results.append((tile, Unreadable(explain_unreadable(error))))
            else:
                results.append((tile, keep(tile, seen)))
        return results

    # handing over tiles one by one costs half as much as reading them
    chunks = [tiles[first : first + CHUNK] for first in range(0, len(tiles), CHUNK)]
    with (
        _without_warnings(),
        progress_bar() as progress,
        ThreadPoolExecutor(num_threads or count_cores()) as threads,
    ):
        try:
            done = chain.from_iterable(threads.map(read_chunk, chunks))
            for tile, kept in progress.track(done, total=len(tiles), description=title):
                if isinstance(kept, Unreadable):
                    bad[tile] = kept.reason
                    check_bad_tiles(bad, max_bad_tiles, so_far=True)
                else:
                    yield tile, kept
        finally:
            threads.shutdown(cancel_futures=True)
