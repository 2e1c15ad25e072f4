"""The worst misses and false alarms of a test, each with where the ensemble saw a crack."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ensemble.activation import average_maps, draw_gallery
from ensemble.choice import Choice
from ensemble.data.batches import Tiles, make_batch
from ensemble.mistakes import find_errors
from ensemble.training.checkpoint import Member

NUM_SHOWN = 24


def draw_galleries(
    folder: Path, predictions: pd.DataFrame, choice: Choice, members: list[Member], tiles: Tiles
) -> None:
    """Write `misses.png` and `false_alarms.png`.

    Args:
        folder: Where to.
        predictions: One row a tile, in the order of `tiles`.
        choice: The ensemble.
        members: Its members, in its order.
        tiles: That were judged.
    """
    errors = find_errors(predictions, choice.threshold)
    place = {tile: i for i, tile in enumerate(predictions["tile"])}
    for kind, name, title in (
        ("miss", "misses.png", "cracks that were missed, the surest first"),
        ("false alarm", "false_alarms.png", "false alarms, the surest first"),
    ):
        worst = errors[errors["kind"] == kind].head(NUM_SHOWN)
        index = torch.tensor([place[tile] for tile in worst["tile"]], dtype=torch.int64)
        maps = _maps(members, choice, tiles, index)
        rows = tiles.rows[index.to(tiles.rows.device)]
        captions = [
            f"{Path(tile).stem} {surface}\ncalibrated {probability:.2f}"
            for tile, surface, probability in worst[["tile", "surface", "calibrated"]].to_numpy()
        ]
        total = int((errors["kind"] == kind).sum())
        draw_gallery(
            tiles.pixels[rows].cpu().numpy(),
            maps,
            captions,
            folder / name,
            title=f"{len(worst)} of {total} {title}",
        )


def _maps(members: list[Member], choice: Choice, tiles: Tiles, index: torch.Tensor) -> np.ndarray:
    if len(index) == 0:
        return np.zeros((0, 1, 1), dtype=np.float32)
    images = [
        make_batch(tiles, index, image_size_px=member.record.config.data.image_size_px)[0]
        for member in members
    ]
    models = (member.load_model().to(tiles.device) for member in members)
    backbones = [member.record.config.model.backbone for member in members]
    return average_maps(models, backbones, images, choice.weights)
