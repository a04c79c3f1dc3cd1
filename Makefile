# Every target sets up what it needs. One virtual environment for all: it holds the dependencies and an editable install,
# so whatever you run in it runs the source. The wheel is built into build/site, and only the gate puts that first.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
BED    := build/testbed
SITE   := build/site
SOURCES := $(shell find autoprune -name '*.py' -o -name '*.toml' -o -name '*.js' -o -name '*.css' -o -name '*.html')
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check
PYTEST := PYTHONPATH=$(abspath $(SITE)) ../../$(PY) -m pytest -q

T ?= tests/core tests/architecture

export OMP_NUM_THREADS ?= 1

.PHONY: help dev setup check lint demo docs test test-zoo test-slow test-faults browser clean
help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.deps: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) "hatchling>=1.26" "build>=1.2" "editables>=0.5"
	$(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; x = p["optional-dependencies"]; print(*p["dependencies"], *[d for e in x.values() for d in e if not d.startswith("autoprune")], sep="\n")' > $(VENV)/requirements.txt
	$(PIP) -r $(VENV)/requirements.txt
	touch $@

$(VENV)/.editable: $(VENV)/.deps
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(SITE)/.wheel: $(VENV)/.deps $(SOURCES) pyproject.toml README.md LICENSE
	rm -rf build/dist $(SITE)
	$(PY) -m build --wheel --no-isolation --outdir build/dist . > build.log 2>&1 || (cat build.log; rm -f build.log; exit 1)
	rm -f build.log
	$(PIP) --no-deps --target $(SITE) build/dist/*.whl
	touch $@

dev: $(VENV)/.editable  ## Create the environment: dependencies and an editable install

setup: dev $(SITE)/.wheel  ## The same, and the built wheel beside it

check: dev  ## Format, lint, types and some tests of the source, in seconds: make check T=tests/core
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -q $(T)

lint: dev  ## Format and mend what can be mended, then types
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/mypy

demo: dev  ## Train a small network on handwritten digits, search, report, save, reload
	$(VENV)/bin/autoprune demo

docs: dev  ## Build the documentation site into build/docs; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# Tests of the gate run in a folder that does not hold the source, on the wheel as a user would have it.
.PHONY: $(BED)
$(BED): setup
	rm -rf $(BED) && mkdir -p $(BED)
	cp -r tests benchmarks docs examples mkdocs.yml pyproject.toml README.md $(BED)/
	cd $(BED) && PYTHONPATH=$(abspath $(SITE)) ../../$(PY) -c 'import autoprune, sys; sys.exit(0 if "build/site" in autoprune.__file__ else f"expected the wheel, got {autoprune.__file__}")'

browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  (test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null) || \
	  echo "no Chromium: the report's browser tests will be skipped"

test: $(BED) browser  ## Run the test suite against the built wheel
	cd $(BED) && $(PYTEST) -n 2 -m "not slow and not zoo and not faults"

test-slow: $(BED)  ## The tests that take minutes
	cd $(BED) && $(PYTEST) -n 2 -m "slow"

test-zoo: $(BED)  ## Trace and cut the whole zoo of networks
	cd $(BED) && $(PYTEST) -n 2 -m "zoo" --timeout 600

test-faults: $(BED)  ## Kill processes on purpose, 20 times of each kind
	cd $(BED) && $(PYTEST) -n 2 -m "faults" --timeout 600

clean:  ## Remove everything that was built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
