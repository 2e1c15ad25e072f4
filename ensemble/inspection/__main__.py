"""python -m ensemble.inspection: the command `inspect`, on the photographs of a visit."""

from ensemble.cli import start

start("inspect")
