"""The photographs of a visit → tables, points on a map, and boxes that other programs read.

GeoJSON: RFC 7946. COCO: cocodataset.org/#format-data, with the `score` of its results format.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.files import table_rows, write_json
from ensemble.base.version import __version__
from ensemble.inspection.photograph import BOX, Photograph

MM_PER_M = 1000


def tabulate_photographs(
    photographs: Sequence[Photograph], mm_per_px: float | None
) -> pd.DataFrame:
    """One row a photograph.

    Returns:
        `picture`, `page`, `photograph` and `thumbnail` (files in the folder), `width_px`,
        `height_px`, `num_tiles`, `num_not_judged`, `num_called`, `num_called_between`, `share` of
        the surface (0 to 1), `chain_tiles` (longest chain in sides of a tile), `chain_m` (in
        metres; empty without a scale), `highest` (probability), `threshold`, `latitude`,
        `longitude` and `taken_at` (empty where the file does not say), and `sha256`.
    """
    rows = []
    for photograph in photographs:
        (width, height), figures = photograph.size_px, photograph.figures
        rows.append(
            {
                "picture": photograph.picture,
                "page": f"pages/{photograph.stem}.html",
                "photograph": f"photographs/{photograph.shown}",
                "thumbnail": f"thumbnails/{photograph.stem}.jpg",
                "width_px": width,
                "height_px": height,
                "num_tiles": photograph.num_tiles,
                "num_not_judged": photograph.num_not_judged,
                "num_called": figures.num_called,
                "num_called_between": figures.num_called_between,
                "share": figures.share,
                "chain_tiles": figures.chain_tiles,
                "chain_m": None if mm_per_px is None else figures.chain_px * mm_per_px / MM_PER_M,
                "highest": photograph.highest,
                "threshold": photograph.threshold,
                **photograph.origin._asdict(),
                "sha256": photograph.sha256,
            }
        )
    table = pd.DataFrame(rows)
    numbers = ["chain_m", "latitude", "longitude"]
    return table.assign(**{name: table[name].astype("float64") for name in numbers})


def write_points(path: Path, table: pd.DataFrame) -> bool:
    """Write the photographs with a position as points, with their figures; False if there are none.

    Args:
        path: The .geojson to write.
        table: Table of `tabulate_photographs`.
    """
    placed = table[table["latitude"].notna()]
    if placed.empty:
        return False
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [row["longitude"], row["latitude"]]},
            "properties": {
                name: value for name, value in row.items() if name not in ("latitude", "longitude")
            },
        }
        for row in table_rows(placed)
    ]
    write_json(path, {"type": "FeatureCollection", "features": features})
    return True


def write_boxes(path: Path, photographs: Sequence[Photograph]) -> None:
    """Write the tiles that are called cracked as boxes in COCO's format, with their probability.

    Boxes are in pixels of the upright picture; `file_name` is the file in the folder.
    """
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number, photograph in enumerate(photographs, 1):
        width, height = photograph.size_px
        file_name = f"photographs/{photograph.shown}"
        images.append({"id": number, "file_name": file_name, "width": width, "height": height})
        called = photograph.tiles[photograph.tiles["is_called"]]
        for row in table_rows(called[["tile", *BOX, "probability"]]):
            x, y, w, h = (row[name] for name in BOX)
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x, y, w, h],
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    "area": w * h,
                    "iscrowd": 0,
                    "score": row["probability"],
                    "tile": row["tile"],
                }
            )
    about = "tiles that are called cracked, in pixels of the picture turned upright as EXIF says"
    write_json(
        path,
        {
            "info": {"description": about, "version": f"crack-ensemble {__version__}"},
            "licenses": [],
            "categories": [{"id": 1, "name": "crack", "supercategory": ""}],
            "images": images,
            "annotations": boxes,
        },
    )
