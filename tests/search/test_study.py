"""The searcher: what Tune is told to run, and what the study says afterwards."""

import math
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher

from ensemble.base.errors import CannotWriteError, InputError
from ensemble.cli import parse
from ensemble.search import database
from ensemble.search.command import read_request
from ensemble.search.finished import describe_continuation, find_finished
from ensemble.search.searcher import StudyScheduler, StudySearcher
from ensemble.search.space_file import load_space
from ensemble.search.stopping import StopByErrors, Stopping
from ensemble.search.study import (
    StudyTables,
    count_finished,
    find_best,
    let_running_wait,
    make_durable,
    open_study,
)

SPACE = """
question = "?"
[default.model]
backbone = "small_cnn"
[search.model]
dropout = { low = 0.0, high = 0.5 }
[search.optimisation]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
"""


class Search:
    """A searcher on a study in a folder, and the tasks it gave."""

    def __init__(
        self,
        folder,
        *,
        num_trials=4,
        at_once=2,
        max_failures=2,
        seed=0,
        sampler="tpe",
        before_end=lambda number: None,
        after_end=lambda number: None,
    ):
        (folder / "space.toml").write_text(SPACE)
        self.space = load_space(folder / "space.toml")
        self.said, self.lost = [], set()  # Tune's ids of trials that it gave up too early
        self.log = self.said.append
        self.study = open_study(
            folder / "study.db",
            self.space,
            sampler=sampler,
            seed=seed,
            log=lambda line: self.log(line),
        )
        self.stopping = Stopping(self.said.append)
        self.searcher = StudySearcher(
            self.study,
            self.space,
            seed=seed,
            num_trials=num_trials,
            max_concurrent_trials=at_once,
            max_failures=max_failures,
            stopping=self.stopping,
            make_task=lambda number, config, _: {"number": number, "config": config},
            explain_death=lambda trial_id: None if trial_id in self.lost else f"{trial_id} died",
            max_attempts=3,
            before_end=before_end,
            after_end=after_end,
        )

    def state(self, number):
        return self.study.trials[number].state


def result(epoch, best, **more):
    return {"epoch": epoch, "best_val_f1": best, **more}


def test_a_trial_that_tune_gave_up_too_early_is_asked_again_but_not_for_ever(tmp_path):
    search = Search(tmp_path)
    search.lost = {"a", "b", "c"}
    first = search.searcher.suggest("a")
    search.searcher.on_trial_complete("a", error=True)
    assert search.state(0) == TrialState.WAITING
    assert search.searcher.suggest("b") == first
    search.searcher.on_trial_complete("b", error=True)
    assert search.searcher.suggest("c") == first
    search.searcher.on_trial_complete("c", error=True)
    assert search.state(0) == TrialState.FAIL
    assert search.study.trials[0].user_attrs["reason"].endswith("could not be started, 3 times")
    assert search.searcher.num_failures == 1


def test_a_finished_trial_is_complete_with_its_best_value(tmp_path):
    search = Search(tmp_path)
    search.searcher.suggest("a")
    search.searcher.on_trial_result("a", result(1, 0.6))
    search.searcher.on_trial_complete("a", result(2, 0.6, last=True))
    trial = search.study.trials[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.6)
    assert trial.intermediate_values == {1: 0.6, 2: 0.6}


def test_a_stopped_trial_is_pruned_with_the_result_that_stopped_it(tmp_path):
    search = Search(tmp_path)
    search.searcher.suggest("a")
    search.searcher.on_trial_complete("a", result(1, 0.3, last=False))
    trial = search.study.trials[0]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.3}


def test_no_more_trials_at_a_time_than_there_are_slots(tmp_path):
    searcher = Search(tmp_path, at_once=2).searcher
    assert searcher.suggest("a")["number"] == 0
    assert searcher.suggest("b")["number"] == 1
    assert searcher.suggest("c") is None


