"""ray.log: what Ray and the processes of trials say is in the run, and not on the console."""

import importlib
import logging
import os
import re
import signal

import pytest
from live_search import LiveSearch
from person import SEARCH, TINY, type_in
from steady import TRIAL, words
from talkative import COMPLAINS, SAYS, make_talkative

from ensemble.search.cluster import ray_log
from ensemble.search.cluster.ray_log import log_ray_to, silence_ray

CHATTER = r"pid=|\bray\.|raylet|SIGSEGV|Wrote the latest"
START = "======== the search starts"


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


@pytest.mark.slow
def test_what_trials_print_is_in_ray_log_and_not_on_the_console_and_a_continued_search_adds_to_it(
    folder,
):
    path = os.pathsep.join([make_talkative(folder / "talkative"), os.environ.get("PYTHONPATH", "")])
    command = ["env", f"PYTHONPATH={path}", *SEARCH, "--data", "tiles", *TINY,
               "--name", "talks", "--trials"]  # fmt: skip
    log = folder / "results" / "talks" / "ray.log"
    kept = ""
    for num_starts in (1, 2):
        said = type_in(folder, *command, str(num_starts))
        assert "trial says" not in said
        assert COMPLAINS not in said
        assert not re.search(CHATTER, said), said
        text = log.read_text()
        assert text.startswith(kept)
        assert text.count(START) == num_starts
        for spoken in (SAYS, COMPLAINS):
            marked = rf"^20\S+ INFO ray\.processes: \((?:.+ )?pid=\d+\) {re.escape(spoken)}$"
            assert re.search(marked, text.removeprefix(kept), re.MULTILINE), text
        kept = text


@pytest.mark.long
def test_the_last_words_of_a_trial_that_crashed_are_in_ray_log_and_not_on_the_console(folder):
    with LiveSearch(folder, words(folder, "crash", trials=1, epochs=25)) as search:
        search.wait_for(r"trial 0 epoch 2/")
        search.find_process(TRIAL).send_signal(signal.SIGSEGV)
        search.wait_for(r"its process died; it goes on")
        said = search.finish()
    assert not re.search(CHATTER, said), said
    log = (folder / "results" / "crash" / "ray.log").read_text()
    assert re.search(r"\(TrialTrainable pid=\d+\) .*SIGSEGV", log), log
    assert "(raylet) A worker died or was killed" in log


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


def test_passwords_of_urls_are_not_in_the_log(tmp_path, ray_logger):
    with log_ray_to(tmp_path / "ray.log"):
        ray_logger.error("cannot reach s3://key:secret@host/bucket")
    assert "cannot reach s3://***@host/bucket" in (tmp_path / "ray.log").read_text()
    assert "secret" not in (tmp_path / "ray.log").read_text()
