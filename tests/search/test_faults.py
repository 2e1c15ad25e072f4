"""What is killed, silent or impossible in a search costs what docs/faults.md says, and no more."""

import json
import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from live_search import LiveSearch, wait_until
from person import type_in
from steady import SIDE_BY_SIDE, TRIAL, WORKERS, check_study, count_repeats, trial_in, words

from ensemble.training.checkpoint import open_member

pytestmark = pytest.mark.long
# make soak runs both of these, make test-all only the more likely one
MORE = [
    pytest.param((), id="in place"),
    pytest.param(WORKERS, id="workers", marks=pytest.mark.soak),
]
RARE_IN_PLACE = pytest.param((), id="in place", marks=pytest.mark.soak)


def test_a_killed_trial_goes_on_from_its_last_epoch_and_the_other_is_untouched(folder):
    with LiveSearch(folder, words(folder, "killed", *SIDE_BY_SIDE, trials=2, epochs=60)) as search:
        search.wait_for(r"trial 0 epoch 3/")
        search.wait_for(r"trial 1 epoch 1/")
        first = search.find_process(TRIAL)
        first.kill()
        died = time.monotonic()
        line = search.wait_for(r"its process died; it goes on from its last epoch \(attempt 2 of 3")
        number = trial_in(line)
        search.wait_for(rf"trial {number} starts", count=2)
        assert time.monotonic() - died < 120
        said = search.finish()
    check_study(folder / "results" / "killed", finished=2)
    assert count_repeats(said) == 0
    assert said.count(f"trial {1 - number} starts:") == 1


def test_a_killed_process_of_a_data_parallel_trial_costs_an_epoch(folder):
    """Two of each of two trials, as the third death of a trial ends it."""
    victims = [(0, "RayTrainWorker"), (0, "TrainController"), (1, "Mailbox"), (1, TRIAL)]
    with LiveSearch(folder, words(folder, "workers", *WORKERS, trials=2, epochs=40)) as search:
        for (number, victim), attempt in zip(victims, (2, 3, 2, 3), strict=True):
            told = search.said.count(f"trial {number} epoch ")
            search.wait_for(rf"trial {number} epoch ", count=told + 3)
            search.find_process(victim)
            search.processes(victim)[-1].kill()  # those of a group that is ending are older
            died = time.monotonic()
            search.wait_for(rf"trial {number}: .*(died|lost).*attempt {attempt} of 3")
            search.wait_for(rf"trial {number} starts", count=attempt)
            told = search.said.count(f"trial {number} epoch ")
            search.wait_for(rf"trial {number} epoch ", count=told + 1)
            assert time.monotonic() - died < 120
        said = search.finish()
        assert search.seconds_until_gone() < 10
    assert count_repeats(said) == 0
    check_study(folder / "results" / "workers", finished=2)


def test_a_search_that_loses_its_ray_ends_in_order_and_the_same_command_goes_on(folder):
    """It loses one of its processes, goes on, and loses the other."""
    command = words(folder, "lost", trials=3, epochs=40)
    for finished, victim in enumerate(("raylet/raylet", "gcs/gcs_server"), start=1):
        with LiveSearch(folder, command) as search:
            search.wait_for(rf"trial {finished - 1} finished")
            search.wait_for(rf"trial {finished} epoch 2/")
            search.find_process(victim).kill()
            died = time.monotonic()
            said = search.finish(code=2)
            assert time.monotonic() - died < 45  # Ray's own patience is 60 s
            assert search.seconds_until_gone() < 10
        last = said.splitlines()[-1]
        lost = r"error: Ray's (raylet|control store \(GCS\)) died; "
        assert re.match(rf"{lost}{finished} of 3 trials are", last)
        assert last.endswith("the same command with --name lost goes on")
        *ended, state = pd.read_csv(folder / "results" / "lost" / "trials.csv")["state"]
        assert ended == ["COMPLETE"] * finished
        # where a call into Ray does not return, the table is that of the last trial's start
        assert state in ("WAITING", "RUNNING")
    assert "trial 1 epoch 1/" not in said
    assert "trial 2 epoch 1/" not in type_in(folder, *command)
    check_study(folder / "results" / "lost", finished=3)