def test_the_search_ends_when_the_study_has_what_was_asked_for(tmp_path):
    search = Search(tmp_path, num_trials=2)
    for name in "ab":
        search.searcher.suggest(name)
    assert search.searcher.suggest("c") is None  # two run, no third will
    for name in "ab":
        search.searcher.on_trial_complete(name, result(1, 0.5, last=True))
    assert search.searcher.suggest("c") == Searcher.FINISHED
    assert count_finished(search.study) == 2


def test_a_failed_trial_keeps_its_reason_and_is_replaced(tmp_path):
    search = Search(tmp_path, num_trials=1)
    search.searcher.suggest("a")
    search.searcher.on_trial_complete("a", {"failure": "the loss is nan"})
    assert search.state(0) == TrialState.FAIL
    assert search.study.trials[0].user_attrs["reason"] == "the loss is nan"
    assert search.searcher.suggest("b")["number"] == 1


def test_the_search_gives_up_after_too_many_failures(tmp_path):
    search = Search(tmp_path, max_failures=1)
    for name in "ab":
        search.searcher.suggest(name)
        search.searcher.on_trial_complete(name, None, error=True)
    assert search.searcher.gave_up
    assert search.searcher.suggest("c") == Searcher.FINISHED


def test_an_interrupted_trial_waits_and_is_taken_up_with_the_same_parameters(tmp_path):
    search = Search(tmp_path)
    task = search.searcher.suggest("a")
    search.searcher.on_trial_result("a", result(1, 0.5))
    search.stopping.ask("enough", exit_code=0)
    search.searcher.on_trial_complete("a", result(2, 0.6, last=False))
    assert search.state(0) == TrialState.WAITING
    assert search.searcher.suggest("b") == Searcher.FINISHED

    again = Search(tmp_path).searcher.suggest("a")
    assert again == task


def test_a_killed_search_leaves_no_trial_running(tmp_path):
    task = Search(tmp_path).searcher.suggest("a")  # and then the process is gone
    search = Search(tmp_path)
    assert search.state(0) == TrialState.WAITING
    assert search.searcher.suggest("a") == task


def test_continuing_repeats_neither_start_points_nor_suggestions(tmp_path):
    seen = []
    for _ in range(3):
        search = Search(tmp_path, num_trials=100)
        for name in "ab":
            seen.append(search.searcher.suggest(name)["config"].model_dump_json(exclude={"seed"}))
            search.searcher.on_trial_complete(name, result(1, 0.5, last=True))
    assert len(set(seen)) == 6
    assert len(search.study.trials) == 6


def test_an_epoch_that_is_trained_again_is_reported_once(tmp_path):
    search = Search(tmp_path)
    search.searcher.suggest("a")
    search.searcher.on_trial_result("a", result(1, 0.5))
    again = Search(tmp_path)
    again.searcher.suggest("a")
    again.searcher.on_trial_result("a", result(1, 0.5))
    assert again.study.trials[0].intermediate_values == {1: 0.5}


def test_equal_seeds_give_equal_searches(tmp_path):
    configs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        searcher = Search(tmp_path / name).searcher
        configs.append([searcher.suggest(trial)["config"] for trial in "ab"])
    assert configs[0] == configs[1]


@pytest.mark.parametrize("how", ["renamed", "copied"])
def test_a_run_that_was_renamed_or_copied_goes_on_with_its_own_study(tmp_path, how):
    run, other = tmp_path / "decks", tmp_path / "walls"
    run.mkdir()
    search = Search(run)
    search.searcher.suggest("a")
    search.searcher.on_trial_complete("a", result(1, 0.5, last=True))
    make_durable(run / "study.db")
    run.rename(other) if how == "renamed" else shutil.copytree(run, other)
    again = Search(other)
    assert count_finished(again.study) == 1
    assert again.searcher.suggest("b")["number"] == 1


def test_a_study_that_an_earlier_version_named_after_its_folder_is_the_one_that_goes_on(tmp_path):
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path}/study.db", study_name="decks", direction="maximize"
    )
    study.add_trial(optuna.trial.create_trial(value=0.5, intermediate_values={1: 0.5}))
    again = Search(tmp_path)
    assert count_finished(again.study) == 1
    assert again.searcher.suggest("a")["number"] == 1


