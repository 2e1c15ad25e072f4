"""Which labels may be wrong, and what the figures would be with other labels.

Predictions, one row a tile (as in `predictions.csv`) → a list of labels to look at again, and the
figures with corrected ones. The only file that is read is the corrected list that a person hands
in. Suspects are found by confident learning: Northcutt, Jiang and Chuang 2021,
https://arxiv.org/abs/1911.00068.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError, short_repr
from ensemble.data.layout import find_tile, index_stems, name_tile, read_rows
from ensemble.explanation.errors import ABOUT_A_TILE
from ensemble.training.metrics import ranking_metrics, threshold_metrics

RELABELLED_COUNTS = (0, 5, 10, 20, 50, 100)


def suspect_labels(
    predictions: pd.DataFrame, weights: Sequence[float] | np.ndarray
) -> pd.DataFrame:
    """Tiles whose label the ensemble confidently contradicts, the most suspect first.

    The rule is confident learning's: the threshold of a class is the mean probability of that class
    over the tiles labelled so, and a label is suspect where the probability of the other class
    reaches the other's threshold (and, if the stated class reaches its own too, is the larger one).
    Tiles that all members find hard are among the suspects, so a person has to look at them. No
    member may have been trained on the tiles.

    Args:
        predictions: `tile`, `photograph`, `surface`, `label`, `trial_<n>` …, `ensemble`,
            `calibrated`.
        weights: (M,) of the members, in the order of the `trial_` columns; any positive scale.

    Returns:
        `rank` from 1, the tile's columns, `suggested_label`, `ensemble`, `members_contradicting`
        (weighted share of the members that contradict the label by the same rule, 0–1) and
        `confidence`, the calibrated probability of the stated label, by which they are ranked.
    """
    trials = [name for name in predictions.columns if str(name).startswith("trial_")]
    shares = np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(trials),):
        raise ValueError(f"one weight a member must hold, but got {shares.shape} for {trials}")
    labels = predictions["label"].to_numpy()
    calibrated = predictions["calibrated"].to_numpy()
    contradicting = np.stack([contradicts(labels, predictions[name].to_numpy()) for name in trials])
    suspect = contradicts(labels, calibrated)
    table = predictions[ABOUT_A_TILE].assign(
        suggested_label=1 - labels,
        ensemble=predictions["ensemble"],
        members_contradicting=np.clip(shares @ contradicting / shares.sum(), 0, 1),  # (N,)
        confidence=np.where(labels == 1, calibrated, 1 - calibrated),
    )[suspect]
    order = ["confidence", "members_contradicting", "tile"]
    table = table.sort_values(order, ascending=[True, False, True]).reset_index(drop=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def contradicts(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Whether confident learning counts each tile to the other class, as `suspect_labels` says.

    Args:
        labels: (N,) of 0 and 1.
        probabilities: (N,) of "cracked", of networks that were not trained on the tiles.

    Returns:
        (N,) bool.
    """
    of_class = np.stack([1 - probabilities, probabilities])  # (2, N)
    thresholds = np.array(
        [p[labels == k].mean() if (labels == k).any() else np.inf for k, p in enumerate(of_class)]
    )
    tiles = np.arange(len(labels))
    stated, other = of_class[labels, tiles], of_class[1 - labels, tiles]
    unclear = (stated >= thresholds[labels]) & (stated >= other)
    return (other >= thresholds[1 - labels]) & ~unclear


