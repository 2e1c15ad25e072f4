"""Search hyperparameters: `python scripts/search.py --help`."""

from ensemble.errors import run_command
from ensemble.search.command import main

if __name__ == "__main__":
    run_command(main)
