# Two commands: `make demo` and `make test`. Each does all of its set-up.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup demo test check bench docs lock clean

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(READY) ## a virtual environment with everything, every package pinned by hash

$(READY): requirements/dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pgkeep needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## back up a real database, wreck it, restore it, prove it
	$(BIN)/pgkeep demo

test: setup ## all tests, on real PostgreSQL servers
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: setup ## format, lint and types
	$(BIN)/ruff format --check src tests benchmarks docs tools/live-check
	$(BIN)/ruff check src tests benchmarks docs tools/live-check
	$(BIN)/mypy

docs: setup ## write docs/reference.md from the code
	$(BIN)/python docs/reference.py

bench: setup ## pgkeep beside pg_dump and pg_restore, a table of ratios
	$(BIN)/python -m benchmarks.run

lock: ## renew the lock files (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --extra postgres --extra s3 --extra gcs --extra apprise -o requirements/run.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --extra postgres --extra s3 --extra gcs --extra apprise --group dev -o requirements/dev.lock pyproject.toml

clean: ## remove what make made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
