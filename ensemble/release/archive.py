"""The folder of an evaluated run → a .zip that `predict` takes in its place, with its card.

Only what judges pictures goes in: the choice, how large tiles are, and the record and weights of
each chosen member; no tile, no score of a tile, and no path of this machine. Entries are stored as
they are, because weights hardly compress, and without times, so that a run always gives the same
bytes.
"""

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ensemble.base.door import spell_command
from ensemble.base.errors import InputError
from ensemble.base.files import atomic_write
from ensemble.release.card import Described, write_card
from ensemble.report.checks import read_record
from ensemble.run.exported import CARD, CONTENTS, MEMBER, Contents, check_exported, is_exported
from ensemble.run.folder import display_path
from ensemble.run.members import read_stored_size, read_tile_size
from ensemble.selection.choice import EnsembleRecord, open_choice
from ensemble.training.checkpoint import Member

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
        weight_bytes=sum(member.weights_path().stat().st_size for member in members),
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
    yield "ensemble.json", _as_json(described.choice.model_dump(mode="json"))
    yield "run.json", _as_json(sizes)
    for chosen, member in zip(described.choice.members, described.members, strict=True):
        yield chosen.folder + MEMBER, _as_json(member.record.model_dump(mode="json"))
        yield f"{chosen.folder}/{member.record.weights_file}", _read_weights(member)


def _read_weights(member: Member) -> bytes:
    """The weights of a member, as they are."""
    return member.weights_path().read_bytes()


def _info(name: str) -> zipfile.ZipInfo:
    """An entry that is stored, and says nothing of when or by whom it was made."""
    info = zipfile.ZipInfo(name, NO_TIME)
    info.create_system = 3  # Unix, also where Python runs on another
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"
