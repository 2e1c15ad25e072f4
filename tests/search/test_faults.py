"""What is killed, silent or impossible in a search costs what docs/faults.md says, and no more."""

import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from live_search import LiveSearch, wait_until
from person import type_in
from s3_server import s3_server
from steady import SIDE_BY_SIDE, TRIAL, WORKERS, check_study, count_repeats, trial_in, words

from ensemble.training.checkpoint import open_member

pytestmark = pytest.mark.long


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


def test_after_three_deaths_a_trial_is_failed_with_its_reason_and_replaced(folder):
    with LiveSearch(folder, words(folder, "thrice", trials=1, epochs=40)) as search:
        for attempt in (1, 2, 3):
            search.wait_for(r"trial 0 starts", count=attempt)
            search.wait_for(r"trial 0 epoch", count=4 * attempt)
            search.find_process(TRIAL).kill()
        search.wait_for(r"trial 0 failed: its process died, 3 times")
        search.wait_for(r"trial 1 epoch 1/")
        search.finish()
    trials = check_study(folder / "results" / "thrice", finished=1, failed=1)
    assert trials["reason"][0] == "its process died, 3 times"


@pytest.mark.parametrize("victim", ["RayTrainWorker", "TrainController", "Mailbox", TRIAL])
def test_a_killed_process_of_a_data_parallel_trial_costs_an_epoch(folder, victim):
    name = f"workers-{victim.lower()}"
    with LiveSearch(folder, words(folder, name, *WORKERS, trials=1, epochs=20)) as search:
        search.wait_for(r"trial 0 epoch 3/")
        search.find_process(victim).kill()
        died = time.monotonic()
        search.wait_for(r"trial 0: .*(died|lost).*attempt 2 of 3")
        search.wait_for(r"trial 0 starts", count=2)
        told = search.said.count("trial 0 epoch ")
        search.wait_for(r"trial 0 epoch ", count=told + 1)
        assert time.monotonic() - died < 120
        said = search.finish()
        assert search.seconds_until_gone() < 10
    assert count_repeats(said) == 0
    check_study(folder / "results" / name, finished=1)


@pytest.mark.parametrize("victim", ["raylet/raylet", "gcs/gcs_server"])
def test_a_search_that_loses_its_ray_ends_in_order_and_the_same_command_goes_on(folder, victim):
    name = f"lost-{victim.rpartition('/')[2]}"
    command = words(folder, name, trials=2, epochs=40)
    with LiveSearch(folder, command) as search:
        search.wait_for(r"trial 0 finished")
        search.wait_for(r"trial 1 epoch 2/")
        search.find_process(victim).kill()
        died = time.monotonic()
        said = search.finish(code=2)
        assert time.monotonic() - died < 45  # Ray's own patience is 60 s
        assert search.seconds_until_gone() < 10
    last = said.splitlines()[-1]
    assert re.match(r"error: Ray's (raylet|control store \(GCS\)) died; 1 of 2 trials are", last)
    assert last.endswith(f"the same command with --name {name} goes on")
    states = pd.read_csv(folder / "results" / name / "trials.csv")["state"]
    # where a call into Ray does not return, the table is that of the last trial's start
    assert states.tolist() in (["COMPLETE", "WAITING"], ["COMPLETE", "RUNNING"])
    assert "trial 1 epoch 1/" not in type_in(folder, *command)
    check_study(folder / "results" / name, finished=2)


@pytest.mark.parametrize("more", [(), WORKERS], ids=["in place", "workers"])
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


