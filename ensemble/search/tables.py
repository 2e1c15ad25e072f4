"""The tables of a search, whose trials are those of its study."""

import optuna

from ensemble import run_tables


class RunTables(run_tables.RunTables):
    """Writes `epochs.csv`, and `trials.csv` from a study."""

    def write_trials(self, study: optuna.Study) -> None:
        """One row a trial of the study: state, reason, best F1, cost and parameters."""
        self.write_trial_rows(
            self.describe_trial(
                trial.number,
                trial.state.name,
                reason=trial.user_attrs.get("reason", ""),
                settings=trial.params,
            )
            for trial in study.get_trials(deepcopy=False)
            if trial.params  # without are start points that wait for their turn
        )
