"""Runs commands as a person types them, on tiny settings."""

import io
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

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


def type_here(folder: Path, *words: str, code: int = 0) -> str:
    """The same of `crack-ensemble COMMAND …`, in this process: imports alone take seconds.

    Not for what starts Ray.
    """
    from ensemble.cli import main

    command = patch.object(sys, "argv", ["crack-ensemble", *words])
    said, errors = io.StringIO(), io.StringIO()
    outputs = redirect_stdout(said), redirect_stderr(errors)
    with command, patch.dict(os.environ), chdir(folder), outputs[0], outputs[1]:
        try:
            main()
        except SystemExit as ended:
            given = ended.code or 0
    assert given == code, said.getvalue() + errors.getvalue()
    if code:
        assert len(errors.getvalue().splitlines()) == 1, errors.getvalue()
    return said.getvalue() + errors.getvalue()
