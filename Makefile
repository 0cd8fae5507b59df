# `make help` lists the targets. Python 3.11 or later with pip is all that has to be there.

.DEFAULT_GOAL := help
.PHONY: help env demo test test-all lint format lock bench families compatibility dist packages clean

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --python-version 3.11 \
	--custom-compile-command "make lock"
# uv trusts the certificates of the machine, as pip does.
export UV_SYSTEM_CERTS ?= 1
# Where compiled bytecode may not be written, each of the many processes of a run compiles every library again.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(BIN)/pytest -n 2 --dist loadfile

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST)

env: .venv/.made ## .venv with everything of requirements.lock, and Lagar itself

.venv/.made: requirements.lock pyproject.toml scripts/environment.py
	@$(if $(PYTHON),,echo "no Python 3.11 or later with pip was found: make env PYTHON=/path/to/python"; exit 1)
	@$(PYTHON) scripts/environment.py
	@touch $@

demo: env ## train the wine classifier, serve it, ask it; ONCE=1 ends after the answers
	@$(BIN)/python scripts/demo.py $(if $(ONCE),--once)

test: env packages lint ## lint and the tests, at most 12 minutes
	$(PYTEST) -m "not slow"

test-all: env packages ## the slow tests, at most 60 minutes
	$(PYTEST) -m slow || [ $$? -eq 5 ] # 5: there is none

lint: env ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env ## rewrite the code as ruff has it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: env ## resolve the locks again; UPGRADE=--upgrade takes newer versions
	$(COMPILE) $(UPGRADE) --all-extras --group dev pyproject.toml -o requirements.lock
	grep -o '^scikit-learn==[^ ]*' requirements.lock > .venv/constraints.txt
	for peer in bench/peers/*.in; do $(COMPILE) $(UPGRADE) -c .venv/constraints.txt $$peer -o $${peer%.in}.lock; done
	for judge in tests/judges/*.in; do $(COMPILE) $(UPGRADE) $$judge -o $${judge%.in}.lock; done

compatibility: env ## write docs/compatibility.md from the table that the judges are held to
	@PYTHONPATH=tests $(BIN)/python -m support.compatibility

bench: env packages ## requests per second beside MLServer and FastAPI, as Markdown, V2 gRPC too
	@$(BIN)/python bench/startup.py
	@$(BIN)/python bench/compare.py $(BENCH)
	@$(BIN)/python bench/rpc.py $(BENCH_RPC)

dist: env ## wheel and source distribution in dist/
	$(BIN)/python -m hatchling build -d dist

families: env ## models of every family, original against compiled: writes the table of docs/compile.md
	@$(BIN)/python bench/families.py --write docs/compile.md $(FAMILIES)

packages: # Debian packages for tests and bench: as root only, and only what is missing
	@$(if $(PYTHON),$(PYTHON) scripts/packages.py)

clean: ## remove what the other targets made
	rm -rf .venv .venvs .uv .demo dist build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
