"""What a page tells the viewer of a photograph, and the files that it needs beside the page.

A page that shows a photograph includes `viewer.html.jinja` with the object of
`describe_photograph`, and links `viewer.css`, `figures.js`, `labels.js` and `viewer.js`, which
`write_assets` puts into a folder. Nothing else is asked for, no server, no network. The object
stands in the page as JSON:

- `format`: 1
- `picture`: the photograph's name, as CSV files call it
- `key`: text under which the browser keeps a person's labels, the digest of the file
- `image`: `width_px` and `height_px` of the upright picture; its `url` stands in the page alone
- `mm_per_px`: millimetres of concrete that a pixel shows, or null
- `threshold`: where the slider begins, or null where no ensemble has judged, on a page to label on
- `colours`: probability, red, green, blue and opacity of the heat map's stops, from 0 to 1
- `tile_px`: width and height of every tile
- `tiles`: a list, with an entry for each tile, of every of the following
- `tiles.tile`: name, such as r2-c3; empty where the picture is one tile
- `tiles.left_px`, `tiles.top_px`: place in the upright picture
- `tiles.probability`: 0 to 1, or null
- `tiles.called`: 1 where the ensemble calls it cracked
- `tiles.blank`: 1 where it shows nothing, and is not judged
- `tiles.between`: 1 where it is of a grid between, and overlaps those of the first one
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from ensemble.base.errors import writing
from ensemble.base.files import make_folder, table_rows

VIEWER = Path(__file__).parent
ASSETS = ("viewer.css", "figures.js", "labels.js", "viewer.js")
FORMAT = 1
# Brewer's YlOrRd, a scale that is told apart with every kind of colour vision (colorbrewer2.org)
COLOURS = (
    (0.0, 255, 237, 160, 0.0),
    (0.25, 254, 217, 118, 0.4),
    (0.5, 253, 141, 60, 0.6),
    (0.75, 227, 26, 28, 0.7),
    (1.0, 128, 0, 38, 0.8),
)


def describe_photograph(
    tiles: pd.DataFrame,
    *,
    picture: str,
    key: str,
    image_url: str,
    size_px: tuple[int, int],
    threshold: float | None,
    mm_per_px: float | None = None,
) -> dict[str, Any]:
    """What the viewer is told of a photograph, as plain values for JSON.

    Args:
        tiles: All of its tiles: `tile`, `left_px`, `top_px`, `width_px`, `height_px`,
            `probability` (NaN where there is none), `is_called`, `is_blank` and `is_between`.
        picture: Name of the photograph, as CSV files call it.
        key: Digest of its file.
        image_url: Address of the picture to show, from the page.
        size_px: (width, height) of the upright picture.
        threshold: Lowest probability of most tiles that is called cracked; None where no ensemble
            has judged.
        mm_per_px: Millimetres of concrete that a pixel shows.
    """
    flags = {name: tiles[f"is_{name}"].astype(int) for name in ("called", "blank", "between")}
    columns = tiles[["tile", "left_px", "top_px"]].assign(
        probability=tiles["probability"].round(4), **flags
    )
    rows = table_rows(columns)
    return {
        "format": FORMAT,
        "picture": picture,
        "key": key,
        "image": {"url": image_url, "width_px": size_px[0], "height_px": size_px[1]},
        "mm_per_px": mm_per_px,
        "threshold": threshold,
        "colours": COLOURS,
        "tile_px": [int(tiles["width_px"].iloc[0]), int(tiles["height_px"].iloc[0])],
        "tiles": {str(name): [row[str(name)] for row in rows] for name in columns},
    }


def colour_of(probabilities: np.ndarray) -> np.ndarray:
    """Colours of the heat map, (N,) probabilities → (N, 4) uint8 red, green, blue and opacity."""
    stops = np.array(COLOURS)
    scale = (1, 1, 1, 255)
    channels = [np.interp(probabilities, stops[:, 0], stops[:, 1 + n]) * scale[n] for n in range(4)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def make_environment(*folders: Path) -> jinja2.Environment:
    """The templates of these folders and the viewer's; all that is put into them is escaped."""
    loader = jinja2.FileSystemLoader([*folders, VIEWER])
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)


def write_assets(folder: Path, others: Sequence[Path] = ()) -> None:
    """Write the viewer's files, and others of the caller's, into a folder, which is made.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    make_folder(folder)
    for path in [*(VIEWER / name for name in ASSETS), *others]:
        with writing(folder / path.name):
            shutil.copyfile(path, folder / path.name)
