# The two commands: `make demo` trains a flow and shows what it is worth; `make test` checks the house.
# Both make their own .venv on first use and install again only when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
WORKERS ?= auto
THREADS ?= 2
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4

.PHONY: help demo test test-all test-slow bench bench-all lint docs clean

help:
	@echo "make demo      train on the digits, evaluate, sample, certify, write a report (about three minutes)"
	@echo "make test      the tests"
	@echo "make test-all  the slow tests too; IRESNET_DATA names the folder of real data"
	@echo "make bench     other libraries beside this one, on two threads (some minutes); make bench-all: time to quality too"
	@echo "make lint      ruff and pyright"
	@echo "make docs      the documentation, into site/"
	@echo "make clean     remove .venv, site/ and the caches; runs/ stays"

# pip is the last thing venv puts there: a half-made environment is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("iresnet needs Python 3.11 or newer and this is %d.%d: run make with PYTHON=python3.11 or later" % (v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) -e '.[bench]'
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	rm -rf $(RUN)
	$(BIN)/iresnet train digits --preset small-table --out $(RUN)
	$(BIN)/iresnet sample $(RUN) -n 64 --out $(RUN)/samples.npz
	$(BIN)/iresnet certify $(RUN)
	$(BIN)/iresnet evaluate $(RUN)
	@echo "Open $(RUN)/report.html"

test: $(VENV)/.installed-dev
	$(PYTEST)

test-all: $(VENV)/.installed-dev
	$(PYTEST) -m ''

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --threads $(THREADS)
	$(BIN)/python -m benchmarks.report

bench-all: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --threads $(THREADS) --all
	$(BIN)/python -m benchmarks.report

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
