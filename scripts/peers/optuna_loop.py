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
    make_loaders,
    make_loss,
    make_model,
    make_optimizer,
    parse_arguments,
    search_with_optuna,
    train_epoch,
    validate,
    write_result,
)


def main() -> None:
    """Search, then write the result file."""
    options = parse_arguments(__doc__)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(options.slots)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bfloat16")

    def objective(trial: optuna.Trial, config: dict[str, float]) -> float:
        torch.manual_seed(options.seed)
        train_loader, val_loader = make_loaders(options, num_trials=1)
        model = make_model(options, dropout=config["dropout"]).to(device)
        criterion = make_loss(config["crack_weight"]).to(device)
        optimizer, scheduler = make_optimizer(model, config, epochs=options.epochs)
        best_f1, num_images = -1.0, 0
        for epoch in range(options.epochs):
            num_images += train_epoch(model, train_loader, criterion, optimizer, device, autocast)
            scheduler.step()
            metrics = validate(model, val_loader, device, autocast)
            trial.report(metrics["val_f1"], epoch)
            if metrics["val_f1"] > best_f1:
                best_f1 = metrics["val_f1"]
                torch.save(model.state_dict(), Path(folder) / f"trial-{trial.number}.pt")
                trial.set_user_attr("val_ap", metrics["val_ap"])
        trial.set_user_attr("train_images", num_images)
        return best_f1

    with tempfile.TemporaryDirectory() as folder:
        found = search_with_optuna(objective, options)
    write_result(options, *found, started=STARTED, packages=["optuna"])


if __name__ == "__main__":
    main()
