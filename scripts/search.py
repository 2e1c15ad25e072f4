"""Search hyperparameters: `python scripts/search.py --help`."""

from ensemble.cli import start

if __name__ == "__main__":
    start("search")
