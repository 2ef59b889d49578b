# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone with Python 3.11 or newer.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IMAGE ?= penstock:dev
UV_VERSION := 0.13.8
READY := $(VENV)/.ready
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-header --quiet --upgrade

.PHONY: help demo test lint format e2e bench generate verify image lock clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## Run the Iris example here and now
	@$(BIN)/penstock run examples/iris/pipeline.yaml

test: $(READY) ## Run the unit and integration tests
	@$(BIN)/python -m pytest -n auto

lint: $(READY) ## Check style, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## Put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

generate: $(READY) ## Write crds/ and docs/reference/ from the models
	@$(BIN)/python -m penstock.api
	@$(BIN)/python -m penstock.cli.reference

verify: $(READY) ## Fail if generated files are not what `make generate` writes
	@$(BIN)/python -m penstock.api --check
	@$(BIN)/python -m penstock.cli.reference --check

bench: $(READY) ## Measure; the figures belong in docs/benchmarks.md
	@$(BIN)/python -m tests.bench

e2e: $(READY) ## Test on a real cluster: KUBECONFIG's, or one started here (root, Debian)
	@$(BIN)/python -m tests.e2e

image: ## Build the container image; IMAGE=name, BASE=image to build on
	@builder=$$(command -v docker || command -v podman || command -v buildah) || \
	  { echo "make image needs docker, podman or buildah" >&2; exit 1; }; \
	"$$builder" build $(if $(BASE),--build-arg BASE=$(BASE)) --tag $(IMAGE) .

lock: $(READY) ## Pin all dependencies anew, with hashes, for every platform
	@$(COMPILE) --group dev --extra operator --extra gateway --extra client --extra history --output-file requirements.lock pyproject.toml
	@$(COMPILE) --extra operator --extra gateway --extra history --output-file requirements-operator.lock pyproject.toml
	@echo 'hatchling>=1.27' | $(COMPILE) --output-file requirements-build.lock -

clean: ## Remove everything that was made here
	rm -rf $(VENV) .penstock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Penstock needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
