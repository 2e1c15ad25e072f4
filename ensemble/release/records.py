"""The parts of an evaluated run that judge pictures → the entries of an exported file.

Only what judges goes in: the choice, how large tiles are, and the record and weights of each chosen
member, without those of its networks that are not used; no tile, no score of a tile, and no path of
this machine.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import safetensors.torch

from ensemble.data.prepare import is_drawn
from ensemble.release.card import Described, describe_data
from ensemble.run.exported import MEMBER
from ensemble.run.members import read_stored_size, read_tile_size
from ensemble.selection.choice import ChosenMember
from ensemble.training.checkpoint import Member, MemberRecord
from ensemble.training.fold_networks import state_of_first

NO_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a .zip can say


class Part(NamedTuple):
    """A member as it is exported: with the networks that answer for it, and no others."""

    chosen: ChosenMember
    record: MemberRecord
    weights: bytes

    @property
    def weights_name(self) -> str:
        """Name of the file of its weights, in a run's folder."""
        return f"{self.chosen.folder}/{self.record.weights_file}"


def read_part(chosen: ChosenMember, member: Member, *, anew: bool = False) -> Part:
    """Read a member, and leave out those of its networks that the choice does not use.

    Args:
        chosen: The member as it was chosen.
        member: The member.
        anew: Whether its weights are written anew by safetensors, so that whoever has the tensors
            can make the same bytes.
    """
    record, count = member.record, chosen.num_networks
    weights = member.weights_path().read_bytes()
    if count == record.num_folds and not anew:
        return Part(chosen, record, weights)
    state = safetensors.torch.load(weights)
    if count < record.num_folds:
        state = state_of_first(state, count)
    weights = safetensors.torch.save(state)
    sha256 = hashlib.sha256(weights).hexdigest()
    name = f"epoch-{record.epoch}-{sha256[:8]}.safetensors"
    kept = {"num_folds": count, "weights_file": name, "weights_sha256": sha256}
    return Part(
        chosen.model_copy(update={"weights_sha256": sha256}),
        record.model_copy(update=kept),
        weights,
    )


def list_records(described: Described, run: Path, parts: list[Part]) -> Iterator[tuple[str, bytes]]:
    """Yield the entries of a file but for its card and its weights, each with its name."""
    sizes = {"tile_size_px": [*read_tile_size(run)], "stored_size_px": [*read_stored_size(run)]}
    data = str(described.about.get("data", ""))
    drawn = {"data": PurePath(data).name} if is_drawn(data) else {}
    yield "run.json", as_json({**sizes, **drawn})
    for part in parts:
        yield part.chosen.folder + MEMBER, as_json(part.record.model_dump(mode="json"))
    choice = described.choice.model_copy(update={"members": [part.chosen for part in parts]})
    yield "ensemble.json", as_json(choice.model_dump(mode="json"))


def describe_origin(described: Described, parts: list[Part]) -> dict[str, Any]:
    """What `graph.json` tells of data, pixels and second stage, beside how the graph is called."""
    data, licence = describe_data(described)
    stage = described.choice.neighbours
    return {
        "data": data,
        "data_licence": licence,
        "split_digest": described.choice.split_digest,
        "pixels": [
            {"trial": part.record.trial, "mean": part.record.mean, "std": part.record.std}
            for part in parts
        ],
        "second_stage": None
        if stage is None
        else {
            "intercept": stage.intercept,
            "coefficients": stage.coefficients,
            "threshold": stage.threshold,
            "of": "logits of `probability`; ensemble/selection/neighbours.py says what each figure "
            "is; no part of the graph, because it reads the tiles around",
        },
        "networks": [part.weights_name for part in parts],
    }


def as_json(value: dict[str, Any]) -> bytes:
    """Spell JSON as files of a run do."""
    return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"
