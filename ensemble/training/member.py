"""Train one member: fit, and keep the best epoch on disk. The same for every kind of trial."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from ensemble.data.batches import Tiles, place_tiles
from ensemble.data.pack import open_pack
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import save_member
from ensemble.training.config import TrialConfig
from ensemble.training.loop import Epoch, fit
from ensemble.training.weights import digest_tensors


@dataclass(frozen=True)
class TrainingData:
    """Training and validation tiles on a device; there is no way from here to the test split.

    Attributes:
        train: Training tiles.
        val: Validation tiles.
        split_digest: Of the split they come from.
    """

    train: Tiles
    val: Tiles
    split_digest: str


def open_training_data(pack_folder: Path, device: torch.device) -> TrainingData:
    """Map the training and validation tiles of a pack and place them for `device`."""
    pack = open_pack(pack_folder)
    tiles = {}
    for split in ("train", "val"):
        table = pack.table(split)
        rows, labels = table["row"].to_numpy(np.int64), table["label"].to_numpy(np.int64)
        tiles[split] = place_tiles(pack.pixels(split), rows, labels, device)
    return TrainingData(tiles["train"], tiles["val"], pack.about["split_digest"])


def train_member(
    config: TrialConfig,
    data: TrainingData,
    *,
    trial: int,
    initial_weights: Path,
    folder: Path,
    is_writer: bool = True,
) -> Iterator[Epoch]:
    """Train from `initial_weights`; after each better epoch the member in `folder` is replaced.

    Args:
        config: Of the training run.
        data: Its tiles.
        trial: Number of the trial.
        initial_weights: As `save_initial_state` wrote them.
        folder: Of the member; made when the first epoch ends.
        is_writer: Whether this process writes (of several workers, one does).

    Yields:
        Each epoch, after its member is safe on disk.
    """
    tensors = safetensors.torch.load_file(initial_weights)
    model = build_model(config.model.backbone, dropout=config.model.dropout)
    model.load_state_dict(tensors)
    model.to(data.train.device)
    digest = digest_tensors(tensors)
    for epoch in fit(model, config, data.train, data.val):
        if epoch.improved and is_writer:
            save_member(
                folder,
                model,
                epoch,
                config,
                trial=trial,
                split_digest=data.split_digest,
                initial_weights_digest=digest,
            )
        yield epoch
