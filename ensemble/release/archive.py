"""The folder of an evaluated run → one file that `predict` takes in its place, with its card.

A .zip holds the networks as the run does, and the card. Its entries are stored as they are, because
weights hardly compress, and without times, so that a run always gives the same bytes. A file of
ONNX and a .pt2 hold the ensemble as one graph, for programs other than this one.
"""

import hashlib
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ensemble.base.door import spell_command
from ensemble.base.errors import InputError
from ensemble.base.files import atomic_write
from ensemble.base.options import FORMS
from ensemble.release.card import KNOWN_BY, Described, write_card
from ensemble.release.graph import WholeEnsemble
from ensemble.release.graph_file import (
    check_can_write,
    check_fits,
    check_written,
    describe_call,
    make_program,
    write_onnx,
    write_pt2,
)
from ensemble.release.history import describe_judged, describe_openings, describe_tried
from ensemble.release.records import (
    NO_TIME,
    Part,
    as_json,
    describe_origin,
    list_records,
    read_part,
)
from ensemble.report.checks import read_record
from ensemble.run.exported import CALL, CARD, CONTENTS, Contents, check_exported, is_exported
from ensemble.run.folder import display_path
from ensemble.run.members import read_tile_size
from ensemble.selection.choice import EnsembleRecord, open_choice
from ensemble.selection.ensemble import load_ensemble


class Exported(NamedTuple):
    """A file that was exported.

    Attributes:
        file: Path of the file.
        card: Path of the card beside it; None where it lies in the file.
        num_members: Members in it.
        num_bytes: Size of the file.
        num_passes: Forward passes that a tile takes.
        f1: F1 of the test as `predict` judges; None where it has no value.
    """

    file: Path
    card: Path | None
    num_members: int
    num_bytes: int
    num_passes: int
    f1: float | None


def export_run(run: Path, file: Path, form: str = "zip") -> Exported:
    """Write the ensemble of a run, with its card, to one file.

    Args:
        run: Folder of a run.
        file: The file to write, in an existing folder, with `form` as its suffix; an older export
            is replaced.
        form: One of `FORMS`.

    Raises:
        InputError: The run was not evaluated, the evaluation is that of another choice, a file of
            the run is damaged, `file` is something else than an export or cannot be written, what
            writes this form is not installed, or a network cannot be one.
    """
    card = None if form == "zip" else file.with_name(f"{file.name}.{CARD}")
    _check_file(file, form, card)
    check_can_write(form)
    described = describe(run)
    pairs = zip(described.choice.members, described.members, strict=True)
    parts = [read_part(*pair, anew=form == "pt2") for pair in pairs]
    text = write_card(described, form).encode()
    records = {CARD: text, **dict(list_records(described, run, parts))}
    if card is None:
        _write_zip(file, {**records, **{part.weights_name: part.weights for part in parts}})
    else:
        with atomic_write(card) as temporary:
            _write_graph(file, form, run, described, parts, records)
            temporary.write_bytes(text)
    return Exported(
        file=file,
        card=card,
        num_members=len(parts),
        num_bytes=file.stat().st_size,
        num_passes=described.num_passes,
        f1=described.final["figures"]["f1"],
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
            len(read_part(*pair).weights) for pair in zip(choice.members, members, strict=True)
        ),
        openings=describe_openings(run, metrics),
        tried=describe_tried(run),
        judged=[*describe_judged(run, choice)],
    )


def _check_file(file: Path, form: str, card: Path | None) -> None:
    """Refuse, before any work, a file that cannot be written or would be a loss."""
    if form not in FORMS:
        raise InputError(f"format {form}: must be one of {', '.join(FORMS)}")
    folder = file.resolve().parent
    if file.suffix.lower() != f".{form}" or file.is_dir() or not folder.is_dir():
        raise InputError(f"--file {file}: must be a file called ….{form} in an existing folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--file {file}: its folder cannot be written; name another place")
    if file.exists() and not is_exported(file):
        raise InputError(f"--file {file}: exists and is no exported ensemble; name another file")
    if card is not None and card.exists() and not _is_card(card):
        raise InputError(f"--file {file}: {card} exists and is no card; name another file")


def _is_card(path: Path) -> bool:
    """Whether a file is the card of an ensemble."""
    try:
        return KNOWN_BY in path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return False


def _write_zip(file: Path, entries: Mapping[str, bytes]) -> None:
    with atomic_write(file) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in entries.items():
                archive.writestr(_info(name), content)
            digests = {
                name: hashlib.sha256(content).hexdigest() for name, content in entries.items()
            }
            contents = Contents(sha256=digests).model_dump(mode="json")
            archive.writestr(_info(CONTENTS), as_json(contents))
        check_exported(temporary)
        open_choice(temporary)


def _write_graph(
    file: Path,
    form: str,
    run: Path,
    described: Described,
    parts: list[Part],
    records: Mapping[str, bytes],
) -> None:
    """Write the ensemble as one graph, with the records, and compare it with the networks."""
    ensemble = load_ensemble(run, torch.device("cpu"))
    network = WholeEnsemble(ensemble)
    check_fits(network, form)
    call = describe_call(network, ensemble) | describe_origin(described, parts)
    program = make_program(network)
    write = write_onnx if form == "onnx" else write_pt2
    with atomic_write(file) as temporary:
        write(temporary, program, {**records, CALL: as_json(call)})
        check_written(temporary, network, program)


def _info(name: str) -> zipfile.ZipInfo:
    """An entry that is stored, and says nothing of when or by whom it was made."""
    info = zipfile.ZipInfo(name, NO_TIME)
    info.create_system = 3  # Unix, also where Python runs on another
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info
