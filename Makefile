# make demo   sets everything up and runs the main job on the embedded digits
# make test   sets everything up and runs the tests; WORKERS=2 runs them on two workers
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
EXTRAS ?= dev

# compiled modules are kept even where the environment says otherwise: each of the many processes of a run or a test
# would spend ten seconds on compiling torch and what comes with it
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo leaderboard test test-slow clients quality style docs bench test-lower clean

help:
	@grep -E '^# ' Makefile | sed 's/^# //'

# make install   a virtual environment in .venv with the versions of constraints.txt
install: $(VENV)/.installed

# uv resolves and unpacks several times faster than pip; versions come from constraints.txt, which holds no addresses
$(VENV)/.installed: pyproject.toml constraints.txt
	@started=$$(date +%s); \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(BIN)/python -m pip install --quiet --upgrade uv && \
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]' && \
	touch $@ && echo "installed in $$(( $$(date +%s) - started )) s"

# processes of the demo: the same set from any number of them; two share networks and students without a GPU
PROCESSES ?= $(if $(wildcard /dev/nvidia0),1,2)

demo: install
	@started=$$(date +%s); \
	$(BIN)/torchrun --standalone --nproc_per_node $(PROCESSES) \
	  recipes/edc.py --dataset digits --ipc 10 --output_dir runs/demo && \
	echo "demo took $$(( $$(date +%s) - started )) s after the install"

# make leaderboard   a small board of the embedded digits with its pages; prints its minutes first, and resumes
leaderboard: install
	$(BIN)/python recipes/leaderboard.py --output_dir runs/leaderboard

# whole files go to each worker, because their tests share what is slow to make; 0: all in one process
WORKERS ?= 2
PARALLEL = -n $(WORKERS) --dist loadfile

test: install
	$(BIN)/python -m pytest $(PARALLEL)

# make test-slow   the tests of minutes that `make test` leaves out: the notebook, an install into an empty environment
test-slow: install
	$(BIN)/python -m pytest -m slow

# make clients   other programs' readers of distilled datasets, which the tests of exports then try
clients: install
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS),clients]' && \
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps 'ddranking>=0.2.0'

# make quality   lint, format check and the types of the public names; make style mends what can be mended
quality: install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

style: install
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# make docs   the pages of docs/ as a site in site/, with the Python reference; needs no network
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# make bench   the figures in benchmarks/ that take minutes
bench: install
	$(BIN)/python -m benchmarks.statistics_pass
	$(BIN)/python -m benchmarks.synthesis_step
	$(BIN)/python -m benchmarks.observer_step

# make test-lower   the tests on the oldest versions that pyproject.toml allows (torch 2.11, transformers 5.17 ...)
LOWER_PYTHON ?= 3.12
test-lower: .venv-lower/.installed
	.venv-lower/bin/python -m pytest $(PARALLEL)

.venv-lower/.installed: $(VENV)/.installed
	test -x .venv-lower/bin/python || $(BIN)/python -m uv venv --quiet --python $(LOWER_PYTHON) .venv-lower
	$(BIN)/python -m uv pip install --quiet --python .venv-lower/bin/python --resolution lowest-direct --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf .venv .venv-lower .mypy_cache runs site build dist *.egg-info
