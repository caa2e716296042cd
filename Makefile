# `make demo` and `make test` are all a fresh machine with Python 3.11+ and make needs; both install what is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A file's tests stay in one process, so what a file builds once is built once.
SPREAD := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder --durations 25

# Most modules of most packages nobody imports: Python compiles what is imported then, if it may keep it.
LAZY := $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)

.PHONY: demo test check kernels modules newest lowest torch-test spark-test wheel-test nightly bench peers services-test faults pictures docs notebooks format clean

$(STAMP): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit("Dovetail needs Python 3.11 or newer: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(LAZY) -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP)  ## the whole flow on a built-in simulator, kept in .dovetail/demo; DATA=DIR for a recorded log
	rm -rf .dovetail/demo
	$(BIN)/dovetail demo --keep .dovetail/demo $(if $(DATA),--data $(DATA)) $(ARGS)

test: $(STAMP)  ## all tests that need no servers
	$(BIN)/python -m pytest -m "not services" $(SPREAD) $(ARGS)

QUICK := -m "not services and not slow"
PIP := -m pip install --quiet --disable-pip-version-check
# Of other versions, numba's files for kernels are not those beside the sources; of generated cases, it is the same ones.
APART = HYPOTHESIS_PROFILE=ci NUMBA_CACHE_DIR=$(CURDIR)/$(1)/numba

newest:  ## the quick tests with the newest versions that pyproject.toml allows, in .venv-newest
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(PIP) --upgrade --upgrade-strategy eager --editable '.[dev]'
	$(call APART,.venv-newest) .venv-newest/bin/python -m pytest $(QUICK) $(SPREAD) $(ARGS)

lowest:  ## the quick tests with the lowest, in .venv-lowest
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python scripts/bounds.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python $(PIP) --requirement .venv-lowest/lowest.txt --editable '.[dev]'
	$(call APART,.venv-lowest) .venv-lowest/bin/python -m pytest $(QUICK) $(SPREAD) $(ARGS)

torch-test:  ## the tests of dovetail.torch with PyTorch, which is large, in .venv-torch
	test -x .venv-torch/bin/python || $(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python $(PIP) --editable '.[dev,torch]'
	$(call APART,.venv-torch) .venv-torch/bin/python -m pytest tests/torch $(ARGS)

spark-test:  ## the tests of dovetail.spark with PySpark, which is large, in .venv-spark; needs Java 17
	test -x .venv-spark/bin/python || $(PYTHON) -m venv .venv-spark
	.venv-spark/bin/python $(PIP) --editable '.[dev,spark]'
	$(call APART,.venv-spark) .venv-spark/bin/python -m pytest tests/spark $(ARGS)

wheel-test:  ## build the wheel and run the demo from it, where there is no checkout
	scripts/wheel-test $(PYTHON)

nightly: $(STAMP)  ## all tests, 80 times as many generated cases, new ones each time, 40 crashes, 5,000 calls, 10,000 rankings and 200,000 damaged messages of each kind; servers' tests with 25 cases; then notebooks and docs
	HYPOTHESIS_PROFILE=nightly DOVETAIL_WHOLE_LOGS=1 DOVETAIL_KILL_SEEDS=40 DOVETAIL_FUZZ=200000 DOVETAIL_CLEAN_WEEKS=20 \
	$(BIN)/python -m pytest -m "not services" $(SPREAD) $(ARGS)
	$(MAKE) services-test ARGS="--ignore=tests/faults"
	$(MAKE) notebooks docs

kernels: $(STAMP)  ## compile the kernels of the demo and of views once, before several processes need them at the same time
	$(BIN)/python -m tests.e2e.warmed demo views > /dev/null

modules: $(STAMP)  ## compile the tests and what they import once, before several processes need them at the same time
	$(BIN)/python -m pytest --collect-only -qq > /dev/null

check: $(STAMP)  ## formatting, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

pictures: $(STAMP)  ## of a demo's run, the console in docs/pictures by Chromium and its model in docs/plots
	$(BIN)/python -m scripts.pictures

# The generator of the site is of no use to anybody else, so it has an environment of its own.
.venv-docs/.installed: pyproject.toml scripts/bounds.py
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python scripts/bounds.py docs > .venv-docs/wanted.txt
	.venv-docs/bin/python $(PIP) --requirement .venv-docs/wanted.txt
	touch $@

docs: $(STAMP) .venv-docs/.installed  ## the documentation site, strictly, in .dovetail/documents/site
	$(BIN)/python -m scripts.site.build .venv-docs/bin/zensical

notebooks:  ## runs those of docs/notebooks, in .venv-notebooks; as .ipynb for Jupyter in .dovetail/notebooks
	test -x .venv-notebooks/bin/python || $(PYTHON) -m venv .venv-notebooks
	.venv-notebooks/bin/python $(PIP) --editable '.[notebooks]'
	for file in docs/notebooks/*.py; do echo "== $$file"; .venv-notebooks/bin/python $$file || exit 1; done
	mkdir -p .dovetail/notebooks
	for file in docs/notebooks/*.py; do \
		.venv-notebooks/bin/jupytext --quiet --to ipynb --output .dovetail/notebooks/$$(basename $$file .py).ipynb $$file || exit 1; \
	done

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## all benchmarks, ratios measured in one run
	for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

peers: $(STAMP)  ## Dovetail beside its peers, each in .venv-peers, into docs/benchmarks-peers.md; ARGS=NAME for one comparison
	$(BIN)/python -m benchmarks.peers $(ARGS)

services-test: $(STAMP)  ## tests against real Kafka, Redis and PostgreSQL, started and stopped here; INSTALL=--install
	$(BIN)/python scripts/services run $(INSTALL) -- $(BIN)/python -m pytest -m services --durations 25 $(ARGS)

faults: $(STAMP)  ## every fault under load with 20 seeds; DOVETAIL_FAULT_SEEDS=N for another number, INSTALL=--install
	DOVETAIL_FAULT_SEEDS=$${DOVETAIL_FAULT_SEEDS:-20} \
	$(BIN)/python scripts/services run $(INSTALL) -- $(BIN)/python -m pytest -m services tests/faults $(ARGS)

clean:
	rm -rf $(VENV) .venv-newest .venv-lowest .venv-torch .venv-spark .venv-docs .venv-notebooks .venv-peers .dovetail .services .pytest_cache .mypy_cache .ruff_cache .hypothesis
