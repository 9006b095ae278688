# Everything runs in .venv, which is made when there is none and renewed when pyproject.toml changes.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.installed
DEMO := .venv/.demo

.PHONY: help venv demo test test-all lint format docs bench package check-deploy lock

help:
	@echo "make demo    train on the demo posts that ship with the package, compare modalities, predict"
	@echo "make test    run the tests (WORKERS=$(WORKERS) processes)"
	@echo "make test-all  the slow ones too: every architecture of docs/results/architectures.md (some 15 minutes more)"
	@echo "make lint    ruff, mypy and the order of the layers"
	@echo "make format  let ruff rewrite the code"
	@echo "make docs    build the documentation as a site into docs/_build/html; every warning is an error"
	@echo "make package  build sdist and wheel, check them, and use the wheel in an empty environment"
	@echo "make check-deploy  lint the recipes of deploy/ and the workflows; make lock pins their packages again"
	@echo "make bench   measure training speed, on the demo posts or on POSTS=posts.csv"

define make_venv
@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
endef

$(READY): pyproject.toml
	$(make_venv)
	@echo "installing cotune and its tools into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
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

# The pinned, hashed packages of the images; takes uv from PyPI.
lock: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@cd deploy && for set in build serve ray; do \
		../$(BIN)/uv pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-header \
			--custom-compile-command "make lock" requirements-$$set.in -o requirements-$$set.txt || exit 1; \
	done
