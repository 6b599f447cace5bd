PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo train test test-slow test-soak check bench format clean

help:
	@echo "make install    the project and its test tools into .venv, nothing else"
	@echo "make demo       four tiny encoders on generated phantoms, trained and ranked (under five minutes)"
	@echo "make train      train on generated phantoms on this machine's CPU (about three minutes)"
	@echo "make test       all tests except the slow ones"
	@echo "make test-slow  faults on whole runs: killed actors, drivers, damaged scans"
	@echo "make test-soak  several jobs at once, random stops, benchmarks that need a cluster: before a release"
	@echo "make check      ruff and mypy"
	@echo "make bench      all benchmarks, into tests/benchmarks/RESULTS.md (on a machine that does nothing else)"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(READY)

demo: $(READY)
	$(BIN)/python tune/demo.py

train: $(READY)
	$(BIN)/python tune/train_single.py phantom-place

test: $(READY)
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -m 'slow and not soak' --numprocesses 2 --dist loadfile

test-soak: $(READY)
	$(BIN)/python -m pytest -m soak

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python tests/benchmarks/run_all.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info
