"""How commands begin and end: output that cannot be written, Ctrl-C in imports, exit codes."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ensemble
from ensemble.base.door import door_of, spell_command
from ensemble.cli import COMMANDS

ROOT = Path(__file__).parents[2]
DOORS = [  # what a person types
    ["scripts/search.py"],
    ["scripts/train.py"],
    *(["-m", door_of(command)] for command in COMMANDS),
]
TALKS = """
from rich.console import Console
from rich.table import Table
from ensemble.base.errors import InputError

def main(options):
    console = Console()
    for number in range(2000):
        print("line", number, "… 3 × 4 − 1 ≥ é → “ü” 漢")
        console.print("and another", number)
    table = Table()
    table.add_column("loss …")
    console.print(table)
    raise InputError("the end … has come")
"""
INTERRUPTED = """
import os, signal, time
try:
    os.kill(os.getpid(), {signal})
    time.sleep(60)
except BaseException:
    raise RecursionError("as some libraries make of it")
"""


@pytest.fixture
def run(tmp_path):
    """Run a module by its code, as the doors run theirs."""

    def run(code, *, shell="", asked="", **environment):
        (tmp_path / "room.py").write_text(code)
        (tmp_path / "door.py").write_text(
            "from argparse import Namespace\nfrom ensemble.base.door import run_module\n"
            f"run_module('room', lambda: Namespace(json={asked == '--json'}, "
            f"quiet={asked == '--quiet'}))"
        )
        words = f"{sys.executable} {tmp_path / 'door.py'} {shell}"
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {words}"],
            capture_output=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", **environment},
            # pytest in a background job ignores Ctrl-C, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run


@pytest.mark.parametrize(
    "shell", ["| head -n 1", "| true", "> /dev/full", ">&-", "> /dev/full 2>&1", ">&- 2>&-"]
)
def test_output_that_cannot_be_written_costs_lines_and_no_exit_code(run, shell):
    done = run(TALKS, shell=shell)
    assert done.returncode == 2
    if "2>" not in shell:
        assert done.stderr.decode() == "error: the end … has come\n"


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("ascii", '... 3 x 4 - 1 >= e > "u" ?'),
        ("latin-1", '... 3 × 4 - 1 >= é > "ü" ?'),
        ("utf-8", "… 3 × 4 − 1 ≥ é → “ü” 漢"),
        ("ascii:ignore", " 3  4  1     "),
    ],
)
def test_characters_that_a_terminal_lacks_are_written_plainly(run, encoding, line):
    done = run(TALKS, PYTHONIOENCODING=encoding)
    codec = encoding.partition(":")[0]
    assert done.returncode == 2
    assert done.stdout.decode(codec).splitlines()[1] == f"line 0 {line}"
    assert b"Traceback" not in done.stderr
    assert done.stderr.decode(codec).startswith("error: the end ")


TELLS = """
import sys
from rich.console import Console
from ensemble.base.door import printing_result
from ensemble.base.errors import InputError

def main(options):
    console = Console()
    console.print("a step")
    with printing_result():
        console.print("the result")
    print("what is next")
    if REFUSED: raise InputError("refused")
    return {"f1": 0.5, "trial": None}
