"""python -m ensemble.look: one tile through one member, every convolution, as a picture."""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("look")

import argparse
import os
from contextlib import ExitStack
from typing import Any

from ensemble.base.door import printing_result
from ensemble.base.errors import InputError
from ensemble.prediction.single_tile import describe_verdict, draw_look, find_picture, read_tile
from ensemble.run.members import find_member, find_run_of, take_run


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Run the tile through the member, write the picture, and return what the member said."""
    if options.out.suffix.lower() == ".png" and not options.out.is_dir():
        raise InputError(f"--out {options.out}: is the folder of the runs; give a picture as --png")
    parent = options.png.resolve().parent
    if options.png.suffix.lower() != ".png" or options.png.is_dir() or not parent.is_dir():
        raise InputError(f"--png {options.png}: must be a file called ….png in an existing folder")
    if not os.access(parent, os.W_OK):
        raise InputError(f"--png {options.png}: its folder cannot be written")
    name = options.member or str(take_run(None, under=options.out))
    member = find_member(name, under=options.out)
    run = find_run_of(member)
    with ExitStack() as archives:
        found = find_picture(options.tile, run, archives)
        tile = read_tile(found, member, run)
    draw_look(member, tile, options.png, run_name=run.name, draws_all=options.all)
    threshold = member.record.metrics.get("val_threshold")
    with printing_result():
        print(f"{tile.name}: {describe_verdict(tile.probability, threshold, tile.label)}")
        print(f"written: {options.png}")
    return {
        "member": str(member.folder),
        "tile": tile.name,
        "probability": tile.probability,
        "threshold": threshold,
        "label": tile.label,
        "png": str(options.png),
    }
