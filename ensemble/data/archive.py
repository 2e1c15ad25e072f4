"""What lies in a .zip that somebody sent: its members, or one line that says why it is refused.

Nothing is unpacked to the disk; bounds on names and sizes hold before a byte is read.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ensemble.errors import InputError, quote

MAX_COMPRESSION = 100
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# a terminal obeys them; those of the second row turn the direction of what follows
CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
# what zipfile raises of a damaged or lying directory
UNREADABLE_ZIP = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    NotImplementedError,
    OverflowError,
    struct.error,
)


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
    except UNREADABLE_ZIP as error:
        raise InputError(f"{path}: not a readable .zip ({error})") from None
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise InputError(
            f"{path}: its members are larger than the .zip; refused as a possible zip bomb"
        )
    listed: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = member.filename
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or re.match(r"[A-Za-z]:", name):
            raise InputError(f"{path}: unsafe name {quote(name)} in the .zip; refused")
        if not wanted(name):
            continue
        if CONTROL.search(name):
            raise InputError(f"{path}: unsafe name {quote(name)} in the .zip; refused")
        if name in listed:
            raise InputError(f"{path}: the .zip has two members called {quote(name)}; refused")
        if member.flag_bits & 1:
            raise InputError(f"{path}: {quote(name)} is encrypted; unpack the .zip first")
        if member.file_size > min(max_bytes, MAX_COMPRESSION * member.compress_size + 2**20):
            raise InputError(
                f"{path}: {quote(name)} would unpack to {member.file_size:,} bytes from "
                f"{member.compress_size:,}; refused as a possible zip bomb"
            )
        listed[name] = member
    return [listed[name] for name in sorted(listed)]


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a member, unpacked into no more memory than its listed size.

    Raises:
        zipfile.BadZipFile: It is damaged, larger than listed, or not deflated.
    """
    try:
        member = archive.getinfo(name)
        if member.compress_type not in METHODS:  # bzip2's and LZMA's output has no bound
            raise zipfile.BadZipFile(f"packed by method {member.compress_type}; unpack the .zip")
        with archive.open(member) as file:
            # read() without a size unpacks everything before it looks at the listed one
            return file.read(member.file_size + 1)
    except (*UNREADABLE_ZIP, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise zipfile.BadZipFile(str(error) or "cut short") from None
