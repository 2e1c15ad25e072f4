"""An opened pack: the tiles of each split as one uint8 array and a table.

A pack is a folder: `train.npy`, `val.npy`, `test.npy` of shape (N, H, W, 3), their tables
`train.csv` …, `samples.png` and `pack.json` (counts, what was left out, the split's digest, size
and digest of each file). Every process of a node maps the same file, so the pixels are in memory
once. The test split is a file of its own: only `ensemble.evaluate` opens it.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.files import read_object
from ensemble.data.split import SPLITS
from ensemble.data.verify import PackError, check_files, damaged

FORMAT = 4  # since 3 labels are part of the split's digest, and files have digests
TEXT = ("tile", "photograph", "surface", "content")


@dataclass(frozen=True)
class Pack:
    """An opened pack.

    Attributes:
        folder: Where it lies.
        about: What `pack.json` says.
    """

    folder: Path
    about: dict[str, Any]

    def table(self, split: str) -> pd.DataFrame:
        """Tiles of a split in order: `row` in the array, `tile`, `photograph`, `surface`, …"""
        places = (f"{place}_in_photograph" for place in ("row", "column", "tile"))
        text = dict.fromkeys((*TEXT, *places), str)
        path = self.folder / f"{split}.csv"
        try:
            return pd.read_csv(path, dtype=text, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise damaged(path, str(error)) from None

    def pixels(self, split: str) -> np.ndarray:
        """All rows of a split, mapped: (rows, H, W, 3) uint8, private to writes."""
        path = self.folder / f"{split}.npy"
        try:
            return np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise damaged(path, str(error)) from None


def open_pack(folder: Path, *, splits: Collection[str] = SPLITS, sha256: str | None = None) -> Pack:
    """Open a finished pack, sure that its files are what was packed.

    Args:
        folder: Folder of the pack.
        splits: Splits that are needed; files of others may be missing.
        sha256: SHA-256 of the `pack.json` that is expected, for a copy.

    Raises:
        PackError: There is none, it is of another version, or a file is missing or damaged.
    """
    path = folder / "pack.json"
    try:
        about = read_object(path, format=int)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (InputError, OSError) as error:
        raise damaged(path, str(error)) from None
    if about["format"] != FORMAT:
        raise PackError(
            f"{folder}: packed by another version of crack-ensemble; the same command under "
            "another --name packs the tiles again and begins a new run"
        )
    if not isinstance(about.get("files"), dict) or digest != (sha256 or digest):
        raise damaged(path, "its content is not what was packed")
    check_files(folder, about["files"], splits=splits)
    return Pack(folder, about)
