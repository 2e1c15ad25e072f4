"""What the three peers share, so that all do the same work and differ in how it is arranged.

In: `train/` and `val/`, each with `Cracked/*.jpg` and `Non-cracked/*.jpg`. Out: loaders, network,
loss, optimiser, search space, and the one result file. Nothing of the package is used: data and
network are those of torchvision's transfer learning tutorial
(https://pytorch.org/tutorials/beginner/transfer_learning_tutorial.html).
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

CLASSES = ("Cracked", "Non-cracked")
CRACKED = 0  # ImageFolder numbers the folders in the order of their names
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BACKBONES = ("squeezenet1_1", "resnet18", "resnet50", "efficientnet_v2_s", "convnext_tiny")
SEARCH_SPACE = {  # name: low, high, whether the logarithm is uniform
    "lr": (1e-4, 2e-3, True),
    "weight_decay": (1e-5, 1e-1, True),
    "dropout": (0.0, 0.6, False),
    "crack_weight": (0.5, 6.0, True),
}


def parse_arguments(description: str | None) -> argparse.Namespace:
    """Read the command line; a wrong one ends here, with exit code 2."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--data", type=_path, required=True, help="folder with train/ and val/")
    parser.add_argument("--trials", type=_count, default=8)
    parser.add_argument("--epochs", type=_count, default=4)
    parser.add_argument("--image-size", type=_count, default=128, help="pixels")
    parser.add_argument("--batch-size", type=_count, default=64)
    parser.add_argument("--weights", default="none", help="state dict of the backbone, or none")
    parser.add_argument("--backbone", choices=BACKBONES, default="squeezenet1_1")
    parser.add_argument("--slots", type=_count, default=2, help="CPU cores, or trials on the GPUs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=_path, required=True, help="JSON file")
    options = parser.parse_args()
    for folder in (options.data / split / name for split in ("train", "val") for name in CLASSES):
        if not folder.is_dir():
            parser.error(f"--data: {folder} is missing; it must hold a split's tiles of one class")
    num_tiles = sum(1 for _ in (options.data / "train").glob("*/*"))
    if num_tiles < options.batch_size:
        parser.error(f"--batch-size: {options.batch_size} is more than the {num_tiles} tiles")
    if options.weights != "none":
        options.weights = _path(options.weights)
        if not options.weights.is_file():
            parser.error(f"--weights: {options.weights} is no file; say none for random weights")
    return options


def _path(text: str) -> Path:
    return Path(text).resolve()  # Ray's workers have another working directory


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on, but got {text!r}")
    return int(text)


def make_loaders(
    options: argparse.Namespace, *, num_trials: int
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of the training and of the validation tiles.

    Args:
        options: Options of the command line.
        num_trials: Number of trials at a time; on a GPU machine they share the cores.
    """
    size = (options.image_size, options.image_size)
    to_normalised = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    augmented = transforms.Compose(
        [
            transforms.Resize(size),
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomRotation(15),
            transforms.ColorJitter(brightness=0.2, contrast=0.2),
            *to_normalised,
        ]
    )
    plain = transforms.Compose([transforms.Resize(size), *to_normalised])
    on_gpu = torch.cuda.is_available()
    arguments: dict[str, Any] = {
        "batch_size": options.batch_size,
        "num_workers": max(2, count_cores() // num_trials) if on_gpu else 2,
        "persistent_workers": True,
        "pin_memory": on_gpu,
    }
    train, val = options.data / "train", options.data / "val"
    return (
        DataLoader(ImageFolder(train, augmented), shuffle=True, drop_last=True, **arguments),
        DataLoader(ImageFolder(val, plain), **arguments),
    )


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def make_model(options: argparse.Namespace, *, dropout: float) -> nn.Module:
    """The backbone with two classes: (B, 3, S, S) → (B, 2) logits."""
    model = models.get_model(options.backbone, weights=None)
    if options.weights != "none":
        state = torch.load(options.weights, map_location="cpu", weights_only=True)
        missing, unexpected = model.load_state_dict(state, strict=False)
        if unexpected or any(not name.startswith(("classifier.", "fc.")) for name in missing):
            raise SystemExit(f"error: {options.weights}: not the weights of {options.backbone}")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    if options.backbone == "squeezenet1_1":
        model.classifier[1] = nn.Conv2d(512, 2, kernel_size=1)
    elif options.backbone.startswith("resnet"):
        model.fc = nn.Sequential(nn.Dropout(dropout), nn.Linear(model.fc.in_features, 2))
    elif options.backbone == "convnext_tiny":
        last = nn.Linear(model.classifier[2].in_features, 2)
        model.classifier[2] = nn.Sequential(nn.Dropout(dropout), last)
    else:  # classifier = dropout, linear
        model.classifier[1] = nn.Linear(model.classifier[1].in_features, 2)
    return model


def make_loss(crack_weight: float) -> nn.Module:
    """Cross-entropy in which a cracked tile weighs `crack_weight` times an uncracked one."""
    weights = torch.ones(len(CLASSES))
    weights[CRACKED] = crack_weight
    return nn.CrossEntropyLoss(weight=weights)


def make_optimizer(
    model: nn.Module, config: dict[str, float], *, epochs: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW and a cosine that falls epoch by epoch."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"]
    )
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)


@torch.no_grad()
def validate(
    model: nn.Module, loader: DataLoader[Any], device: torch.device, autocast: torch.autocast
) -> dict[str, float]:
    """F1 of the larger logit, and average precision, of the cracked tiles."""
    model.eval()
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    for images, batch_labels in loader:
        with autocast:
            logits.append(model(images.to(device, non_blocking=True)).float().cpu())
        labels.append(batch_labels.cpu())
    scores = torch.cat(logits)  # (N, 2)
    is_cracked = torch.cat(labels) == CRACKED
    called = scores.argmax(1) == CRACKED
    probabilities = scores.softmax(1)[:, CRACKED]
    return {
        "val_f1": float(f1_score(is_cracked, called, zero_division=0.0)),
        "val_ap": float(average_precision_score(is_cracked, probabilities)),
    }


def search_with_optuna(
    objective: Callable[[optuna.Trial, dict[str, float]], float], options: argparse.Namespace
) -> tuple[list[dict[str, float]], float]:
    """Run the trials of a study, one at a time.

    Args:
        objective: Takes a trial and its configuration, returns the best F1, and leaves `val_ap` and
            `train_images` as attributes of the trial.
        options: Options of the command line.

    Returns:
        What `write_result` takes of each trial, and the seconds of all.
    """

    def run(trial: optuna.Trial) -> float:
        ranges = SEARCH_SPACE.items()
        config = {name: trial.suggest_float(name, a, b, log=log) for name, (a, b, log) in ranges}
        return objective(trial, config)

    started = time.perf_counter()
    sampler = optuna.samplers.TPESampler(seed=options.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(run, n_trials=options.trials)
    trials = []
    for trial in study.trials:
        assert trial.duration is not None
        seconds = trial.duration.total_seconds()
        trials.append({"val_f1": trial.values[0], **trial.user_attrs, "seconds": seconds})
    return trials, time.perf_counter() - started


def train_epoch(
    model: nn.Module,
    loader: DataLoader[Any],
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    autocast: torch.autocast,
) -> int:
    """Train on every batch of a loader once, and return the number of images."""
    model.train()
    num_images = 0
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        with autocast:
            loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        num_images += len(images)
    return num_images


def write_result(
    options: argparse.Namespace,
    trials: Sequence[dict[str, float]],
    search_seconds: float,
    *,
    started: float,
    packages: Sequence[str],
) -> None:
    """Write the result file and say where it is.

    Args:
        options: Options of the command line; recorded, of paths the last name.
        trials: In each `val_f1` and `val_ap` of the epoch that is best by F1, `train_images`
            (drawn in all epochs) and `seconds`.
        search_seconds: Seconds of all trials, without imports and without Ray's start.
        started: `time.perf_counter()` before torch and the rest were imported.
        packages: Packages whose versions matter, besides torch and torchvision.
    """
    num_images = sum(int(trial["train_images"]) for trial in trials)
    result = {
        "wall_seconds": time.perf_counter() - started,
        "search_seconds": search_seconds,
        "trials": list(trials),
        "train_images": num_images,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "options": {
            name: value.name if isinstance(value, Path) else value
            for name, value in vars(options).items()
        },
        "versions": {name: version(name) for name in ("torch", "torchvision", *packages)},
    }
    options.out.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(f"{num_images / search_seconds:.0f} images/s; written: {options.out}")
