# Everything runs in .venv, which is made when there is none and renewed when pyproject.toml changes.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.installed
DEMO := .venv/.demo
TOOLS := .venv-tools
OLDEST := .venv-oldest
# LOCKED=1 installs the very packages of requirements/ci.txt, by hash, instead of what pyproject.toml allows today.
LOCKED ?=
# The oldest Python that is supported, for test-oldest.
PYTHON_OLDEST ?= python3.11
# How long `make fuzz` runs each target, and which: TARGETS="csv_table policy".
SECONDS = 60
TARGETS ?=
# AUDIT=--strict makes packages that the registry does not know an error.
AUDIT ?=

.PHONY: help venv demo test test-all test-oldest lint format docs bench package check-deploy lock audit sbom fuzz

help:
	@echo "make demo    train on the demo posts that ship with the package, compare modalities, predict"
	@echo "make test    run the tests (WORKERS=$(WORKERS) processes)"
	@echo "make test-all  the slow ones too: every architecture of docs/results/architectures.md (some 15 minutes more)"
	@echo "make lint    ruff, mypy and the order of the layers"
	@echo "make format  let ruff rewrite the code"
	@echo "make docs    build the documentation as a site into docs/_build/html; every warning is an error"
	@echo "make package  build sdist and wheel, check them, and use the wheel in an empty environment"
	@echo "make check-deploy  lint the recipes of deploy/ and the workflows; make lock pins their packages again"
	@echo "make test-oldest  the tests with the oldest versions of dependencies that pyproject.toml allows"
	@echo "make audit   known vulnerabilities of the locked packages, as far as the registry answers"
	@echo "make sbom    what the service image is made of, as CycloneDX (dist/cotune-service.cdx.json)"
	@echo "make fuzz    fuzz the readers of untrusted files, SECONDS=60 for each target (TARGETS=\"policy grid\")"
	@echo "make bench   measure training speed, on the demo posts or on POSTS=posts.csv"

define make_venv
@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
endef

$(READY): pyproject.toml
	$(make_venv)
	@echo "installing cotune and its tools into .venv (a few minutes the first time)"
ifeq ($(LOCKED),)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
else
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/ci.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
endif
	@touch $(READY)

venv: $(READY)

# The demo wants none of the tools, which take as long again to install.
$(DEMO): pyproject.toml
	$(make_venv)
	@test $(READY) -nt pyproject.toml || { echo "installing cotune into .venv (a few minutes the first time)"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bundled,explain]'; }
	@touch $(DEMO)

demo: $(DEMO)
	@$(BIN)/cotune demo
	@echo; echo "The commands are in $(BIN); put them on your path with: . $(BIN)/activate"

test: $(READY)
	@start=$$(date +%s); $(BIN)/python -m pytest -q -n $(WORKERS) --durations=10 --durations-min=1; status=$$?; \
	echo "make test took $$(( $$(date +%s) - start )) s"; exit $$status

test-all: $(READY)
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m "slow or not slow" --durations=10 --durations-min=1

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY)
	@$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

# Other measurements need posts or a run: benchmarks/*.py say how.
bench: $(READY)
	@$(BIN)/python benchmarks/training_speed.py $(POSTS)

package:
	@PYTHON=$(PYTHON) scripts/check_package.sh

check-deploy:
	@PYTHON=$(PYTHON) scripts/check_deploy.sh

# Tools that look at packages need others than cotune does, so they have an environment of their own.
$(TOOLS)/.installed: requirements/tools.txt
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/tools.txt
	@touch $@

lock: $(TOOLS)/.installed
	@scripts/lock.sh $(TOOLS)/bin/uv

audit: $(TOOLS)/.installed
	@$(TOOLS)/bin/python scripts/audit.py $(AUDIT) requirements/ci.txt requirements/tools.txt \
		deploy/requirements-build.txt deploy/requirements-serve.txt deploy/requirements-ray.txt

sbom: $(TOOLS)/.installed
	@$(TOOLS)/bin/python scripts/make_sbom.py deploy/requirements-serve.txt dist/cotune-service.cdx.json

$(OLDEST)/.installed: requirements/oldest.txt
	@test -x $(OLDEST)/bin/python || $(PYTHON_OLDEST) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/oldest.txt
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The tests of documents and recipes concern no version.
test-oldest: $(OLDEST)/.installed
	@$(OLDEST)/bin/python -m pytest -q -n $(WORKERS) -p no:cacheprovider -m "not slow and not ray and not browser" \
		--ignore tests/repository --ignore tests/serve/test_serving_docs.py

fuzz: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fuzz.txt
	@$(BIN)/python fuzz/run.py --seconds $(SECONDS) $(if $(TARGETS),--only $(TARGETS))
