# lmmsteer: `make demo` and `make test` need nothing but Python (3.10 to 3.13), pip and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
IMAGES ?= 120
CORES ?= 2
TESTERS ?= 3

.PHONY: help demo methods papers pages test test-submit test-gaudi lint train-demo scale corrupt simulate chaos mutate clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 20

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/installed ## steered and unsteered answers of the demo LMM, and the report (runs/demo)
	VENV=$(VENV) OUT=$(OUT) IMAGES=$(IMAGES) sh lmmsteer/demo/demo.sh

test: $(VENV)/installed ## all tests, three at a time: many wait for other processes
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile

test-submit: $(VENV)/installed ## ray job submit, a Slurm job on two nodes, what the images install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--target runs/ray-default --upgrade "ray[default]==$$(sed -n 's/^ray==//p' constraints.txt)"
	LMMSTEER_DEPLOY=1 PYTHONPATH=$(CURDIR)/runs/ray-default $(BIN)/python -m pytest tests/deploy

$(VENV)-hpu/installed: pyproject.toml constraints-hpu.txt
	$(PYTHON) -m venv $(VENV)-hpu
	$(VENV)-hpu/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VENV)-hpu/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-hpu.txt \
	  -e '.[hpu]' pytest pytest-xdist hypothesis scikit-image
	touch $@

test-gaudi: $(VENV)-hpu/installed ## both roads to Gaudi cards, on a stand-in for Habana's package
	OMP_NUM_THREADS=1 $(VENV)-hpu/bin/python -m pytest tests/gaudi

lint: $(VENV)/installed ## ruff, pyright, the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

methods: $(VENV)/installed ## every method on the demo LMM, and their table (runs/methods)
	VENV=$(VENV) sh lmmsteer/demo/methods.sh

papers: $(VENV)/installed ## the papers' experiments in miniature, with toy models (runs/papers)
	$(BIN)/python -m tests.papers runs/papers

pages: $(VENV)/installed ## the commands of README and docs/, run in a fresh folder (runs/pages)
	rm -rf runs/pages
	$(BIN)/python -m tests.pages runs/pages

scale: N ?= 1000000
scale: $(VENV)/installed ## N rows written, killed, resumed, scanned, verified (57000000: 5 GB, an hour)
	$(BIN)/python -m tests.scale $(N) runs/scale-$(N)

corrupt: N ?= 1000
corrupt: SEED ?= 0
corrupt: $(VENV)/installed ## N random corruptions of a small run: all found, named and mended
	$(BIN)/python -m tests.corruption $(N) $(SEED)

simulate: N ?= 10000
simulate: SEED ?= 0
simulate: $(VENV)/installed ## N schedules of faults on a disk that forgets, with fake clocks and workers
	$(BIN)/python -m tests.simulation $(N) $(SEED) $(CORES)

chaos: N ?= 20
chaos: SEED ?= 0
chaos: $(VENV)/installed ## N schedules of kills, stops and full disks on a real Ray cluster, compared
	$(BIN)/python -m tests.chaos $(N) $(SEED)

mutate: $(VENV)/installed ## mistakes planted one by one (tests/mutations): the tests must notice each
	$(BIN)/python -m tests.mutations

train-demo: $(VENV)/installed ## train the demo LMM again (see lmmsteer/demo/README.md)
	$(BIN)/python -m lmmsteer.demo.train

clean: ## remove the environment and the runs
	rm -rf $(VENV) $(VENV)-hpu runs
