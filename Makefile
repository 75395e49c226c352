# Everything a developer does here. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# Overridable: make setup PYTHON=python3.12, make run PORT=9000, make test T=tests/test_tidy.py
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8080
T ?=

# Where compiled modules are not kept, each server that a test starts would compile the program anew,
# which takes half of its start.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard ledger projections tests benchmarks docs/examples)

# Written when the locked packages are installed, and when the project itself is.
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
# Written when a browser for the tests of the console was looked for, found or not.
BROWSER := $(VENV)/.browser

.PHONY: help setup run demo-postgres test lint types fmt golden bench soak lock clean

##@ Start
help: ## Print this help
	@awk 'BEGIN { FS = ":.*## "; printf "Usage: make TARGET\n" } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED) $(BROWSER) ## Make .venv from requirements.lock (does nothing when up to date; PYTHON=python3)

run: setup ## Tell the founding story and serve it (HOST=127.0.0.1 PORT=8080)
	$(BIN)/compliance-ledger demo --host $(HOST) --port $(PORT)

demo-postgres: setup ## The same on a PostgreSQL server that is thrown away afterwards
	$(BIN)/python -m tests.postgres $(BIN)/compliance-ledger demo --host $(HOST) --port $(PORT)

##@ Check
test: lint types ## Lint, check types, and run the tests (T=path narrows the tests)
	$(BIN)/python -m pytest -n 3 $(T)

lint: setup ## Check style, format and the direction of imports
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports --no-logo

types: setup ## Check types, strictly
	$(BIN)/mypy $(SOURCES)

soak: setup ## Run the tests that take minutes
	$(BIN)/python -m pytest -m soak $(T)

bench: setup ## Run every benchmarks/bench_*.py and print its figures
	$(BIN)/python -m benchmarks

##@ Change
fmt: setup ## Format the code and mend what can be mended safely
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

golden: setup ## Keep the bytes of new event versions in tests/golden (never overwrites one)
	$(BIN)/python -m tests.golden.make

lock: setup ## Bring requirements.lock in line with pyproject.toml (UPGRADE=1 takes newer versions)
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --universal \
		--python-version 3.11 --extra dev --custom-compile-command "make lock" \
		$(if $(UPGRADE),--upgrade) pyproject.toml -o requirements.lock

clean: ## Remove what was built, caches and .venv; ledgers under var/ stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A changed lock file means a fresh environment, so that nothing old lingers in it.
$(LOCKED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make setup PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Debian's own, where we may install it. Without it the tests that need it are skipped, and say so.
$(BROWSER): $(LOCKED)
	@if command -v chromium > /dev/null; then true; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		echo "installing chromium for the tests of the console"; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get install -qq --no-install-recommends chromium || { apt-get update -qq && \
			apt-get install -qq --no-install-recommends chromium; }; } > /dev/null 2>&1 || \
		echo "chromium could not be installed; tests that need it are skipped"; \
	else echo "chromium is not installed; tests that need it are skipped"; fi
	@touch $@
