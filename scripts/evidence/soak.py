"""Break searches in full counts and keep what happened: `python scripts/evidence/soak.py`.

Ten kills of one driver, twenty data-parallel trials beside a second Ray without a dashboard, and
10,000 inputs for each parser; `make test-all` does the same with smaller counts, and without the
rarer kinds of a fault, which are marked `soak`. Each part writes results/evidence/soak_<part>.csv,
a row a test with the code it was measured with, and what the last run was measured on beside it.
`--again` runs only tests that did not pass or are new, and replaces their rows; rows of tests that
are gone go, too.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pandas as pd

from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, read_table
from ensemble.base.provenance import describe_code_and_machine
from record import write_evidence

ROOT = Path(__file__).parents[2]
PARTS = {
    "faults": ("test_faults.py", "test_traces.py", "test_cluster_faults.py", "test_cluster.py"),
    "inputs": ("test_fuzz.py",),
}
COUNTS = {  # what the tests read from the environment: our option and its default
    "faults": {"DRIVER_KILLS": ("--driver-kills", 10), "WORKER_TRIALS": ("--worker-trials", 20)},
    "inputs": {"FUZZ_EXAMPLES": ("--inputs", 10_000)},
}
OPTIONS = {name: option for counts in COUNTS.values() for name, (option, _) in counts.items()}
Row = dict[Any, Any]


class Earlier(NamedTuple):
    """A table as it was: a row a test, and the time that all its runs took."""

    rows: list[Row]
    wall_seconds: int


def main() -> None:
    """Run the tests of all faults and write one row each."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--part", choices=PARTS, help="only this one (default: all)")
    for name, (option, default) in (item for part in COUNTS.values() for item in part.items()):
        kind: Any = {"type": int, "metavar": "N", "help": f"(default: {default})"}
        parser.add_argument(option, dest=name, default=default, **kind)
    what = "only what did not pass or is new; the counts must be the same"
    parser.add_argument("--again", action="store_true", help=what)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "evidence")
    options = parser.parse_args()
    parts = [options.part] if options.part else list(PARTS)
    tables = {part: options.out / f"soak_{part}.csv" for part in parts}
    counts_of = {part: {name: getattr(options, name) for name in COUNTS[part]} for part in parts}
    earlier = {}
    if options.again:  # all are read before the first of them runs for hours
        earlier = {part: read_earlier(tables[part], counts_of[part]) for part in parts}
    passed = [
        soak(PARTS[part], counts_of[part], tables[part], earlier=earlier.get(part))
        for part in parts
    ]
    if not all(passed):
        raise InputError("some faults cost more than they may; see the rows that are not 'passed'")


def read_earlier(table: Path, counts: dict[str, int]) -> Earlier:
    """Read a table that `soak` wrote; rows without a commit have that of the .json beside it.

    Raises:
        InputError: It is missing or damaged, or was measured with other counts.
    """
    columns = ("file", "test", "outcome", "seconds")
    rows = read_table(table, columns=columns, text=("file", "test", "outcome", "commit"))
    about = read_object(table.with_suffix(".json"), counts=dict, wall_seconds=int)
    if about["counts"] != counts:
        had = " ".join(f"{OPTIONS.get(name, name)} {n}" for name, n in about["counts"].items())
        raise InputError(
            f"--again: {table} was measured with {had}; give that, or measure all of it anew "
            "without --again"
        )
    if "commit" not in rows:
        rows["commit"] = about.get("commit")
    return Earlier(rows.to_dict("records"), about["wall_seconds"])


def soak(
    names: Sequence[str],
    counts: dict[str, int],
    table: Path,
    *,
    earlier: Earlier | None = None,
    root: Path = ROOT,
) -> bool:
    """Run tests, write their table, and return whether all passed.

    Args:
        names: Names of files below `tests/` in `root`.
        counts: Counts by the environment variable that the tests read.
        table: Path of the table to write.
        earlier: Table as it was; then only new tests and those that did not pass are run.
        root: Folder that `tests/` is in.

    Raises:
        InputError: pytest could not run these tests; the table is as it was.
    """
    wanted = [
        str(path.relative_to(root)) for path in (root / "tests").rglob("*") if path.name in names
    ]
    environment = {**os.environ, **{name: str(count) for name, count in counts.items()}}
    old: list[Row] = []
    if earlier is not None:
        there = collect_tests(wanted, environment, root)
        old = [row for row in earlier.rows if _name_test(row) in there]
        bad = {_name_test(row) for row in old if row["outcome"] != "passed"}
        passed = {_name_test(row) for row in old} - bad
        wanted = [path for test, path in there.items() if test not in passed]
        if not wanted:
            print(f"{table}: all passed, nothing to run again")
            return True
    about, started = describe_code_and_machine(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *wanted],
            cwd=root,
            env=environment,
        )
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    rows = [{**_row(case), "commit": about["commit"]} for case in cases]
    wall_seconds = math.ceil(time.monotonic() - started)
    if not rows:
        raise InputError(f"pytest ran no test (exit code {done.returncode}); see its output above")
    if earlier is not None:
        rows = merge_rows(old, rows)
        wall_seconds += earlier.wall_seconds
    origin = {"counts": counts, "wall_seconds": wall_seconds, **about}
    write_evidence(table, pd.DataFrame(rows), origin)
    return done.returncode == 0


def collect_tests(wanted: Sequence[str], environment: dict[str, str], root: Path) -> dict[str, str]:
    """List the tests in these files: name in the table → name for pytest.

    Raises:
        InputError: pytest cannot read them.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *wanted],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise InputError(f"--again: pytest cannot read the tests: {done.stdout.strip()[-300:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("tests/")]
    named = ((line.partition("::"), line) for line in lines)
    return {f"{Path(path).stem}::{test}": line for (path, _, test), line in named}


def merge_rows(rows: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Put the new rows of each test in the place of its old ones, and new tests at the end."""
    order = {name: i for i, name in enumerate(dict.fromkeys(map(_name_test, [*rows, *new])))}
    renewed = {_name_test(row) for row in new}
    kept = [row for row in rows if _name_test(row) not in renewed]
    return sorted([*kept, *new], key=lambda row: order[_name_test(row)])


def _name_test(row: Row) -> str:
    return f"{row['file']}::{row['test']}"


def _row(case: ElementTree.Element) -> Row:
    bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
    return {
        "file": case.get("classname", "").rpartition(".")[2],
        "test": case.get("name"),
        "outcome": bad[0] if bad else "passed",
        "seconds": round(float(case.get("time", 0)), 1),
    }


if __name__ == "__main__":
    run_command(main)
