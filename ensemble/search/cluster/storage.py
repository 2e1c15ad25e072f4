"""`--storage`: the place through which tiles and members travel between the nodes of a cluster.

It is a shared folder, or a URL of an object store (s3, gs) or of any other protocol that fsspec
knows. Each name in it is a folder of files and of the records (`*.json`) that name them. Records
are sent last, so a reader finds either the old record with its files or the new one with its files.
On a shared folder a file is written beside its place and moved; an object appears when it is
complete.
"""

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import fsspec
from pyarrow import ArrowException, fs

from ensemble.base.errors import CannotWriteError, InputError, hide_passwords, short_repr
from ensemble.base.files import atomic_write
from ensemble.base.locks import file_lock
from ensemble.data.pack import Pack, open_pack

T = TypeVar("T")
PAUSES_SECONDS = (0.5, 2.0)  # before the second and the third attempt
CONTENT_NAMED = re.compile(r"-([0-9a-f]{8})\.[a-z]+$")  # part of the SHA-256: it never changes
STAY = {"test.npy", "test.csv"}  # files of a pack that only its evaluation opens


class StorageError(InputError):
    """The storage cannot be used; the message is one line without secrets."""


@dataclass(frozen=True, repr=False)
class Storage:
    """A place that every node reaches; it travels between processes as its URL.

    What fails is tried three times, then `push`, `fetch` and `delete` raise `StorageError`.

    Attributes:
        url: Absolute path or URL. It may hold a password: print `str(storage)` instead, and write
            the URL to no file.
    """

    url: str

    @classmethod
    def parse(cls, text: str) -> "Storage":
        """Read what a person typed; no connection is made.

        Args:
            text: A folder (also `file://…`), `gs://…`, a URL of another protocol that fsspec knows,
                or `s3://[key:secret@]bucket[/folder][?endpoint_override=…&scheme=…&region=…]`. What
                that does not say comes from the environment of each node (`AWS_…`).

        Raises:
            InputError: The protocol is unknown, its package is missing, or the URL is malformed.
        """
        text = text.removeprefix("file://")
        if "://" not in text and (not text.strip() or re.match(r"[a-z][a-z0-9+.-]*:/", text)):
            raise InputError(
                f"--storage {short_repr(text)}: give a folder, or a URL as s3://bucket/folder"
            )
        storage = cls(text if "://" in text else str(Path(text).expanduser().absolute()))
        try:
            _open(storage.url)
        except (OSError, ValueError, ImportError, ArrowException) as error:
            raise storage._error("cannot be used", error) from None
        return storage

    def __str__(self) -> str:
        """Return protocol and place, without user, password and query."""
        protocol, separator, rest = self.url.partition("://")
        place = rest.rpartition("@")[2].partition("?")[0]
        return f"{protocol}://{place}" if separator else self.url

    __repr__ = __str__

    def check(self) -> None:
        """Write, read back and delete a small file.

        Raises:
            StorageError: It cannot; an unreachable address is given up within 20 s.
        """
        name, data = f".check-{uuid.uuid4().hex}", b"written by the check of --storage"
        try:
            root = _open(self.url, patient=False)
            root.write(name, data)
            if root.read(name) != data:
                raise OSError("a file reads back differently")
            root.remove(name)
        except Exception as error:  # an fsspec protocol raises what its own client raises
            raise self._error("cannot be written", error) from None

    def push(self, folder: Path, name: str) -> None:
        """Make `<storage>/<name>` hold what `folder` holds, without its hidden files and folders.

        Files that carry their digest in their names and are there already are not sent; records
        are sent last; then what is no longer in `folder` is deleted. One process pushes a name.
        """
        self._try(lambda: _mirror(_local(folder), self._folder(name)))

    def fetch(self, name: str, folder: Path) -> bool:
        """Make a local folder hold what was pushed as `name`; its hidden files stay.

        Returns:
            False, with `folder` untouched, if no record (`*.json`) is there.
        """
        return self._try(lambda: _mirror(self._folder(name), _local(folder), is_fetch=True))

    def delete(self, name: str) -> None:
        """Delete what was pushed as `name`, records first; nothing if it is not there."""

        def delete() -> None:
            folder = self._folder(name)
            for record in folder.records():
                folder.remove(record)
            if folder.files.get_file_info(folder.path).type == fs.FileType.Directory:
                folder.files.delete_dir(folder.path)

        self._try(delete)

    def _folder(self, name: str) -> "_Folder":
        root = _open(self.url)
        return _Folder(root.files, f"{root.path}/{name}")

    def _try(self, action: Callable[[], T]) -> T:
        for pause in PAUSES_SECONDS:
            with suppress(Exception):  # an fsspec protocol raises what its own client raises
                return action()
            time.sleep(pause)
        try:
            return action()
        except CannotWriteError:
            raise
        except Exception as error:
            raise self._error("failed three times", error) from None

    def _error(self, what: str, reason: object) -> StorageError:
        shown = " ".join(hide_passwords(str(reason)).split()) or type(reason).__name__
        secret = self.url.partition("://")[2].rpartition("@")[0].partition(":")[2]
        for hidden in (secret, unquote(secret)):  # by itself; in a URL it is hidden already
            shown = shown.replace(hidden, "***") if hidden else shown
        return StorageError(f"--storage {self}: {what} ({shown[:300]}); mend it or give another")


