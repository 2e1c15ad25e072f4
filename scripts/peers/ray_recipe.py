"""The peer with Ray: its documented Tune + Train recipe, with ImageFolder and DataLoader.

After https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html and
https://docs.ray.io/en/latest/train/getting-started-pytorch.html: a Tune function builds a
TorchTrainer and calls `fit()`, its reports reach Tune through `TuneReportCallback`, `OptunaSearch`
asks. A trial has one training worker with one core (or its share of the GPUs).

To be timed where no other Ray runs: Train then asks the wrong state API whether a trial's
controller lives, and each trial waits 12 s more for the answer ("Failed to stop
PlacementGroupCleaner gracefully").

    python scripts/peers/ray_recipe.py --data FOLDER --out result.json
"""

import time

STARTED = time.perf_counter()  # before the imports that take seconds

import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import ray.tune
import torch
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch

from same import (
    SEARCH_SPACE,
    count_cores,
    make_loaders,
    make_loss,
    make_model,
    make_optimizer,
    parse_arguments,
    train_epoch,
    validate,
    write_result,
)


def train_fn_per_worker(config: dict[str, Any]) -> None:
    """Train for all epochs; each is reported with its checkpoint."""
    options = config["options"]
    torch.manual_seed(options.seed)
    device = ray.train.torch.get_device()
    model = make_model(options, dropout=config["dropout"])
    model = ray.train.torch.prepare_model(model)
    criterion = make_loss(config["crack_weight"]).to(device)
    optimizer, scheduler = make_optimizer(model, config, epochs=options.epochs)
    train_loader, val_loader = map(
        ray.train.torch.prepare_data_loader, make_loaders(options, num_trials=options.slots)
    )
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16")
    num_images = 0
    for _ in range(options.epochs):
        num_images += train_epoch(model, train_loader, criterion, optimizer, device, autocast)
        scheduler.step()
        metrics = {**validate(model, val_loader, device, autocast), "train_images": num_images}
        with tempfile.TemporaryDirectory() as folder:
            torch.save(model.state_dict(), Path(folder) / "model.pt")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def read_trial(result: Any) -> dict[str, float]:
    """Figures of a trial at its best epoch, and what it cost."""
    table = result.metrics_dataframe
    best = table.iloc[int(table["val_f1"].argmax())]
    return {
        "val_f1": float(best["val_f1"]),
        "val_ap": float(best["val_ap"]),
        "train_images": int(table["train_images"].max()),
        "seconds": float(result.metrics["time_total_s"]),
    }


def main() -> None:
    """Start a Ray of our own, search, end it, then write the result file."""
    options = parse_arguments(__doc__)
    num_gpus = torch.cuda.device_count()
    per_worker: dict[str, float] = {"CPU": 1}
    if num_gpus:
        per_worker["CPU"] = max(1, count_cores() // options.slots)  # loader processes
        per_worker["GPU"] = min(1, num_gpus / options.slots)
    # the trials' drivers only wait: they ask for a resource of their own, as the guide says, so
    # that all cores are the workers'
    ray.init(
        address="local",
        num_cpus=per_worker["CPU"] * options.slots,
        resources={"TRAIN_DRIVER_RESOURCE": 1},
    )
    space = {
        name: ray.tune.loguniform(low, high) if log else ray.tune.uniform(low, high)
        for name, (low, high, log) in SEARCH_SPACE.items()
    }

    def train_driver_fn(config: dict[str, Any]) -> None:
        trainer = ray.train.torch.TorchTrainer(
            train_fn_per_worker,
            train_loop_config={**config, "options": options},
            scaling_config=ray.train.ScalingConfig(
                num_workers=1, use_gpu=num_gpus > 0, resources_per_worker=per_worker
            ),
            run_config=ray.train.RunConfig(
                name=f"train-trial_id={ray.tune.get_context().get_trial_id()}",
                storage_path=storage,
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute="val_f1"
                ),
            ),
        )
        trainer.fit()

    with tempfile.TemporaryDirectory() as storage:
        search_started = time.perf_counter()
        results = ray.tune.Tuner(
            ray.tune.with_resources(train_driver_fn, {"TRAIN_DRIVER_RESOURCE": 0.01}),
            param_space=space,
            tune_config=ray.tune.TuneConfig(
                metric="val_f1",
                mode="max",
                search_alg=OptunaSearch(seed=options.seed),
                num_samples=options.trials,
                max_concurrent_trials=options.slots,
            ),
            run_config=ray.tune.RunConfig(name="search", storage_path=storage),
        ).fit()
        search_seconds = time.perf_counter() - search_started
        ray.shutdown()
        if results.errors:
            raise SystemExit(f"error: {results.num_errors} trials failed: {results.errors[0]}")
        trials = [read_trial(result) for result in results]  # type: ignore[attr-defined]
    write_result(options, trials, search_seconds, started=STARTED, packages=["optuna", "ray"])


if __name__ == "__main__":
    main()
