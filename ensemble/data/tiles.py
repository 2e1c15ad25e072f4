"""All tiles of a source, read by a thread a core: copies, the common size, and the pixels.

Tiles that cannot be read are left out, and named with the reason, up to a number.
"""

import hashlib
import os
import shutil
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from ensemble.base.errors import InputError, writing
from ensemble.base.process import count_cores
from ensemble.base.progress_bar import progress_bar
from ensemble.base.wording import plural
from ensemble.data.grid import read_borders
from ensemble.data.reading.decode import UNREADABLE, decode_picture, explain_unreadable, open_image
from ensemble.data.reading.listing import Reader

CHUNK = 32  # tiles that a thread takes at a time
TILES_PER_FLUSH = 256
TILES_TO_LOOK_AT = 32  # at first, to find the common size
LEAST_SHARE = 0.1  # of the tiles must have the most common size
LEAST_AUC_DIFFERENCE = 0.1  # from 0.5, before it is said that size tells the class
LEAST_STANDARD_ERRORS = 4

Size = tuple[int, int]  # height, width
T = TypeVar("T")


class _Unreadable(NamedTuple):
    """A tile that cannot be read, and why."""

    reason: str


class _Decoded(NamedTuple):
    """A tile whose pixels are written.

    `content` is BLAKE2b of its file, `borders` as `read_borders` returns them, and `pixels_sum` the
    CRC-32 of its row.
    """

    content: str
    size: Size
    borders: bytes
    pixels_sum: int


def digest_tiles(
    tiles: list[str], reader: Reader, bad: dict[str, str], *, max_bad_tiles: int
) -> dict[str, str]:
    """BLAKE2b of the bytes of tiles; those that are no pictures go to `bad` with the reason.

    Raises:
        InputError: More than `max_bad_tiles` are bad.
    """

    def digest(tile: str) -> str:
        data = reader.read(tile)
        open_image(data).close()  # damaged files are often equal, and no copies for that
        return digest_content(data)

    # one .zip's members are not there sooner by a second thread, which only waits for the GIL
    num_threads = None if reader.path.is_dir() else 1
    return dict(_read_all(digest, tiles, "comparing", bad, max_bad_tiles, num_threads=num_threads))


def find_common_size(tiles: list[str], reader: Reader) -> Size:
    """The most common (height, width) by the heads of a few tiles, of more where these differ.

    Raises:
        InputError: No tile can be read, or no size is common.
    """
    sizes: Counter[Size] = Counter()
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
        raise _none_readable(reader, reasons)
    return most_common_size(sizes, where=reader.path)


def most_common_size(sizes: Counter[Size], *, where: object) -> Size:
    """The size that most tiles have; of equally frequent ones the smallest.

    Args:
        sizes: Number of tiles of each size.
        where: Path of the data, for the message.

    Raises:
        InputError: No size is common.
    """
    size, count = max(sizes.items(), key=lambda item: (item[1], -item[0][0] * item[0][1], item))
    if count < LEAST_SHARE * sizes.total():
        most = f"only {count} have the most common one" if count > 1 else "no two the same"
        raise InputError(
            f"{where}: no common tile size: {sizes.total():,} pictures have {len(sizes):,} sizes, "
            f"{most}; cut them into tiles of one size, or resize them to one"
        )
    return size


