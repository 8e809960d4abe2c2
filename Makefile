# Everything happens in a virtual environment in this folder; nothing else on the machine is touched.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -q --disable-pip-version-check
# A list of requirements in pyproject.toml, one a line.
requirements = $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")'
# The bundled real trace, and the snapshot taken when its recording began.
TRACE := traces/build-and-serve-6.18.parquet
START := traces/build-and-serve-6.18/start
RUN := reports/first-replay
STUDY := reports/three-allocators
# Tests in as many processes as there are CPUs; `make test PARALLEL=` runs them in one, for a debugger.
PARALLEL ?= -n auto --dist worksteal
PYTEST := $(BIN)/python -m pytest $(PARALLEL)
COMPILED := $(shell grep -rlx --include='*.py' 'import cython' memtrace)

# Without its bytecode every process that a test starts would compile memtrace's Python anew.
unexport PYTHONDONTWRITEBYTECODE

# Tests that say something else when the core is plain Python: those against references, the random ones, and the unit
# tests of each folder that has compiled modules.
INTERPRETED := tests/reference tests/property $(wildcard $(sort $(patsubst memtrace/%/,tests/unit/%,$(dir $(COMPILED)))))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv build replay reports test test-all test-interpreted lint typecheck bench docs fidelity clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-17s %s\n", $$1, $$2}' Makefile

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'memtrace needs Python 3.11 or newer, and $(PYTHON) is not. Name another: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# The build tools go into the environment too: a build isolated by pip would fetch them anew each time.
$(VENV)/.installed: $(VENV)/.created pyproject.toml setup.py
	$(call requirements,["build-system"]["requires"]) > $(VENV)/build-requires.txt
	$(PIP) -r $(VENV)/build-requires.txt
	$(PIP) --no-build-isolation -e .
	touch $@

$(VENV)/.built: $(VENV)/.installed memtrace/pxd.py $(COMPILED)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(call requirements,["project"]["optional-dependencies"]["dev"]) > $(VENV)/dev-requires.txt
	$(PIP) -r $(VENV)/dev-requires.txt
	touch $@

venv: $(VENV)/.installed ## make .venv with memtrace in it

build: $(VENV)/.built ## compile the core again after an edit
	@$(BIN)/python -c 'from memtrace import compiled; compiled.check(); print("memtrace is", compiled.status())'

replay: $(VENV)/.built ## replay the bundled real trace; the report goes to reports/first-replay
	@$(BIN)/memtrace replay $(TRACE) --from $(START) -o $(RUN) --force

reports: $(VENV)/.built ## replay the bundled traces under all three allocators; write reports/three-allocators.html and docs/picture.png again
	$(BIN)/memtrace compare $(TRACE) traces/hello.csv --allocator slub,slab,slob -j 2 -o $(STUDY)
	cp $(STUDY)/report.html $(STUDY).html
	$(BIN)/python reports/picture.py docs/picture.png

test: $(VENV)/.built $(VENV)/.dev ## install what is missing and run the test suite
	$(PYTEST) -m 'not slow' $(TESTS)

test-all: $(VENV)/.built $(VENV)/.dev ## the test suite with slow tests and ten times as many random examples
	HYPOTHESIS_PROFILE=thorough $(PYTEST) $(TESTS)

test-interpreted: $(VENV)/.built $(VENV)/.dev ## the tests of compiled modules with the core as plain Python
	MEMTRACE_INTERPRETED=1 $(PYTEST) -m 'not slow' $(or $(TESTS),$(INTERPRETED))

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff check .

typecheck: $(VENV)/.dev ## mypy
	$(BIN)/mypy

bench: $(VENV)/.built ## measure how fast it is
	$(BIN)/python benchmarks/bench.py

docs: $(VENV)/.built ## write the generated documents again
	$(BIN)/python -m memtrace.metrics.schema > docs/metrics.md

fidelity: $(VENV)/.built ## write the README's fidelity tables again: make fidelity RECORDINGS=FOLDER
	$(BIN)/python -m memtrace.fidelity.readme $(RECORDINGS) README.md

clean: ## remove everything that was built, and .venv
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis memtrace/_built.json
	find memtrace \( -name '*.so' -o -name '*.c' -o -name '*.pxd' \) -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
