"""Makes processes of Ray print, by a `sitecustomize`, as a library that a person installed may."""

from pathlib import Path

SAYS, COMPLAINS = r"a trial says: \x1b[31mred", "a trial complains"  # as ray.log has them
CHATTER = r"pid=|\bray\.|raylet|SIGSEGV|Wrote the latest"  # of Ray's, for no console
CODE = """
import sys, threading, time

def talk():
    while "ensemble.training.member" not in sys.modules:
        time.sleep(0.05)
    print("a trial says: \\033[31mred")
    print("a trial complains", file=sys.stderr)
    print("the package is " + sys.modules["ensemble"].__file__)

if any("default_worker.py" in word for word in sys.orig_argv):
    threading.Thread(target=talk, daemon=True).start()
"""


def make_talkative(folder: Path) -> str:
    """Write a `sitecustomize` into `folder`; returns the PYTHONPATH under which trials print."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CODE)
    return str(folder)
