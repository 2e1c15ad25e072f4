"""A server from its start to Ctrl-C: Ray, Serve, and what is printed."""

import logging
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from ensemble.base.errors import InputError, one_line
from ensemble.base.interruption import handled_by
from ensemble.base.wording import plural
from ensemble.release.archive import export_run
from ensemble.run.exported import is_exported, is_graph
from ensemble.run.members import name_run
from ensemble.run.onnx_file import OnnxGraph
from ensemble.search.budget import Node
from ensemble.search.cluster.connection import (
    Head,
    alive_nodes,
    find_head,
    join_cluster,
    prepare_environment,
    start_local_ray,
)
from ensemble.search.cluster.ray_log import log_ray_to
from ensemble.search.plan import this_machine
from ensemble.serving.application import Limits

TOKEN_VARIABLE = "CRACK_ENSEMBLE_TOKEN"
LEAST_TOKEN = 16  # characters
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Place:
    """Address and machine of a server.

    Attributes:
        host: Address that it listens on.
        port: Port there.
        address: Ray cluster to join; None starts Ray on this machine.
        gpus: GPUs in all, one for each replica; None takes all there are.
        cpus: Cores in all, where no GPU is used; None takes all there are.
        replicas: Replicas; None takes one for each GPU, or one for each machine.
    """

    host: str
    port: int
    address: str | None
    gpus: int | None
    cpus: int | None
    replicas: int | None

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return self.host == "localhost" or ip_address(self.host).is_loopback

    @property
    def names(self) -> list[str]:
        """Names that it may be called by: on the loopback no other, as a stranger's page may."""
        return [*LOOPBACK_NAMES, self.host] if self.is_loopback else ["*"]

    @property
    def url(self) -> str:
        """Its address from this machine."""
        is_any = self.host != "localhost" and ip_address(self.host).is_unspecified
        host = "127.0.0.1" if is_any else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


class Share(NamedTuple):
    """What replicas there are, and what each of them has."""

    num_replicas: int
    cores: int
    gpus: int

    def __str__(self) -> str:
        has = "a GPU" if self.gpus else plural(self.cores, "core")
        return (
            f"{plural(self.num_replicas, 'replica')} with {has}{' each' * (self.num_replicas > 1)}"
        )


