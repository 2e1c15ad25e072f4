"""The folder of a run: its name, its lock, its record, and whether a run may be continued."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.errors import InputError, hide_passwords, writing
from ensemble.base.files import (
    make_folder,
    read_object,
    write_json,
    write_table,
    write_text,
)
from ensemble.base.locks import file_lock
from ensemble.base.provenance import describe_code_and_machine
from ensemble.data.grid import PLACE
from ensemble.data.pack import Pack, explain_difference
from ensemble.training.backbone_table import name_weights_file
from ensemble.training.initial_weights import InitialState, save_initial_state

NAMES = {"image_size_px": "image size", "context_px": "context"}  # of entries, for people
MOST_SHOWN = 200  # characters of two values that differ
LONGEST_NAME = 200  # bytes; names of files beside the run are longer, and limited to 255


def run_folder(name: str, *, under: Path) -> Path:
    """Return the absolute folder of a run called `name`; it need not exist.

    Raises:
        InputError: A folder of a run cannot have this name.
    """
    if Path(name).name != name or name.startswith(".") or name == "packs":
        raise InputError(f"--name {name!r}: must be a plain name of a folder, and not 'packs'")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise InputError(
            f"--name {name[:20]}…: must have at most {LONGEST_NAME} bytes, but has "
            f"{len(os.fsencode(name))}"
        )
    folder = (under / name).resolve()
    if not str(folder).isprintable():  # also false for a name that is not UTF-8
        raise InputError(
            f"{str(folder)!a}: must be text in UTF-8 that can be printed; choose another --name or "
            "--out"
        )
    return folder


def display_path(path: Path) -> str:
    """Write a path for a shell, relative to the working directory if it lies below that."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


@contextmanager
def run_lock(folder: Path, *, what: str) -> Iterator[None]:
    """Keep other commands out of a folder while the block runs.

    Args:
        folder: Folder of a run, or a folder in it; it need not exist.
        what: Kind of command that is at work there, for the message.

    Raises:
        InputError: Another command is at work there, or a link leads out of the folder.
        CannotWriteError: The folder cannot be written.
    """
    make_folder(folder.parent)
    lock = folder.parent / f".{folder.name}.lock"
    busy = (
        f"another {what} is at work in {folder}; wait for it"
        f"{', or choose another --name' * (what != 'evaluation')}"
    )
    with file_lock(lock, busy=busy, wait_seconds=0):
        if folder.exists():
            with writing(folder):
                tempfile.TemporaryFile(dir=folder).close()
            _refuse_links(folder)
        yield


def _refuse_links(folder: Path) -> None:
    """Refuse a run that holds a link: its target would be written or deleted."""
    for place, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(place) / name
            if path.is_symlink():
                raise InputError(
                    f"{path} is a link, and a run may hold none: replace it by what it points to, "
                    "or choose another --name"
                )


def check_same_run(
    folder: Path,
    identity: dict[str, Any],
    packed: Pack,
    *,
    growing: Collection[str] = (),
    name: str | None = None,
) -> None:
    """Refuse to continue a run with other settings or tiles.

    Args:
        folder: Folder of the run; it need not exist.
        identity: Entries of `run.json` that must be the same.
        packed: Tiles that must be the same.
        growing: Names of entries that may be larger than they were, with all that they held.
        name: Name of the run; None takes that of the folder.

    Raises:
        InputError: `folder` holds another run, or no run.
    """
    if not folder.exists():
        return
    if not (folder / "run.json").exists():
        raise InputError(f"{folder} exists and is no run; choose another --name")
    known = read_object(folder / "run.json")
    for key, value in identity.items():
        old, new = known.get(key), value
        if key == "weights":
            old, new = digests_of_weights(old), digests_of_weights(new)
        if key == "data" or old == new:
            continue  # the same tiles, and the same file of weights, may have been moved
        if key in growing and _has_grown(old, new):
            continue
        what = f"with other {NAMES.get(key, key)}"
        if key == "weights" and isinstance(old, dict) and old.keys() != value.keys():
            what = f"with other backbones ({', '.join(old)}, now {', '.join(value)})"
        elif key == "split_digest":
            read_object(folder / "run.json", data_summary=dict, pack_folder=str)
            what = explain_difference(known["data_summary"], Path(known["pack_folder"]), packed)
        elif not isinstance(value, dict) and len(change := f" ({old}, now {value})") < MOST_SHOWN:
            what += change
        how = "choose another --name"
        if key == "split_digest" and "space" in identity:
            how += f" (--start-from {display_path(folder)} makes this run's best trials its first)"
        raise InputError(
            f"the run {name or folder.name} exists {what}: {how}, or give the same options to "
            "continue it (its run.json has the command that began it)"
        )


