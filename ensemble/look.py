"""python -m ensemble.look: one tile through one member, convolution by convolution, as a picture.

Filters and feature maps after Zeiler and Fergus 2014 (https://arxiv.org/abs/1311.2901), in their
plainest form. It says what a member computes, not why: for where it saw a crack, there is the
activation map beside the tile.
"""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("look")

import argparse
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ensemble.base.door import printing_result
from ensemble.base.errors import InputError, escape
from ensemble.base.files import read_object
from ensemble.base.options import NUM_CONVOLUTIONS
from ensemble.data.batches import make_batch, place_tiles
from ensemble.data.reading.archive import Archive
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.listing import MAX_TILE_BYTES
from ensemble.data.reading.pictures import Picture, read_picture
from ensemble.explanation.activation import class_activation_map
from ensemble.explanation.feature_maps import draw_sheet, find_feature_maps
from ensemble.prediction.tiling import cut_tile, lay_grid
from ensemble.run.members import (
    find_run,
    member_folder,
    open_members,
    rank_members,
    read_tile_size,
    score_tiles,
)
from ensemble.training.checkpoint import Member, open_member

LONGEST_NAME = 60  # characters of a picture's


class ScoredTile(NamedTuple):
    """A tile of the trained size: pixels (H, W, 3), name for people, probability of a crack."""

    pixels: np.ndarray
    name: str
    probability: float


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Run the tile through the member, write the picture, and return what the member said."""
    if options.out.suffix.lower() == ".png" and not options.out.is_dir():
        raise InputError(f"--out {options.out}: is the folder of the runs; give a picture as --png")
    parent = options.png.resolve().parent
    if options.png.suffix.lower() != ".png" or options.png.is_dir() or not parent.is_dir():
        raise InputError(f"--png {options.png}: must be a file called ….png in an existing folder")
    if not os.access(parent, os.W_OK):
        raise InputError(f"--png {options.png}: its folder cannot be written")
    name = options.member or str(find_run(None, under=options.out))
    member = find_member(name, under=options.out)
    run = find_run_of(member)
    with ExitStack() as archives:
        picture = find_picture(options.tile, run, archives)
        tile = read_tile(picture, member, read_tile_size(run))
    draw_look(member, tile, options.png, run_name=run.name, draws_all=options.all)
    with printing_result():
        print(f"written: {options.png}")
    return {
        "member": str(member.folder),
        "tile": tile.name,
        "probability": tile.probability,
        "threshold": member.record.metrics.get("val_threshold"),
        "png": str(options.png),
    }


def find_member(name: str, *, under: Path) -> Member:
    """The member that a person means: its folder, RUN/TRIAL, or RUN for the best with weights.

    Raises:
        InputError: There is no such member, or it is damaged.
    """
    if (Path(name) / "member.json").is_file():
        return open_member(Path(name))
    trial = re.fullmatch(r"(.+)/(?:members/)?([0-9]{1,9})/?", name)
    if trial is not None:
        run = find_run(trial[1], under=under)
        folder = member_folder(run, int(trial[2]))
        if not folder.is_dir():
            there = ", ".join(sorted(path.name for path in run.glob("members/*"))[:20])
            raise InputError(f"{name}: {run} has no such member (there is {there or 'none'})")
        return open_member(folder)
    run = find_run(name, under=under)
    digest = read_object(run / "run.json", split_digest=str)["split_digest"]
    for member in rank_members(open_members(run, split_digest=digest)):
        if member.has_weights:
            return member
    raise InputError(f"{run}: no finished trial with weights; train one, or name another run")


def find_run_of(member: Member) -> Path:
    """The folder of the run that a member lies in.

    Raises:
        InputError: It lies in none.
    """
    for folder in member.folder.resolve().parents:
        if (folder / "run.json").is_file():
            return folder
    raise InputError(
        f"{member.folder}: lies in no run, whose run.json would say how large its tiles are; name "
        "the member in the folder of its run"
    )


def find_picture(name: str, run: Path, archives: ExitStack) -> Picture:
    """The picture that a person means: a file, or else a tile of the data set of the run.

    Args:
        name: Path of a file, or of a tile inside the data set.
        run: A run's folder, which says where the data set was.
        archives: Closes the .zip that it may lie in.

    Raises:
        InputError: There is neither, or it is a folder, or the .zip is unsafe.
    """
    data = read_object(run / "run.json").get("data")
    source = Path(data) if isinstance(data, str) else None
    try:
        if Path(name).is_dir():
            raise InputError(f"{name}: is a folder; name one picture in it")
        if Path(name).is_file():
            return Picture(Path(name).name, name)
        if Path(name).exists():
            raise InputError(f"{name}: is a device or a pipe; name a picture")
        is_there = source is not None and source.exists()
        if source is not None and source.is_dir() and (source / name).is_file():
            return Picture(name, source / name)
    except OSError as error:  # too long a name
        raise InputError(f"{name}: cannot be opened ({error.strerror}); name a picture") from None
    if source is not None and source.is_file():
        archive = archives.enter_context(Archive(source))
        if name in archive.members:
            archive.check(name, MAX_TILE_BYTES)
            return Picture(name, name, archive)
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


def read_tile(picture: Picture, member: Member, size: tuple[int, int]) -> ScoredTile:
    """A picture as a tile, with the member's probability.

    Of a photograph of several tiles it is the one that the member thinks likeliest to be cracked.

    Args:
        picture: Of any size.
        member: With its weights.
        size: (height, width) of the tiles that it was trained on.

    Raises:
        InputError: The picture cannot be read, or the member's weights cannot.
    """
    try:
        with picture.open() as file:
            image = read_picture(file, size)
    except UNREADABLE as error:
        raise InputError(f"{picture.path}: cannot be read ({explain_unreadable(error)})") from None
    cut = [(box, cut_tile(image, box, size)) for box in lay_grid(image.size, size)]
    shown = [(box, tile) for box, tile in cut if tile is not None]
    if not shown:
        raise InputError(f"{picture.path}: is blank: it shows nothing to look at")
    boxes = [box for box, _ in shown]
    pixels = np.stack([tile for _, tile in shown])  # (N, H, W, 3)
    labels = np.zeros(len(boxes), dtype=np.int64)  # nobody knows them
    tiles = place_tiles(pixels, np.arange(len(boxes)), labels, torch.device("cpu"))
    scores = score_tiles([member], tiles)[0]  # (N,)
    likeliest = int(scores.argmax())
    part = f", tile {boxes[likeliest].tile} of {len(cut)}" if len(cut) > 1 else ""
    name = escape(picture.name)
    name = name if len(name) <= LONGEST_NAME else f"…{name[-LONGEST_NAME:]}"  # the end tells more
    return ScoredTile(pixels[likeliest], name + part, float(scores[likeliest]))


def describe_verdict(probability: float, threshold: float | None) -> str:
    """What a member says of a tile, and from which probability it calls one cracked, if known."""
    if threshold is None:
        return f"probability of a crack {probability:.3f}"
    called = "cracked" if probability >= threshold else "uncracked"
    return (
        f"probability of a crack {probability:.3f}: called {called} (cracked from "
        f"{threshold:.3f}, best on validation)"
    )


def draw_look(
    member: Member, tile: ScoredTile, path: Path, *, run_name: str, draws_all: bool = False
) -> None:
    """Draw the tile, its activation map, and filters and maps of the convolutions.

    Args:
        member: With its weights.
        tile: What it looks at.
        path: The .png to write.
        run_name: Of the member's run, for people.
        draws_all: Every convolution, where there are more than `NUM_CONVOLUTIONS`.

    Raises:
        InputError: The member's weights were dropped or are damaged.
    """
    config, model = member.record.config, member.load_model()
    tiles = place_tiles(tile.pixels[None], np.zeros(1), np.zeros(1), torch.device("cpu"))
    size_px = config.data.image_size_px
    image, _ = make_batch(tiles, torch.zeros(1, dtype=torch.int64), image_size_px=size_px)
    (evidence,) = class_activation_map(model, config.model.backbone, image)
    found = find_feature_maps(model, image)
    shown = list(found.items())
    if not draws_all and len(found) > NUM_CONVOLUTIONS:
        places = np.linspace(0, len(found) - 1, NUM_CONVOLUTIONS).round().astype(int)
        shown = [shown[place] for place in places]
    what = f"its {len(found)} convolutions"
    if len(shown) < len(found):
        what = f"{len(shown)} of {what}, spread over the depth (--all draws every one)"
    title = (
        tile.name,
        describe_verdict(tile.probability, member.record.metrics.get("val_threshold")),
        f"trial {member.trial} of {run_name}, epoch {member.record.epoch}",
        f"{config.model.backbone} at {size_px} × {size_px} px; {what}",
    )
    draw_sheet(path, title, tile.pixels, evidence, dict(shown))
