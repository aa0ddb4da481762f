# make quickstart: from nothing to a trained detector; make test: the tests; make docs: the site in build/docs. All make .venv
# where there is none.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# a thread a worker, which does not spin while it waits for the other's
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --durations=40

.PHONY: quickstart test test-slow test-all docs format lint clean

quickstart: .venv/installed
	@if [ -f outputs/quickstart/metrics.json ]; then $(BIN)/python -m detr_mini.evaluation.report.table outputs/quickstart; \
	else $(BIN)/detr-mini train experiment=quickstart resume=auto; fi

test: .venv/installed-dev
	$(PYTEST) -m "not slow"

test-slow: .venv/installed-dev
	$(PYTEST) -m "slow"

test-all: .venv/installed-dev
	$(PYTEST)

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --strict

format: .venv/installed-dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/house.py

clean:
	rm -rf .venv outputs data/shapes build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "detr-mini needs Python 3.10 or newer; choose one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch .venv/installed $@
