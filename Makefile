# Everything a user or CI runs. `make demo` needs only Python >= 3.11, `make test` Chromium besides.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
WORKERS ?= 2

.PHONY: install demo test lint soak bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	rm -rf $(DEMO) && mkdir -p $(DEMO)
	$(BIN)/ckptlab record -o $(DEMO)/resnet20-digits.zarr
	$(BIN)/ckptlab info $(DEMO)/resnet20-digits.zarr
	$(BIN)/ckptlab verify $(DEMO)/resnet20-digits.zarr
	$(BIN)/ckptlab analyze sign-flips $(DEMO)/resnet20-digits.zarr --relative-to init --plot $(DEMO)/sign-flips.html
	$(BIN)/ckptlab analyze weight-distance $(DEMO)/resnet20-digits.zarr --plot $(DEMO)/weight-distance.html
	$(BIN)/ckptlab report $(DEMO)/resnet20-digits.zarr -o $(DEMO)/report.html
	@echo
	@echo "The run:    $(DEMO)/resnet20-digits.zarr"
	@echo "The plots:  $(DEMO)/sign-flips.html $(DEMO)/weight-distance.html"
	@echo "The report: $(DEMO)/report.html"

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu"

soak: install
	$(BIN)/python -m pytest -m slow --timeout 7200 -s
	$(BIN)/python -m tests.faults.figures

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python -m numpydoc.hooks.validate_docstrings $$(git ls-files 'ckptlab/*.py')

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
