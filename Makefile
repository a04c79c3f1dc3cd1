# Every target sets up what it needs; all share one virtual environment.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
BED    := build/testbed
SOURCES := $(shell find autoprune searchspaces -name '*.py' -o -name '*.toml' -o -name '*.js' -o -name '*.css')

export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test test-zoo test-slow test-faults browser lint bench clean
help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.deps: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(PY) -m pip install --quiet --disable-pip-version-check "hatchling>=1.26" "build>=1.2"
	$(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; x = p["optional-dependencies"]; print(*p["dependencies"], *[d for d in x["dev"] + x["export"] if not d.startswith("autoprune")], sep="\n")' > $(VENV)/requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@

# The wheel is what is tested and what the demo runs: the source folder stays out of the path.
$(VENV)/.wheel: $(VENV)/.deps $(SOURCES) README.md LICENSE
	rm -rf build/dist
	$(PY) -m build --wheel --no-isolation --outdir build/dist . > build.log 2>&1 || (cat build.log; rm -f build.log; exit 1)
	rm -f build.log
	$(PY) -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps build/dist/*.whl
	touch $@

setup: $(VENV)/.wheel  ## Create the environment and install the built wheel

demo: setup  ## Train a small network on handwritten digits, search, report, save, reload
	$(VENV)/bin/autoprune demo

$(BED): setup
	rm -rf $(BED) && mkdir -p $(BED)
	cp -r tests benchmarks pyproject.toml README.md $(BED)/

browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  (test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null) || \
	  echo "no Chromium: the report's browser tests will be skipped"

.PHONY: $(BED)
test: $(BED) browser  ## Run the test suite against the built wheel
	cd $(BED) && ../../$(PY) -m pytest -n 2 -q -m "not slow and not zoo and not faults"

test-slow: $(BED)  ## The tests that take minutes
	cd $(BED) && ../../$(PY) -m pytest -n 2 -q -m "slow"

test-zoo: $(BED)  ## Trace and cut the whole zoo of networks
	cd $(BED) && ../../$(PY) -m pytest -n 2 -q -m "zoo" --timeout 600

test-faults: $(BED)  ## Kill processes on purpose, 20 times of each kind
	cd $(BED) && ../../$(PY) -m pytest -n 2 -q -m "faults" --timeout 600

lint: $(VENV)/.deps  ## Format, lint, types
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/mypy

clean:  ## Remove everything that was built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