def decode_tiles(
    tiles: pd.DataFrame,
    reader: Reader,
    folder: Path,
    size: Size,
    bad: dict[str, str],
    *,
    max_bad_tiles: int,
) -> pd.DataFrame:
    """Decode each tile into its `row` of its `array` in `folder`, `test.npy` for the array `test`.

    Args:
        tiles: Table of `tile`, `array` and `row`, which counts from 0 in each array.
        reader: Reader of their bytes.
        folder: Folder with room for arrays of (rows, height, width, 3) uint8.
        size: (height, width) of the rows; tiles of another one are resized.
        bad: Receives the tiles that cannot be decoded, with the reason.
        max_bad_tiles: Largest number of them.

    Returns:
        The tiles that were decoded, with their `content`, BLAKE2b of the bytes, the `size` and
        the `borders` that they had, and `pixels_sum`, CRC-32 of their row.

    Raises:
        InputError: More tiles are bad, none is left, or the disk has no room.
        CannotWriteError: The disk does not take the pixels.
    """

    def decode(tile: str) -> _Decoded:
        data = reader.read(tile)
        picture = decode_picture(data)
        own_size = (picture.height, picture.width)
        borders = read_borders(picture)
        pixels = resize_picture(picture, size).tobytes()
        array, row = places[tile]
        file, start = arrays[array]
        with writing(folder / f"{array}.npy"):  # its errors are not the tile's
            _write_at(file, start + row * len(pixels), pixels)
        return _Decoded(digest_content(data), own_size, borders, zlib.crc32(pixels))

    places = dict(zip(tiles["tile"], zip(tiles["array"], tiles["row"], strict=True), strict=True))
    with _new_arrays(folder, Counter(tiles["array"]), size) as arrays:
        results = _read_all(decode, list(places), "packing", bad, max_bad_tiles)
        decoded = dict(_flush_meanwhile(results, [file for file, _ in arrays.values()]))
    if not decoded:
        raise _none_readable(reader, [f"{tile}: {reason}" for tile, reason in bad.items()])
    return tiles[tiles["tile"].isin(decoded)].assign(
        content=[one.content for one in decoded.values()],
        size=pd.Series([one.size for one in decoded.values()], dtype=object).to_numpy(),
        borders=[one.borders for one in decoded.values()],
        pixels_sum=[one.pixels_sum for one in decoded.values()],
    )


def _none_readable(reader: Reader, reasons: list[str]) -> InputError:
    return InputError(f"{reader.path}: no tile can be read ({reasons[0]})")


def stored_size(tile_size: Size, side_px: int | None) -> Size:
    """The size at which tiles are stored, where their longest use has sides of `side_px`."""
    height, width = tile_size
    return (height, width) if side_px is None else (min(height, side_px), min(width, side_px))


def resize_picture(picture: Image.Image, size: Size) -> np.ndarray:
    """The pixels of an RGB picture at this (height, width): (H, W, 3) uint8.

    They are those that a batch makes of the pixels at their own size.
    """
    if (picture.height, picture.width) == size:
        return np.asarray(picture)
    import torch  # not needed where tiles are stored as they come

    from ensemble.data.resize import resize_pixels

    # a batch of one in channels-last memory, which torch resizes in half of the time
    pixels = torch.from_numpy(np.array(picture))[None].permute(0, 3, 1, 2)
    return resize_pixels(pixels, size).permute(0, 2, 3, 1)[0].numpy()


def check_bad_tiles(bad: dict[str, str], max_bad_tiles: int, *, so_far: bool = False) -> None:
    """Make sure that no more tiles are unusable than may be left out.

    Args:
        bad: Reason of each unusable tile.
        max_bad_tiles: Largest number that may be left out.
        so_far: Whether there may be more than these.

    Raises:
        InputError: There are more.
    """
    if len(bad) > max_bad_tiles:
        named = "; ".join(f"{tile}: {reason}" for tile, reason in list(bad.items())[:3])
        at_least = "at least " if so_far else ""
        raise InputError(
            f"{at_least}{plural(len(bad), 'tile')} must be left out, more than --max-bad-tiles "
            f"{max_bad_tiles} ({named}); mend or remove them, or allow more"
        )


def explain_classes_by_size(tiles: pd.DataFrame) -> str | None:
    """In words, how well the number of pixels alone tells the class; None if it does not.

    It does where the AUC of the area as a score differs from 0.5 by more than chance explains
    (Mann and Whitney 1947).

    Args:
        tiles: Table of `size` as (height, width) and `label`.
    """
    areas = pd.Series([height * width for height, width in tiles["size"]])
    is_cracked = tiles["label"].to_numpy() == 1
    num_cracked, num_others = int(is_cracked.sum()), int((~is_cracked).sum())
    if not num_cracked or not num_others or areas.nunique() == 1:
        return None
    wins = areas.rank()[is_cracked].sum() - num_cracked * (num_cracked + 1) / 2
    auc = wins / (num_cracked * num_others)
    error = np.sqrt((num_cracked + num_others + 1) / (12 * num_cracked * num_others))
    if abs(auc - 0.5) < max(LEAST_AUC_DIFFERENCE, LEAST_STANDARD_ERRORS * error):
        return None
    parts = []
    for kind, mask in (("cracked", is_cracked), ("uncracked", ~is_cracked)):
        ((height, width), count) = Counter(tiles["size"][mask]).most_common(1)[0]
        parts.append(f"{count} of {mask.sum()} {kind} tiles have {width} × {height} px")
    return (
        f"the size of the files tells the class (AUC {auc:.2f}): {'; '.join(parts)}; after "
        "resizing a network may learn how sharp a tile is in place of cracks, so take both classes "
        "from equal pictures"
    )


