"""The peer that most people write: a plain PyTorch loop inside an Optuna objective.

After Optuna's own example
(https://github.com/optuna/optuna-examples/blob/main/pytorch/pytorch_simple.py): one trial at a
time, on all cores or on the GPU, the best epoch kept on disk.

    python scripts/peers/optuna_loop.py --data FOLDER --out result.json
"""

import time

STARTED = time.perf_counter()  # before the imports that take seconds

import tempfile
from pathlib import Path

import optuna
import torch

from same import (
    SEARCH_SPACE,
    make_loaders,
    make_loss,
    make_model,
    make_optimizer,
    parse_arguments,
    validate,
    write_result,
)


def main() -> None:
    """Search, then write the result file."""
    options = parse_arguments(__doc__)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(options.slots)

    def objective(trial: optuna.Trial) -> float:
        config = {
            name: trial.suggest_float(name, low, high, log=log)
            for name, (low, high, log) in SEARCH_SPACE.items()
        }
        torch.manual_seed(options.seed)
        train_loader, val_loader = make_loaders(options, num_trials=1)
        model = make_model(options, dropout=config["dropout"]).to(device)
        criterion = make_loss(config["crack_weight"]).to(device)
        optimizer, scheduler = make_optimizer(model, config, epochs=options.epochs)
        autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=options.precision == "bfloat16"
        )
        best_f1, num_images = -1.0, 0
        for epoch in range(options.epochs):
            model.train()
            for images, labels in train_loader:
                images = images.to(device, non_blocking=True)
                labels = labels.to(device, non_blocking=True)
                optimizer.zero_grad()
                with autocast:
                    loss = criterion(model(images), labels)
                loss.backward()
                optimizer.step()
                num_images += len(images)
            scheduler.step()

            metrics = validate(model, val_loader, device, autocast)
            trial.report(metrics["val_f1"], epoch)
            if metrics["val_f1"] > best_f1:
                best_f1 = metrics["val_f1"]
                torch.save(model.state_dict(), checkpoints / f"trial-{trial.number}.pt")
                trial.set_user_attr("metrics", metrics)
        trial.set_user_attr("train_images", num_images)
        return best_f1

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder)
        search_started = time.perf_counter()
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=options.seed)
        )
        study.optimize(objective, n_trials=options.trials)
        search_seconds = time.perf_counter() - search_started

    trials = []
    for trial in study.trials:
        assert trial.duration is not None
        trials.append(
            {
                **trial.user_attrs["metrics"],
                "train_images": trial.user_attrs["train_images"],
                "seconds": trial.duration.total_seconds(),
            }
        )
    write_result(
        options,
        started=STARTED,
        search_seconds=search_seconds,
        trials=trials,
        packages=["optuna"],
    )


if __name__ == "__main__":
    main()
