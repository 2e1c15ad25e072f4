"""Why a trial failed, in the words that the study keeps."""

from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import ActorDiedError, GetTimeoutError
from ray.train import ControllerError, WorkerGroupError

from ensemble.base.errors import CannotWriteError, InputError
from ensemble.search.task import explain_failure, is_hindrance
from ensemble.search.watch import _why_it_died
from ensemble.search.workers import TrainingFailedError, WorkersLostError, explain_train_error
from ensemble.training.loop import DivergedError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "out of GPU memory: CUDA out of m"),
        (DivergedError("the loss is nan"), "the loss is nan"),
        (InputError("no such backbone"), "no such backbone"),
        (RuntimeError("Output size is too small\nat line 3"), "RuntimeError: Output size is too s"),
        (KeyError(), "KeyError: no message"),
    ],
)
def test_a_failure_is_one_line(error, reason):
    assert explain_failure(error).startswith(reason)
    assert len(explain_failure(error).splitlines()) == 1


def worker_failed(**failures):
    """What Ray Train raises when workers fail, by rank."""
    return WorkerGroupError(
        "workers failed",
        {int(rank.removeprefix("rank")): error for rank, error in failures.items()},
    )


def test_the_exception_of_one_worker_is_the_reason_and_not_the_broken_connection_of_the_other():
    error = worker_failed(rank0=RuntimeError("Connection reset by peer"), rank1=ValueError("odd"))
    explained = explain_train_error(error)
    assert isinstance(explained, TrainingFailedError)
    assert str(explained) == "ValueError: odd"


def test_a_worker_that_died_is_a_loss_that_is_tried_again():
    error = worker_failed(rank0=RuntimeError("Connection reset by peer"), rank1=ActorDiedError())
    explained = explain_train_error(error)
    assert isinstance(explained, WorkersLostError)
    assert str(explained) == "worker 1 died (killed, or out of memory)"


def test_a_worker_that_cannot_save_says_so():
    full = CannotWriteError("no room on the disk for it")
    assert explain_train_error(worker_failed(rank0=full)) is full


@pytest.mark.parametrize("kind", [OSError, PermissionError, FileNotFoundError])
def test_what_the_machine_refuses_a_worker_hinders_the_search_and_is_named(kind):
    error = kind(5, "Input/output error", "members/0003")
    explained = explain_train_error(worker_failed(rank1=error))
    assert is_hindrance(explained)
    assert (
        explain_failure(explained) == "members/0003: Input/output error; mend that, then run again"
    )


def test_a_broken_connection_and_a_timeout_of_rays_are_no_hindrance():
    assert not is_hindrance(ConnectionResetError("Connection reset by peer"))
    assert not is_hindrance(GetTimeoutError("Get timed out"))
    assert not is_hindrance(DivergedError("the loss is nan"))


def test_the_death_of_the_leading_process_is_a_loss():
    for error in (None, ActorDiedError()):
        assert isinstance(explain_train_error(error), WorkersLostError)


def test_what_the_leading_process_raises_is_the_reason():
    explained = explain_train_error(ControllerError(ValueError("no such resource")))
    assert isinstance(explained, TrainingFailedError)
    assert str(explained) == "ValueError: no such resource"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Task was killed due to the node running low on memory", "its process was killed, as the"),
        ("The actor died because its node has died.", "its node died"),
        ("The actor died unexpectedly", "its process died"),
        ("x.WorkersLostError: worker 1 died (killed)\n", "worker 1 died (killed)"),
        ("node has died\nFailure # 2\nThe actor died unexpectedly", "its process died"),
    ],
)
def test_the_last_death_is_told_out_of_the_text_that_tune_keeps(text, reason, tmp_path):
    (tmp_path / "error.txt").write_text(f"Failure # 1\n{text}")
    trial = SimpleNamespace(error_file=str(tmp_path / "error.txt"))
    assert _why_it_died(trial).startswith(reason)
    assert _why_it_died(SimpleNamespace(error_file=None)) == "its process died"
