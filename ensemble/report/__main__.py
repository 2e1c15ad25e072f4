"""python -m ensemble.report: write the page of a run."""

from ensemble.errors import run_command
from ensemble.report.page import main

run_command(main)
