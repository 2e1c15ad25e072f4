"""Which trials end early: asynchronous successive halving, across interruptions of the search."""

from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import ASHAScheduler

from ensemble.search.space import Space
from ensemble.search.study import finished_trials


def make_early_stopping(space: Space, study: optuna.Study) -> ASHAScheduler:
    """Asynchronous successive halving that knows the trials a continued study has already."""
    epochs = space.default.optimisation.epochs
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric="best_val_f1",
        mode="max",
        max_t=epochs,
        grace_period=min(space.early_stopping.grace_epochs, epochs),
        reduction_factor=space.early_stopping.reduction_factor,
    )
    for stored in finished_trials(study):
        trial: Any = SimpleNamespace(trial_id=f"stored-{stored.number}")
        scheduler.on_trial_add(None, trial)
        for epoch, best in sorted(stored.intermediate_values.items()):
            scheduler.on_trial_result(None, trial, {"epoch": epoch, "best_val_f1": best})
    return scheduler
