# `make studio` opens the studio, `make test` runs the tests. Each sets up what it needs in .venv, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: studio test test-gpu slow lint format bench screenshots pocket clean

studio: $(VENV)/.ready
	@$(BIN)/rlhf-studio

test: $(VENV)/.ready-test
	@$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist worksteal

slow: $(VENV)/.ready-test
	@$(BIN)/python -m pytest -m slow

# What only a CUDA GPU can show.
test-gpu: $(VENV)/.ready-test
	@STUDIO_TEST_GPU=1 $(BIN)/python -m pytest tests/gpu

lint: $(VENV)/.ready-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.ready-test
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.ready-bench
	@$(BIN)/python benchmarks/all.py

screenshots: $(VENV)/.ready-test
	@$(BIN)/python -m docs.screenshots

pocket: $(VENV)/.ready
	@$(BIN)/python -m engine.pocket.build

# The tests against trl run where the extra `bench` is there too.
$(VENV)/.ready-bench: pyproject.toml requirements.lock | $(BIN)/python
	@$(INSTALL) --editable '.[test,bench]'
	@touch $@ $(VENV)/.ready-test $(VENV)/.ready

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing into $(VENV); the first time this takes a few minutes ..."
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.ready-test: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing into $(VENV); the first time this takes a few minutes ..."
	@$(INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.ready
