"""Finds pictures without labels in folders and .zip files, and decodes them as training does.

A photograph may be a hundred times a tile; bounds on sizes hold before anything is decoded.
"""

import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageFile, UnidentifiedImageError

from ensemble.base.errors import InputError
from ensemble.data.reading.archive import Archive
from ensemble.data.reading.decode import any_size, load_image, open_checked
from ensemble.data.reading.listing import (
    ARCHIVES,
    explain_nothing,
    list_files,
    list_suffixes,
    printable,
)

MAX_ZIPPED_BYTES = 640 * 2**20
MAX_PICTURE_PIXELS = 250_000_000
ONE_TILE = 1.5  # a picture up to this many tiles wide and high is one tile
LEAST_TILE = 0.25  # a side shorter than this part of a tile's shows too little


class Picture(NamedTuple):
    """A picture that can be read: a file, a member of an open .zip, or bytes."""

    name: str
    path: str | Path
    archive: Archive | None = None
    content: bytes | None = None

    def open(self) -> BinaryIO:
        """Open its bytes; a .zip is unpacked into memory, one picture at a time."""
        if self.archive is not None:
            return io.BytesIO(self.archive.read(str(self.path)))
        if self.content is not None:
            return io.BytesIO(self.content)
        return Path(self.path).open("rb")


class PictureListing(NamedTuple):
    """Content of the paths that a person named.

    Attributes:
        pictures: Pictures, each once, in the order of the paths, by name in each.
        passed_over: Names of files and folders that are not read, by the reason.
    """

    pictures: list[Picture]
    passed_over: dict[str, list[str]]


def list_pictures(
    paths: Sequence[Path],
    skipped: Path | None,
    archives: ExitStack,
    *,
    option: str = "--overlays",
) -> PictureListing:
    """Find pictures: files by themselves, and those in folders and .zip files.

    Args:
        paths: Paths of pictures, folders and .zip files.
        skipped: Folder of results that are drawn of them, if there are to be any.
        archives: Stack that closes the .zip files.
        option: Option that names `skipped`.

    Raises:
        InputError: A path does not exist, holds no picture or lies in the folder `skipped`, or a
            .zip is unsafe.
    """
    skipped = skipped.resolve() if skipped is not None else None
    pictures: dict[object, Picture] = {}
    passed_over: dict[str, list[str]] = {}
    for path in paths:
        if skipped is not None and path.resolve().is_relative_to(skipped):
            raise InputError(f"{path}: results go there; name another folder with {option}")
        is_archive = path.is_file() and path.suffix.lower() in ARCHIVES
        if path.is_dir() or is_archive:
            listing = list_files(path, max_bytes=MAX_ZIPPED_BYTES, skipped=skipped)
            if not listing.files:
                instead = explain_nothing(listing.passed_over)
                raise InputError(
                    f"{path}: no pictures ({' '.join(sorted(list_suffixes()))}) in it{instead}"
                )
            for reason, names in listing.passed_over.items():
                passed_over.setdefault(reason, []).extend(f"{path}/{name}" for name in names)
        elif not path.is_file():
            raise InputError(f"{path}: no such picture, folder or .zip")
        if is_archive:
            archive = archives.enter_context(Archive(path))
            listed = [Picture(f"{path}/{name}", name, archive) for name in listing.files]
        elif path.is_dir():
            listed = [Picture(str(path / name), path / name) for name in listing.files]
        else:
            listed = [Picture(str(path), path)]
        for picture in listed:
            place = path if picture.archive else Path(picture.path)
            key = place.resolve(), picture.archive and picture.path
            pictures.setdefault(key, picture._replace(name=printable(picture.name)))
    return PictureListing(list(pictures.values()), passed_over)


def is_one_tile(picture_size: tuple[int, int], tile_size: tuple[int, int]) -> bool:
    """Whether a picture (width, height) is scored as one tile (height, width)."""
    (width, height), (tile_height, tile_width) = picture_size, tile_size
    return width <= ONE_TILE * tile_width and height <= ONE_TILE * tile_height


def read_picture(
    file: BinaryIO, tile_size: tuple[int, int], *, reduced_px: int | None = None
) -> Image.Image:
    """Decode a picture: a single tile as training does, a larger photograph upright.

    Args:
        file: Open file of the picture.
        tile_size: (height, width) of the tiles that members were trained on.
        reduced_px: Long side that is enough, where a smaller picture will do.

    Returns:
        RGB, or RGBA where some of it shows nothing; see `ensemble.data.reading.blank.mark_blank`.

    Raises:
        ValueError: It is too large or too small, or its bits a channel are too many.
        One of `UNREADABLE`: It cannot be decoded.
    """
    with any_size(), _open(file) as image:
        (width, height), (tile_height, tile_width) = image.size, tile_size
        if width * height > MAX_PICTURE_PIXELS:
            raise ValueError(
                f"{width} × {height} px is more than {MAX_PICTURE_PIXELS // 10**6} megapixels"
            )
        if width < LEAST_TILE * tile_width or height < LEAST_TILE * tile_height:
            raise ValueError(
                f"{width} × {height} px is too small, a tile is {tile_width} × {tile_height} px"
            )
        is_photograph = not is_one_tile(image.size, tile_size)
        if reduced_px is not None:
            image.draft(None, (reduced_px, reduced_px))
        return load_image(image, is_photograph=is_photograph)


def read_picture_size(file: BinaryIO) -> tuple[int, int]:
    """(width, height) of a picture, from its header.

    Raises:
        ValueError: It is of no kind that is read.
        One of `UNREADABLE`: It is damaged.
    """
    with any_size(), _open(file) as image:
        return image.size


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    try:
        return open_checked(file)
    except UnidentifiedImageError:
        raise ValueError("no JPEG, PNG, BMP, TIFF, WebP, GIF, JPEG 2000 or HEIC") from None
