# Commands of this repository; CI calls only these. Each one sets the environment up first, if it has to.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SOURCES := stc_export engines runtime calib tests examples benchmarks docs
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow bench bench-quick evidence docs lint fmt wheel clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | \
		while IFS='|' read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

setup: $(INSTALLED)  ## Create .venv and install everything for development (PYTHON=python3.12 chooses one)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

demo: setup  ## Build the demo model, play a video through it, and show what the compression saves
	$(BIN)/python examples/demo.py

test: lint  ## Lint, import rules and all quick tests: what CI runs
	$(PYTEST) -m "not slow"

test-slow: setup  ## The tests that take minutes
	$(PYTEST) -m "slow"

bench: setup  ## Run the benchmarks, write their results and the tables of docs/performance.md
	$(BIN)/python benchmarks/run.py

bench-quick: setup  ## Run the benchmarks on tiny shapes, to see that they run
	$(BIN)/python benchmarks/run.py --quick

evidence: setup  ## Prove a target on this machine and write its page (TARGET=NAME; default: what this machine is)
	$(BIN)/python benchmarks/evidence.py $(TARGET)

docs: setup  ## Write the generated pages docs/cli.md and docs/errors.md (Python 3.11)
	$(BIN)/python docs/generate.py

lint: setup  ## Style, types and the one-way dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: setup  ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

wheel: setup  ## Build dist/*.whl and check what is inside
	rm -rf dist
	$(BIN)/python -m hatchling build -t wheel
	$(BIN)/pytest -q tests/hygiene/test_wheel.py

clean:  ## Remove what the commands above wrote, except .venv
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(wildcard $(SOURCES)) -name __pycache__ -prune -exec rm -rf {} +
