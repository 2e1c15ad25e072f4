"""One training run, an epoch at a time, in plain PyTorch.

The caller holds the model and decides what to do after each epoch (store it, report it, stop). With
a process group the same code trains data-parallel: each worker takes its share of every global
batch and of the validation batches, and every worker gets the scores of all tiles, so that figures
are computed from all tiles and never averaged over workers.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ensemble.base.errors import InputError
from ensemble.data.batches import SplitTiles, make_batch
from ensemble.data.transfer import send
from ensemble.data.view import View
from ensemble.training.averaging import WeightAverage
from ensemble.training.backbones import choose_trainable
from ensemble.training.config import Record, TrialConfig, derive_seed
from ensemble.training.data_parallel import rank_and_world_size, share_statistics, wrap_model
from ensemble.training.losses import tile_weights, weighted_loss
from ensemble.training.metrics import check_both_classes, validation_metrics
from ensemble.training.optimiser import (
    make_optimizer,
    make_schedule,
    name_tensors,
    restore_tensors,
)
from ensemble.training.precision import PRECISIONS, autocast, choose_precision, name_precision

EVALUATION_BATCH = 128
CACHED_PIXELS = 2**18  # of an evaluation batch on a CPU, whose cache holds what networks make of it
TRAINING_PASSES = 3  # a training step's cost in forward passes: one forward, and two backward

#: takes the number of an epoch and the share of it that is done, from 0 to 1
EachBatch = Callable[[int, float], None]


class DivergedError(RuntimeError):
    """The loss or the scores are no longer finite."""


class EpochFigures(Record):
    """The figures of one epoch: everything about it but its tensors."""

    number: int = Field(ge=1)
    train_loss: float  #: mean of the minimised loss over the epoch's augmented tiles
    train_accuracy: float  #: on those tiles, at probability 0.5
    learning_rate: float  #: of the head, at the epoch's end
    val_metrics: dict[str, float]  #: named as in `validation_metrics`
    improved: bool  #: whether the validation F1 is the best so far
    best_val_f1: float
    is_average: bool = False  #: whether the figures and the weights are the moving average's
    epochs_since_best: int = Field(ge=0)
    train_seconds: float
    val_seconds: float
    images_per_second: float  #: training images of all workers, per second of training
    last: bool  #: whether the run ends here
    precision: Literal["float32", "bfloat16"]

    def row(self) -> dict[str, Any]:
        """Return the epoch's number and all figures that are floats as one flat row."""
        row: dict[str, Any] = {"epoch": self.number}
        for name in EpochFigures.model_fields:
            value = getattr(self, name)
            if isinstance(value, dict):
                row |= {f"val_{key}": figure for key, figure in value.items()}
            elif isinstance(value, float):
                row[name] = value
        return row