def test_a_file_with_two_studies_is_refused_with_their_names(tmp_path):
    Search(tmp_path)
    optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="decks")
    with pytest.raises(InputError, match=r"study\.db holds 2 studies \(search, decks\)"):
        Search(tmp_path)


@pytest.mark.parametrize("name", ["what?b", "a#b", "a{b}", "100%25"])
def test_a_study_is_inside_its_run_whatever_that_is_called(tmp_path, name):
    run = tmp_path / name
    run.mkdir()
    Search(run).searcher.suggest("a")
    assert (run / "study.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(Search(run).study.get_trials(states=[TrialState.WAITING])) == 1


def test_a_study_shows_that_its_figure_is_the_validation_f1(tmp_path):
    assert Search(tmp_path).study.metric_names == ["validation F1"]
    assert Search(tmp_path).study.metric_names == ["validation F1"]


def test_a_study_that_another_program_has_locked_is_waited_for_and_that_is_said(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(database, "SAY_AFTER_SECONDS", 0.0)
    search = Search(tmp_path)
    search.searcher.suggest("a")
    lock = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    lock += "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); input()"
    words = [sys.executable, "-c", lock, str(tmp_path / "study.db")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"

        def let_go(line):
            search.said.append(line)
            other.stdin.close()

        search.log = let_go
        search.searcher.on_trial_result("a", result(1, 0.5))
    (line,) = search.said
    assert f"(process {other.pid}); waiting for it" in line
    assert search.study.trials[0].intermediate_values == {1: 0.5}
    assert search.stopping.request is None


def test_a_study_that_stays_locked_ends_the_search_and_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.0)
    search = Search(tmp_path)
    task = search.searcher.suggest("a")
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        search.searcher.on_trial_result("a", result(1, 0.5))
        search.searcher.on_trial_complete("a", result(2, 0.6, last=False))
        with pytest.raises(CannotWriteError, match=r"study\.db has been locked by .*; end that"):
            Search(tmp_path)
    assert search.stopping.request.exit_code == 2
    assert "has been locked by" in search.stopping.request.words
    again = Search(tmp_path)
    assert again.state(0) == TrialState.WAITING
    assert again.searcher.suggest("a") == task


def test_a_search_that_goes_on_says_what_is_finished_and_where_trials_were_interrupted(tmp_path):
    request = read_request(parse("search", ["--data", "tiles", "--trials", "8"]))
    search = Search(tmp_path, at_once=3)
    assert describe_continuation(search.study, search.space, request) is None
    for trial_id in "abc":
        search.searcher.suggest(trial_id)
    search.searcher.on_trial_complete("a", result(1, 0.5, last=True))
    for epoch in (1, 2):
        search.searcher.on_trial_result("b", result(epoch, 0.5))
    assert describe_continuation(Search(tmp_path).study, search.space, request) == (
        "continuing: 1 of 8 trials are finished; trial 1 was interrupted after epoch 2; "
        "trial 2 was interrupted in its first epoch"
    )


@pytest.mark.parametrize("fails", ["before_end", "after_end"])
def test_what_goes_wrong_at_a_trials_end_stops_the_search_and_never_reaches_tune(tmp_path, fails):
    def refuse(number):
        raise CannotWriteError("members/0000 cannot be written (Input/output error)")

    search = Search(tmp_path, **{fails: refuse})
    search.searcher.suggest("a")
    search.searcher.suggest("b")
    search.searcher.on_trial_complete("a", result(1, 0.5, last=True))
    assert search.stopping.request.exit_code == 2
    assert search.stopping.request.words.startswith("members/0000 cannot be written")
    search.searcher.on_trial_complete("b", result(3, 0.5, last=False))
    let_running_wait(search.study)
    first = TrialState.WAITING if fails == "before_end" else TrialState.COMPLETE
    assert [search.state(0), search.state(1)] == [first, TrialState.WAITING]
    assert search.searcher.num_failures == 0


def test_what_a_callback_raises_ends_the_search_with_exit_code_2_and_tune_never_sees_it():
    class Full(tune.Callback):
        def on_trial_result(self, iteration, trials, trial, result, **info):
            raise CannotWriteError(f"no room for epoch {result['epoch']}")

    said = []
    stopping = Stopping(said.append)
    stopping.ask("--max-hours 1 are over", exit_code=0)
    callback = StopByErrors(Full(), stopping)
    callback.on_trial_result(iteration=1, trials=[], trial=None, result={"epoch": 3})
    callback.on_step_end(iteration=1, trials=[])
    assert (stopping.request.words, stopping.request.exit_code) == ("no room for epoch 3", 2)
    assert said[-1] == "no room for epoch 3"
    assert stopping.error is None


def test_a_fault_of_the_program_in_a_callback_is_kept_with_its_traceback():
    class Wrong(tune.Callback):
        def on_trial_start(self, iteration, trials, trial, **info):
            raise KeyError("odd")

    stopping = Stopping(lambda line: None)
    StopByErrors(Wrong(), stopping).on_trial_start(iteration=1, trials=[], trial=None)
    assert isinstance(stopping.error, KeyError)
    assert stopping.error.__traceback__ is not None


def test_a_table_of_epochs_that_was_deleted_costs_the_table_of_trials_no_f1(tmp_path):
    search = Search(tmp_path)
    tables = StudyTables(tmp_path)
    search.searcher.suggest("a")
    for epoch, best in ((1, 0.5), (2, 0.7), (3, 0.7)):
        seconds = {"train_seconds": 2.0, "val_seconds": 1.0}
        tables.add_epoch(0, "small_cnn", {"epoch": epoch, "val_f1": best, **seconds})
        search.searcher.on_trial_result("a", result(epoch, best, last=epoch == 3))
    search.searcher.on_trial_complete("a", result(3, 0.7, last=True))
    tables.write_trials(search.study)
    (row,) = tables.read_trial_rows()
    assert row["seconds"] == 9
    (tmp_path / "epochs.csv").unlink()
    tables = StudyTables(tmp_path)
    tables.write_trials(search.study)
    (without,) = tables.read_trial_rows()
    assert math.isnan(without["seconds"])
    for name in ("trial", "state", "val_f1", "best_epoch", "epochs"):
        assert without[name] == row[name], name


def test_optuna_itself_can_open_the_study(tmp_path):
    Search(tmp_path).searcher.suggest("a")
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(study.trials) == 1


def test_a_study_made_durable_is_whole_in_its_file_alone(tmp_path):
    """What SQLite keeps beside it, in the log, may be lost when the power is cut."""
    search = Search(tmp_path)
    search.searcher.suggest("a")
    search.searcher.on_trial_complete("a", result(1, 0.5, last=True))
    copies = []
    for name in ("before", "after"):
        copies.append(tmp_path / name / "study.db")
        copies[-1].parent.mkdir()
        shutil.copy(tmp_path / "study.db", copies[-1])
        make_durable(tmp_path / "study.db")
    finished = []
    for copy in copies:
        with closing(sqlite3.connect(copy)) as connection:
            [row] = connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'")
        finished += row
    assert finished == [0, 1]


def test_a_damaged_study_is_refused_in_one_line_that_names_it(tmp_path):
    search = Search(tmp_path)
    search.searcher.suggest("a")
    make_durable(tmp_path / "study.db")
    whole = (tmp_path / "study.db").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    for content in (
        b"no database",
        whole[: len(whole) // 2],
        whole[:100] + bytes(len(whole) - 100),
    ):
        (other / "study.db").write_bytes(content)
        with pytest.raises(InputError, match=r"other/study\.db cannot be used .* another --name"):
            open_study(other / "study.db", search.space, sampler="tpe", seed=0)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM trial_intermediate_values",
        "UPDATE trial_params SET distribution_json = '{'",
        'UPDATE trial_params SET distribution_json = \'{"name": "Odd", "attributes": {}}\'',
        "UPDATE version_info SET schema_version = 1",
        "DROP TABLE trial_params",
        "UPDATE trial_user_attributes SET value_json = 'x'",
        "UPDATE trials SET state = 'ODD'",
        "UPDATE studies SET study_name = 'other'",
    ],
)
def test_a_study_whose_rows_were_changed_is_refused_or_opened(tmp_path, change):
    search = Search(tmp_path)
    search.searcher.suggest("a")
    search.searcher.on_trial_complete("a", result(1, 0.5, last=True))
    search.searcher.suggest("b")
    search.searcher.on_trial_complete("b", result(1, 0.5), error=True)
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
        connection.execute(change)
    try:
        study = open_study(tmp_path / "study.db", search.space, sampler="tpe", seed=0)
    except InputError as error:
        assert "study.db cannot be used" in str(error)  # noqa: PT017
    else:
        assert count_finished(study) == 1


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=30))
def test_a_study_with_other_bytes_is_refused_or_opened(places, tmp_path):
    whole = tmp_path / "whole"
    if not whole.exists():
        whole.mkdir()
        search = Search(whole)
        search.searcher.suggest("a")
        search.searcher.on_trial_complete("a", result(1, 0.5, last=True))
        make_durable(whole / "study.db")
    data = bytearray((whole / "study.db").read_bytes())
    for place, byte in places:
        data[int(place * (len(data) - 1))] = byte
    for old in tmp_path.glob("study.db*"):
        old.unlink()
    (tmp_path / "study.db").write_bytes(data)
    space = load_space(whole / "space.toml")
    try:
        open_study(tmp_path / "study.db", space, sampler="tpe", seed=0)
    except InputError as error:
        assert "study.db cannot be used" in str(error)  # noqa: PT017


