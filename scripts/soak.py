"""Break searches in full counts and keep what happened: `python scripts/soak.py`.

Ten kills of one driver, twenty data-parallel trials beside a second Ray without a dashboard, and
10,000 inputs for each parser; `make test-all` does the same with smaller counts. Each part writes
results/evidence/soak_<part>.csv, a row a test, and what it was measured on beside it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from ensemble.errors import InputError, run_command
from ensemble.files import write_json, write_text
from ensemble.provenance import describe_code_and_machine

ROOT = Path(__file__).parents[1]
PARTS = {
    "faults": ("test_faults.py", "test_cluster_faults.py", "test_cluster.py"),
    "inputs": ("test_fuzz.py",),
}


def main() -> None:
    """Run the tests of all faults and write one row each."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--part", choices=PARTS, help="only this one (default: all)")
    parser.add_argument("--driver-kills", type=int, default=10, metavar="N", help="(default: 10)")
    parser.add_argument("--worker-trials", type=int, default=20, metavar="N", help="(default: 20)")
    parser.add_argument("--inputs", type=int, default=10_000, metavar="N", help="(default: 10000)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "evidence")
    options = parser.parse_args()
    counts = {
        "faults": {"DRIVER_KILLS": options.driver_kills, "WORKER_TRIALS": options.worker_trials},
        "inputs": {"FUZZ_EXAMPLES": options.inputs},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    parts = [options.part] if options.part else list(PARTS)
    passed = [_run(part, counts[part], options.out) for part in parts]
    if not all(passed):
        raise InputError("some faults cost more than they may; see the rows that are not 'passed'")


def _run(part: str, counts: dict[str, int], out: Path) -> bool:
    """Run one part, write its table; whether all passed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
            + [f"tests/{name}" for name in PARTS[part]],
            cwd=ROOT,
            env={**os.environ, **{name: str(count) for name, count in counts.items()}},
        )
        rows = [_row(case) for case in ElementTree.parse(report).iter("testcase")]
    path = out / f"soak_{part}.csv"
    write_text(path, pd.DataFrame(rows).to_csv(index=False))
    about = {
        "counts": counts,
        "wall_seconds": round(time.monotonic() - started),
        **describe_code_and_machine(),
    }
    write_json(path.with_suffix(".json"), about)
    print(f"written: {path} and .json")
    return done.returncode == 0


def _row(case: ElementTree.Element) -> dict[str, object]:
    bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
    return {
        "file": case.get("classname", "").rpartition(".")[2],
        "test": case.get("name"),
        "outcome": bad[0] if bad else "passed",
        "seconds": round(float(case.get("time", 0)), 1),
    }


if __name__ == "__main__":
    run_command(main)
