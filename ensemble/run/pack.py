"""The packed tiles of a run, also where its folder and theirs were moved together."""

import os
from pathlib import Path
from typing import Any

from ensemble.base.errors import InputError
from ensemble.base.files import read_object, write_json


def find_pack(run: Path) -> Path:
    """The folder of the tiles that a run was trained on.

    It is where `run.json` says, or among the packs beside the run, as in a copied folder of
    results; then the new place is written to `run.json`.

    Raises:
        InputError: There are no such tiles, or others lie in their place.
    """
    about = read_object(run / "run.json", split_digest=str, pack_folder=str)
    recorded, packs = Path(about["pack_folder"]), run.parent / "packs"
    if _is_pack_of(about, recorded):
        return recorded
    for folder in (packs / recorded.name, *sorted(packs.glob("[!.]*"))):
        if _is_pack_of(about, folder):
            _record_pack(run, folder)
            return folder
    if (recorded / "pack.json").exists():
        raise InputError(
            f"{recorded} holds other tiles, labels or another split than the run was trained on, "
            f"and no pack in {packs} holds its own; search again"
        )
    raise InputError(
        f"the packed tiles of the run are neither in {recorded} nor in {packs}; put their folder "
        "there, or give the command that made the run once more, which packs them again"
    )


def _is_pack_of(about_run: dict[str, Any], folder: Path) -> bool:
    """Whether a folder holds the tiles of a run, at the size that its networks saw."""
    try:
        record = read_object(folder / "pack.json")
    except InputError:
        return False
    return all(
        record.get(name) == about_run.get(name) for name in ("split_digest", "stored_size_px")
    )


def _record_pack(run: Path, folder: Path) -> None:
    """Write the new place into `run.json`, whose time stays that of the run's start."""
    path = run / "run.json"
    stat = path.stat()
    write_json(path, read_object(path) | {"pack_folder": str(folder)})
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
