"""What every module imports, and on which machines it can."""

import subprocess
import sys

import pytest
from source_files import ROOT

# rooms and doors that may need Ray
LATER = ("search", "report", "serving", "api.py", "cli.py", "__main__.py")
# in one process, as imports take ten seconds: first all that can do without Ray, then the others
IMPORT_ALL = """
import builtins, importlib, os, pkgutil, signal, sys
import matplotlib.pyplot, pandas, sklearn.metrics, torchvision
import ensemble

sys.modules["ray"] = sys.modules["optuna"] = None  # makes importing them an ImportError
for module in sys.argv[1:]:
    importlib.import_module(module)
del sys.modules["ray"], sys.modules["optuna"]
import optuna, ray.tune

for name in [name for name in sys.modules if name.startswith("ensemble.")]:
    del sys.modules[name]
POSIX = ("fcntl", "grp", "pty", "pwd", "resource", "termios")
import_module = builtins.__import__
def refuse(name, *rest, **more):
    here = rest[0]["__name__"] if rest and rest[0] else ""
    if here.startswith("ensemble") and name in POSIX:
        raise ImportError(f"{here} imports {name}")
    return import_module(name, *rest, **more)
builtins.__import__ = refuse
for name in ("sched_getaffinity", "posix_fallocate", "fdatasync", "pwrite", "setsid", "killpg"):
    delattr(os, name)
signal.Signals = [s for s in signal.Signals if s.name not in ("SIGHUP", "SIGKILL", "SIGUSR1")]
del signal.SIGHUP, signal.SIGKILL, signal.SIGUSR1
for module in pkgutil.walk_packages(ensemble.__path__, "ensemble."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


@pytest.mark.slow
def test_all_imports_without_what_only_posix_has_and_all_but_searches_without_ray_and_optuna():
    paths = [path.relative_to(ROOT) for path in (ROOT / "ensemble").rglob("*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths if path.parts[1] not in LATER]
    assert {"ensemble.evaluate", "ensemble.predict", "ensemble.train"} <= set(modules)
    words = [sys.executable, "-c", IMPORT_ALL, *sorted(modules)]
    subprocess.run(words, check=True, cwd=ROOT)
