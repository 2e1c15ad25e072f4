"""Pictures without labels: found in folders and .zip files, and decoded as training does.

A photograph may be a hundred times a tile; bounds on sizes hold before anything is decoded.
"""

import io
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from PIL import Image, ImageOps

from ensemble.data.archive import list_members, read_member
from ensemble.data.decode import FORMATS, check_effort
from ensemble.data.sources import IMAGE_SUFFIXES
from ensemble.errors import InputError, escape

PICTURE_SUFFIXES = {*IMAGE_SUFFIXES, ".avif", ".heic", ".heif"}  # not passed over in silence
MAX_ZIPPED_BYTES = 640 * 2**20
MAX_PICTURE_PIXELS = 250_000_000
ONE_TILE = 1.5  # a picture up to this many tiles wide and high is one tile
LEAST_TILE = 0.25  # a side shorter than this part of a tile's shows too little


class Picture(NamedTuple):
    """A picture to be read: a file, or a member of an open .zip."""

    name: str
    path: str | Path
    archive: zipfile.ZipFile | None = None

    def open(self) -> BinaryIO:
        """Its bytes; a .zip is unpacked into memory, one picture at a time."""
        if self.archive is not None:
            return io.BytesIO(read_member(self.archive, str(self.path)))
        return Path(self.path).open("rb")


def list_pictures(paths: Sequence[Path], skipped: Path, archives: ExitStack) -> list[Picture]:
    """Every picture once, in the order of `paths`, by name in each; hidden files are passed over.

    Raises:
        InputError: A path does not exist or lies in the folder `skipped`, or a .zip is unsafe.
    """
    skipped = skipped.resolve()
    found: dict[object, Picture] = {}
    for path in paths:
        if path.resolve().is_relative_to(skipped):
            raise InputError(f"{path}: overlays go there; name another folder with --overlays")
        if path.is_dir():
            files = [Path(parent, name) for parent, _, names in os.walk(path) for name in names]
            listed = [
                Picture(str(file), file)
                for file in sorted(files)
                if _is_picture(file.relative_to(path).as_posix())
                and not file.resolve().is_relative_to(skipped)
            ]
        elif path.is_file() and path.suffix.lower() == ".zip":
            listed = _list_zip(path, archives)
        elif path.is_file():
            listed = [Picture(str(path), path)]
        else:
            raise InputError(f"{path}: no such picture, folder or .zip")
        if not listed:
            raise InputError(f"{path}: no pictures ({' '.join(sorted(PICTURE_SUFFIXES))}) in it")
        for picture in listed:
            name = escape(os.fsencode(picture.name).decode("utf-8", "backslashreplace"))
            place = path if picture.archive else Path(picture.path)
            key = place.resolve(), picture.archive and picture.path
            found.setdefault(key, picture._replace(name=name))
    return list(found.values())


def _list_zip(path: Path, archives: ExitStack) -> list[Picture]:
    members = list_members(path, wanted=_is_picture, max_bytes=MAX_ZIPPED_BYTES)
    archive = archives.enter_context(zipfile.ZipFile(path))
    names = (member.filename for member in members)
    return [Picture(f"{path}/{name}", name, archive) for name in names]


def _is_picture(name: str) -> bool:
    pure = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in pure.parts)
    return not hidden and pure.suffix.lower() in PICTURE_SUFFIXES


def is_one_tile(picture_size: tuple[int, int], tile_size: tuple[int, int]) -> bool:
    """Whether a picture (width, height) is scored as one tile (height, width)."""
    (width, height), (tile_height, tile_width) = picture_size, tile_size
    return width <= ONE_TILE * tile_width and height <= ONE_TILE * tile_height


def read_picture(
    file: BinaryIO, tile_size: tuple[int, int], *, reduced_px: int | None = None
) -> Image.Image:
    """Decode a picture as RGB: a single tile as training does, a larger photograph upright.

    Args:
        file: Of a picture.
        tile_size: (height, width) that members were trained on.
        reduced_px: A long side that will do, where something smaller is enough.

    Raises:
        ValueError: It is too large, too small or not of 8 bits a channel.
        OSError, SyntaxError, …: It cannot be decoded; see `ensemble.data.decode.UNREADABLE`.
    """
    with _any_size(), _open(file) as image:
        (width, height), (tile_height, tile_width) = image.size, tile_size
        if width * height > MAX_PICTURE_PIXELS:
            raise ValueError(
                f"{width} × {height} px is more than {MAX_PICTURE_PIXELS // 10**6} megapixels"
            )
        if width < LEAST_TILE * tile_width or height < LEAST_TILE * tile_height:
            raise ValueError(
                f"{width} × {height} px is too small, a tile is {tile_width} × {tile_height} px"
            )
        if image.mode.startswith(("I", "F")):
            raise ValueError("16 or 32 bits a channel; save it with 8")
        upright = not is_one_tile(image.size, tile_size)
        if reduced_px is not None:
            image.draft(None, (reduced_px, reduced_px))
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")  # one copy, if it is large


def _open(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
        check_effort(image, file)
        return image
    except Image.UnidentifiedImageError:
        raise ValueError("no JPEG, PNG, BMP, TIFF or WebP picture") from None


@contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's bound on pixels; `read_picture` has its own, before anything is decoded."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, which nothing here depends on
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
