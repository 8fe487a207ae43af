# make run     sets up and runs the quickstart study        make test    sets up and runs every check
# Needs Python 3.11 or 3.12, a C compiler and make; another interpreter: make PYTHON=python3.12 ...

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The first interpreter that answers with a version that study runs on.
PYTHON ?= $(shell for each in python3.11 python3.12 python3; do $$each -c 'import sys; \
  sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$each && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
GUIDED ?= 20000
FILE ?= search_spaces/quickstart.yaml
QUICK := tests $(addprefix --ignore=tests/,ray e2e gpu chaos bench)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help setup run test test-long lint types floors unit cluster studies long-studies long-rest bench chaos fuzz audit clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make .venv with the exact versions of requirements.lock

$(STAMP): pyproject.toml requirements.lock
	@[ -n "$(PYTHON)" ] || { echo "setup: no Python 3.11 or 3.12 found; name one: make PYTHON=/path/to/python3.11 setup" >&2; exit 3; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 13) else \
	  f"{sys.executable} is Python {v[0]}.{v[1]}; study needs 3.11 or 3.12 (make PYTHON=python3.11 setup)")'
	@echo "setup: installing requirements.lock into $(VENV) (some minutes the first time)" >&2
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

run: setup  ## Run a study: make run [FILE=search_spaces/quickstart.yaml]
	$(BIN)/study run $(FILE)

test: lint  ## Everything that must hold before a change goes in
	@echo "test: studies, cluster and quick tests side by side, nine to eleven minutes on two cores; each tells when it ends" >&2
	@$(MAKE) -j 3 --output-sync=target studies cluster unit types floors

lint: setup  ## Style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## Static types
	$(BIN)/mypy

floors: setup  ## Imports only go down
	$(BIN)/lint-imports --no-logo

unit: setup  ## Quick tests: no Ray, no whole studies
	$(PYTEST) -q -m "not gpu and not long" $(QUICK)

cluster: setup  ## Tests on a local Ray cluster, and those of real files
	$(PYTEST) -q -m "(ray or (e2e and data)) and not long" tests/ray tests/e2e

studies: setup  ## Whole studies through the command line
	$(PYTEST) -q -m "e2e and not data and not long" tests/e2e

test-long: setup  ## The dear tests that make test leaves out (about an hour on two cores)
	@$(MAKE) -j 2 --output-sync=target long-studies long-rest

long-studies: setup
	$(PYTEST) -q -m "long and e2e" tests/e2e

long-rest: setup
	$(PYTEST) -q -m "long and not e2e and not gpu" tests --ignore=tests/gpu --ignore=tests/chaos --ignore=tests/e2e

bench: setup  ## Speed, as ratios within one run
	$(PYTEST) -q -s tests/bench/bench_*.py

chaos: setup  ## Shoot the processes of a study one after another (about 10 minutes)
	PYTHONUNBUFFERED=1 $(PYTEST) -q -s tests/chaos/chaos_study.py

fuzz: setup  ## Damaged files, study files, tables and checkpoints (half an hour); GUIDED=0 needs no atheris
	@[ "$(GUIDED)" = 0 ] || $(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install -q --no-deps atheris==3.0.0 || \
	  echo "fuzz: atheris cannot be installed here, for the reason above; what it guides is left out, and make fuzz ends with an error" >&2
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python -m tests.fuzz.every --guided $(GUIDED)

audit: setup  ## Known weaknesses in the packages of requirements.lock, and their licences
	@$(BIN)/study doctor --licences
	@[ -x .venv-audit/bin/pip-audit ] || { "$(PYTHON)" -m venv .venv-audit; .venv-audit/bin/python -m pip install -q pip-audit==2.10.1; }
	@rm -f .venv-audit/found.txt
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock -o .venv-audit/found.txt || { code=$$?; \
	  [ -s .venv-audit/found.txt ] && cat .venv-audit/found.txt || \
	  { echo "audit: the advisories could not be asked; no package was checked for weaknesses" >&2; code=3; }; exit $$code; }

clean:  ## Remove the environment and all caches; keeps data/ and studies/
	rm -rf $(VENV) .venv-audit .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find study tests -name __pycache__ -type d -prune -exec rm -rf {} +
