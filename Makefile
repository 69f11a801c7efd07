# The first target that needs the virtual environment creates it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_DIR ?= demo_output
PORT ?= 5000
SEED ?= 1

# Without byte code every process that a test starts compiles the package again, and pytest all test modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo ui test test-slow test-packaging test-browser test-faults soak check docs wheels format bench bench-whole bench-gpu bench-large clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY)  ## create the virtual environment (other targets do so when needed)

$(READY): pyproject.toml recon_worker/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# Version 0.1 was one distribution: removing it after the new ones are installed would remove their command.
	$(BIN)/python -m pip uninstall --quiet --yes --disable-pip-version-check ptycho-recon-log 2>/dev/null
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable './recon_worker[lightning,h5]' --editable '.[dev,tensorboard,h5]'
	touch $(READY)

demo: $(READY)  ## simulate a scan, train on it for a few minutes, log its reconstructions
	$(BIN)/python scripts/demo.py --output_dir $(DEMO_DIR)

ui: $(READY)  ## show the demo in MLflow (PORT=5000)
	MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --backend-store-uri sqlite:///$(abspath $(DEMO_DIR))/mlflow.db --port $(PORT)

test: $(READY)  ## run the tests (a few minutes)
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup

test-slow: $(READY)  ## run the long tests, the slow cells of the fault matrix included (tens of minutes)
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup -m slow

test-packaging: $(READY)  ## install the wheel and train with it, run whole programs as users do (a few minutes)
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup -m slow tests/packaging tests/docs \
		tests/e2e/test_terminal.py tests/client/test_environments.py tests/system/test_standard_streams.py tests/test_border.py

test-browser: $(READY)  ## run the tests in Chromium (skipped if it is not installed: .ci/install-browser)
	$(BIN)/python -m pytest -m browser tests/browser

test-faults: $(READY)  ## run the whole fault matrix, slow cells included (ten to twenty minutes)
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup -m "slow or not slow" tests/faults

soak: $(READY)  ## inject random faults into running trainings for ten minutes (SEED=1)
	$(BIN)/python -m tests.faults.soak --seconds 600 --seed $(SEED)

check: $(READY)  ## lint, format, spelling, type and import checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet --strict

# Builds the wheels from the sdists, to exclude stale build/ folders, and without isolation, to need no package index.
wheels: $(READY)  ## build both distributions into dist/ and check them
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist recon_worker
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

format: $(READY)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## measure the cost of logging (a quarter of an hour), stitching and rendering
	$(BIN)/python scripts/benchmarks/recon_logging.py
	$(BIN)/python scripts/benchmarks/stitching.py
	$(BIN)/python scripts/benchmarks/rendering.py

bench-whole: $(READY)  ## measure complete trainings with and without logging (half an hour)
	$(BIN)/python scripts/benchmarks/whole_run.py

bench-gpu: $(READY)  ## measure a GPU (four minutes)
	$(BIN)/python scripts/benchmarks/gpu.py

bench-large: $(READY)  ## measure fields of up to 4096 x 4096 px and 40 000 patches (a few minutes, 4 GB of disk)
	$(BIN)/python scripts/benchmarks/large_field.py

clean:  ## remove the demo, built distributions and all caches; keep the environment
	rm -rf $(DEMO_DIR) dist site build *.egg-info recon_worker/build recon_worker/*.egg-info .pytest_cache .mypy_cache .import_linter_cache .ruff_cache .hypothesis
