"""Runs commands as a person types them, as subprocesses, on tiny settings."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SEARCH = [sys.executable, str(ROOT / "scripts" / "search.py")]
EVALUATE = [sys.executable, "-m", "ensemble.evaluate"]
TINY = ["--space", "demo", "--gpus", "0", "--cpus", "1", "--epochs", "2", "--image-size", "32"]


def type_in(folder: Path, *words: str, code: int = 0) -> str:
    """Run a command in `folder` as a person would and return what it printed."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=420)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stdout + done.stderr