"""


@pytest.mark.parametrize("refused", [False, True])
def test_quiet_prints_the_result_and_errors_alone(run, refused):
    done = run(TELLS.replace("REFUSED", str(refused)), asked="--quiet")
    assert done.stdout == b"the result\n"
    assert done.stderr == b"error: refused\n" * refused
    assert done.returncode == 2 * refused


@pytest.mark.parametrize("refused", [False, True])
def test_json_is_alone_on_stdout_and_the_rest_on_stderr(run, refused):
    done = run(TELLS.replace("REFUSED", str(refused)), asked="--json")
    assert done.stdout == b"" if refused else json.loads(done.stdout) == {"f1": 0.5, "trial": None}
    lines = done.stderr.decode().splitlines()
    assert lines[1:4] == ["a step", "the result", "what is next"]
    assert lines[0] == f"crack-ensemble {ensemble.__version__} is loading …"
    assert done.returncode == 2 * refused


@pytest.mark.parametrize(
    ("action", "line"),
    [
        ("Path('a' * 300).exists()", f"error: {'a' * 300}: File name too long"),
        ("raise PermissionError(13, 'Permission denied', 'its')", "error: its: Permission denied"),
    ],
)
def test_a_path_that_cannot_be_used_is_refused_in_one_line(run, action, line):
    done = run(f"from pathlib import Path\ndef main(options):\n    {action}")
    assert done.stderr.decode() == f"{line}\n"
    assert done.returncode == 2


def test_a_fault_of_the_disk_keeps_its_traceback(run):
    done = run("def main(options):\n    raise OSError(5, 'Input/output error', 'its')")
    assert b"Traceback" in done.stderr
    assert done.returncode == 1


def test_what_was_imported_is_free_to_go_at_the_end(run):
    count = "atexit.register(lambda: print('frozen:', gc.get_freeze_count()))"
    done = run(f"import atexit, gc\n{count}\ndef main(options):\n    pass")
    assert done.stdout.decode().splitlines()[-1] == "frozen: 0"


def test_ctrl_c_during_imports_is_one_line_and_exit_code_130(run):
    done = run(INTERRUPTED.format(signal=int(signal.SIGINT)))
    assert done.returncode == 130
    assert done.stderr == b"interrupted\n"


def test_a_terminal_says_that_something_is_loaded_and_forgets_it(tmp_path):
    controller, terminal = pty.openpty()
    (tmp_path / "room.py").write_text("def main(options): print('here')")
    code = "import argparse, sys; from ensemble.base.door import run_module\n"
    options = "argparse.Namespace(json=False, quiet=False)"
    code += f"sys.path[:0] = [{str(tmp_path)!r}]\n"
    subprocess.run(
        [sys.executable, "-c", f"{code}run_module('room', lambda: {options})"],
        stdout=terminal,
        stderr=terminal,
        cwd=ROOT,
        check=True,
    )
    os.close(terminal)
    said = os.read(controller, 10_000).decode()
    os.close(controller)
    assert said == "loading …\r\x1b[2Khere\r\n"


@pytest.mark.parametrize("words", DOORS)
def test_a_command_is_at_its_door_before_it_imports_what_takes_seconds(words):
    for option in ("--help", "--version", "--mistyped"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *words, option],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == (2 if option == "--mistyped" else 0), done.stderr
        assert option != "--version" or re.fullmatch(r"crack-ensemble \S+\n", done.stdout)
        imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
        assert "ensemble.base.door" in imported
        assert not imported & {"torch", "ray", "optuna", "sklearn", "pandas", "matplotlib"}


@pytest.mark.parametrize(
    ("started", "environment", "on_path", "spelled"),
    [
        ("search.py", "here/.venv", "here/.venv", "python -m ensemble.evaluate"),
        ("search.py", "here/.venv", "system", ".venv/bin/python -m ensemble.evaluate"),
        ("search.py", "here/my env", "system", "'my env/bin/python' -m ensemble.evaluate"),
        ("search.py", "far", "nowhere", "{folder}/far/bin/python -m ensemble.evaluate"),
        ("crack-ensemble", "here/.venv", "system", "crack-ensemble evaluate"),
    ],
)
def test_a_command_is_spelled_so_that_the_shell_finds_the_environment(
    tmp_path, monkeypatch, started, environment, on_path, spelled
):
    for place in ("here/.venv", "here/my env", "system", "far"):
        (tmp_path / place / "bin").mkdir(parents=True)
        (tmp_path / place / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setattr(sys, "prefix", str(tmp_path / environment))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "executable", str(tmp_path / environment / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / on_path / "bin"))
    assert spell_command("evaluate") == spelled.format(folder=tmp_path)


def test_another_operating_system_is_refused_in_one_line():
    code = (
        "import signal, sys\n"
        "sys.platform = 'win32'\n"
        "del signal.SIGHUP\n"  # what Windows lacks
        "sys.modules |= dict.fromkeys(['fcntl', 'resource', 'pwd', 'termios'])\n"
        "sys.argv = ['search.py', '--data', 'tiles']\n"
        "from ensemble.cli import start\n"
        "start('search')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: crack-ensemble runs on Linux alone, and this is win32; on Windows use WSL2, on "
        "macOS a container or a virtual machine with Linux\n"
    )
