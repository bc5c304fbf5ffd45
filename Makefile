PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Test processes and BLAS threads for each would stand in one another's way.
test nightly coverage: export OMP_NUM_THREADS = 1
test nightly coverage: export OPENBLAS_NUM_THREADS = 1

# Three, as the tests of the survey often wait for the browser; in the order of tests/conftest.py.
PROCESSES := -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo browser test nightly coverage lint clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[compute,analysis,survey,dev]'
	@touch $@

setup: $(READY)  ## the virtual environment, with everything installed

demo: $(READY)  ## the main job on synthetic images and small networks, into runs/demo
	$(BIN)/conceptevo demo

browser:  # and proxy, for the survey's tests
	@{ command -v chromium && command -v nginx; } >/dev/null || { [ "$$(id -u)" = 0 ] \
	  && command -v apt-get >/dev/null && apt-get update -qq \
	  && apt-get install -y -qq chromium nginx-light >/dev/null; } \
	  || echo "no chromium or nginx: the tests with a real browser or proxy will be skipped"

test: $(READY) lint browser  ## every test but the slow ones
	$(BIN)/pytest $(PROCESSES)

nightly: $(READY) browser  ## every test
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cluster,checkpoints]'
	$(BIN)/pytest $(PROCESSES) -m ''

coverage: $(READY)  ## are intervals and claims what they say? (simulated studies)
	$(BIN)/python -m tests.simulated_studies
	$(BIN)/python -m tests.null_studies --studies 400

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the environment and the demo's results
	rm -rf $(VENV) runs/demo
