"""A run's folder: what it is a run of, whether that is still the same, how large it will get."""

import fcntl
import hashlib
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

from ensemble.data.pack import Pack
from ensemble.errors import InputError
from ensemble.files import read_object, write_json, write_text
from ensemble.provenance import describe_code_and_machine
from ensemble.search.budget import Budget
from ensemble.search.retention import forecast_disk
from ensemble.search.space import Space
from ensemble.search.storage import Storage, push_pack
from ensemble.search.task import Shared
from ensemble.training.weights import InitialState, save_initial_state


def identify_run(
    space: Space, packed: Pack, seed: int, sampler: str, states: dict[str, InitialState]
) -> dict[str, Any]:
    """What must be the same for a run to be continued, in the order a person would look."""
    return {
        "data": packed.about["source"],
        "split_digest": packed.about["split_digest"],
        "seed": seed,
        "sampler": sampler,
        "epochs": space.default.optimisation.epochs,
        "image_size_px": space.default.data.image_size_px,
        "weights": {b: {"origin": s.origin, "digest": s.digest} for b, s in states.items()},
        "space": space.describe(),
    }


@contextmanager
def only_search_in(folder: Path) -> Iterator[None]:
    """Keep other searches out of a run's folder; the kernel ends that with our process.

    Raises:
        InputError: Another search is at work there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another search is at work in {folder}; wait for it, or choose another --name"
            ) from None
        yield


def check_same_run(folder: Path, identity: dict[str, Any]) -> None:
    """Refuse to continue a run of something else.

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
        what = {"split_digest": "data", "image_size_px": "image size"}.get(key, key)
        if isinstance(value, dict) or key == "split_digest":
            was, now = (known.get("data"), identity["data"]) if key == "split_digest" else ("", "")
            detail = f" ({was}, now {now})" if was != now else ""
        else:
            detail = f" ({known.get(key)}, now {value})"
        raise InputError(
            f"the run {folder.name} exists with other {what}{detail}: choose another --name, or "
            "give the same options to continue it"
        )


def begin_run(
    folder: Path,
    identity: dict[str, Any],
    packed: Pack,
    space: Space,
    states: dict[str, InitialState],
) -> None:
    """Make the run's folder, complete or not at all, unless it is there."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        (partial / "initial").mkdir(parents=True)
        for backbone, state in states.items():
            save_initial_state(state, partial / "initial" / f"{backbone}.safetensors")
        write_json(partial / "initial" / "states.json", identity["weights"])
        write_text(partial / "space.toml", space.path.read_text(encoding="utf-8"))
        shutil.copy(packed.folder / "samples.png", partial / "samples.png")
        table = packed.table("val")[["tile", "photograph", "surface", "label"]]
        write_text(partial / "validation.csv", table.to_csv(index=False))
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


def check_disk(
    folder: Path, space: Space, packed: Pack, budget: Budget, keep: int, num_trials: int
) -> str:
    """What the run's folder will grow to, in words.

    Raises:
        InputError: There is not so much room.
    """
    sizes = {file.stem: file.stat().st_size for file in (folder / "initial").glob("*.safetensors")}
    needed = forecast_disk(
        sizes,
        keep=keep,
        num_trials=num_trials,
        epochs=space.default.optimisation.epochs,
        max_concurrent_trials=budget.max_concurrent_trials,
        num_val_tiles=packed.about["num_tiles"]["val"],
    )
    there = sum(file.stat().st_size for file in (folder / "members").rglob("epoch-*"))
    free = shutil.disk_usage(folder).free
    if needed - there > free:
        raise InputError(
            f"{folder} may need {_gigabytes(needed - there)} more, {_gigabytes(free)} are free: "
            f"make room, choose another --out, or keep fewer members than --keep {keep}"
        )
    return f"disk: at most {_gigabytes(needed)} for the run, {_gigabytes(free)} are free"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count > 1e9 else f"{count / 1e6:.0f} MB"


def share_run(storage: Storage, folder: Path, packed: Pack) -> Shared:
    """Send the tiles and the states to start from to where all nodes can fetch them."""
    pack, sha256 = push_pack(storage, packed)
    record = folder / "initial" / "states.json"
    digest = hashlib.sha256(record.read_bytes() + packed.about["split_digest"].encode()).hexdigest()
    shared = Shared(storage.url, f"{folder.name}-{digest[:8]}", pack, sha256)
    storage.push(folder / "initial", shared.initial)
    return shared
