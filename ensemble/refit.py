"""python -m ensemble.refit: the best configurations of a run, trained anew on every fold."""

from ensemble.cli import start

if __name__ == "__main__":
    start("refit")
