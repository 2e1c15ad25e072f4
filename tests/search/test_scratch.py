"""Scratch folders: private, gone with their process, and never taken from one that lives."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.search.cluster.guard import LONGEST_SOCKET, RAY, place_for_sockets, processes_of
from ensemble.search.cluster.scratch import OWNER, PREFIX, own, remove_abandoned, scratch_folder

HOLDS_ONE = (
    "import sys; from pathlib import Path\n"
    "from ensemble.search.cluster.scratch import scratch_folder\n"
    "with scratch_folder(under=Path(sys.argv[1])) as folder:\n"
    "    print(folder, flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def holder(tmp_path):
    """A process that lives in a scratch folder below `tmp_path`, and that folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_ONE, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def marked(folder: Path, kernel: str) -> Path:
    folder.mkdir()
    (folder / OWNER).write_text(kernel)
    return folder


def test_a_scratch_folder_is_private_and_gone_with_its_block(tmp_path):
    with scratch_folder(under=tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").write_text("of no further use")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_stays_while_its_process_lives_and_goes_after_its_sigkill(holder, tmp_path):
    process, folder = holder
    with scratch_folder(under=tmp_path) as mine:
        assert folder.is_dir()
        assert mine != folder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.is_dir()
    with scratch_folder(under=tmp_path):
        assert not folder.exists()


def test_a_folder_of_another_host_is_not_judged(tmp_path):
    other = marked(tmp_path / f"{PREFIX}other", "boot-of-another another-host")
    remove_abandoned([other])
    assert other.is_dir()


def test_a_folder_from_before_this_host_was_started_anew_is_removed(tmp_path):
    here = os.uname().nodename
    old = marked(tmp_path / f"{PREFIX}old", f"an-earlier-boot {here}")
    remove_abandoned([old])
    assert not old.exists()


def test_a_folder_of_a_dead_container_on_this_host_is_removed(tmp_path):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    left = marked(tmp_path / f"{PREFIX}left", f"{boot} a-container")
    remove_abandoned([left])
    assert not left.exists()


def test_what_was_never_marked_and_what_is_only_linked_stays(tmp_path):
    unmarked = tmp_path / f"{PREFIX}unmarked"
    unmarked.mkdir()
    marked(tmp_path / "elsewhere", f"an-earlier-boot {os.uname().nodename}")
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(tmp_path / "elsewhere")
    remove_abandoned([unmarked, link, tmp_path / f"{PREFIX}gone"])
    assert unmarked.is_dir()
    assert (tmp_path / "elsewhere" / OWNER).is_file()


@pytest.mark.skipif(os.getuid() != 0, reason="giving a folder away needs root")
def test_a_stale_folder_of_a_user_whom_nobody_knows_stops_no_search(tmp_path):
    stale = marked(tmp_path / f"{PREFIX}stale", f"an-earlier-boot {os.uname().nodename}")
    os.chown(stale, 54321, 54321)
    with scratch_folder(under=tmp_path):
        assert stale.is_dir()  # somebody else's


def test_an_owned_folder_is_left_alone_by_its_own_process_until_the_lock_is_closed(tmp_path):
    folder = tmp_path / "trial"
    folder.mkdir()
    lock = own(folder)
    assert lock is not None
    remove_abandoned([folder])
    assert folder.is_dir()
    lock.close()
    remove_abandoned([folder])
    assert not folder.exists()


def test_rays_sockets_have_paths_that_linux_takes_whatever_the_folder_for_temporary_files():
    for base in ("/tmp", "/tmp/slurm.1234567", "/scratch/somebody/with-a-long-name/1234567"):
        place = place_for_sockets(base)
        assert len(f"{place}/{PREFIX}12345678/{RAY}{LONGEST_SOCKET}") <= 107
        assert str(place) == base or len(base) > 25


def test_a_starting_process_of_ray_is_told_by_its_options_and_a_reader_of_its_logs_is_not(tmp_path):
    """What is only starting has opened no file of the session yet."""
    session = tmp_path / "r"
    session.mkdir()
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        subprocess.Popen([*sleeps, f"--raylet-name={session}/session/raylet"]) as starting,
        subprocess.Popen([*sleeps, f"{session}/logs/worker.log"]) as reader,
    ):
        found = processes_of(session)
        starting.kill()
        reader.kill()
    assert starting.pid in found
    assert reader.pid not in found
