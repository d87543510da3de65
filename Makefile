# Everything runs in .venv, which the first target that needs it makes, with the versions of constraints.txt. Nothing
# but Python >= 3.11 is assumed.
PYTHON ?= python3
BIN := .venv/bin
LOCK := constraints.txt
# What is built is built with the setuptools of the lock too.
INSTALL := $(BIN)/python -m pip install --quiet --constraint $(LOCK) --build-constraint $(LOCK)
# Small matrices do not need a thread each, and threads that wait for one another slow a busy machine down.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test lint format notebooks docs benchmarks matrix lock hooks clean
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-11s %s\n", $$1, $$2 }'

.venv/ready: pyproject.toml $(LOCK)
	$(PYTHON) -c 'import sys; sys.exit("l0bayes needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv  # from nothing: no package of before stays
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) --upgrade pip
	$(INSTALL) --upgrade setuptools --editable '.[dev]'
	touch $@

demo: .venv/ready  ## train, compact and draw, beside a network of the same size from scratch, on digits that come with scikit-learn
	$(BIN)/l0bayes train --data digits --thin true --out out/demo

test: .venv/ready  ## the tests, in under ten minutes
	$(BIN)/python -m pytest

lint: .venv/ready  ## ruff, and mypy on the installed package, from outside the checkout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build && $(INSTALL) --no-deps --target build/types .
	cd build && MYPYPATH=types ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p l0bayes
	rm -rf build  # what a build leaves here would go into the next wheel, modules that have moved since included

format: .venv/ready  ## ruff's formatter, and what ruff can mend by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

notebooks: .venv/ready  ## run every notebook from its text source
	$(BIN)/python notebooks/run.py

docs: .venv/ready  ## the documentation site, in docs/_build/html; a warning or a broken link is an error
	$(BIN)/python docs/fill_numbers.py --check
	rm -rf docs/_build docs/reference/generated
	$(BIN)/python -m sphinx --builder html --quiet --fail-on-warning --keep-going docs docs/_build/html
	$(BIN)/python docs/check_site.py docs/_build/html

benchmarks: .venv/ready  ## measure again what the pages report, but for what needs data that is not here
	$(BIN)/python benchmarks/draws.py
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/inclusion.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/zoo.py
	$(BIN)/python benchmarks/zoo_transformers.py

matrix:  ## the tests with the oldest, the locked and the newest versions, each in an environment of its own
	$(PYTHON) .ci/matrix

lock:  ## choose the versions of constraints.txt anew
	PYTHON=$(PYTHON) .ci/lock

hooks: .venv/ready  ## style at every commit and types at every push, if pre-commit is installed
	pre-commit install --hook-type pre-commit --hook-type pre-push

clean:  ## remove all that was made here
	rm -rf .venv build dist out docs/_build docs/reference/generated *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