class Epoch(EpochFigures):
    """One epoch: its figures and its tensors."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    val_margins: np.ndarray = Field(repr=False)  #: (N,) float32 logit differences
    #: (steps,) float32 losses of this worker's batches; empty if the epoch was read from disk
    batch_losses: np.ndarray = Field(repr=False)
    #: tensors as `<kind>.<parameter>`, which the next epoch changes
    optimizer_state: dict[str, Tensor] = Field(repr=False)
    average: dict[str, Tensor] = Field(repr=False)  #: the moving average; empty without one
    weights: dict[str, Tensor] = Field(repr=False)  #: those that were validated

    def describe_result(self) -> dict[str, Any]:
        """Return the fields of a `MemberRecord` that are known of an epoch."""
        return {
            "epoch": self.number,
            "metrics": self.row(),
            "precision": self.precision,
            "is_average": self.is_average,
        }


def fit(
    model: nn.Module,
    config: TrialConfig,
    train: SplitTiles,
    val: SplitTiles,
    *,
    start: Epoch | None = None,
    after_training: Callable[[int, dict[str, Tensor], dict[str, Tensor]], None] | None = None,
    each_batch: EachBatch | None = None,
) -> Iterator[Epoch]:
    """Train `model` in place and yield after each epoch; a continued run gives the same bits.

    Args:
        model: (B, 3, S, S) → (B, 2) on the tiles' device, as `build_model` makes it.
        config: All settings.
        train: Training tiles.
        val: Validation tiles, of both classes.
        start: The epoch after which `model` stands; it is yielded again, then the next ones.
        after_training: Called before each validation with the epoch's number, the optimizer's
            tensors and the moving average; these and the network stay as they are until the epoch
            was yielded.
        each_batch: Told how far the training is, after each batch of training and validation.

    Raises:
        DivergedError: The loss or a score is not finite.
        InputError: There are more workers than tiles in a batch.
    """
    run = _Run(model, config, train, val, start, each_batch)
    if start is not None:
        yield start
    previous = start
    while previous is None or not previous.last:
        number = previous.number + 1 if previous else 1
        started = time.perf_counter()
        trained = _train_epoch(run, number)
        train_seconds = time.perf_counter() - started
        optimizer_state, average = run.tensors()
        if after_training is not None:
            after_training(number, optimizer_state, average)
        validated = _validate(run, number)
        best, since_best = validated["val_metrics"]["f1"], 0
        if previous is not None and previous.best_val_f1 >= best:
            best, since_best = previous.best_val_f1, previous.epochs_since_best + 1
        previous = Epoch(
            number=number,
            **trained,
            learning_rate=float(run.optimizer.param_groups[0]["lr"]),
            **validated,
            improved=since_best == 0,
            best_val_f1=best,
            epochs_since_best=since_best,
            train_seconds=train_seconds,
            val_seconds=time.perf_counter() - started - train_seconds,
            images_per_second=run.steps * run.batch / train_seconds,
            last=run.ends_after(number, since_best),
            precision=name_precision(run.precision),
            optimizer_state=optimizer_state,
            average=average,
        )
        yield previous


class _Run:
    """What stays the same over all epochs of a training run, and the optimizer."""

    def __init__(
        self,
        model: nn.Module,
        config: TrialConfig,
        train: SplitTiles,
        val: SplitTiles,
        start: Epoch | None,
        each_batch: EachBatch | None,
    ):
        self.rank, self.num_workers = rank_and_world_size()
        self.batch = min(config.optimisation.global_batch_size, len(train))
        if self.batch < self.num_workers:
            raise InputError(
                f"a global batch of {self.batch} tiles cannot be shared by {self.num_workers} "
                "workers"
            )
        self.steps = len(train) // self.batch
        self.config, self.train, self.val = config, train, val
        self.val_labels = val.labels.cpu().numpy()
        check_both_classes(self.val_labels, what="the validation tiles")
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.model, config)
        if start is None:
            self.precision = _agree_on_precision(config, train)
        else:
            restore_tensors(self.optimizer, self.model, start.optimizer_state)
            self.precision = PRECISIONS[start.precision]
        done_steps = start.number * self.steps if start else 0
        self.schedule = make_schedule(
            self.optimizer, config.optimisation, self.steps, done_steps=done_steps
        )
        self.tile_weights = tile_weights(config.loss, train.labels, train.doubted)
        self.average: WeightAverage | None = None
        if decay := config.optimisation.ema_decay:
            weights = start.average if start else {}
            self.average = WeightAverage(self.model, decay, done_steps=done_steps, weights=weights)
        self._each_batch = each_batch

    def ends_after(self, number: int, since_best: int) -> bool:
        """Whether epoch `number` is the last one, being that many after the best."""
        plan = self.config.optimisation
        return number == plan.epochs or 0 < plan.early_stopping_patience <= since_best

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The optimizer's tensors and the moving average, which is empty where there is none."""
        average = self.average.model.state_dict() if self.average else {}
        return name_tensors(self.optimizer, self.model), average

    def models(self) -> list[nn.Module]:
        """The network with its latest weights and, where there is one, their moving average."""
        return [self.model, *([self.average.model] if self.average else [])]

    def tell(self, number: int, *, steps: int, scored: int = 0) -> None:
        """Tell how far epoch `number` is, counted in forward passes."""
        if self._each_batch is not None:
            done = TRAINING_PASSES * self.batch * steps + scored
            whole = TRAINING_PASSES * self.batch * self.steps + len(self.models()) * len(self.val)
            self._each_batch(number, min(1.0, done / whole))