def digests_of_weights(weights: Any) -> dict[str, Any]:
    """The digest of each backbone's initial weights, of those that a `run.json` describes."""
    described = weights.items() if isinstance(weights, dict) else ()
    return {backbone: each.get("digest") for backbone, each in described if isinstance(each, dict)}


def _has_grown(old: Any, new: Any) -> bool:
    """Whether a list only became longer, a mapping got more keys, or a number is larger."""
    if isinstance(old, list):
        return isinstance(new, list) and new[: len(old)] == old
    if isinstance(old, dict):
        return isinstance(new, dict) and old.items() <= new.items()
    return isinstance(old, int) and isinstance(new, int) and old <= new


def identify_data(packed: Pack) -> dict[str, Any]:
    """Return what must be the same of the tiles for a run to be continued."""
    return {"data": packed.record["source"], "split_digest": packed.record["split_digest"]}


def identify_weights(states: dict[str, InitialState]) -> dict[str, Any]:
    """Return what must be the same of the initial weights for a run to be continued."""
    return {b: {"origin": s.origin, "digest": s.digest} for b, s in states.items()}


def begin_run(
    folder: Path,
    identity: dict[str, Any],
    packed: Pack,
    states: dict[str, InitialState],
    *,
    asked: dict[str, Path],
    validation: pd.DataFrame | None = None,
    settings: dict[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> None:
    """Make the run's folder, complete or not at all.

    In the `run.json` of a run that is continued, the place of its pack is corrected, what has grown
    is added, and changed code, versions or settings become an entry of `continued`.

    Args:
        folder: Folder of the run.
        identity: Entries of `run.json` that identify the run; `weights` describes `states`.
        packed: Tiles of the run.
        states: Backbone → its initial weights.
        asked: Name in the run's folder → file that the command was given, copied to that name.
        validation: Tiles that members are validated on; None takes those of the split.
        settings: Settings that may change when the run is continued, such as `keep`.
        log: Takes a line for the person if they changed.
    """
    about_code = {**(settings or {}), **describe_code_and_machine()}
    if folder.exists():
        _continue_run(folder, identity, packed, states, about_code, log)
        return
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        (partial / "initial").mkdir(parents=True)
        _save_states(partial, states)
        for name, path in asked.items():
            write_text(partial / name, path.read_text(encoding="utf-8"))
        shutil.copy(packed.folder / "samples.png", partial / "samples.png")
        table = packed.table("val") if validation is None else validation
        columns = ["tile", "photograph", "surface", "label", *PLACE]
        columns += ["fold"] * ("fold" in table)
        write_table(partial / "validation.csv", table[columns])
        about = {
            "command": shlex.join(hide_passwords(word) for word in sys.argv),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pack_folder": str(packed.folder),
            "leaky_split": packed.record["leaky_split"],
            "data_summary": packed.record,
            "tile_size_px": [*packed.tile_size_px],
            "stored_size_px": packed.record["stored_size_px"],
            **identity,
            **about_code,
        }
        write_json(partial / "run.json", about)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save_states(folder: Path, states: dict[str, InitialState]) -> None:
    """Write what each backbone starts from into the folder of a run."""
    for backbone, state in states.items():
        save_initial_state(state, folder / "initial" / name_weights_file(backbone))
    write_json(folder / "initial" / "states.json", identify_weights(states))


def _continue_run(
    folder: Path,
    identity: dict[str, Any],
    packed: Pack,
    states: dict[str, InitialState],
    about_code: dict[str, Any],
    log: Callable[[str], None],
) -> None:
    """Record in `run.json` where the pack is now, and what changed since the run last worked."""
    record = folder / "run.json"
    known = read_object(record)
    if digests_of_weights(known.get("weights")) != digests_of_weights(identity.get("weights")):
        _save_states(folder, states)
    weights = {**identity.get("weights", {}), **known.get("weights", {})}  # each as it began
    moved = {"data": known.get("data"), "weights": weights, "pack_folder": str(packed.folder)}
    now = {**known, **identity, **moved}
    before = known.get("continued")
    last = before[-1] if isinstance(before, list) and before else known
    if changes := _list_changes(last, about_code):
        log(f"changed since this run was last at work: {'; '.join(changes)}")
        at = datetime.now(UTC).isoformat(timespec="seconds")
        now["continued"] = [*(before or []), {"at": at, **about_code}]
    if now != known:
        write_json(record, now)


def _list_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List what differs in commit, versions and settings, each as "name old, now new"."""
    changes = []
    for name, value in now.items():
        if name == "hardware" or name not in before:
            continue  # the device is printed anyway; an older version did not record the name
        old = before[name]
        if isinstance(value, dict) and isinstance(old, dict):
            changes += _list_changes(old, value)
        elif old != value:
            shown = [str(each)[:12] if name == "commit" else each for each in (old, value)]
            changes.append(f"{name} {shown[0]}, now {shown[1]}")
    return changes
