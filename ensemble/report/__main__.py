"""python -m ensemble.report: write the page of a run."""

from ensemble.cli import start

start("report")
