# e2i: `make demo` shows the whole way, `make test` runs the tests. Both set everything up first.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

# Where Clotho lives, as in the original; override on the command line.
DATA_ROOT ?= ~/data/CLOTHO_v2.1
METADATA ?= $(DATA_ROOT)/clotho_csv_files/clotho_captions_development.csv
CACHE_DIR ?= $(DATA_ROOT)/embeddings/development

# The store that the deployments write to, and the Prefect server they are registered with.
STORE_URL ?= $(CURDIR)/store
DEMO_STORE_URL ?= $(CURDIR)/demo
PREFECT_PORT ?= 4200
PREFECT_API_URL ?= http://127.0.0.1:$(PREFECT_PORT)/api
PREFECT_ENV := PREFECT_API_URL=$(PREFECT_API_URL) PREFECT_SERVER_ANALYTICS_ENABLED=false
# Where the server keeps its records: SQLite unless this names a PostgreSQL database
# (postgresql+asyncpg://user:password@host/name).
DATABASE_URL ?=
# What the workers start (process, docker or kubernetes), how many runs share the GPUs, and which
# work pools `make worker` serves.
POOL_TYPE ?= process
GPU_SLOTS ?= 1
POOLS ?= e2i-cpu e2i-gpu

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test lint types imports check drills drills-part postgresql download-dataset \
        download-embeddings prepare cache-embeddings cache-images train-projection eval-projection train-baseline train-vision server stop-server deploy worker clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

$(BIN)/uv:
	@echo "Making the environment $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "e2i needs Python 3.11 or later: got $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# uv is quick; where it cannot reach the packages (another index in pip's settings), pip does it.
define install
	@echo "Installing $(1) (once; a few minutes on a slow line)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r $(1) || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(1)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e . || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
endef

$(VENV)/.installed-runtime: requirements/runtime.txt pyproject.toml | $(BIN)/uv
	$(call install,requirements/runtime.txt)

$(VENV)/.installed-dev: requirements/dev.txt pyproject.toml | $(BIN)/uv
	$(call install,requirements/dev.txt)
	@touch $(VENV)/.installed-runtime

setup: $(VENV)/.installed-runtime  ## The environment, for users
setup-dev: $(VENV)/.installed-dev  ## The environment, with what tests need

demo: setup  ## The full pipeline on generated recordings, offline (DEMO_ARGS)
	@$(BIN)/e2i demo --store-url "$(DEMO_STORE_URL)" $(DEMO_ARGS)

download-dataset: setup  ## Clotho into DATA_ROOT (DOWNLOAD_ARGS)
	@$(BIN)/e2i download-dataset --data-root $(DATA_ROOT) $(DOWNLOAD_ARGS)

download-embeddings: setup  ## Cached embeddings from the Hub into CACHE_DIR (EMBEDDINGS_ARGS)
	@$(BIN)/e2i download-embeddings --cache-dir $(CACHE_DIR) $(EMBEDDINGS_ARGS)

prepare: setup download-embeddings  ## The environment, and the cached embeddings of CACHE_DIR

cache-embeddings: setup  ## Embed METADATA into CACHE_DIR (CACHE_ARGS)
	@$(BIN)/e2i cache-embeddings --metadata $(METADATA) --cache-dir $(CACHE_DIR) $(CACHE_ARGS)

cache-images: setup  ## Pseudo-images of CACHE_DIR (IMAGES_ARGS)
	@$(BIN)/e2i cache-images --cache-dir $(CACHE_DIR) $(IMAGES_ARGS)

train-projection: setup  ## Projection heads on CACHE_DIR (TRAIN_ARGS)
	@$(BIN)/e2i train-projection --cache-dir $(CACHE_DIR) $(TRAIN_ARGS)

eval-projection: setup  ## Retrieval scores of a checkpoint (EVAL_ARGS)
	@$(BIN)/e2i eval-projection --cache-dir $(DATA_ROOT)/embeddings/evaluation $(EVAL_ARGS)

train-baseline: setup  ## PaSST, a text model and their heads, end to end on METADATA (BASELINE_ARGS)
	@$(BIN)/e2i finetune --model-type baseline --metadata $(METADATA) $(BASELINE_ARGS)

train-vision: setup  ## The same with a pseudo-image and a CNN behind PaSST (VISION_ARGS)
	@$(BIN)/e2i finetune --model-type vision --metadata $(METADATA) $(VISION_ARGS)

ifneq ($(DATABASE_URL),)
server: export PREFECT_SERVER_DATABASE_CONNECTION_URL = $(DATABASE_URL)
endif
server: setup  ## A Prefect server in the background, on PREFECT_PORT (DATABASE_URL)
	@$(BIN)/python -m deployments.local_server start --port $(PREFECT_PORT)

stop-server: setup  ## End the server that `make server` started
	@$(BIN)/python -m deployments.local_server stop

deploy: setup  ## Work pools, deployments and automations on that server (STORE_URL, GPU_SLOTS, POOL_TYPE)
	@E2I_STORE_URL="$(STORE_URL)" E2I_DEMO_STORE_URL="$(DEMO_STORE_URL)" $(PREFECT_ENV) \
	  $(BIN)/python -m deployments.register --pool-type $(POOL_TYPE) --gpu-slots $(GPU_SLOTS)

worker: setup  ## Workers for the work pools on this machine, until Ctrl-C (POOLS)
	@$(PREFECT_ENV) $(BIN)/python -m deployments.local_worker --pools $(POOLS)

lint: setup-dev  ## Lint and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup-dev  ## Strict types
	@$(BIN)/mypy

imports: setup-dev  ## Import direction
	@$(BIN)/lint-imports

test: setup-dev  ## The tests
	@$(BIN)/pytest -n 2 $(TEST_ARGS)

drills: setup-dev postgresql  ## All tests that take minutes: kills, outages, a real server and worker
	@$(BIN)/pytest -m slow $(TEST_ARGS)

# Without those marked "long" in tests/drills, which are long or need more than Python.
drills-part: setup-dev  ## The part of the drills that CI has time for
	@$(BIN)/pytest -m "slow and not long" $(TEST_ARGS)

postgresql:  ## PostgreSQL from the distribution's packages, for its drill
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	  { as_root=; [ "$$(id -u)" = 0 ] || as_root="sudo -n"; \
	    echo "Installing PostgreSQL with apt-get"; \
	    $$as_root apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -qq -y --no-install-recommends postgresql >/dev/null; } || \
	  echo "There is no PostgreSQL here, and it could not be installed: its drill is skipped."

check: lint types imports test drills-part  ## What CI runs

clean:  ## Forget the demo's store and the environment
	@rm -rf $(VENV) demo
