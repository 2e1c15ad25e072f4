"""Judged tiles with labels → the tiles that were judged wrongly, the worst first."""

import numpy as np
import pandas as pd

ABOUT_A_TILE = ["tile", "photograph", "surface", "label"]


def find_errors(predictions: pd.DataFrame, threshold: float | np.ndarray) -> pd.DataFrame:
    """The misclassified tiles: first the misses, then the false alarms, each the worst first.

    Args:
        predictions: `tile`, `photograph`, `surface`, `label`, `ensemble`, `calibrated`.
        threshold: Lowest `ensemble` that is called cracked, for all tiles or for each (N,).

    Returns:
        `kind` ("miss" or "false alarm"), the tile's columns, `ensemble`, `calibrated`, and
        `margin`, the distance |ensemble − threshold| by which the tile was missed.
    """
    called = predictions["ensemble"] >= threshold
    margin = (predictions["ensemble"] - threshold).abs()
    errors = predictions.assign(margin=margin)[called != (predictions["label"] == 1)]
    table = errors[[*ABOUT_A_TILE, "ensemble", "calibrated", "margin"]].copy()
    table.insert(0, "kind", np.where(errors["label"] == 1, "miss", "false alarm"))
    order = ["label", "margin", "tile"]
    return table.sort_values(order, ascending=[False, False, True]).reset_index(drop=True)