class _Folder(NamedTuple):
    """A folder, wherever it lies."""

    files: fs.FileSystem
    path: str

    def sizes(self) -> dict[str, int]:
        found = self.files.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return {info.base_name: info.size for info in found if info.type == fs.FileType.File}

    def records(self) -> dict[str, bytes]:
        names = sorted(self.sizes())
        return {n: self.read(n) for n in names if n.endswith(".json") and not n.startswith(".")}

    def read(self, name: str) -> bytes:
        with self.files.open_input_stream(f"{self.path}/{name}") as stream:
            return bytes(stream.read())

    def copy(self, name: str, source: "_Folder") -> None:
        with self._whole(name) as path:
            fs.copy_files(f"{source.path}/{name}", str(path), source.files, self.files)

    def write(self, name: str, data: bytes) -> None:
        with self._whole(name) as path, self.files.open_output_stream(str(path)) as out:
            out.write(data)

    def _whole(self, name: str) -> AbstractContextManager[Path | str]:
        path = f"{self.path}/{name}"
        if self.files.type_name not in ("s3", "gcs"):  # there folders are only parts of names
            self.files.create_dir(self.path, recursive=True)
        return atomic_write(Path(path)) if self.files.type_name == "local" else nullcontext(path)

    def remove(self, name: str) -> None:
        self.files.delete_file(f"{self.path}/{name}")


def _mirror(source: _Folder, target: _Folder, *, is_fetch: bool = False) -> bool:
    """Make `target` hold the files of `source`, its records last, then delete what is left over.

    Other files are listed and copied between two readings of the records: if these are equal, all
    that they name was there. Otherwise the caller begins again.
    """
    records = source.records()
    if is_fetch and not records:
        return False
    sizes = {name: size for name, size in source.sizes().items() if not name.startswith(".")}
    there = target.sizes()
    for name in sizes.keys() - records.keys():
        digest = CONTENT_NAMED.search(name)
        same = digest is not None and there.get(name) == sizes[name]
        if same and is_fetch and digest:  # a damaged copy is mended
            same = hashlib.sha256(target.read(name)).hexdigest().startswith(digest[1])
        if not same:
            target.copy(name, source)
    if source.records() != records:
        raise OSError("the files are replaced while they are copied")
    for name, data in sorted(records.items(), reverse=True):  # a state before its member
        target.write(name, data)
    for name in there.keys() - sizes.keys():
        if not (is_fetch and name.startswith(".")):  # elsewhere: what a killed push left
            target.remove(name)
    return True


