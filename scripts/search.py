"""Search hyperparameters: `python scripts/search.py --help`."""

from ensemble.base.door import run_module
from ensemble.search.options import build_parser

if __name__ == "__main__":
    run_module("ensemble.search.command", build_parser)
