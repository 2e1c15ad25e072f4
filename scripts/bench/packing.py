"""Packing against the decoder: what listing, digests, split and the disk add to decoding."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.row import Row
from ensemble.base.process import count_cores
from ensemble.data.packing import pack
from ensemble.data.reading.decode import decode_picture
from ensemble.data.reading.listing import Reader
from ensemble.data.sources import Source, open_source

PART = "packing"
ROUNDS = 2


def measure(source: Path, scratch: Path, side_px: int) -> list[Row]:
    """Tiles a second of `pack`, and of its decoder alone, in turns; the best of each.

    The decoder has the files in memory and as many threads as the pack has, a core each; from
    bytes it makes the bytes of the pixels and throws them away.

    Args:
        source: A folder or .zip of tiles that can all be read.
        scratch: A folder on the disk that packs are written to.
        side_px: Side at which a smaller pack stores its tiles.
    """
    opened = open_source(source)
    num_tiles = len(opened.tiles)
    decoding, packing, reducing = [], [], []
    for _ in range(ROUNDS):
        decoding.append(_time_decoder(opened))
        packing.append(_time_packing(opened, scratch))
        reducing.append(_time_packing(opened, scratch, side_px=side_px))
    alone, whole = num_tiles / min(decoding), num_tiles / min(packing)
    return [
        Row(PART, "decoder alone, files in memory, a thread a core", alone, "tiles/s"),
        Row(PART, "packing", whole, "tiles/s"),
        Row(PART, "packing, tiles/s ÷ what the decoder alone does on all cores", whole / alone,
            "ratio", ">= 0.85"),
        Row(PART, f"packing reduced to {side_px} px ÷ packing at full size",
            min(packing) / min(reducing), "ratio", ">= 0.95"),
    ]  # fmt: skip


def _time_packing(source: Source, scratch: Path, side_px: int | None = None) -> float:
    """Seconds for a fresh pack, which is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=scratch) as under:
        started = time.perf_counter()
        pack(source, under=Path(under), side_px=side_px)
        return time.perf_counter() - started


def _time_decoder(source: Source) -> float:
    """Seconds for all tiles, from bytes in memory to pixels in memory."""
    reader = Reader(source.path)
    try:
        contents = [reader.read(tile) for tile in source.tiles["tile"]]
    finally:
        reader.close()

    def decode(data: bytes) -> None:
        decode_picture(data).tobytes()

    with ThreadPoolExecutor(count_cores()) as threads:
        started = time.perf_counter()
        for _ in threads.map(decode, contents):
            pass
        return time.perf_counter() - started
