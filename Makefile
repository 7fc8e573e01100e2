# Everything here needs Python 3.10 or newer with its venv module, git and make; the rest goes into .venv.
#
#   make demo      the example project's tiers, with the summary and the report
#   make test      lint and the whole test suite          make lint    only ruff, mypy and the layers
#   make test-all  the same, and the exhaustive campaigns make bench   measures; tables go to benchmarks/
#   make docs      what is generated from the code        make lock    requirements/action.txt anew
PYTHON ?= python3
BIN := .venv/bin
export PIP_ROOT_USER_ACTION := ignore
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install
PYTEST := $(BIN)/python -m pytest
# Two workers are what two cores hold; tests of one file share their fixtures.
PARALLEL := -n 2 --dist loadfile
FIRST := tests/unit tests/contract tests/integration plugin/tests

.PHONY: demo test test-all bench lint lock docs clean browser
.DEFAULT_GOAL := demo

demo: .venv/.demo
	cd examples/text-classifier && PATH="$(CURDIR)/$(BIN):$$PATH" mltiers run --event push

test: lint browser
	$(PYTEST) $(PARALLEL) -m "not campaign" $(FIRST)
	$(PYTEST) -m "not campaign" tests/end_to_end

test-all: test
	$(PYTEST) -m campaign

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Where nobody may install one, the browser tests say so.
browser:
	@command -v chromium chromium-browser google-chrome > /dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
	       && echo "installing Chromium for the browser tests" \
	       && { apt-get install -y -qq chromium || { apt-get update -qq && apt-get install -y -qq chromium; }; } > /dev/null; } \
	  || echo "there is no Chromium here: the browser tests will say so"

bench: .venv/.dev
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

docs: .venv/.demo
	$(BIN)/mltiers schema > docs/ml-tiers.schema.json
	$(BIN)/python -c "from orchestrator.mind.config import reference_markdown as r; print(r(), end='')" > docs/configuration.md

lock: .venv/.dev
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --upgrade \
	  --custom-compile-command "make lock" --output-file requirements/action.txt requirements/action.in

clean:
	rm -rf .venv examples/*/.mltiers .mltiers .mypy_cache .ruff_cache .import_linter_cache

# --- the virtual environment: what the demo needs, and what the tests need beside it ---------------------------------

# A link to a Python that has gone counts as missing, and everything is made again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null || { \
	  echo "This needs Python 3.10 or newer; \`$(PYTHON)\` is $$($(PYTHON) --version 2>&1 | tail -n 1)."; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "\`$(PYTHON)\` has no venv module. On Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv

# torch alone and first: nothing that comes later may choose another build of it.
.venv/.demo: requirements/torch.txt requirements/example.txt pyproject.toml $(BIN)/python
	@echo "installing torch, the example's requirements and mltiers into .venv (a minute or two, once)"
	@$(PIP) -r requirements/torch.txt
	@$(PIP) -c requirements/torch.txt -r requirements/example.txt --editable .
	@$(BIN)/python -m compileall -q orchestrator plugin/src  # pip leaves out what is editable
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.demo
	@echo "installing what the tests need into .venv"
	@$(PIP) -c requirements/torch.txt -r requirements/dev.txt
	@touch $@
