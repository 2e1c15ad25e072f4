"""make test-all says which tests failed first and passed when they were run alone."""

import subprocess
import sys
from pathlib import Path

from person import ROOT

TESTS = """
import pytest
from pathlib import Path

@pytest.mark.long
def test_that_passes_at_the_second_try():
    first = Path("tried")
    is_first = not first.exists()
    first.touch()
    assert not is_first

@pytest.mark.long
def test_that_passes():
    pass

@pytest.mark.long
def test_that_never_passes():
    assert not Path("hopeless").exists()
"""


def run(here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=here, capture_output=True, text=True)


def test_what_failed_first_and_passed_alone_is_named_in_the_last_lines(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = long: minutes\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    assert run(tmp_path, "-m", "pytest", "-q", "-m", "long").returncode == 1
    done = run(tmp_path, str(ROOT / "tests" / "again.py"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-2:] == [
        "FAILED FIRST, PASSED ALONE: test_it.py::test_that_passes_at_the_second_try",
        "of the long tests 1 failed first and passed alone; see what they wait for",
    ]
    (tmp_path / "tried").unlink()
    (tmp_path / "hopeless").touch()
    run(tmp_path, "-m", "pytest", "-q", "-m", "long")
    done = run(tmp_path, str(ROOT / "tests" / "again.py"))
    assert done.returncode == 1
    assert "FAILED TWICE: test_it.py::test_that_never_passes\n" in done.stdout
