# Two commands: `make up` runs the product, `make test` runs every test.
# Each sets up what it needs from a bare Python 3.11 to 3.13.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: up test check env bench lock clean

up: env
	$(BIN)/anomalyze up

# What starts whole programs uses every core and is held to times: one test after another. The others share two processes.
PROCESSES ?= 2
PROGRAMS := tests/simulation tests/browser tests/test_realtime tests/test_dagster tests/test_embedded tests/test_cli
test: env
	$(BIN)/python -m tests.system_packages
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses $(PROCESSES) $(addprefix --ignore=,$(PROGRAMS)); others=$$?; \
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest $(PROGRAMS) && exit $$others

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

env: $(STAMP)

$(STAMP): requirements.lock requirements-bootstrap.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Anomalyze needs Python 3.11 to 3.13; {sys.executable} is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12 up")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-bootstrap.lock
	PYTHONDONTWRITEBYTECODE= $(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	PYTHONDONTWRITEBYTECODE= $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@echo "compiling the kernels, once"
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m anomalyze.embedded.warm
	@touch $(STAMP)

# Benchmarks also need the peers that they compare with, in an environment of their own.
bench: env .venv-peers/.installed
	$(BIN)/python -m benchmarks

.venv-peers/.installed: benchmarks/peers/requirements.lock
	$(PYTHON) -m venv .venv-peers
	$(BIN)/uv pip sync --quiet --python .venv-peers/bin/python --require-hashes --compile-bytecode benchmarks/peers/requirements.lock
	@touch $@

# No header and no index address: the lock names packages, versions and hashes only.
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11
lock: env
	$(LOCK) --extra dev pyproject.toml -o requirements.lock
	$(LOCK) benchmarks/peers/requirements.in -o benchmarks/peers/requirements.lock
	$(LOCK) tests/engines/requirements.in -o tests/engines/requirements.lock

clean:
	rm -rf $(VENV) .venv-engines .cache .pytest_cache .mypy_cache .ruff_cache
