"""The worst misses and false alarms, each with where the ensemble or a member saw a crack."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ensemble.activation import average_maps, draw_gallery
from ensemble.choice import Choice
from ensemble.data.batches import Tiles, make_batch
from ensemble.mistakes import find_errors
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import best_threshold

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
    for kind, name, title in (
        ("miss", "misses.png", "cracks that were missed, the surest first"),
        ("false alarm", "false_alarms.png", "false alarms, the surest first"),
    ):
        worst = errors[errors["kind"] == kind].head(NUM_SHOWN)
        captions = [
            f"{Path(tile).stem} {surface}\ncalibrated {probability:.2f}"
            for tile, surface, probability in worst[["tile", "surface", "calibrated"]].to_numpy()
        ]
        total = int((errors["kind"] == kind).sum())
        _draw(
            folder / name,
            _find(worst["tile"], predictions["tile"]),
            captions,
            f"{len(worst)} of {total} {title}",
            members,
            choice.weights,
            tiles,
        )


def draw_worst(
    path: Path, predictions: pd.DataFrame, member: Member, tiles: Tiles, *, name: str
) -> None:
    """Draw the tiles that a member by itself got most wrong, at its own best threshold.

    Args:
        path: The .png to write.
        predictions: `tile`, `photograph`, `surface`, `label` and `probability`, in the order of
            `tiles`.
        member: That judged them.
        tiles: That were judged.
        name: Of the member, for people.
    """
    probability = predictions["probability"]
    threshold, _ = best_threshold(predictions["label"].to_numpy(), probability.to_numpy())
    judged = predictions.assign(ensemble=probability, calibrated=probability)
    errors = find_errors(judged, threshold).sort_values("margin", ascending=False, kind="stable")
    worst = errors.head(NUM_SHOWN)
    captions = [
        f"{kind}: {Path(tile).stem} {surface}\nprobability {value:.3f}"
        for kind, tile, surface, value in worst[["kind", "tile", "surface", "ensemble"]].to_numpy()
    ]
    _draw(
        path,
        _find(worst["tile"], predictions["tile"]),
        captions,
        f"{len(worst)} of {len(errors)} validation tiles that {name} got wrong, the worst first",
        [member],
        np.ones(1),
        tiles,
    )


def _find(names: pd.Series, among: pd.Series) -> torch.Tensor:
    place = {tile: i for i, tile in enumerate(among)}
    return torch.tensor([place[tile] for tile in names], dtype=torch.int64)


def _draw(
    path: Path,
    index: torch.Tensor,
    captions: list[str],
    title: str,
    members: list[Member],
    weights: Sequence[float] | np.ndarray,
    tiles: Tiles,
) -> None:
    maps = _maps(members, weights, tiles, index)
    rows = tiles.rows[index.to(tiles.rows.device)]
    draw_gallery(tiles.pixels[rows].cpu().numpy(), maps, captions, path, title=title)


def _maps(
    members: list[Member],
    weights: Sequence[float] | np.ndarray,
    tiles: Tiles,
    index: torch.Tensor,
) -> np.ndarray:
    if len(index) == 0:
        return np.zeros((0, 1, 1), dtype=np.float32)
    images = [
        make_batch(tiles, index, image_size_px=member.record.config.data.image_size_px)[0]
        for member in members
    ]
    models = (member.load_model().to(tiles.device) for member in members)
    backbones = [member.record.config.model.backbone for member in members]
    return average_maps(models, backbones, images, weights)
