# Needs Linux, Python 3.11 or later with venv, and make. Everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
OUT ?= out
COUNT ?= 12000
SEED ?= 0
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := src lab tests benchmarks examples

.DEFAULT_GOAL := help
.PHONY: help install dev demo test test-all fuzz lint format clean

help:
	@echo "make demo      animate the photographs in examples/photos into $(OUT)/"
	@echo "make test      run the test suite"
	@echo "make test-all  the same with the long tests, and the wheel in an empty environment"
	@echo "make fuzz      read 12,000 malformed and hostile files; COUNT, SEED"
	@echo "make lint      format, lint, types, import contracts"
	@echo "make format    reformat, and fix what can be fixed"
	@echo "make install   the package in $(VENV); make dev: with the tools"
	@echo "make clean     remove what these commands made, but for $(VENV)"

$(VENV)/.installed: pyproject.toml requirements/constraints.txt requirements/torch.sh
	@$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11)" 2>/dev/null || \
		{ echo "trip needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@echo "installing into $(VENV), once"
	@$(PIP) install -qq pip==26.3
	@bash requirements/torch.sh $(VENV)
	@$(PIP) install -qq --constraint requirements/constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@$(PIP) install -qq --constraint requirements/constraints.txt --group dev
	@touch $@

install: $(VENV)/.installed

dev: $(VENV)/.dev

demo: $(VENV)/.installed
	@$(BIN)/trip animate examples/photos/prompts.jsonl --output $(OUT) --seed 0 --overwrite

test: $(VENV)/.dev
	$(BIN)/python -m pytest

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow or not slow"
	$(BIN)/python tests/wheel.py --empty

fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz/fuzz.py --count $(COUNT) --seed $(SEED)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:
	rm -rf $(OUT) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
