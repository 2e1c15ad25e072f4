"""python -m ensemble.inspection: the command `inspect`, on the photographs of a visit."""

from ensemble.cli import start

if __name__ == "__main__":
    start("inspect")
