PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The environment for the program, and the one that also has what its tests need.
READY  := $(VENV)/.ready
TESTED := $(VENV)/.tested
# Python compiles a module at its first import; pip would compile all of them, in 100 s.
unexport PYTHONDONTWRITEBYTECODE
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

# Test processes and BLAS threads for each would stand in one another's way.
pytest nightly coverage: export OMP_NUM_THREADS = 1
pytest nightly coverage: export OPENBLAS_NUM_THREADS = 1

# Three, as the tests of the survey often wait for the browser; in the order of tests/conftest.py.
PROCESSES := -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo browser test pytest nightly lowest coverage lint clean

help:  ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

$(TESTED): TOOLS := ,dev
$(READY) $(TESTED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --no-deps torchvision==0.28.0
	$(PIP) -e '.[compute,analysis,survey$(TOOLS)]'
	@touch $(READY) $@

setup: $(TESTED)  ## the virtual environment, with everything installed

demo: $(READY)  ## the main job on synthetic images and small networks, into runs/demo
	$(BIN)/conceptevo demo

browser:  # and proxy, for the survey's tests
	@{ command -v chromium-headless-shell && command -v nginx; } >/dev/null || { [ "$$(id -u)" = 0 ] \
	  && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq nginx-light \
	  && for name in -headless-shell "" ; do apt-get install -y -qq chromium$$name && break; done; \
	  } >/dev/null || { command -v chromium && command -v nginx; } >/dev/null \
	  || echo "no chromium or nginx: the tests with a real browser or proxy will be skipped"

# What waits for the network and what computes, such as the check of types, go on together.
test:  ## every test but the slow ones
	@$(MAKE) --no-print-directory --jobs=3 lint pytest

pytest: $(TESTED) browser
	$(BIN)/pytest $(PROCESSES)

nightly: $(TESTED) browser  ## every test
	$(PIP) -e '.[cluster,checkpoints]'
	$(BIN)/pytest $(PROCESSES) -m ''

lowest:  ## the tests with the oldest versions of packages that pyproject.toml allows
	mkdir -p .lowest
	sed '/^dev/,$$d' pyproject.toml | grep -oE '"[a-z][a-z0-9-]*(\[[a-z]+\])?>=[0-9.]+' | grep -v torch \
	  | sed -E 's/"|\[.*\]//g; s/>=/==/' >.lowest/versions.txt
	PIP_CONSTRAINT=$(CURDIR)/.lowest/versions.txt $(MAKE) VENV=.lowest pytest

coverage: $(TESTED)  ## are intervals and claims what they say? (simulated studies)
	$(BIN)/python -m tests.simulated_studies
	$(BIN)/python -m tests.simulated_answers
	$(BIN)/python -m tests.null_studies --studies 400

lint: $(TESTED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the environment and the demo's results
	rm -rf $(VENV) .lowest runs/demo
