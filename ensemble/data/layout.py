"""What a person says of a data set."""

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """How a folder or .zip of tiles is to be read.

    Attributes:
        positive: Name of the folder of cracked tiles; None where its name tells.
        photographs: What says which photograph a tile belongs to: a CSV file, `folders`, `none`,
            or None: names as SDNET2018's.
        photograph_pattern: Regular expression with a group `photograph`, in place of that.
        exclude: Folders inside the data that are left out.
        labels: CSV file of corrected labels.
        keeps_split: Whether folders called train, val and test are kept as the split.
    """

    positive: str | None = None
    photographs: str | None = None
    photograph_pattern: str | None = None
    exclude: tuple[str, ...] = ()
    labels: Path | None = None
    keeps_split: bool = False


def layout_of(options: argparse.Namespace) -> Layout:
    """What the options of a command say of the data set."""
    return Layout(
        positive=options.positive,
        photographs=options.photographs,
        photograph_pattern=options.photograph_pattern,
        exclude=tuple(options.exclude),
        labels=options.labels,
        keeps_split=options.split == "folders",
    )