@pytest.mark.parametrize("more", MORE)
def test_a_silent_trial_is_ended_and_said_so(folder, more):
    name = f"silent{len(more)}"
    timeout = "1.2" if more else "0.5"  # minutes; imports and starting workers are silence, too
    with LiveSearch(
        folder, words(folder, name, *more, "--trial-timeout", timeout, trials=1, epochs=25)
    ) as search:
        search.wait_for(r"trial 0 epoch 2/")
        victim = search.find_process("RayTrainWorker" if more else TRIAL)
        victim.send_signal(signal.SIGSTOP)
        search.wait_for(rf"reported nothing for {timeout} minutes \(--trial-timeout\) and is ended")
        search.finish()
        assert search.seconds_until_gone() < 10
    trials = check_study(folder / "results" / name, finished=1, failed=1)
    reasons = trials["reason"].dropna().tolist()
    assert reasons == [f"no report for {timeout} minutes (--trial-timeout); it was ended"]


@pytest.mark.parametrize("more", MORE)
def test_a_trial_whose_epoch_takes_longer_than_the_timeout_trains_on(folder, more):
    """Its process is held up twice within an epoch, which therefore takes longer than that."""
    name = f"slow{len(more)}"
    minutes = 1.0 if more else 0.5  # starting workers is silence, too
    command = words(
        folder, name, *more, "--trial-timeout", str(minutes),
        trials=1, epochs=2, image_size_px=768, global_batch_size=2,
    )  # fmt: skip
    with LiveSearch(folder, command) as search:
        search.wait_for(r"trial 0 epoch 1/")
        trainers = search.processes("RayTrainWorker" if more else TRIAL)
        for _ in range(2):
            time.sleep(2)
            for each in trainers:
                each.suspend()
            time.sleep(36 * minutes)
            said = search.said
            for each in trainers:
                each.resume()
        assert "trial 0 epoch 2/" not in said  # else its report was what kept it alive
        assert "reported nothing" not in search.finish()
    check_study(folder / "results" / name, finished=1)


@pytest.mark.parametrize("more", [RARE_IN_PLACE, pytest.param(WORKERS, id="workers")])
def test_diverged_trials_fail_with_their_reason_up_to_max_failures(folder, more):
    name = f"diverged{len(more)}"
    command = words(
        folder, name, *more, "--max-failures", "1", trials=3, epochs=30, learning_rate=10,
        settings='optimizer = "sgd"\nweight_decay = 1.0',
    )  # fmt: skip
    said = type_in(folder, *command, code=2)
    assert "more than --max-failures 1; the last: the" in said
    assert "Traceback" not in said
    trials = pd.read_csv(folder / "results" / name / "trials.csv")
    failed = trials[trials["state"] == "FAIL"]
    assert len(failed) >= 2
    assert failed["reason"].str.contains("nan|not finite|inf").all()


def test_an_impossible_configuration_fails_with_its_reason_and_the_search_goes_on(folder):
    """The tiles are too small for a network that the space holds, and nobody can know before."""
    command = words(folder, "impossible", trials=3, epochs=3, image_size_px=16)
    space = folder / "impossible.toml"
    searched = '[search.model]\nbackbone = ["small_cnn", "squeezenet1_1"]\n'
    start = '\n[[start]]\n"model.backbone" = "squeezenet1_1"\n'
    space.write_text(space.read_text().replace("[search.model]\n", searched) + start)
    said = type_in(folder, *command)
    assert "trial 1 failed: RuntimeError: " in said
    trials = pd.read_csv(folder / "results" / "impossible" / "trials.csv")
    failed = trials[trials["state"] == "FAIL"]
    check_study(folder / "results" / "impossible", finished=3, failed=len(failed))
    assert failed["reason"].str.contains("too small").all()
    assert (failed["model.backbone"] == "squeezenet1_1").all()


def stop_cleanly(folder: Path, command: list[str], *, name: str) -> None:
    """Search until the second epoch, and stop as by Ctrl-C."""
    with LiveSearch(folder, command) as search:
        search.wait_for(r"trial 0 epoch 2/")
        search.process.send_signal(signal.SIGINT)
        said = search.finish(code=130)
        assert search.seconds_until_gone() < 10
    assert said.splitlines()[-1].endswith(f"the same command with --name {name} goes on")


def test_ctrl_c_stops_a_trial_on_workers_cleanly(folder):
    """What follows is as in place, and in make soak."""
    command = words(folder, "ctrl-c-workers", *WORKERS, trials=2, epochs=30)
    stop_cleanly(folder, command, name="ctrl-c-workers")


