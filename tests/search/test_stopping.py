"""A signal that asks a search to stop, whenever it comes."""

import io
import signal

import pytest

from ensemble.search.stopping import Stopping, stop_on_signals


class Interrupted(io.RawIOBase):
    """A terminal at which Ctrl-C is pressed while the first line is written."""

    def __init__(self):
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        if not self.written:
            signal.raise_signal(signal.SIGINT)
        self.written += bytes(data)
        return len(data)


def test_ctrl_c_in_the_middle_of_a_line_is_said_after_it():
    terminal = Interrupted()
    stream = io.TextIOWrapper(io.BufferedWriter(terminal), line_buffering=True)
    stopping = Stopping(lambda line: print(line, file=stream))
    with stop_on_signals(stopping):
        print("trial 0 epoch 1/3", file=stream)
    assert stopping.request is not None
    assert (stopping.request.words, stopping.request.exit_code) == ("Ctrl-C", 130)
    assert terminal.written.decode() == (
        "trial 0 epoch 1/3\n"
        "stopping: Ctrl-C; running trials end after this epoch; once more ends at once\n"
    )


def test_the_second_signal_ends_the_command_at_once():
    with stop_on_signals(Stopping(lambda line: None)):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
