"""Misses, false alarms and finds, each with where the ensemble or a member saw a crack."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ensemble.base.errors import escape
from ensemble.base.wording import plural
from ensemble.data.batches import SplitTiles, make_batch
from ensemble.explanation.activation import Group, average_maps, draw_gallery
from ensemble.explanation.errors import find_errors
from ensemble.selection.ensemble import Ensemble
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import best_threshold

NUM_SHOWN = 24
NUM_FINDS = 12


def draw_galleries(
    folder: Path, predictions: pd.DataFrame, ensemble: Ensemble, tiles: SplitTiles
) -> None:
    """Write `misses.png`, `false_alarms.png` and `finds.png` into a folder.

    Of misses and false alarms the surest are drawn, of finds some from the surest to the least
    sure.

    `predictions` has one row a tile, in the order of `tiles`, which the ensemble judged.
    """
    lone = (predictions["context"] == "tile").to_numpy()
    thresholds = ensemble.thresholds(lone)
    errors = find_errors(predictions, thresholds)
    scale = f"calibrated probability, cracked from {ensemble.calibrated_threshold:.3f}"
    for kind, name in (("miss", "misses.png"), ("false alarm", "false_alarms.png")):
        of_kind = errors[errors["kind"] == kind]
        worst = of_kind.head(NUM_SHOWN)
        title = f"{len(worst)} of {_describe(kind, len(of_kind))}, the surest first ({scale})"
        draw_gallery(folder / name, title, [_gather("", worst, predictions, ensemble, tiles)])
    found = (predictions["ensemble"] >= thresholds) & (predictions["label"] == 1)
    finds = predictions[found].sort_values(["calibrated", "tile"], ascending=[False, True])
    spread = np.linspace(0, max(len(finds) - 1, 0), min(len(finds), NUM_FINDS)).round().astype(int)
    shown = finds.iloc[spread]
    title = (
        f"{len(shown)} of {plural(len(finds), 'find')} (cracks called cracked), from the surest to "
        f"the least sure ({scale})"
    )
    draw_gallery(folder / "finds.png", title, [_gather("", shown, predictions, ensemble, tiles)])


def draw_worst(
    path: Path, predictions: pd.DataFrame, member: Member, tiles: SplitTiles, *, name: str
) -> None:
    """Draw the tiles that a member by itself got most wrong, at its own best threshold.

    Misses and false alarms have rows of their own: at a low threshold a false alarm is further off
    than any miss can be, and would leave no room for them.

    Args:
        path: The .png to write.
        predictions: `tile`, `photograph`, `surface`, `label` and `probability` of each of `tiles`.
        member: The member that judged the tiles.
        tiles: The tiles that were judged.
        name: Name of the member for people.
    """
    probability = predictions["probability"]
    threshold, _ = best_threshold(predictions["label"].to_numpy(), probability.to_numpy())
    height, width = tiles.pixels.shape[1:3]
    alone = Ensemble(
        members=[member],
        weights=np.ones(1),
        threshold=threshold,
        tile_size_px=tiles.tile_size_px,
        stored_size_px=(height, width),
        device=tiles.device,
    )
    errors = find_errors(
        predictions.assign(ensemble=probability, calibrated=probability), threshold
    )
    groups, counts = [], []
    for kind in ("miss", "false alarm"):
        of_kind = errors[errors["kind"] == kind]
        worst = of_kind.head(NUM_SHOWN // 2)
        counts.append(_describe(kind, len(of_kind)))
        heading = f"{len(worst)} of {counts[-1]}, the worst first" if len(worst) else ""
        groups.append(_gather(heading, worst, predictions, alone, tiles))
    title = (
        f"{name} on {plural(len(predictions), 'validation tile')}, cracked from a probability of "
        f"{threshold:.3f}: {' and '.join(counts)}"
    )
    draw_gallery(path, title, groups)


def _describe(kind: str, count: int) -> str:
    """The number of errors of a kind, with what that kind is."""
    if kind == "miss":
        return f"{count:,} {'miss' if count == 1 else 'misses'} (cracks called uncracked)"
    return f"{plural(count, 'false alarm')} (uncracked called cracked)"


def _gather(
    heading: str,
    worst: pd.DataFrame,
    predictions: pd.DataFrame,
    ensemble: Ensemble,
    tiles: SplitTiles,
) -> Group:
    """The pixels, maps and captions of some of the errors."""
    place = {tile: i for i, tile in enumerate(predictions["tile"])}
    index = torch.tensor([place[tile] for tile in worst["tile"]], dtype=torch.int64)
    rows = tiles.rows[index.to(tiles.rows.device)]
    captions = [
        f"{escape(tile)}\nprobability {value:.3f}"
        for tile, value in zip(worst["tile"], worst["calibrated"], strict=True)
    ]
    maps = np.zeros((0, 1, 1), dtype=np.float32)
    if len(index):
        configs = [member.record.config for member in ensemble.members]
        views = [member.record.view for member in ensemble.members]
        images = [make_batch(tiles, index, view)[0] for view in views]
        backbones = [config.model.backbone for config in configs]
        maps = average_maps(
            ensemble.models,
            backbones,
            images,
            ensemble.weights,
            tile_sides=[view.image_size_px for view in views],
        )
    return Group(heading, tiles.pixels[rows].cpu().numpy(), maps, captions)
