"""python -m ensemble.report: write the page of a run."""

from ensemble.base.door import run_module
from ensemble.command_lines import report_parser

run_module("ensemble.report.page", report_parser)
