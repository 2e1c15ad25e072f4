"""What a study says of its finished trials, as files of the run and as the outcome of a search.

Ray is not needed for any of it, so a search that has all its trials already does not start one.
"""

from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import TrialState

from ensemble.base.wording import plural
from ensemble.run.members import member_folder
from ensemble.search.request import SearchOutcome, SearchRequest
from ensemble.search.retention import Retention
from ensemble.search.space import Space
from ensemble.search.study import (
    StudyTables,
    count_finished,
    find_best,
    finished_trials,
    interrupted_trials,
    open_study,
)
from ensemble.search.task import title_of
from ensemble.training.checkpoint import remove_state


def settle(study: optuna.Study, tables: StudyTables, retention: Retention) -> None:
    """Bring weights and `trials.csv` in line with the study.

    Raises:
        InputError: The chosen ensemble is damaged.
        CannotWriteError: The disk refuses the table.
    """
    failed = study.get_trials(deepcopy=False, states=[TrialState.FAIL])
    retention.keep_best(
        finished=[trial.number for trial in finished_trials(study)],
        failed=[trial.number for trial in failed],
    )
    tables.write_trials(study)


def describe_outcome(folder: Path, study: optuna.Study) -> SearchOutcome:
    """The outcome of a search that was not stopped.

    Args:
        folder: Folder of the run.
        study: Study of the run.
    """
    num_finished = count_finished(study)
    best_trial, best_val_f1 = find_best(study) if num_finished else (None, None)
    return SearchOutcome(folder, num_finished, best_trial, best_val_f1)


def describe_continuation(study: optuna.Study, space: Space, request: SearchRequest) -> str | None:
    """Say in a line where a search goes on; None where no trial was begun."""
    num_finished, interrupted = count_finished(study), interrupted_trials(study)
    if not num_finished and not interrupted:
        return None
    were, trials = [], study.get_trials(deepcopy=False)
    for number, epoch in sorted(interrupted.items()):
        where = f"after epoch {epoch}" if epoch else "in its first epoch"
        title = title_of(number, space.name_of(trials[number].params))
        were.append(f"{title} was interrupted {where}")
    return f"continuing: {'; '.join([request.describe_state(num_finished), *were])}"


def find_finished(
    folder: Path, space: Space, request: SearchRequest, log: Callable[[str], None]
) -> SearchOutcome | None:
    """Tidy up after a search on this machine that has all its trials; None where some are missing.

    Args:
        folder: Folder of the run, which is locked.
        space: Search space.
        request: What was asked for.
        log: Takes lines for the person.

    Raises:
        InputError: The run is damaged.
        CannotWriteError: The disk refuses the run's files.
    """
    path = folder / "study.db"
    if not path.exists():
        return None
    study = open_study(path, space, sampler=request.sampler, seed=request.seed, log=log)
    outcome = describe_outcome(folder, study)
    if outcome.num_finished < request.trials:
        return None
    for trial in study.get_trials(deepcopy=False):  # a killed search may not have
        if trial.state.is_finished():
            remove_state(member_folder(folder, trial.number))
    tables = StudyTables(folder, space.name_of)
    settle(study, tables, Retention(folder, request.keep, log))
    tables.write_epochs()
    more = "; a larger --trials trains more" if space.can_grow else ""
    log(f"finished already: {plural(outcome.num_finished, 'trial')}{more}")
    return outcome
