"""What lies in a .zip that somebody sent: its members, or one line that says why it is refused.

Nothing is unpacked to the disk; bounds on names and sizes hold before a byte is read.
"""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ensemble.errors import InputError

MAX_COMPRESSION = 100


def list_members(
    path: Path, *, wanted: Callable[[str], bool], max_bytes: int
) -> list[zipfile.ZipInfo]:
    """The wanted members by name.

    Args:
        path: Of the .zip.
        wanted: Says by its name whether a member is of interest.
        max_bytes: Of one member, unpacked.

    Raises:
        InputError: It is no .zip, or a name or a size in it is not safe.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.filename.endswith("/")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: not a readable .zip ({error})") from None
    listed: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = member.filename
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or re.match(r"[A-Za-z]:", name):
            raise InputError(f"{path}: unsafe name {name!r} in the .zip; refused")
        if not wanted(name):
            continue
        if name in listed:
            raise InputError(f"{path}: the .zip has two members called {name!r}; refused")
        if member.flag_bits & 1:
            raise InputError(f"{path}: {name!r} is encrypted; unpack the .zip first")
        if member.file_size > min(max_bytes, MAX_COMPRESSION * member.compress_size + 2**20):
            raise InputError(
                f"{path}: {name!r} would unpack to {member.file_size:,} bytes from "
                f"{member.compress_size:,}; refused as a possible zip bomb"
            )
        listed[name] = member
    return [listed[name] for name in sorted(listed)]
