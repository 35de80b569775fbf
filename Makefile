# Everything a person does with this project. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# one more than the cores of the budget: builds wait for packages, and clusters for their own time limits
WORKERS ?= 3
# quick tests often wait for a process or a server of their own
QUICK_WORKERS ?= 3
MINUTES ?= 60

.DEFAULT_GOAL := help
.PHONY: help install quickstart test quick fuzz check format golden schema bench faults

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/.installed: pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check \
	  --constraint tests/constraints.txt --editable '.[train,test]'
	# pip compiles what it copies, but not what stays in place: without this each command would until it may write here
	$(BIN)/python -m compileall -q launcher docker
	@touch $@

install: $(BIN)/.installed ## make the virtual environment and install everything for training on this machine

quickstart: install ## train a small GPT with DeepSpeed here, on two CPU ranks, in about two minutes
	$(BIN)/python -m launcher local jobs/quickstart.yaml --wait

test: install ## all tests, a real Slurm cluster included
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder --budget 1080

quick: install ## the tests that start nothing heavy: for every save
	$(BIN)/python -m pytest --numprocesses $(QUICK_WORKERS) --dist loadfile --no-loadscope-reorder -m quick --budget 60 -q

fuzz: install ## search for inputs that break the launcher, with fresh seeds, for MINUTES=60
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --properties 0.3 --keep build/fuzz

check: install ## formatting, lint, types, layers, shell scripts, and that generated files are up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck .ci/run
	$(BIN)/python -m tests.golden --check

format: install ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: install ## write tests/golden/ and tests/errors/*.txt anew; review the diff
	$(BIN)/python -m tests.golden

schema: install ## write jobs/schema/ anew
	for kind in job cluster pipeline; do \
		$(BIN)/python -m launcher schema $$kind > jobs/schema/$$kind.schema.json || exit 1; done

faults: install ## break a real Slurm cluster on this machine in twenty ways and print what a user sees (half an hour; python -m tests.faults --only NAME: some)
	$(BIN)/python -m tests.faults

bench: install ## measure start-up, rendering and the way to the first training step
	$(BIN)/python -m tests.bench.launcher
	$(BIN)/python -m tests.bench.kubernetes
	$(BIN)/python -m tests.bench.workloads
	$(BIN)/python -m tests.bench.training
	$(BIN)/python -m tests.bench.prepare
	PYTHONPATH=docker $(BIN)/python -m tests.bench.heartbeat
	PYTHONPATH=docker $(BIN)/python -m tests.bench.checkpoint
	PYTHONPATH=docker $(BIN)/python -m tests.bench.replicas
	PYTHONPATH=docker $(BIN)/python -m tests.bench.images

-include docker/images.mk
