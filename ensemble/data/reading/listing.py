"""Lists the files of a folder or a .zip that are read, and those passed over with the reason.

Training data and pictures to predict are listed by the same rules: by the file's name, without a
look inside. Only regular files are read. Links to folders are followed, each real folder once.
Nothing is unpacked to the disk: a .zip is read member by member, with bounds on names and sizes.
"""

import contextlib
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ensemble.base.errors import escape
from ensemble.base.progress_bar import progress_bar
from ensemble.data.reading.archive import Archive
from ensemble.data.reading.decode import can_read_heif

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".tif", ".tiff",
                    ".webp", ".gif", ".jp2"}  # fmt: skip
HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
OTHER_PICTURES = {".avif", ".jxl", ".svg", ".psd", ".pdf", ".ppm", ".pgm", ".tga",
                  ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}  # fmt: skip
ARCHIVES = {".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst"}
OLD_CODE_PAGES = ("gb18030", "big5", "shift_jis", "euc_kr", "cp1250", "cp1251", "cp1252")
OVERLAYS_FILE, INSPECTION_FILE, CUT_FILE = "overlays.json", "inspection.json", "cut.json"
OUR_FILES = {
    "run.json",
    "pack.json",
    OVERLAYS_FILE,
    INSPECTION_FILE,
    CUT_FILE,
}  # a folder with one of these is a result
MAX_TILE_BYTES = 64 * 2**20
NUM_NAMED = 3

HIDDEN = "hidden"
OURS = "results of searches and predictions"
ARCHIVE = "archives, which are not opened here; unpack them and name the folder"
OTHER_KIND = "pictures of a kind that is not read; save them as JPEG, PNG or TIFF"
NEEDS_HEIF = "HEIC pictures, which need pillow-heif: pip install pillow-heif, or save them as JPEG"
NO_PICTURE = "not pictures by their names"
NOWHERE = "links to nowhere"
TWICE = "links to folders that are read already or that hold this one"
IRREGULAR = "neither files nor folders"
UNOPENED = "cannot be opened"


class Entry(NamedTuple):
    """A listed file: `stamp` changes with it, `copy_key` is equal for files that may be equal."""

    stamp: str
    copy_key: str


class Listing(NamedTuple):
    """Content of a folder or a .zip.

    Attributes:
        files: Files that are read, by their name inside it, in order.
        passed_over: Names of files and folders that are not read, by the reason.
    """

    files: dict[str, Entry]
    passed_over: dict[str, list[str]]


class Reader:
    """Reads the bytes of one tile by its name; safe to use from several threads."""

    def __init__(self, path: Path):
        self.path = path
        self._archive = None if path.is_dir() else Archive(path)

    def read(self, tile: str) -> bytes:
        """Read the bytes of a tile.

        Raises:
            OSError, zipfile.BadZipFile: It cannot be read.
            ValueError: It is larger than a tile can be.
        """
        if self._archive is not None:
            return self._archive.read(tile)
        path = self.path / tile
        if path.stat().st_size > MAX_TILE_BYTES:
            raise ValueError(f"larger than {MAX_TILE_BYTES >> 20} MiB")
        return path.read_bytes()

    def close(self) -> None:
        """Close the archive."""
        if self._archive is not None:
            self._archive.close()


def list_files(
    path: Path, *, max_bytes: int = MAX_TILE_BYTES, skipped: Path | None = None
) -> Listing:
    """List the pictures in a folder or a .zip, at any depth.

    Args:
        path: An existing folder or file.
        max_bytes: Largest size of one member of a .zip, unpacked.
        skipped: Folder that is passed over as a result.

    Raises:
        InputError: It is no .zip, or the .zip is unsafe.
    """
    listing = Listing({}, {})
    with progress_bar() as progress:
        progress.add_task(f"listing {printable(path.name)}", total=None)
        if path.is_dir():
            _list_folder(path, skipped, listing)
        else:
            _list_zip(path, max_bytes, listing)
    return Listing(
        dict(sorted(listing.files.items())),
        {reason: sorted(names) for reason, names in sorted(listing.passed_over.items())},
    )


def describe_passed_over(passed_over: dict[str, list[str]]) -> Iterator[str]:
    """Yield a line for each reason why files are not read, with the first names."""
    for reason, names in passed_over.items():
        named = ", ".join(name[-100:] for name in map(printable, names[:NUM_NAMED]))
        more = ", …" if len(names) > NUM_NAMED else ""
        yield f"  passed over, {reason}: {len(names):,} ({named}{more})"


def list_suffixes() -> set[str]:
    """Suffixes of the pictures that are read here, those of HEIC where pillow-heif is installed."""
    return PICTURE_SUFFIXES | (HEIF_SUFFIXES if can_read_heif() else set())


def explain_nothing(passed_over: dict[str, list[str]]) -> str:
    """The end of a sentence that says that nothing was found: what there is instead."""
    return "".join(f"; {line.strip()}" for line in describe_passed_over(passed_over))


