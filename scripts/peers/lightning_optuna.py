"""The peer with a framework: a LightningModule, L.Trainer, and an Optuna objective around them.

After Optuna's own example
(https://github.com/optuna/optuna-examples/blob/main/pytorch/pytorch_lightning_simple.py) and
Lightning's documentation (https://lightning.ai/docs/pytorch/stable/): one trial at a time, metrics
by torchmetrics, the best epoch kept by ModelCheckpoint, a table by CSVLogger.

    python scripts/peers/lightning_optuna.py --data FOLDER --out result.json
"""

import time

STARTED = time.perf_counter()  # before the imports that take seconds

import argparse
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pandas as pd
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torchmetrics.classification import BinaryAveragePrecision, BinaryF1Score

from same import (
    CRACKED,
    make_loaders,
    make_loss,
    make_model,
    make_optimizer,
    parse_arguments,
    search_with_optuna,
    write_result,
)

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


class CrackClassifier(L.LightningModule):  # type: ignore[misc]
    """The network, what it minimises and what is logged."""

    def __init__(self, config: dict[str, float], options: argparse.Namespace):
        super().__init__()
        self.save_hyperparameters(config)
        self.config, self.epochs = config, options.epochs
        self.model = make_model(options, dropout=config["dropout"])
        self.criterion = make_loss(config["crack_weight"])
        self.val_f1, self.val_ap = BinaryF1Score(), BinaryAveragePrecision()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, 2)."""
        return self.model(images)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        loss = self.criterion(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Add one batch to the metrics of the epoch."""
        images, labels = batch
        logits = self(images).float()
        is_cracked = labels == CRACKED
        self.val_f1(logits.argmax(1) == CRACKED, is_cracked)
        self.val_ap(logits.softmax(1)[:, CRACKED], is_cracked)
        self.log_dict({"val_f1": self.val_f1, "val_ap": self.val_ap})

    def configure_optimizers(self) -> tuple[list[Any], list[Any]]:
        """AdamW and its schedule, a step an epoch."""
        optimizer, scheduler = make_optimizer(self, self.config, epochs=self.epochs)
        return [optimizer], [scheduler]


def main() -> None:
    """Search, then write the result file."""
    options = parse_arguments(__doc__)
    if not torch.cuda.is_available():
        torch.set_num_threads(options.slots)

    def objective(trial: optuna.Trial, config: dict[str, float]) -> float:
        L.seed_everything(options.seed, workers=True, verbose=False)
        train_loader, val_loader = make_loaders(options, num_trials=1)
        logger = CSVLogger(folder, name=f"trial-{trial.number}")
        checkpoint = ModelCheckpoint(monitor="val_f1", mode="max")
        trainer = L.Trainer(
            max_epochs=options.epochs,
            accelerator="auto",
            devices=1,
            precision=PRECISIONS[options.precision],
            logger=logger,
            callbacks=[checkpoint],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(CrackClassifier(config, options), train_loader, val_loader)
        table = pd.read_csv(Path(logger.log_dir) / "metrics.csv").dropna(subset="val_f1")
        best = table.iloc[int(table["val_f1"].argmax())]
        trial.set_user_attr("val_ap", float(best["val_ap"]))
        trial.set_user_attr("train_images", trainer.global_step * options.batch_size)
        return checkpoint.best_model_score.item()

    with tempfile.TemporaryDirectory() as folder:
        found = search_with_optuna(objective, options)
    write_result(options, *found, started=STARTED, packages=["optuna", "lightning"])


if __name__ == "__main__":
    main()