def share_machines(place: Place, nodes: Sequence[Node]) -> Share:
    """Divide GPUs or cores among replicas, each of which lies on one machine.

    Args:
        place: What is asked for.
        nodes: The machines that there are.

    Raises:
        InputError: There are fewer GPUs or cores than are asked for.
    """
    num_gpus = sum(node.num_gpus for node in nodes)
    num_cpus = sum(node.num_cpus for node in nodes)
    for option, asked, there in (
        ("--gpus", place.gpus, num_gpus),
        ("--cpus", place.cpus, num_cpus),
    ):
        if asked is not None and asked > there:
            raise InputError(f"{option} {asked}: there are {there}")
    gpus = num_gpus if place.gpus is None else place.gpus
    cpus = num_cpus if place.cpus is None else place.cpus
    with_cores = sum(node.num_cpus > 0 for node in nodes)
    replicas = place.replicas or gpus or max(1, min(with_cores, cpus))
    if replicas > (gpus or cpus):
        what = plural(gpus, "GPU") if gpus else plural(cpus, "core")
        raise InputError(f"--replicas {replicas}: there are {what}, and each replica needs one")
    cores = 1 if gpus else cpus // replicas
    while not gpus and sum(node.num_cpus // cores for node in nodes) < replicas:
        cores -= 1
    return Share(replicas, cores, min(gpus, 1))


def judged_on_cpu(place: Place) -> Place:
    """The place of a server whose ensemble is a graph of ONNX, which runs on the CPU.

    Raises:
        InputError: GPUs are asked for.
    """
    if place.gpus:
        raise InputError(
            f"--gpus {place.gpus}: a graph of ONNX is judged on the CPU; serve the run, or its .zip"
        )
    return replace(place, gpus=0)


def check_place(place: Place) -> None:
    """Refuse, before anything is loaded, an address that cannot be listened on.

    Raises:
        InputError: It is none, or is taken.
    """
    try:
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((place.host, place.port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"--host {place.host} --port {place.port}: cannot be listened on ({reason}); choose "
            "another --port, or an address of this machine"
        ) from None


def read_exported(run: Path) -> bytes:
    """The ensemble of a run, or of the file that `export` wrote, as that file's content.

    Raises:
        InputError: The run was not evaluated, a file of it is damaged, or onnxruntime is not there
            for a graph of ONNX.
    """
    if is_exported(run):
        if is_graph(run):
            OnnxGraph(run)  # is refused here, and not by a replica
        return run.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        return export_run(run, Path(folder) / f"{run.name}.zip").file.read_bytes()


@contextmanager
def serving(
    run: Path,
    place: Place,
    limits: Limits,
    *,
    token: str | None,
    ray_log: Path,
    log: Callable[[str], None],
) -> Iterator[None]:
    """Within, a server listens; at the end what it is judging is still answered.

    Args:
        run: Folder of an evaluated run, or the file that `export` wrote.
        place: Address and machine of the server.
        limits: What it takes.
        token: Bearer token that it asks for; None asks for none.
        ray_log: File for what Ray and Serve log.
        log: Takes lines for the person.

    Raises:
        InputError: The run has no ensemble, the place cannot be had, or the server does not start.
    """
    exported = read_exported(run)
    if is_graph(run):
        place = judged_on_cpu(place)
    head, here = find_head(place.address), this_machine()
    prepare_environment(head)
    if head is None:  # refused before Ray is started
        share_machines(place, [here])
    with _connected(head, here, log), log_ray_to(ray_log):
        from ray import serve  # which reads its environment then

        from ensemble.serving.deployments import APPLICATION

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        settings = {
            "about": {"run": name_run(run)},
            "limits": limits,
            "token": token,
            "hosts": place.names,
        }
        try:
            _start(exported, place, limits, settings, log, ray_log=ray_log)
            yield
        finally:
            if head is None:
                serve.shutdown()
            else:
                serve.delete(APPLICATION)  # others may serve there, too


def _start(
    exported: bytes,
    place: Place,
    limits: Limits,
    settings: dict[str, Any],
    log: Callable[[str], None],
    *,
    ray_log: Path,
) -> None:
    """Start Serve where it does not run yet, and wait for the replicas."""
    from ray import serve

    from ensemble.serving.deployments import APPLICATION, make_deployments

    share = share_machines(place, alive_nodes())
    log(f"starting {share}")
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    deployments = make_deployments(
        exported,
        num_replicas=share.num_replicas,
        cores_per_replica=share.cores,
        gpus_per_replica=share.gpus,
        limits=limits,
        settings=settings,
    )
    try:
        serve.start(http_options={"host": place.host, "port": place.port}, logging_config=quiet)
        serve.run(deployments, name=APPLICATION, route_prefix="/", logging_config=quiet)
    except RuntimeError as error:
        raise InputError(
            f"the server does not start: {one_line(str(error))} {ray_log} says why"
        ) from None


@contextmanager
def _connected(head: Head | None, here: Node, log: Callable[[str], None]) -> Iterator[None]:
    """Within, be connected to a cluster or to a Ray of our own."""
    if head is not None:
        log(f"joined the Ray cluster at {head.address} ({head.origin})")
        with join_cluster(head):
            yield
        return
    log("starting Ray on this machine")
    with start_local_ray(num_cpus=here.num_cpus, num_gpus=here.num_gpus, way_on="serve again"):
        yield


def choose_token(given: str | None, *, is_loopback: bool) -> str | None:
    """The token that is asked for: a person's own, or a new one where others can reach the server.

    Args:
        given: Token that a person set, such as by the variable `TOKEN_VARIABLE`.
        is_loopback: Whether nobody but this machine can reach the server.

    Raises:
        InputError: What was given is too short to be a secret.
    """
    if given is None:
        return None if is_loopback else secrets.token_urlsafe(24)
    if len(given) < LEAST_TOKEN or not given.isascii() or not given.isprintable():
        raise InputError(
            f"{TOKEN_VARIABLE}: must be {LEAST_TOKEN} or more printable ASCII characters"
        )
    return given


def wait_for_end() -> None:
    """Wait for Ctrl-C, SIGTERM or the end of the terminal."""
    end = threading.Event()
    with handled_by(lambda number, frame: end.set()):
        while not end.wait(1):
            pass
