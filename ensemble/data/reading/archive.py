"""Reads a .zip that somebody sent, or refuses it in one line that says why.

Nothing is unpacked to the disk; bounds on names and sizes hold before a byte is read.
"""

import contextlib
import io
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Self

from ensemble.base.errors import InputError, short_repr

MAX_MEMBERS = 300_000  # five times SDNET2018
MAX_DIRECTORY_BYTES = 64 * 2**20
MAX_COMPRESSION = 100
UTF8_FLAG = 0x800
DISK = re.compile(r"[A-Za-z]:")
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


class Archive:
    """An open .zip; safe to read from several threads.

    Attributes:
        path: Path of the .zip.
        members: Its members, without folders, by name with forward slashes.
    """

    def __init__(self, path: Path):
        """Open the .zip at `path`.

        Raises:
            InputError: It is no .zip, lists too many members, or a name in it is not safe.
        """
        self.path = path
        self.members: dict[str, zipfile.ZipInfo] = {}
        self._doubled: set[str] = set()
        try:
            self._file = _BoundedFile(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be opened ({error.strerror})") from None
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._file.is_listed = True
            self._list_members()
        except (*UNREADABLE_ZIP, InputError) as error:
            self.close()
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path}: not a readable .zip ({error}); download a .zip again, unpack a .rar or "
                "another archive and name its folder"
            ) from None

    def _list_members(self) -> None:
        infos = self._zip.infolist()
        if sum(member.compress_size for member in infos) > self.path.stat().st_size:
            raise InputError(
                f"{self.path}: its members are larger than the .zip; refused as a possible zip bomb"
            )
        for member in infos:
            name = _decode_name(member)
            if name.startswith("/") or DISK.match(name) or ".." in name.split("/"):
                raise InputError(
                    f"{self.path}: unsafe name {short_repr(name)} in the .zip; refused"
                )
            if name in self.members:
                self._doubled.add(name)
            if not name.endswith("/"):
                self.members[name] = member

    def check(self, name: str, max_bytes: int) -> None:
        """Make sure that a member can be read safely.

        Args:
            name: Name of one of `members`.
            max_bytes: Largest size of it, unpacked.

        Raises:
            InputError: Its name or its size is not safe, or it is encrypted.
        """
        member = self.members[name]
        if CONTROL.search(name):
            raise InputError(f"{self.path}: unsafe name {short_repr(name)} in the .zip; refused")
        if name in self._doubled:
            raise InputError(
                f"{self.path}: the .zip has two members called {short_repr(name)}; refused"
            )
        if member.flag_bits & 1:
            raise InputError(f"{self.path}: {short_repr(name)} is encrypted; unpack the .zip first")
        if member.file_size > min(max_bytes, MAX_COMPRESSION * member.compress_size + 2**20):
            raise InputError(
                f"{self.path}: {short_repr(name)} would unpack to {member.file_size:,} bytes from "
                f"{member.compress_size:,}; refused as a possible zip bomb"
            )

    def read(self, name: str) -> bytes:
        """Unpack a member into no more memory than its listed size.

        Raises:
            zipfile.BadZipFile: It is damaged, larger than listed, or not deflated.
        """
        try:
            member = self.members[name]
            if member.compress_type not in METHODS:  # bzip2's and LZMA's output has no bound
                raise zipfile.BadZipFile(
                    f"packed by method {member.compress_type}; unpack the .zip"
                )
            with self._zip.open(member) as file:
                # read() without a size unpacks everything before it looks at the listed one
                return file.read(member.file_size + 1)
        except (*UNREADABLE_ZIP, zlib.error, EOFError, KeyError, RuntimeError) as error:
            raise zipfile.BadZipFile(str(error) or "cut short") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _BoundedFile(io.BufferedReader):
    """A .zip whose directory, which zipfile reads at once, lists a bounded number of members.

    They are counted before zipfile makes an object of each, a kilobyte and 20 µs.
    """

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self.path = path
        self.is_listed = False

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_listed:
            return super().read(size)
        is_vast = size is not None and size > MAX_DIRECTORY_BYTES
        content = b"" if is_vast else super().read(size)
        if is_vast or content.count(b"PK\1\2") > MAX_MEMBERS:
            raise InputError(
                f"{self.path}: the .zip lists more than {MAX_MEMBERS:,} files; unpack it and "
                "name the folder, or make several of it"
            )
        return content


def _decode_name(member: zipfile.ZipInfo) -> str:
    """A member's name with forward slashes, and read as UTF-8 where it can be.

    Zip programs of macOS write UTF-8 without its flag, and some of Windows write backslashes.
    Names of another old code page stay as zipfile reads them, in IBM's of 1981.
    """
    name = member.filename
    if not name.isascii() and not member.flag_bits & UTF8_FLAG:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")
