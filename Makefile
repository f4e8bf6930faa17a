# Two commands: `make demo` and `make test`. Each does all its own set-up.
#
#   make demo [ARGS=--keep]    a real sweep on a tiny model, from nothing
#   make test [JOBS=3]         all checks and tests
#   make faults                everything that is broken on purpose (about an hour), and
#                              docs/reliability.md
#   TORCH=cpu|cuda             which PyTorch to install (default: what this machine has)
#   TORCH_INDEX=URL            where to take it from, e.g. PyTorch's index of small CPU builds
#   PYTHON=python3.12          another Python, 3.11 or newer

PYTHON ?= python3
TORCH ?= auto
TORCH_INDEX ?=
ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 3

BIN := .venv/bin
SETUP := $(PYTHON) scripts/setup.py --torch $(TORCH) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))
export WINNOW_HOME ?= $(CURDIR)/.winnow

# Types are checked while tests run: pyright takes one core for minutes.
MAKEFLAGS += -j2

.PHONY: demo test pytest faults setup lint dashboard clean

demo:
	@$(SETUP)
	@$(BIN)/winnow demo $(ARGS)

setup:
	@$(SETUP) --dev

test: lint pytest

# A file's tests stay together: they share databases, a Ray, a process group. In their own order:
# by default files with few tests come last, and these are the long ones with a Ray each.
pytest: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
		$(PYTEST_ARGS)

faults: setup
	$(BIN)/python -m tests.faults --report $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

dashboard: setup

clean:
	rm -rf .venv .winnow api/static dashboard/node_modules
