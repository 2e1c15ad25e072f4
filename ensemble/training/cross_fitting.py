"""A member made of one network a fold: each tile of the folds is scored by what never saw it.

Cross-fitting (Stone 1974, https://doi.org/10.1111/j.2517-6161.1974.tb00994.x): a configuration is
trained anew for each fold of the training and validation photographs, without that fold. So each of
these photographs has a score of a network that has not seen it, and on new tiles the networks'
mean is the member.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ensemble.base.errors import InputError
from ensemble.training.checkpoint import Member, write_member
from ensemble.training.metrics import validation_metrics


def join_folds(
    folder: Path,
    parts: Sequence[Member],
    *,
    number: int,
    split_digest: str,
    labels: np.ndarray,
    folds: np.ndarray,
) -> None:
    """Write the member that networks of all folds make together.

    Args:
        folder: Folder of the new member; made if missing.
        parts: The networks of one configuration, in the order of their folds.
        number: Number of the configuration, as the member's trial.
        split_digest: Digest of the split whose training and validation tiles the folds are of.
        labels: (N,) 1 = cracked, of the training and validation tiles.
        folds: (N,) fold of each tile.

    Raises:
        InputError: A part is damaged, or its scores are not those of its fold's tiles.
    """
    margins = np.full(len(labels), np.nan, dtype=np.float32)
    tensors: dict[str, Tensor] = {}
    for fold, part in enumerate(parts):
        scores = part.val_margins()
        if len(scores) != (folds == fold).sum():
            raise InputError(f"{part.folder}: has scores of other tiles than those of fold {fold}")
        margins[folds == fold] = scores
        tensors |= {
            f"networks.{fold}.{name}": tensor
            for name, tensor in part.load_model().state_dict().items()
        }
    figures = validation_metrics(labels, margins)
    first = parts[0].record
    fields: dict[str, Any] = first.describe_training(
        trial=number,
        epoch=max(part.record.epoch for part in parts),
        metrics={f"val_{name}": value for name, value in figures.items()},
        split_digest=split_digest,
        num_folds=len(parts),
    )
    write_member(folder, tensors, margins, **fields)
