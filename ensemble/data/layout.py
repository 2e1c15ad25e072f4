"""What a person says of a data set, and the options by which it is said."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.base.options import whole_number


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


def data_options(*, default: str | None) -> dict[str, dict[str, Any]]:
    """The options that say which tiles there are and how they are split, for `add_argument`.

    Args:
        default: Of `--data`; None where it must be given.
    """
    data: dict[str, Any] = {
        "metavar": "PATH",
        "help": "folder or .zip of tiles in class folders, or 'synthetic': drawn concrete",
    }
    if default is None:
        data["required"] = True
    else:
        data["default"] = default
        data["help"] += f" (default: {default})"
    return {
        "--data": data,
        "--positive": {
            "metavar": "FOLDER",
            "help": "folder of the cracked tiles (default: told by its name, such as Cracked, "
            "Positive, or SDNET2018's C?)",
        },
        "--photographs": {
            "metavar": "CSV|folders|none",
            "help": "which photograph a tile belongs to: a CSV file with columns tile, photograph "
            "and perhaps row, column; 'folders': tiles in equal folders, class folders aside, are "
            "of one photograph; 'none': not known (default: names such as 7001-12, if there are "
            "any)",
        },
        "--photograph-pattern": {
            "metavar": "REGEX",
            "help": "the same by a regular expression that is searched in each tile's path: its "
            "group 'photograph', and perhaps 'row', 'column' or 'tile', as in "
            "'(?P<photograph>IMG_[0-9]+)_'",
        },
        "--exclude": {
            "action": "append",
            "default": [],
            "metavar": "FOLDER",
            "help": "a folder inside the data to leave out; repeatable",
        },
        "--labels": {
            "type": Path,
            "metavar": "CSV",
            "help": "corrected labels: columns tile, label (1 = cracked); other tiles keep theirs",
        },
        "--split": {
            "choices": ["folders"],
            "help": "keep the folders train, val and test as the split (without val it is drawn "
            "from train; default: drawn by photograph)",
        },
        "--max-bad-tiles": {
            "type": whole_number("--max-bad-tiles", least=0),
            "default": 10,
            "metavar": "N",
            "help": "tiles to leave out before it is an error: unreadable ones, and such without a "
            "photograph among others with one (default: 10)",
        },
        "--split-seed": {
            "type": whole_number("--split-seed", least=0),
            "default": 0,
            "metavar": "N",
            "help": "seed of the split; keep it: it decides which photographs are held out "
            "(default: 0)",
        },
    }


def layout_of(options: argparse.Namespace) -> Layout:
    """What the options of `data_options` say of the data set."""
    return Layout(
        positive=options.positive,
        photographs=options.photographs,
        photograph_pattern=options.photograph_pattern,
        exclude=tuple(options.exclude),
        labels=options.labels,
        keeps_split=options.split == "folders",
    )
