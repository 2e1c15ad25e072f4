"""What a search shows and leaves: open ports, passwords, temporary files, a crash's last words.

Two searches in which something is killed; what each claim says is looked up in what they left.
"""

import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from live_search import LiveSearch, wait_until
from ports import PortWatch
from s3_server import s3_server
from steady import TRIAL, WORKERS, check_study, words
from talkative import CHATTER

pytestmark = pytest.mark.long


class Traces(NamedTuple):
    """What a search printed, its folder, and the ports that it had open beyond this host."""

    said: str
    run: Path
    ports: PortWatch


@pytest.fixture(scope="module")
def thrice(folder) -> Traces:
    """A search whose first trial was killed three times, once by a fault of its own."""
    with (
        LiveSearch(folder, words(folder, "thrice", trials=1, epochs=40)) as search,
        PortWatch(search.process.pid) as ports,
    ):
        for attempt, number in enumerate((signal.SIGSEGV, signal.SIGKILL, signal.SIGKILL), 1):
            search.wait_for(r"trial 0 starts", count=attempt)
            search.wait_for(r"trial 0 epoch", count=4 * attempt)
            search.find_process(TRIAL).send_signal(number)
        search.wait_for(r"trial 0 failed: its process died, 3 times")
        search.wait_for(r"trial 1 epoch 1/")
        said = search.finish()
    return Traces(said, folder / "results" / "thrice", ports)


def test_after_three_deaths_a_trial_is_failed_with_its_reason_and_replaced(thrice):
    trials = check_study(thrice.run, finished=1, failed=1)
    assert trials["reason"][0] == "its process died, 3 times"
    assert thrice.said.count("its process died; it goes on from its last epoch") == 2


def test_the_last_words_of_a_trial_that_crashed_are_in_ray_log_and_not_on_the_console(thrice):
    assert not re.search(CHATTER, thrice.said), thrice.said
    log = (thrice.run / "ray.log").read_text()
    assert re.search(r"\(TrialTrainable pid=\d+\) .*SIGSEGV", log), log
    assert "(raylet) A worker died or was killed" in log


def test_nothing_of_a_search_on_one_machine_listens_beyond_it(thrice):
    assert thrice.ports.num_looks > 5
    assert thrice.ports.found == set()


class Killed(NamedTuple):
    """What a search whose driver was killed left.

    Attributes:
        traces: Lines, run and ports.
        temporary: Folder for temporary files.
        sessions: Folders of Ray's sessions in it while the search ran.
        holding: Files that held the password then, or hold it.
    """

    traces: Traces
    temporary: Path
    sessions: list[Path]
    holding: list[Path]


def find_password(*folders: Path) -> list[Path]:
    """Files in which the password of the storage stands."""
    found = []
    for path in [path for folder in folders for path in folder.rglob("*") if path.is_file()]:
        with suppress(FileNotFoundError):  # Ray's come and go
            if b"Geheim" in path.read_bytes():
                found.append(path)
    return found


@pytest.fixture(scope="module")
def killed(folder, tmp_path_factory) -> Iterator[Killed]:
    """A search on workers, with a storage that has a password, whose driver was killed."""
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # short: Ray puts its sockets there
    here, run = tmp_path_factory.mktemp("killed"), folder / "results" / "secret"
    environment = {
        "TMPDIR": str(temporary),
        "CRACK_ENSEMBLE_CACHE": str(here / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(here / "inductor"),  # torch's, which nobody removes
    }
    with s3_server(here) as server:
        command = words(folder, "secret", *WORKERS, "--storage", server.url(), trials=1, epochs=90)
        with (
            LiveSearch(folder, command, **environment) as search,
            PortWatch(search.process.pid) as ports,
        ):
            search.wait_for(r"trial 0 epoch 2/")
            sessions = list(temporary.glob("crack-*/r/session_*"))
            holding = find_password(temporary, here / "cache")
            search.kill_driver()
            assert search.seconds_until_gone() < 10
    holding += find_password(run, here / "cache")
    yield Killed(Traces(search.said, run, ports), temporary, sessions, holding)
    shutil.rmtree(temporary)


def test_a_killed_search_leaves_nothing_in_the_folder_for_temporary_files(killed):
    assert killed.sessions
    wait_until(lambda: not list(killed.temporary.iterdir()) or None, what="end of the guard")


def test_the_password_of_a_storage_stands_in_no_file_and_no_line(killed):
    assert (killed.traces.run / "run.json").exists()
    assert killed.holding == []
    assert "Geheim" not in killed.traces.said


def test_of_a_trial_on_workers_only_the_rendezvous_of_torch_listens_beyond_the_machine(killed):
    """torch.distributed's TCPStore listens everywhere, whatever its address; gloo does not."""
    assert killed.traces.ports.num_looks > 5
    ports = {port for _, port in killed.traces.ports.found}
    assert len(ports) == 1, killed.traces.ports.found
