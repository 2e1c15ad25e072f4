"""Ray, as this project wants it: quiet, on this host unless told otherwise, ended when we end."""

import importlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ensemble.errors import InputError

# Read when Ray is imported; the processes of a local cluster inherit them.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with RunConfig(verbose=0): no tables and final lines of Tune's
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no FutureWarning from the driver
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # else deaths of workers are printed in spite of the above
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`: no new environment for each worker
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process fewer for each trial on workers
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a trial on workers ends that much sooner
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run's tables are ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is handled in run.py
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's pickled state is never read
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "1000",
}


def prepare_environment(address: str | None) -> None:
    """Set what Ray reads when it is imported; settings of the person's own stay.

    A cluster whose hosts hold a token wants it from its drivers, too, but they do not send it
    unless told.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if address is not None and ("RAY_AUTH_TOKEN" in os.environ or token.is_file()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def connected(address: str | None, *, num_cpus: int, num_gpus: int) -> Iterator[None]:
    """Be connected to a Ray cluster of our own, or to the one at `address`.

    Args:
        address: HOST:PORT of a head, or None.
        num_cpus: Cores of a cluster of our own.
        num_gpus: Its GPUs.

    Raises:
        InputError: There is no cluster at `address`.
    """
    ray: Any = importlib.import_module("ray")
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        ray.init(
            address="local", num_cpus=num_cpus, num_gpus=num_gpus, include_dashboard=False, **quiet
        )
    else:
        _check_reachable(address)
        package = str(Path(__file__).parents[1])
        try:
            ray.init(address=address, runtime_env={"py_modules": [package]}, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"--address {address}: cannot join a Ray cluster there ({error}); where it asks "
                "for a token, put it into ~/.ray/auth_token"
            ) from None
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes before it says that nobody listens."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise InputError(f"--address {address}: expected HOST:PORT, such as 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--address {address}: no Ray cluster there ({error})") from None


def cluster_resources() -> tuple[int, int]:
    """Cores and GPUs of the cluster we are connected to."""
    ray: Any = importlib.import_module("ray")
    resources = ray.cluster_resources()
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
