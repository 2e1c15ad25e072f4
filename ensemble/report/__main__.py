"""python -m ensemble.report: write the page of a run."""

from ensemble.command_lines import report_parser
from ensemble.door import run_module

run_module("ensemble.report.page", report_parser)
