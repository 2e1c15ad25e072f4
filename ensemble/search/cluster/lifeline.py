"""Notices that Ray itself has died, so that the search ends in order within seconds.

Ray's library does not report it: without its raylet it waits for ever, and without the cluster's
control store (GCS) it is silent for a minute and then ends the process from within C++.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

OWN = {"raylet": "Ray's raylet", "gcs_server": "Ray's control store (GCS)"}
LOOK_EVERY_SECONDS = 0.5
CALL_EVERY_SECONDS = 5.0
PATIENCE_SECONDS = 20.0  # for a head that does not answer; Ray gives up after 60
GRACE_SECONDS = 3.0  # for Tune to come round; in a call into Ray it would not
LAST_SECONDS = 15.0  # for such a call to notice a signal, and for leaving Ray
WAKE = signal.SIGURG  # nothing else uses it, and by itself it does nothing


class RayLostError(BaseException):
    """Ray is gone; like Ctrl-C, this passes through all that handles errors. Names what died."""


class Lifeline(tune.Callback):
    """Raises `RayLostError` in the main thread, within the block, once Ray is gone.

    Args:
        look: Names what died, for the person; None while all is well.
        describe_way_on: Says how the search goes on; called in another thread where the main one
            does not come back from a call into Ray, and the process is ended from there.
    """

    def __init__(self, look: Callable[[], str | None], describe_way_on: Callable[[], str]):
        self._look, self._describe_way_on, self._lost = look, describe_way_on, ""
        self._is_raised = False
        self._last_seconds = LAST_SECONDS
        self._is_over, self._is_left = threading.Event(), threading.Event()

    def __enter__(self) -> "Lifeline":
        self._before = signal.signal(WAKE, self._wake)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._is_over.set()
        signal.signal(WAKE, self._before)
        if error is None or not self._lost:  # else it goes on: leaving Ray may take for ever, too
            self._is_left.set()
            self._thread.join()
        is_ours = isinstance(error, KeyboardInterrupt) and self._is_raised
        lost = self._lost or self._look()
        if lost and (is_ours or isinstance(error, Exception)):  # Ray's own, in the place of ours
            raise RayLostError(lost) from None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune writes its callbacks into a file that is never read."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End here if Ray is gone: the study and the tables are whole between two steps."""
        if self._lost:
            self._raise()

    def _watch(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_SECONDS):
            self._lost = self._lost or self._look() or ""
            if self._lost:
                break
        if not self._is_over.wait(GRACE_SECONDS):
            signal.pthread_kill(threading.main_thread().ident or 0, WAKE)
        if self._lost and not self._is_left.wait(self._last_seconds):  # the call returns to nobody
            print(f"error: {self._lost}; {self._describe_way_on()}", file=sys.stderr, flush=True)
            os._exit(2)  # as after a kill, nothing that is finished is lost

    def _wake(self, number: int, _: FrameType | None) -> None:
        if self._lost and not self._is_over.is_set():
            self._raise()

    def _raise(self) -> None:
        self._is_over.set()
        self._is_raised = True
        raise RayLostError(self._lost)


def look_after_ray() -> Callable[[], str | None]:
    """Return a function that names what died of the Ray that we are connected to."""
    node = ray._private.worker._global_node
    assert node is not None
    if node.is_head():
        return lambda: _dead_among(node)
    return _Head(ray.get_runtime_context().gcs_address)


def _dead_among(node: Any) -> str | None:
    dead = [OWN[kind] for kind, _ in node.dead_processes() if kind in OWN]
    return f"{' and '.join(dead)} died" if dead else None


class _Head:
    """Checks whether a cluster's head still answers."""

    def __init__(self, address: str):
        self._address, self._last_call = address, time.monotonic()
        # the first look that failed: before it we may have been stopped ourselves
        self._silent_since: float | None = None

    def __call__(self) -> str | None:
        if time.monotonic() - self._last_call < CALL_EVERY_SECONDS:
            return None
        self._last_call = time.monotonic()
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            silent = now - self._silent_since
            if silent < PATIENCE_SECONDS:
                return None
            reason = error.strerror or error
            return f"the cluster's head at {self._address} is gone ({reason}, for {silent:.0f} s)"
        self._silent_since = None
        return None
