"""Real Ray clusters for tests: each node is a `ray start` of its own, with its own address.

The nodes have addresses of 127.0.0.0/8, which nothing outside the host reaches. Ports and home
folder are the cluster's own, and the processes of a node are ended by their Unix session. Each node
has its own temporary folder, because a node removes files from a common one that another needs.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

RAY = [str(Path(sys.executable).with_name("ray"))]
START_SECONDS = 90


@dataclass
class RayNode:
    """One node; all processes that `ray start` started are in one Unix session."""

    ip: str
    process: subprocess.Popen[bytes]
    log: Path
    cache: Path

    @property
    def pid(self) -> int:
        """Process id of `ray start`, which has ended; it is also the number of the session."""
        return self.process.pid

    def kill(self) -> None:
        """End all processes of the node at once, as when a machine loses its power."""
        while left := processes_of_session(self.pid):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


@dataclass
class Cluster:
    """A running cluster, head first.

    Attributes:
        address: HOST:PORT of the head.
        dashboard: URL of the dashboard; "" without one.
        home: Home folder of all nodes; a token is in `.ray/auth_token`.
        environment: Environment of a command that runs as on one of the nodes.
        nodes: Nodes that were started.
    """

    address: str
    dashboard: str
    home: Path
    environment: dict[str, str]
    _auth_mode: str
    _folder: Path
    nodes: list[RayNode] = field(default_factory=list)

    def add_node(self, *words: str, cpus: int = 1) -> RayNode:
        """Start one more node and wait until it has joined."""
        first = ["--head"] if not self.nodes else [f"--address={self.address}"]
        ip = self.address.rpartition(":")[0] if not self.nodes else free_ip()
        temporary = self._folder / str(len(self.nodes))
        log = self._folder / f"node-{len(self.nodes)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*RAY, "start", *first, f"--node-ip-address={ip}", f"--num-cpus={cpus}",
                 "--num-gpus=0", f"--temp-dir={temporary}", "--disable-usage-stats",
                 "--object-store-memory=100000000",
                 f"--dashboard-agent-listen-port={free_port(ip)}", *words],
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env={
                    **self.environment,
                    "RAY_AUTH_MODE": self._auth_mode,
                    "CRACK_ENSEMBLE_CACHE": str(temporary.with_suffix(".cache")),
                },
            )  # fmt: skip
        node = RayNode(ip, process, log, temporary.with_suffix(".cache"))
        self.nodes.append(node)
        try:
            code = process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            raise RuntimeError(f"a node did not start: {log.read_text()[-2000:]}")
        return node


@contextmanager
def cluster(
    num_nodes: int, *, cpus: int = 1, dashboard: bool = False, token: str | None = None
) -> Iterator[Cluster]:
    """Run a cluster of nodes on this host for as long as the block lasts.

    Args:
        num_nodes: Number of nodes, the head included.
        cpus: Number of cores of each node.
        dashboard: Whether jobs can be submitted.
        token: Token that the head asks for; None for a cluster without tokens.
    """
    # short: the path of a socket has at most 107 characters
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    home = folder / "home"
    (home / ".ray").mkdir(parents=True)
    if token is not None:
        (home / ".ray" / "auth_token").write_text(token)
    ip = free_ip()
    port, client_port, dashboard_port = (free_port(ip) for _ in range(3))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # for jobs
        "RAY_TMPDIR": str(folder),  # else "auto" of others on this host would find this one
    }
    head = [f"--port={port}", f"--ray-client-server-port={client_port}"]
    head += [f"--include-dashboard={str(dashboard).lower()}"]
    head += [f"--dashboard-host={ip}", f"--dashboard-port={dashboard_port}"]
    url = f"http://{ip}:{dashboard_port}" if dashboard else ""
    auth_mode = "disabled" if token is None else "token"
    made = Cluster(f"{ip}:{port}", url, home, environment, auth_mode, folder)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(_end_all, made)
        made.add_node(*head, cpus=cpus)
        for _ in range(num_nodes - 1):
            made.add_node(cpus=cpus)
        yield made


def _end_all(made: Cluster) -> None:
    for node in reversed(made.nodes):
        node.kill()
    left = [pid for node in made.nodes for pid in processes_of_session(node.pid)]
    assert not left, f"processes of a test's cluster are left: {left}"


def processes_of_session(session: int) -> list[int]:
    """Process ids of a Unix session, zombies left out.

    A process group would not do: Ray gives each worker a group of its own.
    """
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, number = stat.read_text().rpartition(")")[2].split()[:4]
            if int(number) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


def trains(pid: int) -> bool:
    """Whether a process is an actor of Tune that trains trials."""
    return title(pid).startswith(("ray::Trial", "ray::ResourceTrainable"))


def title(pid: int) -> str:
    """Command line of a process; "" once it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def free_ip() -> str:
    """A random loopback address, which no other cluster of this host is likely to have."""
    return "127." + ".".join(str(1 + byte % 254) for byte in os.urandom(3))


def free_port(ip: str) -> int:
    """A port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind((ip, 0))
        return int(listener.getsockname()[1])
