"""Whether a copy of a pack is the one that was sent: the SHA-256 of its files.

They are worked out when a pack is first sent to other nodes: on one machine nobody needs them, and
over the pixels they take a fifth of the time of decoding them.
"""

import hashlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ensemble.data.pack import Pack, open_pack
from ensemble.errors import InputError
from ensemble.files import read_json, read_object, write_json

DIGESTS = "digests.json"
VERIFIED = ".verified.json"  # in a copy: size and time of each file whose digest was right


def digest_pack(pack: Pack) -> dict[str, str]:
    """The SHA-256 of each file of a pack; they are kept in its `digests.json`."""
    path = pack.folder / DIGESTS
    if not path.exists():
        files = [file for file in sorted(pack.folder.iterdir()) if not file.name.startswith(".")]
        write_json(path, {file.name: _digest(file) for file in files})
    digests: dict[str, str] = read_object(path)
    return digests


def verify_pack(folder: Path, *, sha256: str, without: Collection[str] = ()) -> Pack:
    """Open a copy of a pack, sure that it is the one that was sent.

    All is read at the first use; later only files whose size or time of change is another one.

    Args:
        folder: The copy.
        sha256: Of its `digests.json`.
        without: Files that need not be there, as the test split's on a node that trains.

    Raises:
        InputError: A file is missing or differs.
    """
    digests = folder / DIGESTS
    if digests.is_file() and _digest(digests) != sha256:
        raise InputError(f"{folder}: another pack, or damaged (the digest of its {DIGESTS})")
    marker = folder / VERIFIED
    seen: dict[str, list[int]] = {}
    with suppress(InputError):
        seen = read_json(marker)
    stamps: dict[str, list[int]] = {}
    for name, digest in read_object(digests).items():
        path = folder / name
        if name in without:
            continue
        if not path.is_file():
            raise InputError(f"{path} is missing: a damaged pack; delete its folder")
        stamps[name] = [path.stat().st_size, path.stat().st_mtime_ns]
        if seen.get(name) != stamps[name] and _digest(path) != digest:
            raise InputError(f"{path}: damaged (its digest is not that of {DIGESTS}); delete it")
    if stamps != seen:
        write_json(marker, stamps)
    return open_pack(folder)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
