PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test nightly coverage lint clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[compute,analysis,dev]'
	@touch $@

setup: $(READY)  ## the virtual environment, with everything installed

demo: $(READY)  ## the main job on drawn images and small networks, into runs/demo
	$(BIN)/conceptevo demo

test: $(READY) lint  ## every test but the slow ones
	$(BIN)/pytest -n 2

nightly: $(READY)  ## every test
	$(BIN)/pytest -n 2 -m ''

coverage: $(READY)  ## are the intervals what they say? (1,000 simulated studies)
	$(BIN)/python -m analysis.coverage

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the environment and the demo's results
	rm -rf $(VENV) runs/demo
