# `make demo` and `make test` work in a fresh clone: each makes .venv if it is missing.

PYTHON ?= python3
RUN := .venv/bin/python
SHARED := -n 2 --dist loadfile --no-loadscope-reorder  # a file of tests goes to one of two processes
LONG = $(shell grep -rlF --include='*.py' mark.long tests)  # each process would collect all the others, too
OUTCOMES = results/outcomes/$(shell git describe --always --dirty=+)-$(shell date -u +%Y%m%dT%H%M%S)

.PHONY: help demo check test test-all flaky soak bench bench-small sdnet2018 evidence-check docs lint clean

help:  ## these lines, at once
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; say make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

demo: .venv/.installed  ## draw concrete, search six trials, test the ensemble: under 4 minutes
	rm -rf results/demo
	$(RUN) scripts/search.py --data synthetic --space demo --trials 6 --gpus 0 --cpus 2 --name demo
	$(RUN) -m ensemble.evaluate demo
	$(RUN) -m ensemble.report demo

check: .venv/.installed lint  ## before each commit: format, style, types and the tests without torch: under a minute
	$(RUN) -m pytest $(SHARED) -q --pure -m "not slow and not long"

test: .venv/.installed lint  ## all tests but the long ones: about 15 minutes on two idle cores
	$(RUN) -m pytest $(SHARED) -m "not long"

test-all: .venv/.installed lint  ## all tests, as CI runs them, with kills, full disks and clusters: three quarters of an hour
	$(RUN) -m pytest $(SHARED) -m "not long" --junit-xml $(OUTCOMES)-fast.xml
	$(RUN) -m pytest -n 2 --dist worksteal -m "long and not soak" $(LONG) --junit-xml $(OUTCOMES)-long.xml

flaky: .venv/.installed  ## tests that failed and passed at one commit, in the runs of test-all so far: at once
	$(RUN) tests/outcomes.py

soak: .venv/.installed  ## the faults in full counts, for hours; writes results/evidence/soak_*.csv
	$(RUN) scripts/evidence/soak.py $(SOAK)

bench: .venv/.installed  ## how quick, against the bare floor and against peers: two hours; writes results/benchmarks/
	$(RUN) scripts/benchmark.py $(BENCH)

bench-small: .venv/.installed  ## the same without peers, to show that it works: a few minutes
	$(RUN) scripts/benchmark.py --small --peers "" --out results/small-benchmark --name small $(BENCH)

sdnet2018: .venv/.installed  ## the table of all SDNET2018, with DATA=PATH: hours on a GPU, days on two cores; goes on where it stopped
	$(RUN) scripts/evidence/sdnet2018.py --data "$(DATA)" $(SDNET2018)

evidence-check: .venv/.installed  ## the committed tables, their commands, and which are older than their code: at once
	$(RUN) scripts/evidence/check.py

docs: .venv/.installed  ## the pages of docs/ with the API reference, in docs/_build/html: one to two minutes
	$(RUN) -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html

lint: .venv/.installed  ## format, style and types: seconds, a minute the first time
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:  ## remove the environment and what commands left, but not the committed tables: at once
	rm -rf .venv results/packs results/demo results/outcomes docs/_build
