"""What is a search's own of a run: what decides it, how large it gets, and who else reads it."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from ensemble.base.errors import InputError
from ensemble.data.pack import Pack
from ensemble.run.folder import identify_data, identify_weights
from ensemble.search.budget import Budget
from ensemble.search.cluster.storage import Storage, push_pack
from ensemble.search.retention import forecast_disk
from ensemble.search.space import Space
from ensemble.search.task import StorageLayout
from ensemble.training.initial_weights import InitialState


def identify_search(
    space: Space, packed: Pack, seed: int, sampler: str, states: dict[str, InitialState]
) -> dict[str, Any]:
    """What must be the same for a run to be continued, in the order a person would look."""
    return {
        **identify_data(packed),
        "seed": seed,
        "sampler": sampler,
        "epochs": space.default.optimisation.epochs,
        "image_size_px": space.default.data.image_size_px,
        "weights": identify_weights(states),
        "space": space.describe(),
    }


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
        num_val_tiles=packed.record["num_tiles"]["val"],
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


def share_run(storage: Storage, folder: Path, packed: Pack) -> StorageLayout:
    """Send the tiles and the states to start from to where all nodes can fetch them."""
    pack, sha256 = push_pack(storage, packed)
    record = folder / "initial" / "states.json"
    digest = hashlib.sha256(
        record.read_bytes() + packed.record["split_digest"].encode()
    ).hexdigest()
    layout = StorageLayout(run=f"{folder.name}-{digest[:8]}", pack=pack, pack_sha256=sha256)
    storage.push(folder / "initial", layout.initial)
    return layout
