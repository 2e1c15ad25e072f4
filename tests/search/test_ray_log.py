"""ray.log: what Ray and the processes of trials say is in the run, and not on the console."""

import importlib
import logging

import pytest

from ensemble.search.cluster import ray_log
from ensemble.search.cluster.ray_log import log_ray_to, silence_ray


@pytest.fixture
def ray_logger(monkeypatch):
    """Ray's logger as a search has it."""
    logger = logging.getLogger("ray")
    worker = importlib.import_module("ray._private.worker")
    before = logger.level
    monkeypatch.setattr(logger, "handlers", logger.handlers)
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    silence_ray()
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(before)


def test_a_full_disk_costs_lines_of_the_log_and_nothing_else(tmp_path, ray_logger, capfd):
    (tmp_path / "ray.log").symlink_to("/dev/full")
    with log_ray_to(tmp_path / "ray.log"):
        for _ in range(1000):
            ray_logger.warning("a line")
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_gone_costs_lines_of_the_log_and_nothing_else(tmp_path, ray_logger, capfd):
    with log_ray_to(tmp_path / "gone" / "ray.log"):
        ray_logger.warning("a line")
    assert capfd.readouterr() == ("", "")


def test_the_log_keeps_the_last_lines_and_at_most_two_files(tmp_path, ray_logger, monkeypatch):
    monkeypatch.setattr(ray_log, "FILE_BYTES", 10_000)
    with log_ray_to(tmp_path / "ray.log"):
        for number in range(1000):
            ray_logger.info("line %d", number)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"ray.log", "ray.log.1"}
    assert all(size <= 10_000 for size in sizes.values())
    assert (tmp_path / "ray.log").read_text().endswith("line 999\n")


def test_the_end_of_serve_is_no_failure_in_the_log(tmp_path, ray_logger):
    worker = importlib.import_module("ray._private.worker")
    lines = [
        "Task ServeController.graceful_shutdown failed. There are infinite retries remaining",
        "A worker died or was killed",
    ]
    with log_ray_to(tmp_path / "ray.log"):
        worker.print_to_stdstream({"pid": "raylet", "lines": lines}, False)
    text = (tmp_path / "ray.log").read_text()
    assert "A worker died" in text
    assert "graceful_shutdown" not in text


def test_passwords_of_urls_are_not_in_the_log(tmp_path, ray_logger):
    with log_ray_to(tmp_path / "ray.log"):
        ray_logger.error("cannot reach s3://key:secret@host/bucket")
    assert "cannot reach s3://***@host/bucket" in (tmp_path / "ray.log").read_text()
    assert "secret" not in (tmp_path / "ray.log").read_text()
