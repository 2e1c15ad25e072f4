"""Counts the tests that failed in one kept run of the suite and passed in another: flaky tests.

`make test-all` keeps the outcomes of its runs as JUnit files in `results/outcomes`; they are read
here and nothing is run. Between two of them the code may have changed, so a test is flaky only
where it failed and passed at the same commit.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path
from xml.etree import ElementTree

FOLDER = Path(__file__).parents[1] / "results" / "outcomes"


def count_outcomes(folder: Path) -> dict[str, dict[str, Counter[str]]]:
    """How often each test passed, failed or was skipped, by commit: `COMMIT-DATE-PART.xml`."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for path in sorted(folder.glob("*.xml")):
        commit = path.stem.split("-")[0]
        for case in ElementTree.parse(path).iter("testcase"):
            kinds = {child.tag for child in case}
            failed = bool(kinds & {"failure", "error"})
            outcome = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
            counts[commit][f"{case.get('classname')}::{case.get('name')}"][outcome] += 1
    return counts


def main(folder: Path = FOLDER) -> int:
    """Print a line for each flaky test and their number; returns 1 if there is one."""
    num_flaky = 0
    for commit, tests in count_outcomes(folder).items():
        for test, counts in sorted(tests.items()):
            if counts["failed"] and counts["passed"]:
                num_flaky += 1
                runs = counts["failed"] + counts["passed"]
                print(f"{commit}: failed {counts['failed']} of {runs} runs: {test}")
    num_files = len(list(folder.glob("*.xml")))
    print(f"number of flaky tests in {num_files} kept outcomes: {num_flaky}")
    return int(num_flaky > 0)


if __name__ == "__main__":
    sys.exit(main())
