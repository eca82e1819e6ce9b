# Everything a newcomer needs:  make demo   make test
# Everything a developer needs: make check  make format

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test fast check format-check lint types contracts format clean help

help:
	@echo "make demo    set up, then the whole path on the shipped images"
	@echo "make test    set up, then all tests"
	@echo "make check   format, lint, types, import contracts, tests"
	@echo "make fast    the tests without the slow ones"
	@echo "make format  let ruff rewrite the code"

setup: $(READY)

# Pinned by constraints.txt; made again when either file changes. A set-up that was cut off starts over.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11, or say make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 \
		|| { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } \
		|| { echo "Python's venv module and pip are missing: apt install python3-venv"; exit 1; }
	@echo "installing the pinned packages into $(VENV) (about 3 GB on disk)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --constraint constraints.txt setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: setup
	$(BIN)/edgetl demo -o demo-output

test: setup
	$(BIN)/python -m pytest

fast: setup
	$(BIN)/python -m pytest -m 'not slow'

check: format-check lint types contracts test

format-check: setup
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis
