"""Runs long tests that failed beside others once more, alone, and names them in the last lines.

A test that fails first and passes then is no pass: it waits for too little, or two of them meet.
"""

import sys

import pytest

AGAIN = ["--last-failed", "--last-failed-no-failures", "none", "-m", "long"]


class Outcomes:
    """Takes down which tests passed, and which did not."""

    def __init__(self) -> None:
        self.passed: dict[str, None] = {}
        self.failed: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a part of a test: its set-up, itself or its end."""
        if report.failed:
            self.failed[report.nodeid] = None
        elif report.when == "call" and report.passed:
            self.passed[report.nodeid] = None


def main() -> int:
    """Run them, say which failed first and passed now, and return pytest's exit code."""
    outcomes = Outcomes()
    code = pytest.main(AGAIN, plugins=[outcomes])
    for name in outcomes.failed:
        print(f"FAILED TWICE: {name}")
    passed = [name for name in outcomes.passed if name not in outcomes.failed]
    for name in passed:
        print(f"FAILED FIRST, PASSED ALONE: {name}")
    print(f"of the long tests {len(passed)} failed first and passed alone; see what they wait for")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
