"""python -m ensemble.search: search hyperparameters, as scripts/search.py."""

from ensemble.cli import start

start("search")
