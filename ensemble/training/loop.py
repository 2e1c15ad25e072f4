"""fit(): one training run, an epoch at a time, in plain PyTorch.

The caller holds the model and decides what to do after each epoch (store it, report it, stop). If a
process group is up, the same code trains data-parallel: each worker takes its share of every global
batch, validation batches are dealt out, and every worker gets the scores of all tiles, so that
figures are computed from the whole, never averaged over workers.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ensemble.base.errors import InputError
from ensemble.data.batches import SplitTiles, make_batch
from ensemble.training.backbones import choose_trainable
from ensemble.training.config import TrialConfig, derive_seed
from ensemble.training.data_parallel import rank_and_world_size, share_statistics, wrap_model
from ensemble.training.losses import class_weights, weighted_loss
from ensemble.training.metrics import check_both_classes, validation_metrics
from ensemble.training.optimiser import (
    make_optimizer,
    make_schedule,
    name_tensors,
    restore_tensors,
)
from ensemble.training.precision import PRECISIONS, choose_precision, name_precision

EVALUATION_BATCH = 128


class DivergedError(RuntimeError):
    """The loss or the scores are no longer finite."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        number: From 1.
        train_loss: Mean of what was minimised, over the epoch's augmented tiles.
        train_accuracy: At probability 0.5, over the same.
        learning_rate: Of the head, at the epoch's end.
        val_metrics: As `validation_metrics` names them.
        val_margins: (N,) float32 logit differences of the validation tiles.
        improved: Whether the validation F1 is the best so far (the first epoch's always is).
        best_val_f1: The best so far.
        epochs_since_best: 0 if it improved.
        train_seconds: Of training.
        val_seconds: Of validation.
        images_per_second: Training images over training time, of all workers together.
        last: Whether the run ends here.
        precision: Of training and validation: float32 or bfloat16.
        batch_losses: (steps,) float32, of this worker's share of each batch; none of an epoch that
            a cut run starts from.
        optimizer_state: Its tensors as `<what>.<parameter>`; they live on in the next epoch.
    """

    number: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    val_metrics: dict[str, float]
    val_margins: np.ndarray
    improved: bool
    best_val_f1: float
    epochs_since_best: int
    train_seconds: float
    val_seconds: float
    images_per_second: float
    last: bool
    precision: str
    batch_losses: np.ndarray = field(repr=False)
    optimizer_state: dict[str, Tensor] = field(repr=False)

    def row(self) -> dict[str, Any]:
        """The epoch's figures as one flat row."""
        return {
            "epoch": self.number,
            "train_loss": self.train_loss,
            "train_accuracy": self.train_accuracy,
            "learning_rate": self.learning_rate,
            **{f"val_{name}": value for name, value in self.val_metrics.items()},
            "best_val_f1": self.best_val_f1,
            "train_seconds": self.train_seconds,
            "val_seconds": self.val_seconds,
            "images_per_second": self.images_per_second,
        }


def fit(
    model: nn.Module,
    config: TrialConfig,
    train: SplitTiles,
    val: SplitTiles,
    *,
    start: Epoch | None = None,
    after_training: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Iterator[Epoch]:
    """Train `model` in place and yield after each epoch.

    A run that was cut after an epoch and goes on from it ends with the bits of one that was not.

    Args:
        model: (B, 3, S, S) → (B, 2) on the tiles' device, as `build_model` makes it.
        config: All settings.
        train: Training tiles.
        val: Validation tiles, of both classes.
        start: The epoch after which `model` stands: it is yielded again, then the next ones.
        after_training: Called before an epoch's validation with its number and the optimizer's
            tensors; they and the network stay as they are until after the epoch is yielded.

    Raises:
        DivergedError: The loss or a score is not finite.
        InputError: There are more workers than tiles in a batch.
    """
    rank, num_workers = rank_and_world_size()
    optimisation = config.optimisation
    batch = min(optimisation.global_batch_size, len(train))
    if batch < num_workers:
        raise InputError(
            f"a global batch of {batch} tiles cannot be shared by {num_workers} workers"
        )
    steps = len(train) // batch
    share = slice(rank * batch // num_workers, (rank + 1) * batch // num_workers)
    model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, config)
    best_f1, epochs_since_best, done = -1.0, 0, 0
    if start is not None:
        restore_tensors(optimizer, model, start.optimizer_state)
        best_f1, epochs_since_best, done = start.best_val_f1, start.epochs_since_best, start.number
        yield start
        if start.last:
            return
    schedule = make_schedule(optimizer, optimisation, steps, done_steps=done * steps)
    precision = PRECISIONS[start.precision] if start else _agree_on_precision(config, train.device)
    weights = class_weights(config.loss, train.labels)
    val_labels = val.labels.cpu().numpy()
    check_both_classes(val_labels, what="the validation tiles")
    for number in range(done + 1, optimisation.epochs + 1):
        started = time.perf_counter()
        torch.manual_seed(derive_seed(config.seed, "dropout", number, rank))
        order = torch.randperm(len(train), generator=_generator(config.seed, "order", number))
        augment = _generator(config.seed, "augmentation", number, rank)
        choose_trainable(model, config.model, epoch=number)
        # anew each epoch: DDP wants to know what it synchronises, and it sorts its buckets by the
        # batches it has seen, which must not make an epoch's sums depend on the epochs before
        module = wrap_model(model) if num_workers > 1 else model
        losses = torch.zeros(steps, device=train.device)
        sums = torch.zeros(3, dtype=torch.float64, device=train.device)  # loss, hits, tiles
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch][share]
            images, labels = make_batch(
                train,
                index,
                image_size_px=config.data.image_size_px,
                augmentation=config.data.augmentation,
                generator=augment,
            )
            with torch.autocast(train.device.type, precision, enabled=precision != torch.float32):
                logits = module(images)
            loss = weighted_loss(logits.float(), labels, config.loss, weights)
            # DDP averages gradients over workers; shares of one tile more or less stay exact
            scale = len(index) * num_workers / batch
            optimizer.zero_grad(set_to_none=True)
            (loss * scale).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                losses[step] = loss
                hits = (logits.argmax(1) == labels).sum()
                sums += torch.stack(
                    [
                        loss.double() * len(index),
                        hits.double(),
                        torch.full_like(sums[0], len(index)),
                    ]
                )
        if num_workers > 1:
            dist.all_reduce(sums)
            share_statistics(model)
        train_loss, hit_share = (sums[:2] / sums[2]).tolist()
        train_seconds = time.perf_counter() - started
        if not math.isfinite(train_loss):
            raise DivergedError(f"the training loss is {train_loss} in epoch {number}")
        optimizer_state = name_tensors(optimizer, model)
        if after_training is not None:
            after_training(number, optimizer_state)
        margins = predict_margins(
            model, val, image_size_px=config.data.image_size_px, precision=precision
        )
        if not np.isfinite(margins).all():
            raise DivergedError(f"the network's outputs are not finite after epoch {number}")
        metrics = validation_metrics(val_labels, margins)
        improved = metrics["f1"] > best_f1
        best_f1 = max(best_f1, metrics["f1"])
        epochs_since_best = 0 if improved else epochs_since_best + 1
        patience = optimisation.early_stopping_patience
        yield Epoch(
            number=number,
            train_loss=train_loss,
            train_accuracy=hit_share,
            learning_rate=float(optimizer.param_groups[0]["lr"]),
            val_metrics=metrics,
            val_margins=margins,
            improved=improved,
            best_val_f1=best_f1,
            epochs_since_best=epochs_since_best,
            train_seconds=train_seconds,
            val_seconds=time.perf_counter() - started - train_seconds,
            images_per_second=steps * batch / train_seconds,
            last=number == optimisation.epochs or 0 < patience <= epochs_since_best,
            precision=name_precision(precision),
            batch_losses=losses.cpu().numpy(),
            optimizer_state=optimizer_state,
        )
        if 0 < patience <= epochs_since_best:
            return


@torch.inference_mode()
def predict_margins(
    model: nn.Module,
    tiles: SplitTiles,
    *,
    image_size_px: int,
    precision: torch.dtype = torch.float32,
    turn: int = 0,
) -> np.ndarray:
    """Score every tile, without augmentation, in eval mode; turned alike by one symmetry.

    The batches are the same whatever the number of workers, each made by one of them.

    Returns:
        (N,) float32: logit of "cracked" − logit of "uncracked", on every worker.
    """
    rank, num_workers = rank_and_world_size()
    model.eval()
    margins = torch.zeros(len(tiles), device=tiles.device)
    batches = torch.arange(len(tiles)).split(EVALUATION_BATCH)
    for index in batches[rank::num_workers]:
        images, _ = make_batch(tiles, index, image_size_px=image_size_px, turn=turn)
        with torch.autocast(tiles.device.type, precision, enabled=precision != torch.float32):
            logits = model(images).float()
        margins[index.to(tiles.device)] = logits[:, 1] - logits[:, 0]
    if num_workers > 1:
        dist.all_reduce(margins)  # each tile was scored by one worker, the others hold 0
    return margins.cpu().numpy()


def _agree_on_precision(config: TrialConfig, device: torch.device) -> torch.dtype:
    """One for all workers: where it is tried out, rank 0's."""
    precision = choose_precision(config, device)
    if rank_and_world_size()[1] > 1:
        number = torch.tensor(list(PRECISIONS.values()).index(precision), device=device)
        dist.broadcast(number, src=0)
        precision = list(PRECISIONS.values())[int(number)]
    return precision


def _generator(seed: int, *purpose: object) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
