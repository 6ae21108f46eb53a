# Two commands: `make demo` shows the whole path on this machine, `make test` proves it.
# Everything is installed into .venv from lock files with hashes; nothing is fetched that they do not name.
# `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
LOCK   := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
          --no-annotate --quiet
PYTEST := $(BIN)/python -m pytest
WHEELS ?= dist/wheels

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PYTHONDONTWRITEBYTECODE := 1

# messages are asserted in English; whoever runs the demo gets their own language
lint unit e2e soak schema docs messages: export PLANTBRIDGE_LANG := en

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev servers demo test unit e2e lint docs fmt schema messages bench soak lock upgrade wheel wheels clean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || \
	 sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1   \2/p' $(MAKEFILE_LIST)

# ------------------------------------------------------------------------------------------------ environment

$(BIN)/python:
	@sh .ci/venv "$(PYTHON)" $(VENV)

# The package is built by the locked hatchling, so that pip has no reason to fetch a build tool of its own.
$(VENV)/setup.stamp: requirements.lock pyproject.toml | $(BIN)/python
	@echo "setup: installing from requirements.lock"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements.lock
	@$(PIP) install --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(VENV)/setup-dev.stamp: requirements-dev.lock $(VENV)/setup.stamp
	@echo "setup: installing from requirements-dev.lock"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements-dev.lock
	@touch $@

setup: $(VENV)/setup.stamp  ## build .venv; the command is then .venv/bin/plantbridge
	@echo "setup: ready: $(BIN)/plantbridge"

setup-dev: $(VENV)/setup-dev.stamp

servers:
	@sh .ci/servers

# ------------------------------------------------------------------------------------------------ run

demo: $(VENV)/setup.stamp  ## the whole path on this machine, with simulated devices
	@exec $(BIN)/plantbridge demo

# ------------------------------------------------------------------------------------------------ prove

test: $(VENV)/setup-dev.stamp servers  ## lint, types, architecture, and every test; under 15 minutes on 2 cores
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory e2e

unit: $(VENV)/setup-dev.stamp
	$(PYTEST) -n 5 --dist loadfile -m "not e2e and not soak" tests  # most of them wait for peers

e2e: $(VENV)/setup-dev.stamp
	$(PYTEST) -n 5 --dist loadgroup -m "e2e and not soak" tests  # they mostly wait: for outages to pass and scans to come

lint: $(VENV)/setup-dev.stamp  ## style, types, who may import whom, the pages' links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/build.py

docs: $(VENV)/setup-dev.stamp  ## the documentation as a site in build/site; fails on a link that leads nowhere or a sample that does not pass check
	$(BIN)/python docs/build.py

fmt: $(VENV)/setup-dev.stamp  ## format and sort imports
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

schema: $(VENV)/setup.stamp  ## write config/schema and docs/guide/reference.md (and .zh-CN) from the models
	$(BIN)/plantbridge schema --into config/schema
	$(BIN)/python docs/reference.py

messages: $(VENV)/setup.stamp  ## which messages have no Chinese yet, and which translations translate nothing
	$(BIN)/python docs/messages.py

bench: $(VENV)/setup-dev.stamp  ## measure: a table of figures for this machine (takes minutes)
	$(BIN)/python -m bench

soak: $(VENV)/setup-dev.stamp servers  ## the long tests
	$(PYTEST) -s -m soak --timeout 7200 tests  # they print their seeds and figures; tests/soak/conftest.py has the variables

# ------------------------------------------------------------------------------------------------ pack

# Locked versions are kept; `make upgrade` asks for new ones. No address of a registry is written.
lock: $(VENV)/setup-dev.stamp  ## write the lock files from pyproject.toml, keeping versions where they fit
	$(LOCK) --extra dev  --group build  -o requirements-dev.lock
	cp requirements-dev.lock requirements.lock
	$(LOCK) --extra demo --group build  -o requirements.lock
	cp requirements.lock edge_deploy/cloud.lock
	$(LOCK) --extra cloud --group deploy -o edge_deploy/cloud.lock
	cp edge_deploy/cloud.lock edge_deploy/edge.lock
	$(LOCK) --group deploy -o edge_deploy/edge.lock

upgrade: $(VENV)/setup-dev.stamp  ## as lock, with the newest versions
	rm -f requirements-dev.lock
	@$(MAKE) --no-print-directory lock

wheel: $(VENV)/setup.stamp  ## the package alone, in dist/
	@$(PIP) wheel --no-deps --no-index --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

wheels: $(VENV)/setup.stamp  ## a folder to carry to a machine without internet (MACHINE=aarch64 PYTHON_VERSION=3.11)
	@$(BIN)/python edge_deploy/wheels.py $(WHEELS) $(if $(MACHINE),--machine $(MACHINE)) \
	    $(if $(PYTHON_VERSION),--python $(PYTHON_VERSION))

clean:  ## remove what was built; `rm -rf .venv` is yours
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find gateway drivers simulators tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
