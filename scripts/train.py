"""Train what a recipe says: `python scripts/train.py --help`."""

from ensemble.errors import run_command
from ensemble.train import main

if __name__ == "__main__":
    run_command(main)