def relabelled_figures(
    predictions: pd.DataFrame, suspects: pd.DataFrame, threshold: float | np.ndarray
) -> pd.DataFrame:
    """The test figures if the first 0, 5, 10, … and all suspects were labelled as suggested.

    They show sensitivity and are no result, as the ensemble itself chose the tiles; nor are they
    bounds, as suspects are found without the threshold.

    Args:
        predictions: `tile`, `label`, `ensemble`.
        suspects: Suspects as `suspect_labels` ranks them.
        threshold: Threshold on `ensemble`, for all tiles or for each (N,).

    Returns:
        `num_relabelled`, `f1`, `precision`, `recall`, `average_precision` (NaN where only one class
        is left); the first row has the labels as they are.
    """
    probabilities = predictions["ensemble"].to_numpy()
    place = pd.Series(np.arange(len(predictions)), index=predictions["tile"])
    ranked = place.loc[suspects["tile"]].to_numpy()
    suggested = suspects["suggested_label"].to_numpy()
    rows = []
    for count in sorted({k for k in RELABELLED_COUNTS if k <= len(ranked)} | {len(ranked)}):
        labels = predictions["label"].to_numpy(copy=True)
        labels[ranked[:count]] = suggested[:count]
        figures = threshold_metrics(labels, probabilities, threshold)
        figures |= ranking_metrics(labels, probabilities)
        names = ("f1", "precision", "recall", "average_precision")
        rows.append({"num_relabelled": count, **{name: figures[name] for name in names}})
    return pd.DataFrame(rows)


class CorrectedLabels(NamedTuple):
    """A re-labelled list: its file, and the line and label (0 or 1) of each tile.

    Attributes:
        path: Path of the file.
        tiles: Line and label by the tile's name.
        are_of_pictures: Whether the names are those of `name_tile`, with other folders than the
            data's, as in the corrections that `inspect` saves.
    """

    path: Path
    tiles: dict[str, tuple[int, int]]
    are_of_pictures: bool = False


def read_labels(path: Path) -> CorrectedLabels:
    """Read a CSV file with columns `tile` and `label` (0 or 1), such as an edited list of suspects.

    One with a column `picture`, too, holds corrections of pictures; `check_tested` finds their
    tiles.

    Raises:
        InputError: The file is missing or no such list, or a row has a label that is not 0 or 1, or
            another label than an earlier row has for the same tile.
    """
    tiles: dict[str, tuple[int, int]] = {}
    are_of_pictures = False
    for line, row in read_rows(path, ("tile", "label"), ("picture",)):
        tile, label = row["tile"], row["label"]
        if row.get("picture"):
            tile, are_of_pictures = name_tile(row["picture"], tile), True
        where = f"{path}, line {line}"
        if label not in ("0", "1"):
            raise InputError(
                f"{where}: label must be 0 or 1 (cracked), but got {short_repr(label)}"
            )
        if tiles.setdefault(tile, (line, int(label)))[1] != int(label):
            raise InputError(
                f"{where}: tile {short_repr(tile)} has label {1 - int(label)} further up; keep one"
            )
    if not tiles:
        raise InputError(f"{path} has no rows; give at least one tile and its label")
    return CorrectedLabels(path, tiles, are_of_pictures)


def check_tested(corrected: CorrectedLabels, tested: Collection[str]) -> CorrectedLabels:
    """The list with the names that tested tiles have; one that names none of them is refused.

    Raises:
        InputError: No tile of the list is among `tested`, or one may be several.
    """
    if corrected.are_of_pictures:
        by_stem, tiles = index_stems(tested), {}
        for name, (line, label) in corrected.tiles.items():
            where = f"{corrected.path}, line {line}"
            tiles[find_tile(name, by_stem, where=where) or name] = (line, label)
        corrected = CorrectedLabels(corrected.path, tiles)
    if corrected.tiles.keys().isdisjoint(tested):
        raise InputError(
            f"{corrected.path}: none of its tiles is among the {len(tested):,} tested ones (its "
            f"first is {short_repr(next(iter(corrected.tiles)))}); give a list that has test tiles"
        )
    return corrected


def correct_labels(predictions: pd.DataFrame, corrected: CorrectedLabels) -> pd.Series:
    """Labels (N,) of `predictions` (`tile`, `label`), with corrected ones in place of their own.

    Corrected labels of other tiles are ignored, so the list that a search was given will do.
    """
    labels = {tile: label for tile, (_, label) in corrected.tiles.items()}
    replaced = predictions["tile"].map(labels)
    return replaced.fillna(predictions["label"]).astype("int64").rename("label")
