"""Train what a recipe says: `python scripts/train.py --help`."""

from ensemble.command_lines import train_parser
from ensemble.door import run_module

if __name__ == "__main__":
    run_module("ensemble.train", train_parser)
