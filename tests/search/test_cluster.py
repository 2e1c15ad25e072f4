"""Searches on real clusters of several nodes, and what cannot be joined."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import pandas as pd
import psutil
import pytest
from nodes import RAY, cluster, free_ip, processes_of_session, trains
from person import ROOT, SEARCH, TINY, type_in
from ports import listening_beyond_the_host
from steady import SIDE_BY_SIDE
from talkative import COMPLAINS, make_talkative

from ensemble.base.errors import InputError
from ensemble.search.cluster.connection import (
    Head,
    check_wait,
    find_head,
    join_cluster,
    prepare_environment,
    ray_environment,
    start_local_ray,
)

TOKEN = "5" * 64
NO_HEAD = "what listens there is no Ray head"


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """Two nodes of one core, to which jobs can be submitted; trials print on them."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            talkative = make_talkative(tmp_path_factory.mktemp("path") / "talkative")
            patch.setenv("PYTHONPATH", talkative, prepend=os.pathsep)
            made = stack.enter_context(cluster(2, dashboard=True))
        yield made


def as_words(made, **environment):
    """The command `env`, with which a command runs as on one of the cluster's nodes."""
    return ["env", *(f"{k}={v}" for k, v in {"HOME": made.home, **environment}.items())]


class Watch:
    """Notes which nodes run trials while the block lasts.

    The first worker of a node may take longer to start than a few tiny trials: let there be many.
    """

    def __init__(self, made):
        self._made, self.nodes, self._over = made, set(), threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self):
        while not self._over.wait(0.1):
            for node in self._made.nodes:
                if any(trains(pid) for pid in processes_of_session(node.pid)):
                    self.nodes.add(node.ip)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def check_finished(run, num_trials):
    trials = pd.read_csv(run / "trials.csv")
    assert len(trials) == num_trials
    assert trials["state"].isin(["COMPLETE", "PRUNED"]).all()


@pytest.mark.long
def test_trials_run_on_all_nodes_of_the_cluster(two_nodes, folder):
    words = [*SEARCH, "--data", "tiles", *TINY, *SIDE_BY_SIDE, "--trials", "40"]
    words += ["--name", "all", "--address", two_nodes.address]
    with Watch(two_nodes) as watch:
        said = type_in(folder, *as_words(two_nodes), *words)
    assert f"joined the Ray cluster at {two_nodes.address} (--address)" in said
    assert "2 trials at a time, 1 thread each" in said
    assert watch.nodes == {node.ip for node in two_nodes.nodes}
    run = folder / "results" / "all"
    check_finished(run, 40)
    marks = re.findall(rf"\((.*pid=\d+.*)\) {COMPLAINS}", (run / "ray.log").read_text())
    packages = re.findall(r"\(.*pid=\d+.*\) the package is (.*)", (run / "ray.log").read_text())
    assert packages
    assert all("/py_modules_files/" in package for package in packages), packages
    assert any(f", ip={two_nodes.nodes[1].ip}" in mark for mark in marks), marks
    assert any(", ip=" not in mark for mark in marks), marks  # of the node that the driver is on
    assert COMPLAINS not in said


@pytest.mark.long
def test_a_submitted_job_is_a_search_on_all_nodes(two_nodes, folder):
    """The job brings its working directory, the search its package: Ray must merge the two."""
    code = folder / "code"
    code.mkdir()
    for name in ("ensemble", "scripts", "search_spaces"):
        (code / name).symlink_to(ROOT / name)
    with Watch(two_nodes) as watch:
        said = type_in(
            folder, *as_words(two_nodes), *RAY, "job", "submit", "--address", two_nodes.dashboard,
            "--working-dir", str(code), "--", "python", "scripts/search.py", *TINY,
            *SIDE_BY_SIDE, "--trials", "40", "--data", str(folder / "tiles"),
            "--out", str(folder / "results"), "--name", "job",
        )  # fmt: skip
    assert f"joined the Ray cluster at {two_nodes.address} (RAY_ADDRESS)" in said
    assert watch.nodes == {node.ip for node in two_nodes.nodes}
    check_finished(folder / "results" / "job", 40)


@pytest.mark.long
def test_what_the_cluster_cannot_place_is_refused_before_anything_is_read(two_nodes, tmp_path):
    """The other reasons are those of `plan_budget`, which has tests of its own."""
    words = [*SEARCH, "--data", "synthetic", "--space", "demo", "--address", two_nodes.address]
    with subprocess.Popen(
        [*as_words(two_nodes), *words, "--cpus", "3"], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert "is loading" in process.stdout.readline()
        assert "joined" in process.stdout.readline()
        spent = psutil.Process(process.pid).cpu_times
        spent_before = sum(spent()[:2])
        said = process.stderr.readline()
        assert sum(spent()[:2]) - spent_before < 1  # of a core: other processes do not count
        assert process.wait(timeout=30) == 2
    first, second = sorted(node.ip for node in two_nodes.nodes)
    assert f"--cpus 3: the cluster has 2 ({first}: 1, {second}: 1) cores" in said
    assert "or --wait 30 to wait for more nodes" in said
    assert not any(tmp_path.iterdir())


@pytest.mark.long
def test_a_cluster_that_asks_for_a_token_gets_it_or_the_person_learns_where_to_put_it(
    folder, tmp_path
):
    with cluster(1, token=TOKEN) as made:
        words = [*SEARCH, "--data", "tiles", "--space", "demo", "--gpus", "0", "--epochs", "1",
                 "--trials", "1", "--image-size", "32", "--address", made.address]  # fmt: skip
        type_in(folder, *as_words(made), *words, "--name", "token")
        check_finished(folder / "results" / "token", 1)

        (tmp_path / "wrong" / ".ray").mkdir(parents=True)
        (tmp_path / "wrong" / ".ray" / "auth_token").write_text("6" * 64)
        for home in (tmp_path, tmp_path / "wrong"):
            began = time.monotonic()
            said = type_in(folder, *as_words(made, HOME=home), *words, "--name", "no", code=2)
            assert f"--address {made.address}: the cluster asks for a token" in said
            assert "put the cluster's into" in said
            assert time.monotonic() - began < 30  # Python and torch start in that, too
    assert not (folder / "results" / "no").exists()


@pytest.mark.long
def test_a_search_waits_until_a_node_comes_and_no_longer_than_told(folder):
    with cluster(1) as made:
        words = [*as_words(made), *SEARCH, "--data", "tiles", *TINY, "--trials", "2"]
        words += [*SIDE_BY_SIDE, "--address", made.address, "--wait"]
        said = type_in(folder, *words, "0.02", "--name", "in-vain", code=2)
        assert "--cpus 2: the cluster has 1 cores after --wait 0.02 (minutes)" in said
        assert not (folder / "results" / "in-vain").exists()
        with subprocess.Popen(
            [*words, "5", "--name", "waited"], cwd=folder, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process:  # fmt: skip
            for line in process.stdout:
                if line.startswith("waiting for nodes: --cpus 2: the cluster has 1"):
                    made.add_node()
            assert process.wait(timeout=30) == 0
        check_finished(folder / "results" / "waited", 2)


def test_the_detector_of_ports_finds_one(tmp_path):
    with socket.create_server(("0.0.0.0", 0)) as server:
        ports = {port for _, port in listening_beyond_the_host(os.getpid())}
        assert server.getsockname()[1] in ports
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = {port for _, port in listening_beyond_the_host(os.getpid())}
        assert server.getsockname()[1] not in ports


@pytest.mark.parametrize(
    ("given", "environment", "head"),
    [
        (None, None, None),
        (None, "", None),
        (None, "local", None),
        (None, "10.0.0.5:6379", Head("10.0.0.5:6379", "RAY_ADDRESS")),
        (None, "auto", Head("auto", "RAY_ADDRESS")),
        ("10.0.0.6:6379", "10.0.0.5:6379", Head("10.0.0.6:6379", "--address")),
        ("10.0.0.6:6379", "ray://10.0.0.5:10001", Head("10.0.0.6:6379", "--address")),
        ("[fd00::2]:6379", None, Head("[fd00::2]:6379", "--address")),
    ],
)
def test_the_option_comes_before_the_environment(given, environment, head, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert find_head(given) == head


@pytest.mark.parametrize(
    "address",
    ["", "10.0.0.5", ":6379", "host:", "host:port", "host:0", "host:65536", "ray://host:10001",
     "http://host:8265", "https://host:8265"],
)  # fmt: skip
def test_an_address_that_no_search_can_join_is_refused(address, monkeypatch):
    with pytest.raises(InputError, match="HOST:PORT"):
        find_head(address)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InputError, match=r"^RAY_ADDRESS .* 10\.0\.0\.5:6379"):
            find_head(None)


@pytest.mark.long
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"", NO_HEAD, id="hangs up", marks=pytest.mark.soak),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", NO_HEAD, id="answers something else"),
        pytest.param(None, "no Ray cluster there", id="is not there"),
    ],
)
def test_what_listens_and_is_no_head_is_refused(answer, reason, capfd):
    ip = free_ip()  # Ray takes 127.0.0.1 for the host's own address
    with socket.create_server((ip, 0)) as server:
        address = f"{ip}:{server.getsockname()[1]}"
        if answer is None:
            server.close()
        else:
            threading.Thread(target=answer_all, args=(server, answer), daemon=True).start()
        began = time.monotonic()
        with (
            pytest.raises(InputError, match=rf"^--address {re.escape(address)}: {reason} "),
            join_cluster(Head(address, "--address")),
        ):
            pass
    assert time.monotonic() - began < 60  # Ray tries for 40 s
    assert capfd.readouterr() == ("", "")


def answer_all(server, answer):
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)


@pytest.mark.parametrize("minutes", ["nan", "-1"])
def test_minutes_to_wait_that_are_none_are_refused(folder, minutes):
    assert "--wait" in type_in(folder, *SEARCH, "--data", "tiles", "--wait", minutes, code=2)


def test_waiting_on_one_machine_alone_is_refused():
    with pytest.raises(InputError, match="--wait 5: there is nothing to wait for without --addr"):
        check_wait(5, None)


TWICE = """
import os
import ray
from ensemble.search.cluster.connection import prepare_environment, start_local_ray

for _ in range(2):
    prepare_environment(None)
    with start_local_ray(num_cpus=1, num_gpus=0, way_on=""):
        print("token", os.environ["RAY_AUTH_TOKEN"])
"""


@pytest.mark.slow
def test_a_process_may_search_again_as_a_notebook_does(tmp_path):
    """Each time with another token, of which Ray keeps none but the first unless it is told.

    Nor does it look at variables that were set after it was imported.
    """
    said = type_in(tmp_path, sys.executable, "-c", TWICE)
    assert len(set(re.findall("^token (.*)$", said, re.MULTILINE))) == 2


def test_a_process_that_is_connected_to_a_ray_already_is_told_so(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with (
        pytest.raises(InputError, match=r"^this process is connected to a Ray already; call ray\."),
        start_local_ray(num_cpus=1, num_gpus=0, way_on=""),
    ):
        pass


def test_a_search_alone_has_a_token_of_its_own_and_writes_none(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("RAY_", "TUNE_", "GLOO", "NCCL"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", {**os.environ, "HOME": str(tmp_path)})
    with ray_environment(None):
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert not any(tmp_path.iterdir())
    prepare_environment(Head("10.0.0.5:6379", "--address"))
    assert "RAY_AUTH_MODE" not in os.environ  # a cluster would be told the token of that search


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({"RAY_AUTH_MODE": "token"}, ".ray/auth_token"),
        ({"RAY_AUTH_TOKEN_PATH": "nowhere"}, "nowhere"),
        ({"RAY_AUTH_TOKEN_PATH": "empty"}, "empty"),
        ({"RAY_AUTH_TOKEN": " "}, "RAY_AUTH_TOKEN"),
    ],
)
def test_a_token_that_is_asked_for_and_not_there_is_named(
    environment, where, monkeypatch, tmp_path
):
    (tmp_path / "empty").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), **environment})
    head = Head("10.0.0.5:6379", "--address")
    message = rf"--address 10\.0\.0\.5:6379: .*{where} holds no token; put the cluster's there"
    with pytest.raises(InputError, match=message):
        prepare_environment(head)


def test_an_empty_file_of_a_token_that_nobody_named_is_none(monkeypatch, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch()
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    prepare_environment(Head("10.0.0.5:6379", "--address"))
    assert "RAY_AUTH_MODE" not in os.environ


def test_a_ray_that_does_not_start_is_one_line_with_the_way_on(folder):
    """Ray waits no second for its control store, as on a machine where that takes too long."""
    impatient = ["env", "RAY_gcs_server_port_wait_time_s=0", "RAY_ADDRESS="]
    said = type_in(
        folder, *impatient, *SEARCH, "--data", "tiles", *TINY, "--name", "late", code=2
    ).splitlines()
    assert said[-1].startswith("error: Ray did not start on this machine (Timed out waiting for")
    assert said[-1].endswith(
        "wait or end other programs, then the same command with --name late goes on"
    )
    assert not (folder / "results" / "late").exists()