def _train_epoch(run: _Run, number: int) -> dict[str, Any]:
    """Train for one epoch, and return the losses and the accuracy of an `Epoch`."""
    config, tiles, rank, batch = run.config, run.train, run.rank, run.batch
    torch.manual_seed(derive_seed(config.seed, "dropout", number, rank))
    order = torch.randperm(len(tiles), generator=_generator(config.seed, "order", number))
    augment = _generator(config.seed, "augmentation", number, rank)
    choose_trainable(run.model, config.model, epoch=number)
    # anew each epoch: DDP wants to know what it synchronises, and it sorts its buckets by the
    # batches it has seen, which must not make an epoch's sums depend on the epochs before
    module = wrap_model(run.model) if run.num_workers > 1 else run.model
    share = slice(rank * batch // run.num_workers, (rank + 1) * batch // run.num_workers)
    losses = torch.zeros(run.steps, device=tiles.device)
    hits = torch.zeros((), dtype=torch.int64, device=tiles.device)
    for step in range(run.steps):
        index = order[step * batch : (step + 1) * batch][share]
        images, labels = make_batch(
            tiles,
            index,
            config.view,
            augmentation=config.data.augmentation,
            context_dropout=config.data.context_dropout,
            generator=augment,
        )
        with autocast(tiles.device, run.precision):
            logits = module(images)
        (there,) = send(tiles.device, index)
        loss = weighted_loss(logits.float(), labels, config.loss, run.tile_weights[there])
        # DDP averages gradients over workers; shares of one tile more or less stay exact
        scale = len(index) * run.num_workers / batch
        run.optimizer.zero_grad(set_to_none=True)
        (loss * scale).backward()
        run.optimizer.step()
        run.schedule.step()
        if run.average is not None:
            run.average.update(run.model)
        losses[step] = loss.detach()
        hits += (logits.argmax(1) == labels).sum()
        run.tell(number, steps=step + 1)
    sums = torch.stack([losses.double().sum() * len(index), hits.double()])
    if run.num_workers > 1:
        dist.all_reduce(sums)
        share_statistics(run.model)
        if run.average is not None:
            share_statistics(run.average.model, like=run.model)
    train_loss, accuracy = (sums / (run.steps * batch)).tolist()
    if not math.isfinite(train_loss):
        raise DivergedError(f"the training loss is {train_loss} in epoch {number}")
    return {
        "train_loss": train_loss,
        "train_accuracy": accuracy,
        "batch_losses": losses.cpu().numpy(),
    }


def _validate(run: _Run, number: int) -> dict[str, Any]:
    """Score the validation tiles by the latest weights and by their moving average.

    Returns:
        Those fields of an `Epoch` that say what the better of the two found, and which it is.
    """
    models, scored, num_scored = run.models(), [], 0

    def tell(count: int) -> None:
        nonlocal num_scored
        num_scored += count * run.num_workers  # the others score their batches meanwhile
        run.tell(number, steps=run.steps, scored=num_scored)

    for model in models:
        margins = predict_margins(
            model, run.val, run.config.view, precision=run.precision, each_batch=tell
        )
        if not np.isfinite(margins).all():
            raise DivergedError(f"the network's outputs are not finite after epoch {number}")
        scored.append((validation_metrics(run.val_labels, margins), margins))
    best = max(range(len(scored)), key=lambda which: scored[which][0]["f1"])  # the first of equals
    return {
        "val_metrics": scored[best][0],
        "val_margins": scored[best][1],
        "weights": models[best].state_dict(),
        "is_average": best == 1,
    }


@torch.inference_mode()
def predict_margins(
    model: nn.Module,
    tiles: SplitTiles,
    view: View,
    *,
    precision: torch.dtype = torch.float32,
    turn: int = 0,
    alone: bool = False,
    each_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Score every tile in eval mode, without augmentation, all turned by the same symmetry.

    The batches do not depend on the number of workers; each is scored by one worker. On a CPU they
    are small where images are large: a network's layers hand on many times the bytes of its input,
    which is quicker while they stay in the cache.

    Args:
        model: Network that was trained with these settings.
        tiles: N tiles to score.
        view: What the network sees of a tile.
        precision: Precision of the network.
        turn: One of the square's eight symmetries.
        alone: Whether each tile is judged without its neighbours.
        each_batch: Told the number of tiles of each batch that was scored.

    Returns:
        (N,) float32: logit of "cracked" − logit of "uncracked", on every worker.
    """
    rank, num_workers = rank_and_world_size()
    model.eval()
    margins = torch.zeros(len(tiles), device=tiles.device)
    batches = torch.arange(len(tiles)).split(_evaluation_batch(tiles, view))
    for index in batches[rank::num_workers]:
        images, _ = make_batch(tiles, index, view, alone=alone, turn=turn)
        with autocast(tiles.device, precision):
            logits = model(images).float()
        margins[int(index[0]) : int(index[-1]) + 1] = logits[:, 1] - logits[:, 0]
        if each_batch is not None:
            each_batch(len(index))
    if num_workers > 1:
        dist.all_reduce(margins)  # each tile was scored by one worker, the others hold 0
    return margins.cpu().numpy()


def _evaluation_batch(tiles: SplitTiles, view: View) -> int:
    """Number of tiles that a network scores at a time."""
    if tiles.device.type != "cpu":
        return EVALUATION_BATCH
    return min(EVALUATION_BATCH, max(1, CACHED_PIXELS // tiles.input_side_px(view) ** 2))


def _agree_on_precision(config: TrialConfig, tiles: SplitTiles) -> torch.dtype:
    """Choose the precision of all workers: that of rank 0."""
    device = tiles.device
    precision = choose_precision(config, device, tiles.input_side_px(config.view))
    if rank_and_world_size()[1] > 1:
        number = torch.tensor(list(PRECISIONS.values()).index(precision), device=device)
        dist.broadcast(number, src=0)
        precision = list(PRECISIONS.values())[int(number)]
    return precision


def _generator(seed: int, *purpose: object) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
