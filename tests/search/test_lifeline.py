"""A search that has lost its Ray is told so in its main thread, wherever that is."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from ensemble.search.cluster import lifeline as module
from ensemble.search.cluster.lifeline import Lifeline, RayLostError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "LOOK_EVERY_SECONDS", 0.02)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(module, "LAST_SECONDS", 1e6)  # it ends the process
    before = signal.getsignal(module.WAKE)
    yield
    assert signal.getsignal(module.WAKE) == before


def way_on() -> str:
    return "1 of 2 trials are finished; the same command goes on"


def wait_long() -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.01)
    raise AssertionError("nothing came")


def test_nothing_is_raised_while_ray_is_there():
    with Lifeline(lambda: None, way_on) as lifeline:
        time.sleep(0.2)
        lifeline.on_step_end(0, [])


def test_between_two_steps_the_loss_is_raised_at_once(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 60)
    lifeline = Lifeline(lambda: "its raylet died", way_on)

    def step() -> None:
        for _ in range(1000):
            time.sleep(0.01)
            lifeline.on_step_end(0, [])

    with pytest.raises(RayLostError, match="its raylet died"), lifeline:
        step()


def test_a_search_that_waits_in_a_call_into_ray_is_woken():
    with (
        pytest.raises(RayLostError, match="its raylet died"),
        Lifeline(lambda: "its raylet died", way_on),
    ):
        wait_long()


@pytest.mark.parametrize("instead", [KeyboardInterrupt, RuntimeError])
def test_what_ray_raises_in_its_place_is_still_the_loss(instead):
    def call_into_ray():
        try:
            wait_long()
        except BaseException:
            raise instead from None

    with pytest.raises(RayLostError), Lifeline(lambda: "its raylet died", way_on):
        call_into_ray()


def test_a_ctrl_c_of_the_person_stays_one():
    with pytest.raises(KeyboardInterrupt), Lifeline(lambda: None, way_on):
        raise KeyboardInterrupt


def test_a_call_that_returns_to_nobody_is_ended_from_without_and_says_how_the_search_goes_on():
    program = """
import time
from ensemble.search.cluster import lifeline as module
module.LOOK_EVERY_SECONDS = module.GRACE_SECONDS = module.LAST_SECONDS = 0.1
way_on = lambda: "1 of 2 trials are finished; the same command goes on"
with module.Lifeline(lambda: "its raylet died", way_on):
    while True:
        try:
            time.sleep(60)
        except BaseException:  # as a call from C++ that calls again
            pass
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == f"error: its raylet died; {way_on()}"
