"""Labels that a person gave on the pages → tiles in class folders, as a search reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from ensemble.base.errors import InputError
from ensemble.base.files import atomic_write, make_folder, remove_file
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.pictures import read_picture
from ensemble.inspection.photograph import BOX
from ensemble.labelling.cutting import crop, lay_whole_tiles, read_cut
from ensemble.labelling.labels import read_labels

CLASSES = ("uncracked", "cracked")  # by label
TILES = "tiles"  # folder of the class folders
QUALITY = 95  # of JPEG, with all of the colour


class Labelled(NamedTuple):
    """What was written.

    Attributes:
        folder: Folder of the class folders.
        num_tiles: Labelled tiles that are there now.
        num_cracked: Cracked ones among them.
        num_written: Tiles that these labels are of.
        num_blank: Labels of tiles that show nothing, which were left out.
        num_foreign: Labels of photographs that the folder does not have.
    """

    folder: Path
    num_tiles: int
    num_cracked: int
    num_written: int
    num_blank: int
    num_foreign: int


def write_labelled(folder: Path, files: Sequence[Path]) -> Labelled:
    """Write the labelled tiles into `tiles/cracked` and `tiles/uncracked` of a cut folder.

    A tile that was there under the other label changes its folder; other tiles stay.

    Args:
        folder: Folder that `cut_pictures` wrote.
        files: CSV files that its pages saved; of two labels of one tile the later one counts.

    Raises:
        InputError: A file is damaged or has a label of a tile that is none, none of the labels is
            of the folder's photographs, or a photograph of the folder cannot be read.
    """
    record = read_cut(folder)
    known = {each["picture"]: each for each in record["photographs"]}
    labels = read_labels(files).drop_duplicates(["picture", "tile"], keep="last")
    is_known = labels["picture"].isin(list(known))
    if not is_known.any():
        raise InputError(f"--labels {files[0]}: has no label of a photograph in {folder}")
    num_blank = 0
    for label in CLASSES:
        make_folder(folder / TILES / label)
    for picture, rows in labels[is_known].groupby("picture", sort=False):
        num_blank += _write_tiles(folder, known[str(picture)], rows, record["tile_px"])
    there = {label: len(list((folder / TILES / label).glob("*.jpg"))) for label in CLASSES}
    return Labelled(
        folder=folder / TILES,
        num_tiles=sum(there.values()),
        num_cracked=there["cracked"],
        num_written=int(is_known.sum()) - num_blank,
        num_blank=num_blank,
        num_foreign=int((~is_known).sum()),
    )


def _write_tiles(
    folder: Path, photograph: dict[str, Any], labels: pd.DataFrame, side_px: int
) -> int:
    """Write the labelled tiles of a photograph; return how many show nothing."""
    image = _open(folder / "photographs" / photograph["shown"], side_px)
    tiles = lay_whole_tiles(image.size, side_px).set_index("tile")[BOX]
    num_blank = 0
    for row in labels.to_dict("records"):
        box = [int(row[name]) for name in BOX]
        if row["tile"] not in tiles.index or tiles.loc[row["tile"]].tolist() != box:
            raise InputError(
                f"{row['where']}: {row['tile']!r} at {box[0]}, {box[1]} is no tile of "
                f"{row['picture']}; these labels are of other tiles"
            )
        tile = crop(image, box)
        if tile is None:
            num_blank += 1
            continue
        name = f"{photograph['stem']}-{row['tile']}.jpg"
        with atomic_write(folder / TILES / CLASSES[row["label"]] / name) as path:
            tile.save(path, "JPEG", quality=QUALITY, subsampling=0)
        other = folder / TILES / CLASSES[1 - row["label"]] / name
        if other.exists():
            remove_file(other)
    return num_blank


def _open(path: Path, side_px: int) -> Image.Image:
    try:
        with path.open("rb") as file:
            return read_picture(file, (side_px, side_px))
    except UNREADABLE as error:
        raise InputError(
            f"{path}: cannot be read ({explain_unreadable(error)}); cut the photographs again"
        ) from None
