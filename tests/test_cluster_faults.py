"""Faults around the search: other Rays on the host, a dead dashboard, a node that goes off."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pandas as pd
import psutil
import pytest
from live_search import LiveSearch, wait_until
from nodes import Cluster, cluster, processes_of_session
from s3_server import s3_server
from steady import WORKERS, check_study, words

pytestmark = pytest.mark.long

NUM_WORKER_TRIALS = int(os.environ.get("WORKER_TRIALS", "6"))
SECOND_RAY = """
import ray, time
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
time.sleep(2)
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


@pytest.mark.parametrize(
    ("more", "num_trials"),
    [((), 20), (WORKERS, NUM_WORKER_TRIALS)],
    ids=["in place", "workers"],
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


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_killed_node_loses_no_finished_trial_and_the_rest_ends_on_the_other(
    folder, kind, tmp_path
):
    name = f"node-{kind}"
    with cluster(2) as made, s3_server(tmp_path) as server:
        storage = server.url("here") if kind == "s3" else str(tmp_path / "shared")
        command = [
            *words(folder, name, trials=8, epochs=40, image_size_px=96),
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
        assert "Geheim" not in said
        assert "Geheim" not in (run / "run.json").read_text()
    check_study(run, finished=8)
    trials = pd.read_csv(run / "trials.csv")
    assert trials["reason"].isna().all()
    for member in before:
        assert (run / "members" / member / "member.json").exists()
