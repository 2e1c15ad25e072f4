"""An ensemble in one file that `export` wrote, read where a run's folder would be.

It holds what the part of a run's folder that judges pictures does: `ensemble.json`, the part of
`run.json` that says how large tiles are, and `members/`. Beside these it has `README.md`, its card,
and `contents.json`, which lists all the others with their SHA-256. A .zip is laid out as the
folder, so that unpacked it is a run. A .pt2 of torch.export, which is a .zip, too, has the records
among its extra files, and the weights as its program has them. A file of ONNX has the records in
its metadata, and no networks, but a graph. Nothing is unpacked to the disk, and no more memory is
taken than the file's own size accounts for.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.base.errors import InputError, short_repr
from ensemble.base.version import __version__
from ensemble.data.reading.archive import Archive
from ensemble.run.onnx_file import is_onnx, read_properties
from ensemble.run.pt2_file import EXTRA, read_network
from ensemble.training.checkpoint import Member, check_member
from ensemble.training.config import explain_validation

CONTENTS = "contents.json"
CARD = "README.md"
KIND: Literal["crack-ensemble, exported"] = "crack-ensemble, exported"
FORMAT: Literal[1] = 1
MAX_CONTENTS_BYTES = 2**20
MEMBER = "/member.json"
NEITHER = "neither a run's folder nor an ensemble that export wrote"
WEIGHTS = ".safetensors"
GRAPH = "graph"  # all of a file of ONNX before its metadata
CALL = "graph.json"  # how the graph of a .pt2 or a file of ONNX is called


class Contents(BaseModel):
    """What `contents.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["crack-ensemble, exported"] = KIND
    format: Literal[1] = FORMAT
    version: str = __version__
    sha256: dict[str, str]


class _Opened(NamedTuple):
    """An exported file that holds what it lists, and nothing else.

    Attributes:
        contents: What its `contents.json` holds.
        read: Reads an entry of the list and compares it with its digest.
        folder: What stands before the name of a record in the list.
    """

    contents: Contents
    read: Callable[[str], bytes]
    folder: str = ""


def is_exported(path: Path) -> bool:
    """Whether a path is a file that `export` wrote, in this version or another."""
    if not path.is_file():
        return False
    try:
        return _read_kind(path).get("kind") == KIND
    except InputError:
        return False


def is_graph(path: Path) -> bool:
    """Whether an exported file holds a graph of ONNX in place of networks."""
    return path.is_file() and is_onnx(path)


def check_exported(file: Path) -> None:
    """Compare every entry of an exported file with its digest.

    Raises:
        InputError: The file is damaged, unsafe, of another version, or something else.
    """
    with _opened(file) as opened:
        for name in opened.contents.sha256:
            opened.read(name)


def read_exported(file: Path, name: str) -> bytes:
    """Read an entry of an exported file by its name in a run's folder.

    Raises:
        InputError: There is no such entry, or the file is damaged, unsafe or something else.
    """
    with _opened(file) as opened:
        if opened.folder + name in opened.contents.sha256:
            return opened.read(opened.folder + name)
        if name.endswith(WEIGHTS):
            if opened.folder:
                return _read_network(file, name, opened)
            if GRAPH in opened.contents.sha256:
                raise InputError(
                    f"{file}: holds a graph of ONNX, and no networks that could be looked into; "
                    "name the run, or its .zip or .pt2"
                )
    raise InputError(f"{file}: damaged (it lacks {short_repr(name)}); get the file anew")


def _read_network(file: Path, name: str, opened: _Opened) -> bytes:
    """The weights of a member of a .pt2, by the name that its record gives them."""
    call = _parse_object(opened.read(opened.folder + CALL), file / CALL)
    names = call.get("networks")
    if not isinstance(names, list) or name not in names:
        raise _damaged(file, CALL, "it does not name the networks")
    root = opened.folder.removesuffix(EXTRA)

    def read(entry: str) -> bytes:
        if root + entry not in opened.contents.sha256:
            raise _damaged(file, entry, "missing")
        return opened.read(root + entry)

    return read_network(file, names.index(name), read)


def read_exported_object(file: Path, name: str) -> dict[str, Any]:
    """Read a JSON object from an exported file; errors are those of `read_exported`."""
    return _parse_object(read_exported(file, name), file / name)


def open_exported_member(file: Path, folder: str) -> Member:
    """Open the member in a folder of an exported file; its weights are read when asked for.

    Raises:
        InputError: There is no such member, or the file is damaged, unsafe or something else.
    """
    record = check_member(read_exported_object(file, folder + MEMBER), file / (folder + MEMBER))
    return Member(file / folder, record, partial(_read_path, file))


def open_exported_members(file: Path) -> list[Member]:
    """Open every member of an exported file.

    Raises:
        InputError: There is none, or the file is damaged, unsafe or something else.
    """
    with _opened(file) as opened:
        names = [
            name.removeprefix(opened.folder).removesuffix(MEMBER)
            for name in opened.contents.sha256
            if name.endswith(MEMBER)
        ]
    if not names:
        raise InputError(f"{file}: damaged (it holds no member); get the file anew")
    return [open_exported_member(file, name) for name in names]


def other_version(file: Path) -> InputError:
    """The refusal of a file that another version exported, and that this one does not read."""
    found = _read_kind(file).get("version")
    version = found if isinstance(found, str) else short_repr(found)
    return InputError(
        f"{file}: exported by crack-ensemble {version}, and this is {__version__}, which does not "
        "read it; get a file that this version exported, or install that one"
    )


def _read_path(file: Path, path: Path) -> bytes:
    return read_exported(file, path.relative_to(file).as_posix())


def _read_kind(path: Path) -> dict[str, Any]:
    """The list of contents of a file, unchecked; empty where there is none."""
    if is_onnx(path):
        return _parse_listed(path, read_properties(path).properties)
    with Archive(path) as archive:
        return _read_contents(archive, _find_folder(archive))


@contextmanager
def _opened(file: Path) -> Iterator[_Opened]:
    """Open an exported file and check that it holds what it lists, and nothing else."""
    if is_onnx(file):
        properties, body_bytes = read_properties(file)
        contents = _check_contents(file, _parse_listed(file, properties))
        _check_listed(file, contents, {GRAPH, *properties})
        yield _Opened(contents, partial(_read_property, file, contents, properties, body_bytes))
        return
    if os.access(file, os.R_OK) and not zipfile.is_zipfile(file):
        raise InputError(
            f"{file}: is {NEITHER} (no .zip, .pt2 or file of ONNX, or one that was cut); "
            "get the file anew"
        )
    with Archive(file) as archive:
        folder = _find_folder(archive)
        contents = _check_contents(file, _read_contents(archive, folder))
        _check_listed(file, contents, archive.members, folder)
        yield _Opened(contents, partial(_read_entry, archive, contents), folder)


def _check_contents(file: Path, values: dict[str, Any]) -> Contents:
    """Make the list of contents of what `contents.json` holds."""
    if values.get("kind") != KIND:
        raise InputError(f"{file}: is {NEITHER}; name one of them")
    if values.get("format") != FORMAT:
        raise other_version(file)
    try:
        return Contents.model_validate(values)
    except ValidationError as error:
        raise _damaged(file, CONTENTS, explain_validation(error)) from None


def _check_listed(
    file: Path, contents: Contents, there: Mapping[str, Any] | set[str], folder: str = ""
) -> None:
    """Make sure that what is there is what is listed, and the list."""
    listed = {folder + CONTENTS, *contents.sha256}
    for name in listed ^ set(there):
        what = "missing" if name in listed else "not among what was exported"
        raise _damaged(file, name, what)


def _find_folder(archive: Archive) -> str:
    """What stands before the names of records: nothing in a .zip, a folder in a .pt2."""
    found = [name for name in archive.members if name.endswith(f"/{EXTRA}{CONTENTS}")]
    is_pt2 = CONTENTS not in archive.members and len(found) == 1
    return found[0].removesuffix(CONTENTS) if is_pt2 else ""


def _read_contents(archive: Archive, folder: str) -> dict[str, Any]:
    """The list of contents; empty where there is none."""
    name = folder + CONTENTS
    if name not in archive.members:
        return {}
    return _parse_object(_unpack(archive, name, MAX_CONTENTS_BYTES), archive.path / name)


def _parse_listed(file: Path, properties: Mapping[str, bytes]) -> dict[str, Any]:
    """The list of contents in the metadata of a file of ONNX; empty where there is none."""
    return _parse_object(properties.get(CONTENTS, b"{}"), file / CONTENTS)


def _read_entry(archive: Archive, contents: Contents, name: str) -> bytes:
    """Read an entry of a .zip and compare it with its digest."""
    content = _unpack(archive, name, 2 * archive.path.stat().st_size + MAX_CONTENTS_BYTES)
    return _check_digest(archive.path, contents, name, content)


def _read_property(
    file: Path, contents: Contents, properties: Mapping[str, bytes], body_bytes: int, name: str
) -> bytes:
    """Read an entry of a file of ONNX, or its graph, and compare it with its digest."""
    if name == GRAPH:
        with file.open("rb") as opened:
            return _check_digest(file, contents, name, opened.read(body_bytes))
    return _check_digest(file, contents, name, properties[name])


def _check_digest(file: Path, contents: Contents, name: str, content: bytes) -> bytes:
    if hashlib.sha256(content).hexdigest() != contents.sha256[name]:
        raise _damaged(file, name, f"its digest is not that of {CONTENTS}")
    return content


def _unpack(archive: Archive, name: str, max_bytes: int) -> bytes:
    archive.check(name, max_bytes)
    try:
        return archive.read(name)
    except zipfile.BadZipFile as error:
        raise _damaged(archive.path, name, str(error)) from None


def _parse_object(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged, as it is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: damaged (expected an object, but got {short_repr(value)})")
    return value


def _damaged(file: Path, name: str, reason: str) -> InputError:
    return InputError(f"{file}: damaged ({short_repr(name)}: {reason}); get the file anew")
