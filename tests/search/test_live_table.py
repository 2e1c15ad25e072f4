"""The live table of a terminal: what stands in it while trials run, end, and go on another day."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from ensemble.run.tables import RunTables
from ensemble.search import live_table
from ensemble.search.cluster.heartbeat import Beat
from ensemble.search.live_table import Finished, Progress
from ensemble.search.stopping import Stopping


@pytest.fixture
def make_progress(tmp_path):
    def make(
        *, stored=(), terminal=True, max_seconds=None, places=0, said=None, told=None, beats=None
    ):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
        progress = Progress(
            RunTables(tmp_path),
            console,
            Stopping(said.append if said is not None else print),
            lambda trial_id: "its process died, 3 times",
            (beats or {}).get,
            lambda: places,
            num_trials=4,
            stored=stored,
            interrupted=told or {},
            max_concurrent_trials=2,
            max_seconds=max_seconds,
        )
        return progress, console

    return make


@pytest.fixture
def trial(make_task):
    def make(number, epochs=4):
        return SimpleNamespace(
            status="PENDING",
            trial_id=f"id{number}",
            config=make_task(number, optimisation={"epochs": epochs}).model_dump(),
            last_result=None,
        )

    return make


def report(progress, one, epoch, f1, best):
    names = ("loss", "accuracy", "precision", "recall", "f1_at_half", "average_precision")
    result = {
        "epoch": epoch,
        "train_loss": 0.5,
        "train_accuracy": 0.75,
        "learning_rate": 1e-3,
        "val_f1": f1,
        **{f"val_{name}": 0.5 for name in (*names, "threshold")},
        "best_val_f1": best,
        "train_seconds": 8.0,
        "val_seconds": 2.0,
        "images_per_second": 123.4,
        "precision": "float32",
        "last": epoch == one.config["config"]["optimisation"]["epochs"],
    }
    one.last_result = result
    progress.on_trial_result(0, [], one, result)


def shown(progress, console):
    with console.capture() as captured:
        console.print(progress._render())
    return captured.get()


def test_a_running_trial_has_its_epoch_speed_figures_and_time_left(make_progress, trial):
    progress, console = make_progress(max_seconds=3600)
    one = trial(7)
    progress.on_trial_start(0, [], one)
    report(progress, one, 1, 0.61, 0.61)
    report(progress, one, 2, 0.58, 0.61)
    lines = shown(progress, console).splitlines()
    (row,) = [line for line in lines if "small_cnn" in line]
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells[:6] == ["7", "small_cnn", "2/4", "123", "0.580", "0.610"]
    assert cells[6] in ("0:00:20", "0:00:19")  # two epochs of ten seconds
    assert any("1 running, 0 finished, of 4 trials" in line for line in lines)
    assert any("0:00:00 of 1:00:00" in line for line in lines)


def test_the_share_of_an_epoch_stands_in_the_table_until_the_epoch_is_told(make_progress, trial):
    beats = {7: Beat(epoch=1, share=0.43)}
    progress, console = make_progress(beats=beats)
    one = trial(7)
    progress.on_trial_start(0, [], one)
    progress.on_step_end(0, [one])
    assert "0.43/4" in shown(progress, console)
    report(progress, one, 1, 0.61, 0.61)
    assert " 1/4" in shown(progress, console)


def test_a_log_says_how_far_a_long_epoch_is(make_progress, trial, monkeypatch):
    monkeypatch.setattr(live_table, "TELL_EPOCH_EVERY_SECONDS", 0.0)
    progress, console = make_progress(terminal=False, beats={3: Beat(epoch=1, share=0.43)})
    one = trial(3)
    progress.on_trial_start(0, [], one)
    progress.on_step_end(0, [one])
    assert "trial 3 epoch 1/4: 43% done" in console.file.getvalue()


def test_ended_trials_are_counted_by_how_they_ended_and_the_best_five_are_named(
    make_progress, trial
):
    progress, console = make_progress()
    for number, f1 in enumerate((0.5, 0.9, 0.7, 0.6, 0.8, 0.4)):
        one = trial(number, epochs=1 if number % 2 else 4)
        progress.on_trial_start(0, [], one)
        report(progress, one, 1, f1, f1)
        progress.on_trial_complete(0, [], one)
    failed = trial(6)
    progress.on_trial_start(0, [], failed)
    progress.on_trial_error(0, [], failed)
    text = shown(progress, console)
    assert "0 running, 3 finished, 3 stopped early, 1 failed, of 4 trials" in text
    best = text.splitlines()[-2:]
    order = [text.index(f"{f1:.3f} (trial {n}") for f1, n in ((0.9, 1), (0.8, 4), (0.7, 2))]
    assert order == sorted(order), best
    assert "(trial 5," not in text  # the sixth


def test_a_continued_search_begins_with_what_was_finished_before(make_progress):
    stored = [
        Finished(number, "resnet18", f1, stopped_early=number == 2)
        for number, f1 in enumerate((0.3, 0.5, 0.4))
    ]
    text = shown(*make_progress(stored=stored))
    assert "0 running, 2 finished, 1 stopped early, of 4 trials" in text
    assert "best val F1: 0.500 (trial 1, resnet18)  0.400 (trial 2" in text


def test_a_log_file_has_a_plain_line_an_epoch_and_the_time_left(make_progress, trial):
    progress, console = make_progress(terminal=False)
    one = trial(3)
    progress.on_trial_start(0, [], one)
    report(progress, one, 1, 0.61, 0.61)
    one.last_result["last"] = True
    progress.on_trial_complete(0, [], one)
    lines = console.file.getvalue().splitlines()
    assert lines[0].endswith("trial 3 starts: small_cnn")
    assert "trial 3 epoch 1/4: val F1 0.610 (best 0.610), loss 0.500 / 0.500, 123" in lines[1]
    assert "trial 3 finished after epoch 1, best val F1 0.610 [1/4 trials" in lines[2]
    assert "\x1b" not in console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_trial_that_has_a_name_is_called_by_it(make_progress, trial, terminal):
    name = "sdnet/3, fold 1 of 5"
    progress, console = make_progress(
        terminal=terminal, places=1, stored=[Finished(1, "resnet18", 0.5, False, name="sdnet/2")]
    )
    one = trial(0)
    one.config["name"] = name
    progress.on_step_end(0, [one])
    if terminal:
        assert f"process starting: {name} (0:00:00)" in shown(progress, console)
    progress.on_trial_start(0, [], one)
    report(progress, one, 1, 0.61, 0.61)
    if terminal:
        assert f"{name} │ small_cnn" in shown(progress, console)
        assert "best val F1: 0.500 (sdnet/2, resnet18)" in shown(progress, console)
    progress.on_trial_complete(0, [], one)
    if terminal:
        assert f"best val F1: 0.610 ({name}, small_cnn)" in shown(progress, console)
        return
    said = console.file.getvalue()
    for words in (": its process is starting", " starts", " epoch 1/4", " stopped after epoch 1"):
        assert f"{name}{words}" in said
    assert "trial 0" not in said


def test_an_epoch_that_was_told_before_is_not_printed_as_a_new_one(make_progress, trial):
    progress, console = make_progress(terminal=False, told={3: 2})
    one = trial(3)
    progress.on_trial_start(0, [], one)
    report(progress, one, 2, 0.58, 0.61)
    report(progress, one, 3, 0.64, 0.64)
    progress.on_trial_recover(0, [], one)
    progress.on_trial_start(0, [], one)
    report(progress, one, 3, 0.64, 0.64)
    starts, goes_on, third, again, goes_on_again = console.file.getvalue().splitlines()
    assert starts.endswith("trial 3 starts: small_cnn")
    assert goes_on.endswith("trial 3 goes on after epoch 2 of 4 (best val F1 0.610)")
    assert "trial 3 epoch 3/4: val F1 0.640" in third
    assert again.endswith("trial 3 starts: small_cnn")
    assert goes_on_again.endswith("trial 3 goes on after epoch 3 of 4 (best val F1 0.640)")


def test_epochs_that_are_trained_anew_are_printed(make_progress, trial):
    """As where the state on the disk was damaged."""
    progress, console = make_progress(terminal=False, told={3: 2})
    one = trial(3)
    progress.on_trial_start(0, [], one)
    for epoch in (1, 2):
        report(progress, one, epoch, 0.5, 0.5)
    lines = console.file.getvalue().splitlines()
    assert "trial 3 epoch 1/4" in lines[1]
    assert "trial 3 epoch 2/4" in lines[2]


def test_a_trial_whose_process_starts_is_told_from_one_that_has_no_place(make_progress, trial):
    progress, console = make_progress(places=1)
    progress.on_step_end(0, [trial(0), trial(1), trial(2)])
    lines = shown(progress, console).splitlines()
    assert "process starting: trial 0 (0:00:00)" in lines
    assert "no place yet: trials 1, 2 (0:00:00)" in lines
    progress.on_trial_start(0, [], trial(0))
    assert "process starting" not in shown(progress, console)


def test_a_log_says_once_that_a_process_is_starting(make_progress, trial):
    progress, console = make_progress(terminal=False, places=1)
    for _ in range(3):
        progress.on_step_end(0, [trial(0), trial(1)])
    (line,) = console.file.getvalue().splitlines()
    assert line.endswith("trial 0: its process is starting")


def test_who_stops_a_search_is_told_how_long_the_running_epochs_take(make_progress, trial):
    said = []
    progress, console = make_progress(said=said)
    one = trial(0)
    progress.on_trial_start(0, [], one)
    progress._forecast._last_news["id0"] -= 100  # it started 100 s ago
    report(progress, one, 1, 0.5, 0.5)
    assert "about 0:12:" in shown(progress, console)
    progress._stopping.ask("Ctrl-C", exit_code=130)
    (line,) = said
    assert line.startswith("stopping: Ctrl-C; running trials end after this epoch, in about 0:01:")
    assert "; stopping in about 0:01:" in shown(progress, console)