@pytest.mark.parametrize("more", [(), WORKERS], ids=["in place", "workers"])
def test_a_trial_whose_epoch_takes_longer_than_the_timeout_trains_on(folder, more):
    """Its process is held up twice within an epoch, which therefore takes longer than that."""
    name = f"slow{len(more)}"
    minutes = 1.0 if more else 0.5  # starting workers is silence, too
    command = words(
        folder, name, *more, "--trial-timeout", str(minutes),
        trials=1, epochs=2, image_size_px=384, global_batch_size=2,
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


@pytest.mark.parametrize("more", [(), WORKERS], ids=["in place", "workers"])
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


def test_two_searches_cannot_share_a_folder(folder):
    command = words(folder, "mine", trials=1, epochs=4000)
    with LiveSearch(folder, command) as search:
        search.wait_for("trial 0 epoch 1/")
        said = type_in(folder, *command, code=2)
        assert "another search is at work in" in said
        search.process.send_signal(signal.SIGINT)
        search.finish(code=130)


@pytest.mark.parametrize("more", [(), WORKERS], ids=["in place", "workers"])
def test_the_first_ctrl_c_stops_cleanly_and_the_second_at_once(folder, more):
    name = f"ctrl-c{len(more)}"
    command = words(folder, name, *SIDE_BY_SIDE, *more, trials=2, epochs=30)
    with LiveSearch(folder, command) as search:
        search.wait_for(r"trial 0 epoch 2/")
        search.process.send_signal(signal.SIGINT)
        said = search.finish(code=130)
        assert search.seconds_until_gone() < 10
    assert said.splitlines()[-1].endswith(f"the same command with --name {name} goes on")
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


def test_max_hours_end_a_search_that_can_be_continued(folder):
    command = words(folder, "hours", *SIDE_BY_SIDE, trials=3, epochs=150)
    said = type_in(folder, *command, "--max-hours", "0.003")
    assert "stopped (--max-hours 0.003 are over): 0 of 3 trials are finished" in said
    waiting = pd.read_csv(folder / "results" / "hours" / "trials.csv")["state"]
    assert set(waiting) == {"WAITING"}
    assert len(waiting) <= 2  # no other one when these have stopped
    assert "goes on" in said.splitlines()[-1]
    type_in(folder, *command)
    check_study(folder / "results" / "hours", finished=3)


@pytest.mark.parametrize("kills", [int(os.environ.get("DRIVER_KILLS", "3"))])
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
    type_in(folder, *command)
    check_study(folder / "results" / "often", finished=4)
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


@pytest.mark.parametrize("more", [(), WORKERS], ids=["in place", "workers"])
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


def test_a_killed_search_leaves_nothing_in_the_folder_for_temporary_files(folder):
    tmp_path = Path(tempfile.mkdtemp(dir="/tmp"))  # short: Ray puts its sockets there
    command = words(folder, "scratch", *WORKERS, trials=1, epochs=30)
    cache = str(folder / "inductor")  # torch's, which all processes share and nobody removes
    with LiveSearch(folder, command, TMPDIR=str(tmp_path), TORCHINDUCTOR_CACHE_DIR=cache) as search:
        search.wait_for("trial 0 epoch 1/")
        assert list(tmp_path.glob("crack-*/r/session_*"))
        search.kill_driver()
        assert search.seconds_until_gone() < 10
        wait_until(lambda: not list(tmp_path.iterdir()) or None, what="end of the guard")
    tmp_path.rmdir()


def test_wait_until_says_what_it_waited_for():
    with pytest.raises(AssertionError, match="no such thing"):
        wait_until(lambda: None, what="no such thing", seconds=0.1)


def test_the_password_of_a_storage_stands_in_no_file_and_no_line(folder, tmp_path):
    scratch = Path(tempfile.mkdtemp(dir="/tmp"))  # short: Ray puts its sockets there
    with s3_server(tmp_path) as server:
        command = words(folder, "secret", *WORKERS, "--storage", server.url(), trials=1, epochs=40)
        with LiveSearch(
            folder, command, TMPDIR=str(scratch), CRACK_ENSEMBLE_CACHE=str(scratch / "cache")
        ) as search:
            search.wait_for(r"trial 0 epoch 2/")
            written = [path for path in scratch.rglob("*") if path.is_file()]
            assert any("session_" in str(path) for path in written)
            holding = [path for path in written if b"Geheim" in path.read_bytes()]
            search.process.send_signal(signal.SIGINT)
            said = search.finish(code=130)
    holding += [
        path
        for place in (folder / "results" / "secret", scratch)
        for path in place.rglob("*")
        if path.is_file() and b"Geheim" in path.read_bytes()
    ]
    shutil.rmtree(scratch)
    assert holding == []
    assert "Geheim" not in said
