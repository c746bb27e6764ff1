# Everything a developer runs. Each target makes the environment it needs from python3 >= 3.11 alone.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BENCH := .bench-venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
READY := $(VENV)/.ready
SYNCED := $(VENV)/.synced
BENCH_READY := $(BENCH)/.ready
ARGS ?=
# Most of a test's time is waiting for servers: more tests at a time than cores. Files stay whole; JOBS=0 runs them in one process.
JOBS ?= 3

# Each part takes at most an hour. HEADRACE_SEED is where one begins, and where a run that was broken off is taken up again.
LONG := cli kafka kubernetes matrix nats simulation spine stores testing
HEADRACE_SEED ?= 1

.PHONY: help demo test test-long test-long-cloudevents $(LONG:%=test-long-%) lint format bench servers venv bench-venv requirements clean

help:
	@echo "make demo       a packaged example end to end"
	@echo "make test       lint, types, layers, then every test      (ARGS='-k name' passes on to pytest)"
	@echo "make test-long  the tests that take minutes; a part: $(LONG:%=test-long-%) test-long-cloudevents"
	@echo "make lint       ruff, mypy and import-linter              (make format repairs what it can)"
	@echo "make bench      each row of the performance page beside its peers"
	@echo "make servers    bring the test servers into their cache"
	@echo "make requirements  compile the pinned requirements again  (ARGS=--upgrade moves the pins)"

# A Python that is new enough and can make environments; PYTHON=... overrides the search.
$(PY):
	@for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec "$$candidate" -m venv $(VENV); \
	  fi; \
	done; \
	echo "headrace: no python3 >= 3.11 with the venv module on PATH; install one or give PYTHON=/path/to/python3" >&2; \
	exit 1

$(SYNCED): requirements/uv.txt requirements/dev.txt | $(PY)
	@[ -x $(UV) ] || $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(UV) pip sync --quiet --python $(PY) --require-hashes requirements/dev.txt
	@touch $@

$(READY): $(SYNCED) pyproject.toml
	@$(UV) pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

venv: $(READY)

# The peers of the benchmarks never share an environment with what is measured.
$(BENCH_READY): requirements/bench-peers.txt | $(READY)
	@[ -x $(BENCH)/bin/python ] || $(UV) venv --quiet --python $(PY) $(BENCH)
	@$(UV) pip sync --quiet --python $(BENCH)/bin/python --require-hashes requirements/bench-peers.txt
	@touch $@

bench-venv: $(BENCH_READY)

demo: $(READY)
	@$(PY) -m headrace demo $(ARGS)

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: $(READY)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

# HEADRACE_TEST_STATUS, where set, names the file that gets pytest's own exit code: make's is always 2.
test: lint
	@status=0; $(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS) || status=$$?; \
	if [ -n "$${HEADRACE_TEST_STATUS:-}" ]; then echo $$status > "$$HEADRACE_TEST_STATUS"; fi; \
	exit $$status

test-long: $(LONG:%=test-long-%) test-long-cloudevents

$(LONG:%=test-long-%): test-long-%: $(READY)
	@HEADRACE_SEED=$(HEADRACE_SEED) $(PY) -m pytest -m long --timeout 3600 -s -v tests/$* $(ARGS)

test-long-cloudevents: $(READY)
	@$(PY) -m tests.cloudevents.long_fuzz --seed $(HEADRACE_SEED)
	@$(PY) -m tests.cloudevents.long_roundtrips --seed $(HEADRACE_SEED)

bench: $(BENCH_READY)
	@$(PY) -m benchmarks $(ARGS)

servers: $(READY)
	@$(PY) -m tests.servers --fetch $(ARGS)

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header $(ARGS)

requirements: $(READY)
	@$(COMPILE) requirements/uv.in -o requirements/uv.txt
	@$(COMPILE) pyproject.toml --extra all -o requirements/run.txt
	@$(COMPILE) pyproject.toml requirements/dev.in --extra all -c requirements/uv.txt -c requirements/run.txt -o requirements/dev.txt
	@$(COMPILE) requirements/bench-peers.in -o requirements/bench-peers.txt

clean:
	@rm -rf $(VENV) $(BENCH) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
