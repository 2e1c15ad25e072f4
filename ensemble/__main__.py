"""python -m ensemble COMMAND …: what `crack-ensemble COMMAND …` runs."""

from ensemble.cli import main

main()
