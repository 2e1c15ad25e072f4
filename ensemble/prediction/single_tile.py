"""One tile through one member, convolution by convolution, as a picture.

Filters and feature maps after Zeiler and Fergus 2014 (https://arxiv.org/abs/1311.2901), in their
plainest form. It says what a member computes, not why: the activation map beside the tile says
where it saw a crack.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ensemble.base.errors import InputError, escape
from ensemble.base.options import NUM_CONVOLUTIONS
from ensemble.data.batches import SplitTiles, make_batch, place_tiles
from ensemble.data.reading.archive import Archive
from ensemble.data.reading.decode import UNREADABLE, decode_picture, explain_unreadable
from ensemble.data.reading.listing import MAX_TILE_BYTES
from ensemble.data.reading.pictures import Picture, read_picture
from ensemble.data.tiles import Size, resize_picture
from ensemble.data.windows import CENTRE, PLACES
from ensemble.explanation.activation import class_activation_map, crop_to_tile
from ensemble.explanation.feature_maps import draw_sheet, find_feature_maps
from ensemble.prediction.tiling import CutTiles, lay_grid
from ensemble.run.members import (
    read_about,
    read_stored_size,
    read_tile_size,
    score_tiles,
    see_context,
)
from ensemble.run.tiles import find_tile
from ensemble.training.checkpoint import Member

LONGEST_NAME = 60  # characters of a picture's


class FoundPicture(NamedTuple):
    """A picture that a person named.

    Attributes:
        picture: The picture.
        around: Pictures around it by their number in `PLACES`, where it is a tile that the run
            knows; None where it is any other picture.
        label: 1 for such a tile that is labelled cracked, 0 for one that is not; None for any
            other picture.
    """

    picture: Picture
    around: dict[int, Picture] | None = None
    label: int | None = None


class ScoredTile(NamedTuple):
    """A tile that a member judged.

    Attributes:
        tiles: Tiles of its picture.
        number: Number of the tile among these.
        name: Name for people.
        probability: Probability of a crack.
        label: 1 where it is labelled cracked, 0 where it is not; None where that is not known.
    """

    tiles: SplitTiles
    number: int
    name: str
    probability: float
    label: int | None = None

    @property
    def pixels(self) -> np.ndarray:
        """The tile's own pixels at the size that members are shown: (H, W, 3) uint8."""
        return self.tiles.pixels[self.tiles.rows[self.number]].numpy()


def find_picture(name: str, run: Path, archives: ExitStack) -> FoundPicture:
    """The picture that a person names: a file, or else a tile of the data set of the run.

    A file in the folder of the data set is a tile of it, too.

    Args:
        name: Path of a file, or of a tile inside the data set.
        run: A run's folder, which says where the data set was, or an exported file.
        archives: Closes the .zip that the tile may lie in.

    Raises:
        InputError: There is neither, or it is a folder, or the .zip is unsafe.
    """
    data = read_about(run).get("data")
    source = Path(data) if isinstance(data, str) else None
    try:
        if Path(name).is_dir():
            raise InputError(f"{name}: is a folder; name one picture in it")
        if Path(name).is_file():
            tile = _name_in(source, Path(name))
            return _find_around(Picture(Path(name).name, name), tile, run, source)
        if Path(name).exists():
            raise InputError(f"{name}: is a device or a pipe; name a picture")
        is_there = source is not None and source.exists()
        if source is not None and source.is_dir() and (source / name).is_file():
            return _find_around(Picture(name, source / name), name, run, source)
    except OSError as error:  # too long a name
        raise InputError(f"{name}: cannot be opened ({error.strerror}); name a picture") from None
    if source is not None and source.is_file():
        archive = archives.enter_context(Archive(source))
        if name in archive.members:
            archive.check(name, MAX_TILE_BYTES)
            return _find_around(Picture(name, name, archive), name, run, archive)
    if is_there:
        raise InputError(
            f"{name}: no such picture, and no tile of that name in {source}, the data set of "
            f"{run.name}; give a picture's path, or a tile's name as in {run.name}/validation.csv"
        )
    raise InputError(
        f"{name}: no such picture, and the data set of {run.name} is not in its place "
        f"({source or 'run.json names none'}) to look for a tile of that name; give a picture's "
        "path, or put the data set back"
    )


def _name_in(source: Path | None, path: Path) -> str:
    """The name of a file in the data set; empty where it does not lie in its folder."""
    path = path.resolve()
    if source is None or not path.is_relative_to(source.resolve()):
        return ""
    return path.relative_to(source.resolve()).as_posix()


def _find_around(
    picture: Picture, tile: str, run: Path, source: Path | Archive | None
) -> FoundPicture:
    """A picture, with its label and those around it where it is a tile that the run knows.

    Args:
        picture: The picture.
        tile: Its name in the data set; empty for none.
        run: A run's folder.
        source: The data set.
    """
    known = find_tile(run, tile) if tile else None
    if known is None or source is None:
        return FoundPicture(picture)
    around = {place: name for place, name in enumerate(known.around) if name and place != CENTRE}
    if isinstance(source, Path):
        pictures = {place: Picture(name, source / name) for place, name in around.items()}
    else:
        for name in source.members.keys() & around.values():
            source.check(name, MAX_TILE_BYTES)
        pictures = {place: Picture(name, name, source) for place, name in around.items()}
    return FoundPicture(picture, pictures, known.label)


