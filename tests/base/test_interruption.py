"""Ctrl-C and SIGTERM end a command that trains with a line on how to go on, and an exit code."""

import os
import signal

import pytest

from ensemble.base.interruption import resumable


@pytest.fixture
def ctrl_c_is_heard():
    """A shell's background job is started with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_how_to_go_on_and_its_exit_code(stop, ctrl_c_is_heard):
    said: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, resumable("say it again", said.append):
        os.kill(os.getpid(), stop)
    assert caught.value.code == 128 + stop
    assert said == ["interrupted: say it again"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_command_that_ends_by_itself_says_nothing():
    said: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with resumable("say it again", said.append):
        assert signal.getsignal(signal.SIGTERM) != before
    assert said == []
    assert signal.getsignal(signal.SIGTERM) == before