def is_called(name: str, typed: str) -> bool:
    """Whether a person who typed `typed`, perhaps as it was printed, means the file `name`.

    Capitals do not count, nor how accents are stored (macOS's are characters of their own). Names
    in a .zip may be of an old code page, which prints them in other signs.
    """
    forms = [typed]
    for code_page in OLD_CODE_PAGES:
        with contextlib.suppress(UnicodeError):
            forms.append(typed.encode(code_page).decode("cp437"))
    return any(_fold(form) in (_fold(name), _fold(printable(name))) for form in forms)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def printable(name: str) -> str:
    """A file's name as a terminal may show it, whatever bytes it is made of."""
    return escape(os.fsencode(name).decode("utf-8", "backslashreplace"))


def _list_folder(folder: Path, skipped: Path | None, listing: Listing) -> None:
    for name, file in _walk(folder, skipped, listing.passed_over):
        reason = _why_not(name)
        try:
            if reason is None and not file.is_file():
                reason = NOWHERE if file.is_symlink() else IRREGULAR
            if reason is None:
                stat = file.stat()
                listing.files[name] = Entry(f"{stat.st_size} {stat.st_mtime_ns}", f"{stat.st_size}")
        except OSError:  # a link to itself, or a file that went since
            reason = NOWHERE
        if reason is not None:
            listing.passed_over.setdefault(reason, []).append(name)


def _walk(
    folder: Path, skipped: Path | None, passed_over: dict[str, list[str]]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield name and entry of everything in `folder` that is no folder; real folders before links.

    A folder that is there twice, once by a link, is listed under its real name.
    """
    around = {_identity(parent) for parent in (folder.resolve(), *folder.resolve().parents)}
    results = {_identity(skipped)} if skipped is not None and skipped.is_dir() else set()
    seen: set[tuple[int, int]] = set()
    real, linked = [""], list[str]()
    while real or linked:
        is_link = not real
        inner = linked.pop(0) if is_link else real.pop()
        try:
            identity = _identity(folder / inner)
            with os.scandir(folder / inner) as entries:
                files = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            passed_over.setdefault(UNOPENED, []).append(f"{inner}/")
            continue
        folders = {entry.name: entry for entry in files if _is_folder(entry)}
        if identity in seen or (is_link and identity in around):
            reason = TWICE
        elif identity in results or _is_ours(files, folders.values() if inner else ()):
            reason = OURS
        else:
            reason = None
        if reason is not None:
            passed_over.setdefault(reason, []).append(f"{inner}/")
            continue
        seen.add(identity)
        for entry in files:
            name = f"{inner}/{entry.name}" if inner else entry.name
            if entry.name not in folders:
                yield name, entry
            elif _is_hidden(entry.name):
                passed_over.setdefault(HIDDEN, []).append(f"{name}/")
            else:
                (linked if entry.is_symlink() else real).append(name)


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_ours(files: Iterable[os.DirEntry[str]], folders: Iterable[os.DirEntry[str]]) -> bool:
    """Whether a folder is a run, a pack or overlays, or by its `folders` the folder of packs."""
    return any(file.name in OUR_FILES for file in files) or any(
        Path(folder.path, "pack.json").is_file() for folder in folders
    )


def _list_zip(path: Path, max_bytes: int, listing: Listing) -> None:
    with Archive(path) as archive:
        ours = _find_our_folders(archive.members)
        if ours:
            listing.passed_over[OURS] = list(ours)
        for name, member in archive.members.items():
            if name.startswith(ours):
                continue
            if reason := _why_not(name):
                listing.passed_over.setdefault(reason, []).append(name)
                continue
            archive.check(name, max_bytes)
            of_bytes = f"{member.file_size} {member.CRC:08x}"
            listing.files[name] = Entry(of_bytes, of_bytes)


def _find_our_folders(names: Iterable[str]) -> tuple[str, ...]:
    """Folders of a .zip, each with a slash at its end, that hold results; see `_is_ours`."""
    ours = set()
    for name in names:
        folder, _, file = name.rpartition("/")
        if file in OUR_FILES:
            parent = folder.rpartition("/")[0] if file == "pack.json" else ""
            ours.add(f"{parent or folder}/" if folder else "")
    return tuple(
        sorted(name for name in ours if not any(name != o and name.startswith(o) for o in ours))
    )


def _why_not(name: str) -> str | None:
    """The reason why a file of this name is passed over; None if it is read."""
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if any(map(_is_hidden, path.parts)):
        return HIDDEN
    if suffix in PICTURE_SUFFIXES:
        return None
    if suffix in HEIF_SUFFIXES:
        return None if can_read_heif() else NEEDS_HEIF
    if suffix in ARCHIVES:
        return ARCHIVE
    return OTHER_KIND if suffix in OTHER_PICTURES else NO_PICTURE


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