def read_tile(found: FoundPicture, member: Member, run: Path) -> ScoredTile:
    """The tile of a picture that a member gives the highest probability, with that probability.

    Around a tile of the data set lie the tiles that training and testing show there.

    Args:
        found: Picture of any size.
        member: Member with its weights.
        run: Folder of its run, or an exported file, which says how large tiles are.

    Raises:
        InputError: The picture, or one around it, cannot be read, the member's weights cannot, or
            `run.json` does not say how large tiles are.
    """
    sizes, sees_more = (read_tile_size(run), read_stored_size(run)), see_context([member])
    if found.around is None:
        tiles, parts = _cut_tiles(found.picture, *sizes, sees_more=sees_more)
    else:
        around = found.around if sees_more else {}
        tiles, parts = _gather_tile({CENTRE: found.picture, **around}, *sizes), [""]
    scores = score_tiles([member], tiles)[0]  # (N,)
    likeliest = int(scores.argmax())
    name = escape(found.picture.name)
    name = name if len(name) <= LONGEST_NAME else f"…{name[-LONGEST_NAME:]}"  # the end tells more
    name += parts[likeliest]
    return ScoredTile(tiles, likeliest, name, float(scores[likeliest]), found.label)


def _cut_tiles(
    picture: Picture, size: Size, stored_size: Size, *, sees_more: bool
) -> tuple[SplitTiles, list[str]]:
    """The tiles of a picture that show something, and how each is named behind the picture."""
    try:
        with picture.open() as file:
            image = read_picture(file, size)
    except UNREADABLE as error:
        raise _unreadable(picture, error) from None
    cut = CutTiles(stored_size, sees_more)
    boxes = lay_grid(image.size, size)
    shown = [box for box in boxes if cut.cut(image, 0, box) is not None]
    if not shown:
        raise InputError(f"{picture.path}: is blank: it shows nothing to look at")
    for box in shown:
        cut.add(image, 0, box)
    parts = [f", tile {box.tile} of {len(boxes)}" if len(boxes) > 1 else "" for box in shown]
    return cut.place(torch.device("cpu"), size), parts


def _gather_tile(pictures: dict[int, Picture], size: Size, stored_size: Size) -> SplitTiles:
    """One tile of the data set and those around it, by their number in `PLACES`, as packed."""
    neighbours = np.full((1, len(PLACES)), -1)
    bricks = []
    for row, (place, picture) in enumerate(pictures.items()):
        try:
            with picture.open() as file:
                bricks.append(resize_picture(decode_picture(file.read()), stored_size))
        except UNREADABLE as error:
            raise _unreadable(picture, error) from None
        neighbours[0, place] = row
    return place_tiles(
        np.stack(bricks),
        neighbours[:, CENTRE],
        np.zeros(1, dtype=np.int64),
        torch.device("cpu"),
        neighbours=neighbours,
        tile_size_px=size,
    )


def _unreadable(picture: Picture, error: BaseException) -> InputError:
    return InputError(f"{picture.path}: cannot be read ({explain_unreadable(error)})")


def describe_verdict(probability: float, threshold: float | None, label: int | None = None) -> str:
    """A member's probability and verdict in words, and the label, each where it is known."""
    said = f"probability of a crack {probability:.3f}"
    if threshold is not None:
        called = "cracked" if probability >= threshold else "uncracked"
        said += f": called {called} (cracked from {threshold:.3f}, best on validation)"
    return said if label is None else f"{said}; labelled {'cracked' if label else 'uncracked'}"


def draw_look(
    member: Member, tile: ScoredTile, path: Path, *, run_name: str, draws_all: bool = False
) -> None:
    """Draw the tile, its activation map, and filters and maps of the convolutions.

    Args:
        member: Member with its weights.
        tile: Tile that it looks at.
        path: The .png to write.
        run_name: Name of the member's run.
        draws_all: Whether to draw every convolution, also of more than `NUM_CONVOLUTIONS`.

    Raises:
        InputError: The member's weights were dropped or are damaged.
    """
    config, model = member.record.config, member.load_model()
    size_px = config.data.image_size_px
    image, _ = make_batch(tile.tiles, torch.tensor([tile.number]), member.record.view)
    evidence = class_activation_map(model, config.model.backbone, image)
    around = ""
    if margin_px := (image.shape[-1] - size_px) // 2:
        evidence = crop_to_tile(evidence, size_px / image.shape[-1])
        seen = "its neighbours" if tile.tiles.has_neighbours[tile.number] else "its mirror image"
        around = f"; around the tile it sees {margin_px} px of {seen}"
    convolutions = find_feature_maps(model, image)
    shown = list(convolutions.items())
    if not draws_all and len(shown) > NUM_CONVOLUTIONS:
        places = np.linspace(0, len(shown) - 1, NUM_CONVOLUTIONS).round().astype(int)
        shown = [shown[place] for place in places]
    what = f"its {len(convolutions)} convolutions"
    if len(shown) < len(convolutions):
        what = f"{len(shown)} of {what}, spread over the depth (--all draws every one)"
    title = (
        tile.name,
        describe_verdict(tile.probability, member.record.metrics.get("val_threshold"), tile.label),
        f"trial {member.trial} of {run_name}, epoch {member.record.epoch}{around}",
        f"{config.model.backbone} at {size_px} × {size_px} px; {what}",
    )
    draw_sheet(path, title, tile.pixels, evidence[0], dict(shown))