@pytest.mark.parametrize("more", MORE)
def test_the_first_ctrl_c_stops_cleanly_and_the_second_at_once(folder, more):
    name = f"ctrl-c{len(more)}"
    command = words(folder, name, *SIDE_BY_SIDE, *more, trials=2, epochs=30)
    stop_cleanly(folder, command, name=name)
    with LiveSearch(folder, command) as search:
        search.wait_for(r"trial 0 epoch \d+/")  # not from the first epoch again
        assert "trial 0 epoch 1/" not in search.said
        search.process.send_signal(signal.SIGTERM)
        search.wait_for("stopping: SIGTERM")
        search.process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        said = search.finish(code=143)
        assert said.splitlines()[-1] == f"interrupted: the same command with --name {name} goes on"
        assert time.monotonic() - sent < 20
        assert search.seconds_until_gone() < 10
    type_in(folder, *command)
    check_study(folder / "results" / name, finished=2)


def test_max_hours_end_a_search_that_one_command_at_a_time_can_continue(folder):
    command = words(folder, "hours", *SIDE_BY_SIDE, trials=3, epochs=4000)
    said = type_in(folder, *command, "--max-hours", "0.003", "--json")
    result, _ = json.JSONDecoder().raw_decode(said)
    assert result["stopped"] == "--max-hours 0.003 are over"
    assert {trial["state"] for trial in result["trials"]} == {"WAITING"}
    assert "stopped (--max-hours 0.003 are over): 0 of 3 trials are finished" in said
    waiting = pd.read_csv(folder / "results" / "hours" / "trials.csv")["state"]
    assert set(waiting) == {"WAITING"}
    assert len(waiting) <= 2  # no other one when these have stopped
    assert "goes on" in said.splitlines()[-1]
    with LiveSearch(folder, command) as search:
        search.wait_for(r"trial \d+ epoch ")
        said = type_in(folder, *command, code=2)
        assert "another search is at work in" in said
        search.process.send_signal(signal.SIGINT)
        search.finish(code=130)


@pytest.mark.parametrize("kills", [int(os.environ.get("DRIVER_KILLS", "2"))])
def test_a_search_whose_driver_is_killed_at_random_moments_ends_complete(folder, kills):
    chance = random.Random(kills)
    lasting = {"epochs": 30 * kills, "grace_epochs": 15 * kills}  # longer than all kills take
    command = words(folder, "often", *SIDE_BY_SIDE, trials=4, **lasting)
    for _ in range(kills):
        begins = chance.random() < 0.3
        with LiveSearch(folder, command) as search:
            search.wait_for(r"searching 4 trials" if begins else r"trial \d+ epoch")
            time.sleep(chance.uniform(0, 10 if begins else 4))
            search.kill_driver()
            assert search.process.returncode == -signal.SIGKILL, search.said
            assert search.seconds_until_gone() < 10
    said = type_in(folder, *words(folder, "often", *SIDE_BY_SIDE, trials=5, **lasting))
    assert "[5/5 trials" in said  # a larger --trials extends it
    check_study(folder / "results" / "often", finished=5)


def _small_disk(folder: Path) -> bool:
    """Mount a memory file system of 24 MB; False where that is not allowed."""
    folder.mkdir()
    return (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], capture_output=True
        ).returncode
        == 0
    )


@pytest.mark.parametrize("more", MORE)
def test_a_full_disk_ends_the_search_cleanly_and_it_goes_on_with_room(folder, more):
    name = f"full{len(more)}"
    disk = folder / f"disk{len(more)}"
    if not _small_disk(disk):
        pytest.skip("mounting a small disk is not allowed here")
    try:
        command = [
            *words(folder, name, *more, trials=2, epochs=40),
            "--out", str(disk),
        ]  # fmt: skip
        with LiveSearch(folder, command) as search:
            number = trial_in(search.wait_for(r"trial \d+ finished"))
            search.wait_for(r"trial 1 starts")
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            said = search.finish(code=2)
            assert search.seconds_until_gone() < 10
        assert "error: no room on the disk" in said.splitlines()[-1]
        open_member(disk / name / "members" / f"{number:04}").load_model()
        trials = pd.read_csv(disk / name / "trials.csv", index_col="trial")
        assert trials["state"][number] == "COMPLETE"
        filler.unlink()
        said = type_in(folder, *command)
        check_study(disk / name, finished=2)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_wait_until_says_what_it_waited_for():
    with pytest.raises(AssertionError, match="no such thing"):
        wait_until(lambda: None, what="no such thing", seconds=0.1)