def test_best_trial_may_be_one_that_was_stopped_early(tmp_path):
    search = Search(tmp_path)
    for name, best, last in (("a", 0.5, True), ("b", 0.7, False)):
        search.searcher.suggest(name)
        search.searcher.on_trial_complete(name, result(1, best, last=last))
    assert find_best(search.study) == (1, 0.7)


def test_a_disk_that_takes_nothing_more_ends_the_search_and_fails_no_trial(tmp_path):
    search = Search(tmp_path)
    task = search.searcher.suggest("a")
    search.searcher.suggest("b")
    search.searcher.on_trial_complete("a", {"hindrance": "no room", "done": True})
    assert search.stopping.request.words == "no room"
    assert search.stopping.request.exit_code == 2
    search.searcher.on_trial_complete("b", result(4, 0.5, last=True))  # it was quicker
    assert [search.state(number) for number in (0, 1)] == [TrialState.WAITING, TrialState.COMPLETE]
    assert search.searcher.suggest("c") == Searcher.FINISHED
    assert Search(tmp_path).searcher.suggest("a") == task


def test_the_first_reason_to_stop_is_the_one_that_is_told():
    said = []
    stopping = Stopping(said.append)
    stopping.ask("the time is up", exit_code=0)
    stopping.ask("Ctrl-C", exit_code=130)
    assert stopping.request.exit_code == 0
    assert len(said) == 1


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "qmc"])
def test_every_sampler_asks_goes_on_and_never_repeats_itself(tmp_path, sampler):
    seen = []
    for _ in range(3):
        search = Search(tmp_path, num_trials=100, sampler=sampler)
        for _ in range(6):
            config = search.searcher.suggest("a")["config"]
            seen.append(config.model_dump_json(exclude={"seed"}))
            # a peak inside: on a plain the GP goes to the same corners again, continued or not
            score = 0.9 - (config.model.dropout - 0.2) ** 2
            search.searcher.on_trial_complete("a", result(1, score, last=True))
    assert len(set(seen)) == 18


