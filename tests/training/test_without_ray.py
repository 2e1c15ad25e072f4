"""Training, evaluation and predictions on a machine that has torch and no Ray."""

import subprocess
import sys

from source_files import ROOT

# rooms and doors that may need Ray
LATER = ("search", "report", "serving", "api.py", "cli.py", "__main__.py")


def test_all_but_searches_reports_and_servers_imports_where_ray_and_optuna_are_not_installed():
    paths = [path.relative_to(ROOT) for path in (ROOT / "ensemble").rglob("*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths if path.parts[1] not in LATER]
    assert {"ensemble.evaluate", "ensemble.predict", "ensemble.train"} <= set(modules)
    code = (
        "import importlib, sys\n"
        "sys.modules['ray'] = sys.modules['optuna'] = None\n"  # makes importing them an ImportError
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
    )
    subprocess.run([sys.executable, "-c", code, *sorted(modules)], check=True, cwd=ROOT)
