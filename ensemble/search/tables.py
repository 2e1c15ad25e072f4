"""The tables of a search, whose trials are those of its study."""

from collections.abc import Iterator
from typing import Any

import optuna

from ensemble.run import tables as run_tables


class StudyTables(run_tables.RunTables):
    """Writes `epochs.csv`, and `trials.csv` from a study."""

    def write_trials(self, study: optuna.Study) -> None:
        """One row a trial of the study: state, reason, best F1, cost and parameters."""
        self.write_trial_rows(self._describe(study))

    def _describe(self, study: optuna.Study) -> Iterator[dict[str, Any]]:
        for trial in study.get_trials(deepcopy=False):
            if not trial.params:
                continue  # a start point that waits for its turn
            row = self.describe_trial(
                trial.number,
                trial.state.name,
                reason=trial.user_attrs.get("reason", ""),
                settings=trial.params,
            )
            best = trial.intermediate_values  # so far, after each epoch that the study was told of
            if len(best) > row["epochs"]:  # epochs.csv was lost: what it cost is not known any more
                row["val_f1"] = max(best.values())
                row["best_epoch"] = min(epoch for epoch in best if best[epoch] == row["val_f1"])
                row |= {"epochs": len(best), "seconds": None}
                row["backbone"] = row["backbone"] or trial.params.get("model.backbone")
            yield row
