# `make demo` and `make test` are all a fresh machine with Python 3.11+ and make needs; both install what is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check nightly bench services-test faults format clean

$(STAMP): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit("Dovetail needs Python 3.11 or newer: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP)  ## the whole flow on a built-in simulator; DATA=DIR for a recorded log
	$(BIN)/dovetail demo $(if $(DATA),--data $(DATA)) $(ARGS)

test: $(STAMP)  ## all tests that need no servers
	$(BIN)/python -m pytest -m "not services" $(ARGS)

nightly: $(STAMP)  ## 2,000 generated cases of each property of the two engines, 200,000 damaged messages of each kind
	HYPOTHESIS_PROFILE=nightly DOVETAIL_FUZZ=200000 $(BIN)/python -m pytest \
		tests/features/parity tests/features/stored tests/platform/rows/test_fuzz.py tests/platform/rows/test_types.py $(ARGS)

check: $(STAMP)  ## formatting, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## all benchmarks, ratios measured in one run
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

services-test: $(STAMP)  ## tests against real Kafka, Redis and PostgreSQL, started and stopped here; INSTALL=--install
	$(BIN)/python scripts/services run $(INSTALL) -- $(BIN)/python -m pytest -m services $(ARGS)

faults: $(STAMP)  ## every fault under load with 20 seeds; DOVETAIL_FAULT_SEEDS=N for another number, INSTALL=--install
	DOVETAIL_FAULT_SEEDS=$${DOVETAIL_FAULT_SEEDS:-20} \
	$(BIN)/python scripts/services run $(INSTALL) -- $(BIN)/python -m pytest -m services tests/faults $(ARGS)

clean:
	rm -rf $(VENV) .dovetail .services .pytest_cache .mypy_cache .ruff_cache .hypothesis
