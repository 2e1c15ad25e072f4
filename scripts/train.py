"""Train what a recipe says: `python scripts/train.py --help`."""

from ensemble.cli import start

if __name__ == "__main__":
    start("train")
