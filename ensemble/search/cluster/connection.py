"""The connection to Ray: one of our own on this host, or a running cluster.

A Ray of our own listens on the loopback only, asks for a token that nobody else knows, and ends
with the search. A cluster is checked before it is joined: where the address, the token or a node on
this machine is missing, Ray itself would try for a minute or end the process.
"""

import importlib
import json
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.base.errors import InputError
from ensemble.search.budget import Node
from ensemble.search.cluster.guard import RAY, place_for_sockets, ray_guard
from ensemble.search.cluster.ray_log import silence_ray
from ensemble.search.cluster.scratch import scratch_folder

# Read when Ray is imported; the processes of a local cluster inherit them.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with RunConfig(verbose=0): no tables and final lines of Tune's
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no FutureWarning from the driver
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`: no new environment for each worker
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run's tables are ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failure is a result without figures
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `stopping` handles Ctrl-C
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's pickled state is never read
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "1000",
}
ENVIRONMENT_ALONE = {
    # what it is for on Windows and macOS: a Ray that takes the loopback for the host's address
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_prestart_worker_first_driver": "0",  # a process a core, which no trial ever takes
    "GLOO_SOCKET_IFNAME": "lo",  # else gloo and NCCL listen on the host's address
    "NCCL_SOCKET_IFNAME": "lo",
}
OURS = ("RAY_", "TUNE_", "GLOO_", "NCCL_")  # beginnings of their names


@dataclass(frozen=True)
class Head:
    """Address of the head of a cluster, and who named it.

    Attributes:
        address: HOST:PORT, or "auto": the cluster that this host started last.
        origin: Source of the address: --address or RAY_ADDRESS.
    """

    address: str
    origin: str

    def __str__(self) -> str:
        return f"{self.origin} {self.address}"


def find_head(given: str | None) -> Head | None:
    """Find the cluster to join, by `--address` or RAY_ADDRESS; None is this machine alone.

    Raises:
        InputError: It is no address that a search can join.
    """
    value, origin = given, "--address"
    if value is None:
        value, origin = os.environ.get("RAY_ADDRESS", ""), "RAY_ADDRESS"
        if value in ("", "local"):
            return None
    head = Head(value, origin)
    scheme, is_url, _ = value.partition("://")
    if is_url:
        what = {"ray": "Ray Client", "http": "the dashboard", "https": "the dashboard"}
        raise InputError(
            f"{head}: a search cannot run through {what.get(scheme, scheme)}; give HOST:PORT of "
            "the head, such as 10.0.0.5:6379, on a machine of the cluster, or use ray job submit"
        )
    host, colon, port = value.rpartition(":")
    if value != "auto" and not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise InputError(f"{head}: expected HOST:PORT, such as 10.0.0.5:6379")
    return head


def check_wait(minutes: float | None, head: Head | None) -> None:
    """Refuse to wait for nodes where there is no cluster.

    Raises:
        InputError: There is none.
    """
    if minutes is not None and head is None:
        raise InputError(f"--wait {minutes:g}: there is nothing to wait for without --address")


@contextmanager
def ray_environment(head: Head | None) -> Iterator[None]:
    """Within, the variables that Ray reads are set; then they are as before.

    A notebook may go on with a cluster, which takes a token of its own.

    Raises:
        InputError: The environment asks for a token that is not there.
    """
    before = dict(os.environ)
    try:
        prepare_environment(head)
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            if name.startswith(OURS):
                del os.environ[name]
        os.environ.update({name: old for name, old in before.items() if name.startswith(OURS)})


def prepare_environment(head: Head | None) -> None:
    """Set the variables that Ray reads when it is imported; the person's own settings stay.

    A cluster whose hosts hold a token asks its drivers for it, which send it only if a variable
    says so.

    Raises:
        InputError: The environment asks for a token that is not there.
    """
    settings = ENVIRONMENT | (ENVIRONMENT_ALONE if head is None else {})
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if head is None:
        # of this search alone, so that nothing is written into a home folder
        if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    if "RAY_AUTH_TOKEN" in os.environ:
        has_token = bool(os.environ["RAY_AUTH_TOKEN"].strip())
        where = "RAY_AUTH_TOKEN"
    else:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
        has_token, where = path.is_file() and bool(path.read_bytes().strip()), str(path)
    is_named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    wanted = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if not has_token and (is_named or wanted):
        raise InputError(
            f"{head}: {where} holds no token; put the cluster's there (ray get-auth-token prints "
            "it on the head)"
        )
    if has_token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def start_local_ray(*, num_cpus: int, num_gpus: int, way_on: str) -> Iterator[None]:
    """Within, be connected to a Ray of our own on this machine.

    Args:
        num_cpus: Cores of that Ray.
        num_gpus: GPUs of that Ray.
        way_on: What the person can type to try again.

    Raises:
        InputError: It does not start; it waits no longer than 30 s for each of its processes.
    """
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    with (
        scratch_folder(under=place_for_sockets(base)) as folder,
        ray_guard(folder),
        ExitStack() as stack,
    ):
        ray = _initialised(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            _temp_dir=str(folder / RAY),
        )
        try:
            stack.enter_context(ray)
        except InputError:
            raise
        except Exception as error:  # Ray raises just that where a process is late
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"Ray did not start on this machine ({reason[:150]}), mostly because that is too "
                f"busy or short of memory: wait or end other programs, then {way_on}"
            ) from None
        yield


@contextmanager
def join_cluster(head: Head) -> Iterator[None]:
    """Within, be connected to the cluster at `head`.

    A process can do so once: when the driver of a submitted job leaves, Ray removes its working
    directory.

    Raises:
        InputError: There is no cluster, or it does not let us in.
    """
    address = _resolve(head)
    _check_reachable(head, address)
    _check_admitted(head, address)
    with ExitStack() as stack:
        try:
            stack.enter_context(_initialised(address=address, runtime_env=_runtime_env()))
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"{head}: cannot join the Ray cluster there ({error})") from None
        yield


@contextmanager
def _initialised(**settings: Any) -> Iterator[None]:
    ray: Any = importlib.import_module("ray")
    if ray.is_initialized():
        raise InputError(
            "this process is connected to a Ray already; call ray.shutdown() first, or search in "
            "another process"
        )
    raylet: Any = importlib.import_module("ray._raylet")
    # a process keeps what it read when Ray was imported, which a notebook may have done before,
    # and its first token, where each Ray of our own asks for another one
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
    silence_ray()
    ray.init(**settings, log_to_driver=True, logging_level=logging.INFO)
    try:
        yield
    finally:
        ray.shutdown()


def _resolve(head: Head) -> str:
    """Return HOST:PORT as Ray understands it."""
    services: Any = importlib.import_module("ray._private.services")
    try:
        address: str = services.canonicalize_bootstrap_address(head.address)
    except ConnectionError:
        raise InputError(
            f"{head}: no Ray cluster runs on this machine; start one (ray start --head), or give "
            "HOST:PORT of the head"
        ) from None
    return address


def _check_reachable(head: Head, address: str) -> None:
    """Ray itself would try for minutes before it says that nobody listens."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise InputError(
            f"{head}: no Ray cluster there ({error.strerror or error}); give HOST:PORT that "
            "ray start --head printed, usually port 6379"
        ) from None


def _check_admitted(head: Head, address: str) -> None:
    """Refuse a head that does not answer, or of whose cluster no node runs here."""
    raylet: Any = importlib.import_module("ray._raylet")
    errors: Any = importlib.import_module("ray.exceptions")
    services: Any = importlib.import_module("ray._private.services")
    try:
        with _silenced():  # Ray's core warns on stderr, too
            nodes = raylet.GcsClient(address=address).get_all_node_info(timeout=10)
    except errors.AuthenticationError:
        raise InputError(
            f"{head}: the cluster asks for a token, and this machine's is missing or another; put "
            "the cluster's into ~/.ray/auth_token (ray get-auth-token prints it on the head)"
        ) from None
    except (errors.RaySystemError, errors.RpcError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{head}: what listens there is no Ray head ({reason[:150]})") from None
    if not services.find_node_ids() & {node_id.hex() for node_id in nodes}:
        raise InputError(
            f"{head}: no node of that cluster runs on this machine; start one (ray start --address="
            f"{address}), or search from one of its machines (ray job submit)"
        )


@contextmanager
def _silenced() -> Iterator[None]:
    """Within, nothing is written to stderr, not even by libraries in C++."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _runtime_env() -> dict[str, Any]:
    """Send the package to the other nodes, unless a job brings modules of its own.

    Ray refuses to merge a job's `py_modules` with a driver's (`ray job submit`).
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if "py_modules" in (job.get("runtime_env") or {}):
        return {}
    return {"py_modules": [str(Path(__file__).parents[2])]}


def alive_nodes() -> list[Node]:
    """List the nodes of the cluster that we are connected to."""
    ray: Any = importlib.import_module("ray")
    return sorted(
        (
            Node(
                node["NodeManagerAddress"],
                int(node["Resources"].get("CPU", 0)),
                int(node["Resources"].get("GPU", 0)),
            )
            for node in ray.nodes()
            if node["Alive"]
        ),
        key=lambda node: node.name,
    )


def ask_for_nodes(bundles: list[dict[str, float]]) -> None:
    """Ask a cluster that can grow for room for these bundles, until the next call."""
    sdk: Any = importlib.import_module("ray.autoscaler.sdk")
    sdk.request_resources(bundles=bundles)
