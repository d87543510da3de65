# Everything runs in .venv, which the first target that needs it makes. Nothing but Python >= 3.11 is assumed.
PYTHON ?= python3
BIN := .venv/bin
# Small matrices do not need a thread each, and threads that wait for one another slow a busy machine down.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint format notebooks benchmarks clean

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("l0bayes needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/ready  ## train, compact and draw, on digits that come with scikit-learn
	$(BIN)/l0bayes train --data digits --out out/demo

test: .venv/ready  ## the tests, in under ten minutes
	$(BIN)/python -m pytest

lint: .venv/ready  ## ruff, and mypy on the installed package, from outside the checkout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build && $(BIN)/python -m pip install --quiet --no-deps --target build/types .
	cd build && MYPYPATH=types ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p l0bayes

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

notebooks: .venv/ready  ## run every notebook from its text source
	$(BIN)/python notebooks/run.py

benchmarks: .venv/ready  ## measure again what README reports
	$(BIN)/python benchmarks/draws.py
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/zoo.py

clean:
	rm -rf .venv build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
