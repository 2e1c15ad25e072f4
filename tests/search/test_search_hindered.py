"""A search that stands still, or whose disk or tiles go bad, loses nothing and fails no trial."""

import subprocess
import time
from contextlib import suppress

import pandas as pd
import psutil
import pytest
from live_search import LiveSearch
from person import type_in
from steady import SIDE_BY_SIDE, check_study, words

pytestmark = pytest.mark.long


def test_a_search_that_stood_still_longer_than_trial_timeout_goes_on_without_a_loss(folder):
    """As in a paused container or a suspended Slurm job; the watch is faster than its trials."""
    command = words(folder, "still", *SIDE_BY_SIDE, "--trial-timeout", "0.5", trials=2, epochs=30)
    with LiveSearch(folder, command) as search:
        search.wait_for(r"trial [01] epoch 2/", count=2)
        stopped = [psutil.Process(search.process.pid), *search.processes("")]
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        time.sleep(33)  # longer than --trial-timeout
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        said = search.finish()
    assert "reported nothing" not in said
    check_study(folder / "results" / "still", finished=2)


def test_a_run_that_cannot_be_written_ends_in_order_and_goes_on_later(folder):
    """As on a shared disk that is gone: not full, and every write fails."""
    command = words(folder, "frozen", trials=2, epochs=40)
    run = folder / "results" / "frozen"
    with LiveSearch(folder, command) as search:
        search.wait_for(r"trial 0 epoch 3/")
        places = [str(run), str(run / "members" / "0000")]
        if subprocess.run(["chattr", "+i", *places], capture_output=True).returncode:
            pytest.skip("files cannot be made immutable here")
        try:
            said = search.finish(code=2)
            assert search.seconds_until_gone() < 10
            again = type_in(folder, *command, code=2)
        finally:
            subprocess.run(["chattr", "-i", *places], check=True)
    last = said.splitlines()[-1]
    assert last.startswith("error: ")
    assert "cannot be written (" in last
    assert "0 of 2 trials are finished; the same command" in last
    assert again.splitlines()[-1].startswith(f"error: {run} cannot be written")
    said = type_in(folder, *command)
    assert "trial 0 epoch 1/" not in said
    check_study(run, finished=2)


def test_tiles_that_are_cut_off_while_they_are_mapped_end_the_search_and_fail_no_trial(folder):
    command = words(folder, "cut", "--max-failures", "1", trials=2, epochs=40)
    (folder / "packs of its own").mkdir()
    command += ["--out", "packs of its own"]
    with LiveSearch(folder, command) as search:
        search.wait_for(r"trial 0 epoch 3/")
        (pixels,) = (folder / "packs of its own" / "packs").glob("*/development.npy")
        with pixels.open("rb+") as file:
            file.truncate(10_000)
        said = search.finish(code=2)
    assert "development.npy is damaged" in said.splitlines()[-1]
    assert "delete the folder" in said.splitlines()[-1]
    run = folder / "packs of its own" / "cut"
    assert set(pd.read_csv(run / "trials.csv")["state"]) == {"WAITING"}
    assert type_in(folder, *command, code=2).count("development.npy is damaged") == 1
    for file in pixels.parent.iterdir():
        file.unlink()
    pixels.parent.rmdir()
    said = type_in(folder, *command)
    assert "trial 0 epoch 1/" not in said
    check_study(run, finished=2)