def test_a_continued_search_stops_early_what_an_undisturbed_one_would(tmp_path):
    """Rungs after epochs 1 and 3, a third goes on: from 0.3, 0.6, 0.7 at 0.633, from 0.7, 0.8 at
    0.767; by hand."""
    earlier = {"a": [0.6], "b": [0.3, 0.4, 0.8], "c": [0.7, 0.7, 0.7]}  # best F1 after each epoch
    search = Search(tmp_path)
    undisturbed = StudyScheduler(search.space, search.study)
    for name, best in earlier.items():
        undisturbed.on_trial_add(
            None, SimpleNamespace(trial_id=name, config=search.searcher.suggest(name))
        )
        for epoch, score in enumerate(best, start=1):
            row = result(epoch, score, last=epoch == 3)
            undisturbed.on_trial_result(None, SimpleNamespace(trial_id=name), row)
            if epoch < len(best):
                search.searcher.on_trial_result(name, row)
        search.searcher.on_trial_complete(name, row)
    assert [search.state(number).name for number in range(3)] == ["PRUNED", "COMPLETE", "COMPLETE"]
    late = search.searcher.suggest("late")
    continued = StudyScheduler(search.space, Search(tmp_path).study)
    for scheduler in (undisturbed, continued):
        for name, epoch, best, decision in (
            ("bad", 1, 0.62, "STOP"),
            ("good", 1, 0.65, "CONTINUE"),
            ("late and bad", 3, 0.75, "STOP"),
            ("late and good", 3, 0.78, "CONTINUE"),
        ):
            trial = SimpleNamespace(trial_id=name, config=late)
            scheduler.on_trial_add(None, trial)
            assert scheduler.on_trial_result(None, trial, result(epoch, best)) == decision, name


