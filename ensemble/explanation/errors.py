"""Judged tiles with labels → the tiles that were judged wrongly, the worst first."""

import numpy as np
import pandas as pd

ABOUT_A_TILE = ["tile", "photograph", "surface", "label"]


def find_errors(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The misclassified tiles: first the misses, then the false alarms, each the worst first.

    Args:
        predictions: `tile`, `photograph`, `surface`, `label`, `ensemble`, `calibrated`.
        threshold: On `ensemble`; a tile is called cracked where `ensemble >= threshold`.

    Returns:
        `kind` ("miss" or "false alarm"), the tile's columns, `ensemble`, `calibrated`, and
        `margin`, the distance |ensemble − threshold| by which the tile was missed.
    """
    called = predictions["ensemble"] >= threshold
    errors = predictions[called != (predictions["label"] == 1)]
    table = errors[[*ABOUT_A_TILE, "ensemble", "calibrated"]].copy()
    table.insert(0, "kind", np.where(errors["label"] == 1, "miss", "false alarm"))
    table["margin"] = (table["ensemble"] - threshold).abs()
    order = ["label", "margin", "tile"]
    return table.sort_values(order, ascending=[False, False, True]).reset_index(drop=True)
