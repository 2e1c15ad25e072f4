"""Search hyperparameters: `python scripts/search.py --help`."""

from ensemble.door import run_module

if __name__ == "__main__":
    run_module("ensemble.search.command")