def push_pack(storage: Storage, pack: Pack) -> tuple[str, str]:
    """Send the files of a pack that are not there yet, without the test split's.

    Returns its name there (several searches may send it) and the SHA-256 of its `pack.json`.
    """
    files = [*sorted(pack.record["files"].keys() - STAY), "pack.json"]
    sha256 = hashlib.sha256((pack.folder / "pack.json").read_bytes()).hexdigest()
    name = f"{pack.folder.name}-{sha256[:8]}"

    def send() -> None:
        target = storage._folder(f"packs/{name}")
        there = target.sizes()
        for file in files:
            if there.get(file) != (pack.folder / file).stat().st_size:
                target.copy(file, _local(pack.folder))

    storage._try(send)
    return name, sha256


def local_pack(storage: Storage, name: str, cache: Path, *, sha256: str) -> Path:
    """The node's own verified copy, `cache/<name>`, of what `push_pack` sent under that name.

    The processes of a node take turns, so it is fetched once; what is damaged is fetched again.
    `sha256` is as `push_pack` returned it; the folder `cache` is made if missing.

    Raises:
        InputError: It is not there, damaged there, or the disk is full.
    """
    folder = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with file_lock(cache / f".{name}.lock"):
        for attempt in range(3):
            try:
                open_pack(folder, splits=("train", "val"), sha256=sha256)
                break
            except InputError as error:
                if attempt == 2:
                    raise storage._error(f"packs/{name} is damaged, delete it", error) from None
            if not storage.fetch(f"packs/{name}", folder):
                raise storage._error(f"has no packs/{name}", "deleted, or another storage")
    return folder


def _local(folder: Path) -> _Folder:
    return _Folder(fs.LocalFileSystem(), str(folder))


@lru_cache(maxsize=8)
def _open(url: str, *, patient: bool = True) -> _Folder:
    """The folder of a path or URL; unless patient, it is given up within 20 s."""
    protocol, separator, _ = url.partition("://")
    if not separator:
        return _local(Path(url))
    parts = urlsplit(url)
    if "@" in parts.path or parts.fragment:
        raise ValueError("inside a password / # @ are written %2F %23 %40")
    if protocol == "s3":
        return _open_s3(parts, patient)
    if protocol in ("gs", "gcs"):  # pyarrow tries for 15 minutes otherwise
        query = f"{parts.query}&retry_limit_seconds={60 if patient else 8}".lstrip("&")
        files, path = fs.FileSystem.from_uri(parts._replace(scheme="gs", query=query).geturl())
    else:
        handler, path = fsspec.core.url_to_fs(url)
        files = fs.PyFileSystem(fs.FSSpecHandler(handler))
    return _Folder(files, path.rstrip("/"))


def _open_s3(parts: SplitResult, patient: bool) -> _Folder:
    options = dict(parse_qsl(parts.query))
    bucket = parts.netloc.rpartition("@")[2]
    if not bucket or options.keys() - {"endpoint_override", "scheme", "region"}:
        raise ValueError("it is s3://bucket/folder?endpoint_override=…&scheme=…&region=…")
    default = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    scheme, _, endpoint = options.get("endpoint_override", default).rpartition("://")
    files = fs.S3FileSystem(  # `FileSystem.from_uri` takes no timeouts
        access_key=unquote(parts.username) if parts.username else None,
        secret_key=unquote(parts.password) if parts.password else None,
        endpoint_override=endpoint.rstrip("/") or None,
        scheme=options.get("scheme") or scheme or "https",
        region=options.get("region"),
        connect_timeout=3.0,
        request_timeout=60.0 if patient else 6.0,  # without a byte
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3 if patient else 2),
    )
    return _Folder(files, f"{bucket}{unquote(parts.path)}".rstrip("/"))
