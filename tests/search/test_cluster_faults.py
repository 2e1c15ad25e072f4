"""Faults around the search: other Rays on the host, a dead dashboard, a node that goes off."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pandas as pd
import psutil
import pytest
from live_search import LiveSearch, wait_until
from nodes import Cluster, cluster, processes_of_session, trains
from s3_server import s3_server
from steady import SIDE_BY_SIDE, WORKERS, check_study, count_repeats, trial_in, words

pytestmark = pytest.mark.long

NUM_WORKER_TRIALS = int(os.environ.get("WORKER_TRIALS", "4"))
SECOND_RAY = """
import ray, time
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
time.sleep(5)
"""


@contextmanager
def second_rays() -> Iterator[list[float]]:
    """Ray instances that come and go on this host; yields when each had ended."""
    ended: list[float] = []
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            subprocess.run([sys.executable, "-c", SECOND_RAY], capture_output=True, check=True)
            ended.append(time.monotonic())

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()


def kill_dashboard(made: Cluster) -> None:
    """The dashboard, and the agents that are its arms on the nodes, are killed."""
    killed = []
    for node in made.nodes:
        for pid in processes_of_session(node.pid):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                command = " ".join(process.cmdline())
                if "dashboard/dashboard.py" in command or "ray-dashboard" in command:
                    process.kill()
                    killed.append(command)
    assert killed


def test_early_stopping_never_hangs_beside_a_second_ray_that_is_not_ours(folder):
    """On one machine, where each search has a Ray of its own."""
    with second_rays() as ended:
        command = words(folder, "own", *WORKERS, trials=4, epochs=8, grace_epochs=1)
        with LiveSearch(folder, command) as search:
            search.wait_for(r" stopped after epoch")
            search.finish()
        assert ended
    check_study(folder / "results" / "own", finished=4)


@pytest.mark.parametrize(
    ("more", "num_trials"),
    [
        pytest.param(SIDE_BY_SIDE, 12, id="in place", marks=pytest.mark.soak),
        pytest.param(WORKERS, NUM_WORKER_TRIALS, id="workers"),
    ],
)
def test_early_stopping_never_hangs_beside_a_second_ray_and_without_a_dashboard(
    folder, more, num_trials
):
    name = f"hang{len(more)}"
    with cluster(1, cpus=2, dashboard=True) as made, second_rays() as ended:
        command = [
            *words(folder, name, *more, trials=num_trials, epochs=8, grace_epochs=1),
            "--address", made.address,
        ]  # fmt: skip
        with LiveSearch(folder, command, HOME=str(made.home)) as search:
            search.wait_for(r"trial 0 epoch 2/")
            kill_dashboard(made)
            search.wait_for(r" stopped after epoch")
            search.finish(seconds=900)
        assert ended
    trials = check_study(folder / "results" / name, finished=num_trials)
    assert (trials["state"] == "PRUNED").any()


@pytest.mark.parametrize("kind", [pytest.param("folder", marks=pytest.mark.soak), "s3"])
def test_a_killed_node_loses_no_finished_trial_and_the_rest_ends_on_the_other(
    folder, kind, tmp_path
):
    name = f"node-{kind}"
    with cluster(2) as made, s3_server(tmp_path) as server:
        storage = server.url("here") if kind == "s3" else str(tmp_path / "shared")
        command = [
            *words(folder, name, *SIDE_BY_SIDE, trials=6, epochs=40, image_size_px=96),
            "--address", made.address, "--storage", storage,
        ]  # fmt: skip
        with LiveSearch(folder, command, HOME=str(made.home)) as search:
            search.wait_for(r"trial \d+ finished", count=3)
            run = folder / "results" / name
            before = {path.parent.name for path in run.glob("members/*/member.json")}
            assert len(before) >= 3
            wait_until(
                lambda: (
                    all(list(node.cache.glob("packs/*/pack.json")) for node in made.nodes) or None
                ),
                what="a copy of the pack on each node",
            )
            made.nodes[1].kill()
            search.wait_for(r"died; it goes on from its last epoch")
            said = search.finish()
        assert count_repeats(said) == 0
        assert "Geheim" not in said
        assert "Geheim" not in (run / "run.json").read_text()
    check_study(run, finished=6)
    trials = pd.read_csv(run / "trials.csv")
    assert trials["reason"].isna().all()
    for member in before:
        assert (run / "members" / member / "member.json").exists()


def test_workers_that_lost_a_node_wait_for_another_one_and_say_so(folder):
    with cluster(2) as made:
        command = [
            *words(folder, "shrunk", *WORKERS, trials=1, epochs=30),
            "--address", made.address,
        ]  # fmt: skip
        with LiveSearch(folder, command, HOME=str(made.home)) as search:
            search.wait_for(r"trial 0 epoch 3/")
            made.nodes[1].kill()
            search.wait_for(r"attempt 2 of 3")
            for count in (1, 2, 3):  # for longer than Train would by itself
                line = r"waiting for a place for a trial; Ray has .* of 1 CPUs free"
                search.wait_for(line, count=count)
            made.add_node()
            said = search.finish()
    assert count_repeats(said) == 0
    check_study(folder / "results" / "shrunk", finished=1)


def test_a_driver_killed_on_a_cluster_leaves_no_trial_there_and_what_was_finished(folder, tmp_path):
    run = folder / "results" / "gone"
    with cluster(2) as made:
        command = [
            *words(folder, "gone", *SIDE_BY_SIDE, trials=3, epochs=60),
            "--address",
            made.address,
        ]
        with LiveSearch(folder, command, HOME=str(made.home)) as search:
            finished = trial_in(search.wait_for(r"trial \d+ finished"))
            search.wait_for(r"trial 2 epoch 3/")
            search.kill_driver()
            shutil.copy(run / "study.db", tmp_path)  # without its log, as a power cut may leave it
            wait_until(
                lambda: (
                    not any(
                        trains(pid) for node in made.nodes for pid in processes_of_session(node.pid)
                    )
                    or None
                ),
                what="end of the trials",
                seconds=10,
            )
        with LiveSearch(folder, command, HOME=str(made.home)) as search:
            said = search.finish()
    with closing(sqlite3.connect(tmp_path / "study.db")) as database:
        known = dict(database.execute("SELECT number, state FROM trials"))
    assert known[finished] == "COMPLETE"
    assert "epoch 1/" not in said  # all go on from where they were
    check_study(run, finished=3)


def test_a_search_that_loses_the_head_of_its_cluster_ends_in_order(folder):
    with cluster(2) as made:
        command = [
            *words(folder, "headless", *SIDE_BY_SIDE, trials=2, epochs=4000),
            "--address", made.address,
        ]  # fmt: skip
        with LiveSearch(folder, command, HOME=str(made.home)) as search:
            search.wait_for(r"trial 0 epoch 2/")
            made.nodes[0].kill()
            died = time.monotonic()
            said = search.finish(code=2)
            assert time.monotonic() - died < 100
        last = said.splitlines()[-1]
        assert last.startswith(f"error: the cluster's head at {made.address} is gone (")
        assert last.endswith("goes on")
