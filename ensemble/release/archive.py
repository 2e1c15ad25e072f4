"""The folder of an evaluated run → a .zip that `predict` takes in its place, with its card.

Only what judges pictures goes in: the choice, how large tiles are, and the record and weights of
each chosen member, without those of its networks that are not used; no tile, no score of a tile,
and no path of this machine. Entries are stored as they are, because weights hardly compress, and
without times, so that a run always gives the same bytes.
"""

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch

from ensemble.base.door import spell_command
from ensemble.base.errors import InputError
from ensemble.base.files import atomic_write
from ensemble.release.card import Described, write_card
from ensemble.release.history import describe_judged, describe_openings, describe_tried
from ensemble.report.checks import read_record
from ensemble.run.exported import CARD, CONTENTS, MEMBER, Contents, check_exported, is_exported
from ensemble.run.folder import display_path
from ensemble.run.members import read_stored_size, read_tile_size
from ensemble.selection.choice import ChosenMember, EnsembleRecord, open_choice
from ensemble.training.checkpoint import Member, MemberRecord
from ensemble.training.fold_networks import state_of_first

NO_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a .zip can say


class Exported(NamedTuple):
    """A file that was exported.

    Attributes:
        file: Path of the file.
        num_members: Members in it.
        num_bytes: Size of the file.
        num_passes: Forward passes that a tile takes.
        f1: F1 of the test as `predict` judges; None where it has no value.
    """

    file: Path
    num_members: int
    num_bytes: int
    num_passes: int
    f1: float | None


def export_run(run: Path, file: Path) -> Exported:
    """Write the ensemble of a run, with its card, to one file.

    Args:
        run: Folder of a run.
        file: The .zip to write, in an existing folder; an older export is replaced.

    Raises:
        InputError: The run was not evaluated, the evaluation is that of another choice, a file of
            the run is damaged, or `file` is something else than an export or cannot be written.
    """
    _check_file(file)
    described = describe(run)
    with atomic_write(file) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            digests = {}
            for name, content in _entries(described, run):
                archive.writestr(_info(name), content)
                digests[name] = hashlib.sha256(content).hexdigest()
            contents = Contents(sha256=digests).model_dump(mode="json")
            archive.writestr(_info(CONTENTS), _as_json(contents))
        check_exported(temporary)
        open_choice(temporary)
    figures = described.final["figures"]
    return Exported(
        file=file,
        num_members=len(described.members),
        num_bytes=file.stat().st_size,
        num_passes=described.num_passes,
        f1=figures["f1"],
    )


def describe(run: Path) -> Described:
    """Read what a card says of a run, and check that it is all of one ensemble.

    Raises:
        InputError: The run was not evaluated, the evaluation is that of another choice, or a file
            of the run is damaged.
    """
    evaluate = f"{spell_command('evaluate')} {display_path(run)}"
    choice, members = open_choice(run)
    path = run / "evaluation" / "metrics.json"
    if not path.is_file():
        raise InputError(f"{run}: was not tested, so its card would have no figures; {evaluate}")
    metrics = read_record(path)
    if EnsembleRecord.model_validate(metrics["choice"]) != choice:
        raise InputError(
            f"{path}: is of another choice than ensemble.json, so its figures are not those of "
            f"this ensemble; {evaluate}"
        )
    read_tile_size(run)
    return Described(
        name=run.name,
        about=read_record(run / "run.json"),
        choice=choice,
        metrics=metrics,
        members=members,
        weight_bytes=sum(
            len(_part(*pair).weights) for pair in zip(choice.members, members, strict=True)
        ),
        openings=describe_openings(run, metrics),
        tried=describe_tried(run),
        judged=[*describe_judged(run, choice)],
    )


def _check_file(file: Path) -> None:
    """Refuse, before any work, a file that cannot be written or would be a loss."""
    folder = file.resolve().parent
    if file.suffix.lower() != ".zip" or file.is_dir() or not folder.is_dir():
        raise InputError(f"--file {file}: must be a file called ….zip in an existing folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--file {file}: its folder cannot be written; name another place")
    if file.exists() and not is_exported(file):
        raise InputError(f"--file {file}: exists and is no exported ensemble; name another file")


def _entries(described: Described, run: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the entries of the file, each with its name, the card first."""
    sizes = {"tile_size_px": [*read_tile_size(run)], "stored_size_px": [*read_stored_size(run)]}
    yield CARD, write_card(described).encode()
    yield "run.json", _as_json(sizes)
    exported = []
    for chosen, member in zip(described.choice.members, described.members, strict=True):
        part = _part(chosen, member)
        yield chosen.folder + MEMBER, _as_json(part.record.model_dump(mode="json"))
        yield f"{chosen.folder}/{part.record.weights_file}", part.weights
        exported.append(part.chosen)
    choice = described.choice.model_copy(update={"members": exported})
    yield "ensemble.json", _as_json(choice.model_dump(mode="json"))


class _Part(NamedTuple):
    """A member as it is exported: with the networks that answer for it, and no others."""

    chosen: ChosenMember
    record: MemberRecord
    weights: bytes


def _part(chosen: ChosenMember, member: Member) -> _Part:
    """Read a member, and leave out those of its networks that the choice does not use."""
    record, count = member.record, chosen.num_networks
    weights = member.weights_path().read_bytes()
    if count == record.num_folds:
        return _Part(chosen, record, weights)
    weights = safetensors.torch.save(state_of_first(safetensors.torch.load(weights), count))
    sha256 = hashlib.sha256(weights).hexdigest()
    name = f"epoch-{record.epoch}-{sha256[:8]}.safetensors"
    kept = {"num_folds": count, "weights_file": name, "weights_sha256": sha256}
    return _Part(
        chosen.model_copy(update={"weights_sha256": sha256}),
        record.model_copy(update=kept),
        weights,
    )


def _info(name: str) -> zipfile.ZipInfo:
    """An entry that is stored, and says nothing of when or by whom it was made."""
    info = zipfile.ZipInfo(name, NO_TIME)
    info.create_system = 3  # Unix, also where Python runs on another
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"
