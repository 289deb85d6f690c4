# What people and CI run. Every target sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8000
PYTEST_ARGS ?=
# Most tests wait most of the time, so more of them run at once than there are cores; `WORKERS=0` runs them in turn.
WORKERS ?= 6
# Tests start hundreds of processes; where nothing is kept, each compiles all of the project again.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: help serve test check format dist docs bench bench-smoke soak fuzz autobahn clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# One stamp for everything that is installed, renewed when the project file changes.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo 'Python 3.11, 3.12 or 3.13 is needed; say which: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo 'Installing what is needed into $(VENV); it takes about a minute, once.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	touch $@

# What Verani is measured beside. Where a part of it cannot be installed, the peers that need it are left out.
PEERS := benchmarks/peers
$(VENV)/.peers: $(VENV)/.installed $(PEERS)/package-lock.json
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench \
	  && npm ci --prefix $(PEERS) --no-audit --no-fund --loglevel=error \
	  && touch $@ || echo 'some peers cannot be installed; benchmarks.compare says which'

# What checks pages, types and documents for browsers; the tests that need it say so where it is not there.
$(VENV)/.node: $(VENV)/.installed tests/node/package-lock.json
	npm ci --prefix tests/node --no-audit --no-fund --ignore-scripts --loglevel=error
	touch $@

# What makes the site of docs/.
$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	touch $@

serve: $(VENV)/.installed ## run the chat demo on http://127.0.0.1:8000/
	$(BIN)/verani serve examples.chat:app --host $(HOST) --port $(PORT)

test: $(VENV)/.installed ## run the tests
	$(PYTEST) $(PYTEST_ARGS)

check: $(VENV)/.installed ## lint, types, import rules, then the tests with coverage
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m coverage erase
	$(PYTEST) --cov --cov-report= $(PYTEST_ARGS)
	$(BIN)/python -m coverage report

bench: $(VENV)/.peers ## print what a frame, actors, sleep, rooms and hosts cost, also beside other servers; fails if a delivery is lost, doubled or late, a flood hurts others, or a scrape holds up a loop
	$(BIN)/python -m benchmarks.calls
	$(BIN)/python -m benchmarks.actors
	$(BIN)/python -m benchmarks.hibernation
	$(BIN)/python -m benchmarks.rooms
	$(BIN)/python -m benchmarks.rooms --loop uvloop
	$(BIN)/python -m benchmarks.flood --loop uvloop
	$(BIN)/python -m benchmarks.flood
	$(BIN)/python -m benchmarks.bodies
	$(BIN)/python -m benchmarks.hosts
	$(BIN)/python -m benchmarks.failover
	$(BIN)/python -m benchmarks.crowd
	$(BIN)/python -m benchmarks.scrape
	$(BIN)/python -m benchmarks.inspector
	$(BIN)/python -m benchmarks.compare --quick

bench-smoke: $(VENV)/.installed ## fail in half a minute if a frame has become dearer, in calls or beside plain aiohttp
	$(BIN)/python -m benchmarks.smoke

soak: $(VENV)/.installed ## race sleep against traffic, 100,000 cycles of sleep and wake, twenty pairs of services, kills and stops under load
	VERANI_SOAK_SECONDS=60 VERANI_SOAK_CYCLES=100000 \
	  $(BIN)/python -m pytest tests/integration/test_hibernation.py -k thousand $(PYTEST_ARGS)
	VERANI_CHAOS_SECONDS=60 $(BIN)/python -m pytest tests/integration/test_chaos.py $(PYTEST_ARGS)
	$(BIN)/python -m benchmarks.neighbours

fuzz: $(VENV)/.installed ## 50,000 hostile payloads for each decoder that strangers' bytes reach; five minutes at most
	$(BIN)/python -m tests.fuzz
	VERANI_FUZZ_EXAMPLES=100 $(BIN)/python -m pytest tests/integration/test_openapi.py

autobahn: $(VENV)/.installed ## run the Autobahn test suite, of RFC 6455; installs it in the user's cache (needs Python 2.7)
	$(BIN)/python -m tests.autobahn install
	$(BIN)/python -m pytest tests/gateway/test_autobahn.py $(PYTEST_ARGS)

format: $(VENV)/.installed ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.docs ## build the documentation as a site, in site/; fails where a link or an anchor leads nowhere
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

dist: $(VENV)/.installed ## build wheel and source distribution in dist/, as an index would get them, and check both
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

clean: ## remove everything that the other targets made
	rm -rf $(VENV) $(PEERS)/node_modules tests/node/node_modules .coverage* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis artifacts dist site
