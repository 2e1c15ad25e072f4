"""Pixels in memory: several slots of one node read the whole pack, the kernel says what it costs.

Each slot is a process that opens the pack as a trial does and reads every pixel. While all of them
hold it, `/proc/<pid>/smaps` tells how much of each file is in memory (Rss), and each process's
share of it (Pss: a page that n processes map counts 1/n), so that the shares add up to what is
there. Linux only.
"""

from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from torch import multiprocessing

from bench.row import Row
from ensemble.data.pack import ARRAYS
from ensemble.training.member import DevelopmentTiles

PART = "memory"
SPLITS = ("train", "val")  # what a trial opens
MAX_SECONDS = 600  # for the slowest slot to have read all
TILES_AT_ONCE = 256


def measure(pack_folder: Path, num_slots: int = 8) -> list[Row]:
    """How often the pixels are in memory when `num_slots` processes have read all of them.

    Args:
        pack_folder: Folder of the packed tiles.
        num_slots: Number of processes.

    Raises:
        RuntimeError: A slot could not read the pack.
    """
    files = [
        str((pack_folder / f"{array}.npy").resolve())
        for array in {ARRAYS[split] for split in SPLITS}
    ]
    num_bytes = sum(Path(file).stat().st_size for file in files)
    context = multiprocessing.get_context("spawn")
    have_read, may_end = context.Barrier(num_slots + 1), context.Barrier(num_slots + 1)
    slots = [
        context.Process(target=_hold, args=(pack_folder, have_read, may_end), daemon=True)
        for _ in range(num_slots)
    ]
    for slot in slots:
        slot.start()
    try:
        have_read.wait(MAX_SECONDS)
        found = [_read_smaps(Path(f"/proc/{slot.pid}/smaps"), files) for slot in slots]
        may_end.wait(MAX_SECONDS)
    finally:
        for slot in slots:
            slot.join(timeout=30)
            slot.kill()
    shares = sum(one["Pss"] for one in found)
    resident = sum(one["Rss"] for one in found)
    private = sum(one["private"] for one in found)
    slots_together = f"{num_slots} slots together"
    return [
        Row(PART, f"pixels in memory, {slots_together} ÷ once", shares / num_bytes, "ratio",
            "<= 1.1"),
        Row(PART, f"pixels that a slot has mapped and read, mean of {num_slots} ÷ once",
            resident / num_slots / num_bytes, "ratio"),
        Row(PART, f"private memory, {slots_together}", private / 2**20, "MiB"),
    ]  # fmt: skip


def _hold(pack_folder: Path, have_read: Barrier, may_end: Barrier) -> None:
    """Read every pixel of the pack, and hold it until all have."""
    torch.set_num_threads(1)
    data = DevelopmentTiles(pack_folder, torch.device("cpu")).open()
    for tiles in (data.train, data.val):
        for part in tiles.pixels.split(TILES_AT_ONCE):
            part.max()
    have_read.wait(MAX_SECONDS)
    may_end.wait(MAX_SECONDS)


def _read_smaps(path: Path, files: list[str]) -> dict[str, int]:
    """Bytes of `files` that a process has mapped (Rss, Pss), and its private bytes of all kinds."""
    found = {"Rss": 0, "Pss": 0, "private": 0}
    is_pixels = False
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        if " " in name:  # the head of a mapping: addresses, rights, offset, device, inode, file
            is_pixels = line.split(maxsplit=5)[5:] in [[file] for file in files]
        elif name in ("Rss", "Pss") and is_pixels:
            found[name] += 1024 * int(rest.split()[0])
        elif name in ("Private_Clean", "Private_Dirty"):
            found["private"] += 1024 * int(rest.split()[0])
    return found