def test_an_interrupted_trial_is_not_judged_again_by_epochs_that_it_passed(tmp_path):
    """Rungs after epochs 1 and 3; after epoch 1 the others are better, but they came later."""
    search = Search(tmp_path)
    search.searcher.suggest("first")
    for epoch in (1, 2):
        search.searcher.on_trial_result("first", result(epoch, 0.5))
    for name in ("better", "as good", "as good, too"):
        search.searcher.suggest(name)
        search.searcher.on_trial_complete(name, result(1, 0.8))
    continued = Search(tmp_path, num_trials=9)
    scheduler = StudyScheduler(continued.space, continued.study)
    trial = SimpleNamespace(trial_id="a", config=continued.searcher.suggest("a"))
    assert trial.config["number"] == 0
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, result(2, 0.5)) == "CONTINUE"  # told again
    assert scheduler.on_trial_result(None, trial, result(3, 0.5)) == "CONTINUE"  # nobody else
    other = SimpleNamespace(trial_id="b", config=continued.searcher.suggest("b"))
    scheduler.on_trial_add(None, other)
    assert scheduler.on_trial_result(None, other, result(3, 0.4)) == "STOP"


def test_a_trial_has_all_of_its_epochs_where_their_number_is_searched(tmp_path):
    search = Search(tmp_path)  # of 8 epochs
    (tmp_path / "longer.toml").write_text(SPACE + "epochs = [8, 12]\n")
    scheduler = StudyScheduler(load_space(tmp_path / "longer.toml"), search.study)
    trial = SimpleNamespace(trial_id="a", config=search.searcher.suggest("a"))
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, result(8, 0.5)) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial, result(12, 0.5)) == "STOP"


def test_a_search_that_has_its_trials_is_finished_without_ray_and_one_that_lacks_some_is_not(
    tmp_path,
):
    (tmp_path / "space.toml").write_text(SPACE)
    space, said = load_space(tmp_path / "space.toml"), []
    request = read_request(parse("search", ["--data", "tiles", "--trials", "2"]))
    assert find_finished(tmp_path, space, request, said.append) is None  # there is no study
    study = open_study(tmp_path / "study.db", space, sampler="tpe", seed=0)
    for value in (0.5, 0.7):
        assert find_finished(tmp_path, space, request, said.append) is None
        trial = study.ask()
        space.ask(trial, seed=0)
        trial.report(value, step=1)
        study.tell(trial, value)
    assert said == []
    outcome = find_finished(tmp_path, space, request, said.append)
    assert (outcome.num_finished, outcome.best_trial, outcome.best_val_f1) == (2, 1, 0.7)
    assert (outcome.stopped, outcome.exit_code) == ("", 0)
    assert said[-1] == "finished already: 2 trials; a larger --trials trains more"
    assert pd.read_csv(tmp_path / "trials.csv")["state"].tolist() == ["COMPLETE"] * 2
