"""A run's folder: what it is a run of, whether that is still the same, and who works in it."""

import fcntl
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ensemble.data.differences import explain_difference
from ensemble.data.pack import Pack
from ensemble.errors import InputError
from ensemble.files import read_object, write_json, write_table, write_text
from ensemble.provenance import describe_code_and_machine
from ensemble.training.weights import InitialState, save_initial_state


def run_folder(name: str, *, under: Path) -> Path:
    """The absolute folder of a run called `name`; it need not exist.

    Raises:
        InputError: The name is none for a folder of a run.
    """
    if Path(name).name != name or name.startswith(".") or name == "packs":
        raise InputError(f"--name {name!r}: must be a plain name of a folder, and not 'packs'")
    return (under / name).resolve()


def shown(path: Path) -> str:
    """Relative to where the person is, where that is shorter, as a shell takes it."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


@contextmanager
def alone_in(folder: Path, *, what: str) -> Iterator[None]:
    """Keep other commands out of a run's folder; the kernel ends that with our process.

    Args:
        folder: Of the run; it need not exist.
        what: Is at work there, for the message.

    Raises:
        InputError: Another command is at work there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another {what} is at work in {folder}; wait for it, or choose another --name"
            ) from None
        yield


def check_same_run(folder: Path, identity: dict[str, Any], packed: Pack) -> None:
    """Refuse to continue a run of something else.

    Args:
        folder: Folder of the run; it need not exist.
        identity: What it is to be a run of.
        packed: Tiles of which it is to be a run.

    Raises:
        InputError: `folder` holds another run, or no run.
    """
    if not folder.exists():
        return
    if not (folder / "run.json").exists():
        raise InputError(f"{folder} exists and is no run; choose another --name")
    known = read_object(folder / "run.json")
    for key, value in identity.items():
        if key == "data" or known.get(key) == value:
            continue  # the same tiles may lie elsewhere today
        name = {"image_size_px": "image size"}.get(key, key)
        what = f"with other {name}"
        if key == "split_digest":
            read_object(folder / "run.json", data_summary=dict, pack_folder=str)
            what = explain_difference(known["data_summary"], Path(known["pack_folder"]), packed)
        elif not isinstance(value, dict):
            what += f" ({known.get(key)}, now {value})"
        how = "choose another --name"
        if key == "split_digest" and "space" in identity:
            how += f" (--start-from {shown(folder)} makes this run's best trials its first)"
        raise InputError(
            f"the run {folder.name} exists {what}: {how}, or give the same options to continue it"
        )


def identify_data(packed: Pack) -> dict[str, Any]:
    """What must be the same of the tiles for a run to be continued."""
    return {"data": packed.about["source"], "split_digest": packed.about["split_digest"]}


def identify_weights(states: dict[str, InitialState]) -> dict[str, Any]:
    """Likewise of the states that backbones start from."""
    return {b: {"origin": s.origin, "digest": s.digest} for b, s in states.items()}


def begin_run(
    folder: Path,
    identity: dict[str, Any],
    packed: Pack,
    states: dict[str, InitialState],
    *,
    asked: dict[str, Path],
) -> None:
    """Make the run's folder, complete or not at all; one that is there learns where its pack is.

    Args:
        folder: Of the run.
        identity: What it is a run of; its `weights` are those of `states`.
        packed: The tiles.
        states: What each backbone starts from.
        asked: Name in the run's folder → the file that says what was asked, of which it keeps one.
    """
    if folder.exists():
        known = read_object(folder / "run.json")
        if known.get("pack_folder") != str(packed.folder):
            write_json(folder / "run.json", known | {"pack_folder": str(packed.folder)})
        return
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        (partial / "initial").mkdir(parents=True)
        for backbone, state in states.items():
            save_initial_state(state, partial / "initial" / f"{backbone}.safetensors")
        write_json(partial / "initial" / "states.json", identity["weights"])
        for name, path in asked.items():
            write_text(partial / name, path.read_text(encoding="utf-8"))
        shutil.copy(packed.folder / "samples.png", partial / "samples.png")
        table = packed.table("val")[["tile", "photograph", "surface", "label"]]
        write_table(partial / "validation.csv", table)
        about = {
            "command": re.sub(r"://\S*@", "://***@", shlex.join(sys.argv)),  # without passwords
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pack_folder": str(packed.folder),
            "leaky_split": packed.about["leaky_split"],
            "data_summary": packed.about,
            "tile_size_px": [packed.about["height_px"], packed.about["width_px"]],
            **identity,
            **describe_code_and_machine(),
        }
        write_json(partial / "run.json", about)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
