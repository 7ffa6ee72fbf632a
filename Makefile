# Everything a user or CI runs. Needs Python >= 3.11; each target does its own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
WORKERS ?= 2
RERUNS ?= 0

.PHONY: install browser demo test lint docs package soak coverage bench wheels reproduction reproduction-page clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@echo "Installing ckptlab and what its tests need into $(VENV): 3 to 10 minutes, 6 GB with PyTorch."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

browser: install
	$(BIN)/python -m tests.install_browser

demo: install
	@echo "Recording ResNet-20 for 500 steps, then verifying, measuring and reporting it: about 2 minutes."
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

test: install browser
	@echo "Running the tests on $(WORKERS) processes: 10 to 20 minutes on two cores."
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --reruns $(RERUNS) -rR -m "not slow and not gpu"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python -m numpydoc.hooks.validate_docstrings $$(git ls-files 'ckptlab/*.py')

docs: install
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo "The site: build/site/index.html"

# The wheel and the sdist, each installed bare in an environment of its own and used there.
package: install
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/python -m tests.package dist

soak: install
	@echo "Running the long fault tests: 1 to 2 hours."
	$(BIN)/python -m pytest -m slow --timeout 7200 -s
	$(BIN)/python -m tests.faults.figures

coverage: install browser
	COVERAGE_CORE=sysmon $(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist loadgroup -m "not slow and not gpu"
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

bench: install
	$(BIN)/python -m benchmarks

# What benchmarks/on_gpu.sh carries to a machine without network, for its Python; PRESENT is there.
WHEELS ?= wheels
WHEELS_PYTHON ?= 3.12
PRESENT ?= numpy scipy pandas numba llvmlite scikit_learn
wheels: install
	rm -rf $(WHEELS)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEELS) .
	$(BIN)/python -m pip download --quiet --dest $(WHEELS) --only-binary=:all: \
	    --python-version $(WHEELS_PYTHON) --implementation cp \
	    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
	    "$$(ls $(WHEELS)/ckptlab-*.whl)[cluster]" hypothesis pytest pytest-timeout scikit-learn
	for name in $(PRESENT); do rm -f $(WHEELS)/$$name-*.whl; done
	du -sh $(WHEELS)

# What is missing of docs/reproduction.md, from CIFAR-10 as DATA/train/<class>/, DATA/test/<class>/.
# It may be stopped at any time: rows are written as jobs end, and jobs go on where they were.
DATA ?= $(CKPTLAB_DATA_ROOT)
ONLY ?=
reproduction: install
	@test -n "$(DATA)" || { echo "Name the folder of the images: make reproduction DATA=DIR" >&2; exit 2; }
	OMP_NUM_THREADS=1 nice -n 19 $(BIN)/python -m reproduction run $(ONLY) --data-root "$(DATA)" --workers $(WORKERS)

reproduction-page: install
	$(BIN)/python -m reproduction page

clean:
	rm -rf $(VENV) $(DEMO) $(WHEELS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
