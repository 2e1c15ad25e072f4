"""Searches on real clusters of several nodes, and what a Ray of our own shows to the network."""

import os
import re
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
from nodes import RAY, cluster, processes_of_session, title, trains
from person import ROOT, SEARCH, TINY, type_in
from steady import SIDE_BY_SIDE, WORKERS
from talkative import COMPLAINS, make_talkative

from ensemble.base.errors import InputError
from ensemble.search.cluster.connection import Head, find_head, prepare_environment

TOKEN = "5" * 64


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
@pytest.mark.parametrize("how", ["--address", "RAY_ADDRESS"])
def test_trials_run_on_all_nodes_of_the_cluster(how, two_nodes, folder):
    words = [*SEARCH, "--data", "tiles", *TINY, *SIDE_BY_SIDE, "--trials", "40"]
    words += ["--name", how.strip("-")]
    with Watch(two_nodes) as watch:
        if how == "--address":
            said = type_in(folder, *as_words(two_nodes), *words, how, two_nodes.address)
        else:
            said = type_in(folder, *as_words(two_nodes, RAY_ADDRESS=two_nodes.address), *words)
    assert f"joined the Ray cluster at {two_nodes.address} ({how})" in said
    assert "2 trials at a time, 1 thread each" in said
    assert watch.nodes == {node.ip for node in two_nodes.nodes}
    run = folder / "results" / how.strip("-")
    check_finished(run, 40)
    marks = re.findall(rf"\((.*pid=\d+.*)\) {COMPLAINS}", (run / "ray.log").read_text())
    packages = re.findall(r"\(.*pid=\d+.*\) the package is (.*)", (run / "ray.log").read_text())
    assert packages
    assert all("/py_modules_files/" in package for package in packages), packages
    assert any(f", ip={two_nodes.nodes[1].ip}" in mark for mark in marks), marks
    assert any(", ip=" not in mark for mark in marks), marks  # of the node that the driver is on
    assert COMPLAINS not in said


@pytest.mark.long
def test_workers_of_a_trial_spread_over_nodes(two_nodes, folder):
    said = type_in(
        folder, *as_words(two_nodes), *SEARCH, "--data", "tiles", *TINY, *WORKERS,
        "--trials", "1", "--address", two_nodes.address, "--name", "spread",
    )  # fmt: skip
    assert "1 trial at a time, on 2 Ray Train workers" in said
    check_finished(folder / "results" / "spread", 1)


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
    words = [*SEARCH, "--data", "synthetic", "--space", "demo", "--address", two_nodes.address]
    first, second = sorted(node.ip for node in two_nodes.nodes)
    for asked, reason in (
        (
            ["--gpus", "8"],
            f"--gpus 8: the cluster has none ({first}: 0, {second}: 0); ask for fewer",
        ),
        (["--cpus", "3"], f"--cpus 3: the cluster has 2 ({first}: 1, {second}: 1) cores"),
        (["--workers-per-trial", "3"], "3 workers a trial on 2 CPU slots"),
    ):
        said = type_in(tmp_path, *as_words(two_nodes), *words, *asked, code=2)
        assert reason in said
        assert "or --wait 30 to wait for more nodes" in said
    assert not any(tmp_path.iterdir())


@pytest.mark.long
def test_a_refusal_takes_no_longer_than_a_second_once_ray_is_there(two_nodes, tmp_path):
    words = [*SEARCH, "--data", "synthetic", "--space", "demo", "--address", two_nodes.address]
    with subprocess.Popen(
        [*as_words(two_nodes), *words, "--cpus", "3"], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert "is loading" in process.stdout.readline()
        assert "joined" in process.stdout.readline()
        joined, spent = time.monotonic(), psutil.Process(process.pid).cpu_times
        spent_before = sum(spent()[:2])
        assert "--cpus 3" in process.stderr.readline()
        assert sum(spent()[:2]) - spent_before < 1  # of a core: other processes do not count
        assert time.monotonic() - joined < 10
        assert process.wait(timeout=30) == 2


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
        (tmp_path / "empty" / ".ray").mkdir(parents=True)
        (tmp_path / "empty" / ".ray" / "auth_token").touch()
        for environment in (
            {"HOME": tmp_path},
            {"HOME": tmp_path / "wrong"},
            {"HOME": tmp_path / "empty"},
            {"HOME": tmp_path, "RAY_AUTH_MODE": "token"},
            {"HOME": tmp_path, "RAY_AUTH_TOKEN_PATH": tmp_path / "nowhere"},
        ):
            began = time.monotonic()
            said = type_in(folder, *as_words(made, **environment), *words, "--name", "no", code=2)
            assert f"--address {made.address}" in said
            assert "token" in said
            assert "put the cluster's" in said
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


def listening_beyond_the_host(pid):
    """(process, port) of everything below `pid` that listens on another address than loopback."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    inodes = {}
    for member in family:
        with suppress(OSError):
            for link in Path(f"/proc/{member}/fd").iterdir():
                with suppress(OSError):
                    inodes[str(link.readlink())] = title(member).split("\0")[0]
    loopback = ("0100007F", f"{1 << 24:032X}", "0000000000000000FFFF00000100007F")
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            address, _, port = columns[1].partition(":")
            owner = inodes.get(f"socket:[{columns[9]}]")
            if columns[3] == "0A" and owner is not None and address not in loopback:  # 0A: LISTEN
                found.add((owner, int(port, 16)))
    return found


def search_and_watch_ports(folder, *words):
    with subprocess.Popen(
        [*SEARCH, "--data", "tiles", *TINY, *words], cwd=folder, text=True, stdout=subprocess.PIPE
    ) as process:
        found = set()
        while process.poll() is None:
            found |= listening_beyond_the_host(process.pid)
            time.sleep(0.5)  # a look costs a tenth of a second of a core
        said = process.stdout.read()
    assert process.returncode == 0, said
    return found


@pytest.mark.long
def test_nothing_of_a_search_on_one_machine_listens_beyond_it(folder):
    assert not search_and_watch_ports(folder, "--trials", "2", "--name", "alone")


@pytest.mark.long
def test_of_a_trial_on_workers_only_the_rendezvous_of_torch_listens_beyond_the_machine(folder):
    """torch.distributed's TCPStore listens everywhere, whatever its address; gloo does not."""
    found = search_and_watch_ports(folder, "--trials", "1", *WORKERS, "--name", "alone-parallel")
    assert len({port for _, port in found}) <= 1, found


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
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def test_what_listens_and_is_no_head_is_refused(answer, folder):
    """It hangs up, answers something else, or is not there at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if answer is None:
            server.close()
        else:
            threading.Thread(target=answer_all, args=(server, answer), daemon=True).start()
        began = time.monotonic()
        said = type_in(folder, *SEARCH, "--data", "tiles", *TINY, "--address", address, code=2)
    assert f"error: --address {address}: " in said
    assert time.monotonic() - began < 40


def answer_all(server, answer):
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)


@pytest.mark.long
def test_waiting_on_one_machine_alone_is_refused(folder):
    for wait in ("5", "nan", "-1"):
        said = type_in(folder, "env", "RAY_ADDRESS=", *SEARCH, "--data", "tiles", "--wait", wait,
                       "--space", "demo", code=2)  # fmt: skip
        assert "--wait" in said


def test_a_search_alone_has_a_token_of_its_own_and_writes_none(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("RAY_", "TUNE_", "GLOO", "NCCL"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", {**os.environ, "HOME": str(tmp_path)})
    prepare_environment(None)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert not any(tmp_path.iterdir())


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