def _without_warnings() -> AbstractContextManager[object]:
    """Ignore Pillow's warnings of damaged metadata, which nothing here depends on."""
    return warnings.catch_warnings(action="ignore")


def digest_content(data: bytes) -> str:
    """BLAKE2b of the bytes of a tile's file, the `content` of a pack's tables."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@contextmanager
def _new_arrays(
    folder: Path, num_rows: Counter[str], size: Size
) -> Iterator[dict[str, tuple[BinaryIO, int]]]:
    """Make empty arrays by name, and yield the open file of each and the place of its first row.

    Raises:
        InputError: The disk has no room for them.
    """
    for outdated in folder.glob("*.npy"):
        outdated.unlink()
    free_bytes = shutil.disk_usage(folder).free
    needed_bytes = num_rows.total() * size[0] * size[1] * 3
    if needed_bytes > free_bytes:
        raise InputError(
            f"no room on the disk for the packed tiles: {needed_bytes / 1e9:.1f} GB are needed in "
            f"{folder.parent}, {free_bytes / 1e9:.1f} GB are free; make room or choose another "
            "--out"
        )
    with ExitStack() as stack:
        arrays: dict[str, tuple[BinaryIO, int]] = {}
        for array, count in num_rows.items():
            path = folder / f"{array}.npy"
            start = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *size, 3)).offset
            # writing to mapped pages takes six times as long as to the file
            file = stack.enter_context(path.open("rb+"))
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)  # or the disk is full
            arrays[array] = file, start
        yield arrays


def _write_at(file: BinaryIO, place: int, data: bytes) -> None:
    left = memoryview(data)
    while left:  # a disk that is nearly full takes a part
        written = os.pwrite(file.fileno(), left, place)
        left, place = left[written:], place + written


def _flush_meanwhile(results: Iterable[T], files: Iterable[BinaryIO]) -> Iterator[T]:
    """Yield `results` while a thread flushes the files: the disk is as slow as the decoder."""

    def flush() -> None:
        for file in files:
            os.fdatasync(file)

    flushes: list[Future[None]] = []
    with ThreadPoolExecutor(1) as disk:
        for number, result in enumerate(results, 1):
            yield result
            if number % TILES_PER_FLUSH == 0 and (not flushes or flushes[-1].done()):
                flushes.append(disk.submit(flush))
        for flushed in flushes:
            flushed.result()  # the kernel tells of a disk's error once


def _read_all(
    read: Callable[[str], T],
    tiles: list[str],
    title: str,
    bad: dict[str, str],
    max_bad_tiles: int,
    *,
    num_threads: int | None = None,
) -> Iterator[tuple[str, T]]:
    """Yield each tile and what `read` returns of it, in order.

    Args:
        read: Function that runs in many threads; may raise one of `UNREADABLE`.
        tiles: Names of the tiles.
        title: Title of the progress bar.
        bad: Receives the tiles that cannot be read, with the reason.
        max_bad_tiles: Largest number of them.
        num_threads: Number of threads; one a core by default.

    Raises:
        InputError: Too many tiles cannot be read.
    """

    def read_chunk(chunk: list[str]) -> list[tuple[str, T | _Unreadable]]:
        results: list[tuple[str, T | _Unreadable]] = []
        for tile in chunk:
            try:
                results.append((tile, read(tile)))
            except UNREADABLE as error:
                results.append((tile, _Unreadable(explain_unreadable(error))))
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
            for tile, result in progress.track(done, total=len(tiles), description=title):
                if isinstance(result, _Unreadable):
                    bad[tile] = result.reason
                    check_bad_tiles(bad, max_bad_tiles, so_far=True)
                else:
                    yield tile, result
        finally:
            threads.shutdown(cancel_futures=True)
