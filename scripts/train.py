"""Train what a recipe says: `python scripts/train.py --help`."""

from ensemble.base.door import run_module
from ensemble.command_lines import train_parser

if __name__ == "__main__":
    run_module("ensemble.train", train_parser)
