"""An ensemble in one file: a .zip that `export` wrote, read where a run's folder would be.

It is laid out as a run's folder, with `ensemble.json`, the part of `run.json` that says how large
tiles are, and `members/`, so that unpacked it is one. Beside these it has `README.md`, its card,
and `contents.json`, which lists every other entry with its SHA-256. Nothing is unpacked to the
disk, and no more memory is taken than the file's own size accounts for.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.base.errors import InputError, short_repr
from ensemble.base.version import __version__
from ensemble.data.reading.archive import Archive
from ensemble.training.checkpoint import Member, check_member
from ensemble.training.config import explain_validation

CONTENTS = "contents.json"
CARD = "README.md"
KIND: Literal["crack-ensemble, exported"] = "crack-ensemble, exported"
FORMAT: Literal[1] = 1
MAX_CONTENTS_BYTES = 2**20
MEMBER = "/member.json"


class Contents(BaseModel):
    """What `contents.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["crack-ensemble, exported"] = KIND
    format: Literal[1] = FORMAT
    version: str = __version__
    sha256: dict[str, str]


def is_exported(path: Path) -> bool:
    """Whether a path is a file that `export` wrote, in this version or another."""
    if not path.is_file():
        return False
    try:
        with Archive(path) as archive:
            return _read_contents(archive).get("kind") == KIND
    except InputError:
        return False


def check_exported(file: Path) -> None:
    """Compare every entry of an exported file with its digest.

    Raises:
        InputError: The file is damaged, unsafe, of another version, or something else.
    """
    with _opened(file) as (archive, contents):
        for name in contents.sha256:
            _read_entry(archive, contents, name)


def read_exported(file: Path, name: str) -> bytes:
    """Read an entry of an exported file.

    Raises:
        InputError: There is no such entry, or the file is damaged, unsafe or something else.
    """
    with _opened(file) as (archive, contents):
        if name not in contents.sha256:
            raise InputError(f"{file}: damaged (it lacks {short_repr(name)}); get the file anew")
        return _read_entry(archive, contents, name)


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
    with _opened(file) as (_, contents):
        names = [name.removesuffix(MEMBER) for name in contents.sha256 if name.endswith(MEMBER)]
    if not names:
        raise InputError(f"{file}: damaged (it holds no member); get the file anew")
    return [open_exported_member(file, name) for name in names]


def other_version(file: Path) -> InputError:
    """The refusal of a file that another version exported, and that this one does not read."""
    with Archive(file) as archive:
        found = _read_contents(archive).get("version")
    version = found if isinstance(found, str) else short_repr(found)
    return InputError(
        f"{file}: exported by crack-ensemble {version}, and this is {__version__}, which does not "
        "read it; get a file that this version exported, or install that one"
    )


def _read_path(file: Path, path: Path) -> bytes:
    return read_exported(file, path.relative_to(file).as_posix())


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Archive, Contents]]:
    """Open an exported file and check that it holds what it lists, and nothing else."""
    neither = f"{file}: is neither a run's folder nor an ensemble that export wrote"
    if os.access(file, os.R_OK) and not zipfile.is_zipfile(file):
        raise InputError(f"{neither} (no .zip, or one that was cut); get the file anew")
    with Archive(file) as archive:
        values = _read_contents(archive)
        if values.get("kind") != KIND:
            raise InputError(f"{neither}; name one of them")
        if values.get("format") != FORMAT:
            raise other_version(file)
        try:
            contents = Contents.model_validate(values)
        except ValidationError as error:
            raise _damaged(file, CONTENTS, explain_validation(error)) from None
        listed = {CONTENTS, *contents.sha256}
        for name in listed ^ archive.members.keys():
            what = "missing" if name in listed else "not among what was exported"
            raise _damaged(file, name, what)
        yield archive, contents


def _read_contents(archive: Archive) -> dict[str, Any]:
    """The list of contents; empty where there is none."""
    if CONTENTS not in archive.members:
        return {}
    return _parse_object(_unpack(archive, CONTENTS, MAX_CONTENTS_BYTES), archive.path / CONTENTS)


def _read_entry(archive: Archive, contents: Contents, name: str) -> bytes:
    """Read an entry and compare it with its digest."""
    content = _unpack(archive, name, 2 * archive.path.stat().st_size + MAX_CONTENTS_BYTES)
    if hashlib.sha256(content).hexdigest() != contents.sha256[name]:
        raise _damaged(archive.path, name, f"its digest is not that of {CONTENTS}")
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
