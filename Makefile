# Two commands: `make demo` and `make test`. Each sets everything up itself, and so does every other.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
TORCH := torch==2.13.0
# The build of torch: cpu, auto (looks at the GPU driver), cu130, rocm7.2, ... as `uv pip install --torch-backend` takes it.
TORCH_BACKEND ?= cpu
# Everything runs without the Hub; unset it to load models and data from there.
export HF_HUB_OFFLINE ?= 1
# uv reads its own name for pip's setting.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: setup demo test bench docs lint types format lock clean build audit sbom release

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml uv.lock Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "uv>=0.8"
	$(UV) sync --quiet --locked --all-extras --inexact --compile-bytecode --no-install-package torch
	# PyTorch's own index holds the builds without CUDA; where it cannot be reached, pip's configuration decides.
	$(BIN)/python -c "import torch" 2>/dev/null \
	  || $(UV) pip install --quiet --no-config --python $(BIN)/python --torch-backend $(TORCH_BACKEND) $(TORCH) 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

demo: setup
	$(BIN)/rupert demo

test: lint types
	$(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist worksteal

bench: setup
	$(BIN)/python benchmarks/all.py $(BENCH)

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	$(UV) lock

# What is published goes to dist/; docs/releasing.md says in which order.
build: setup
	rm -f dist/rupert-*
	$(BIN)/python -m hatchling build

# The advisories are PyPI's; --strict, because a package that could not be looked up would otherwise count as clean.
audit: setup
	$(UV) export --quiet --frozen --no-dev --all-extras --no-emit-project > .audit.txt
	$(BIN)/pip-audit --strict --disable-pip --requirement .audit.txt

sbom: setup
	$(BIN)/python docs/generate_sbom.py dist/rupert-$$($(BIN)/python -c "import rupert; print(rupert.__version__)").cdx.json

release: build sbom
	$(BIN)/pytest tests/release
	$(PYTHON) tests/release/clean_install.py dist
	cd dist && sha256sum rupert-* > SHA256SUMS

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache
