# Two commands set everything up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := runs/quickstart

.PHONY: quickstart test test-slow bench docs pictures notebooks wheels lint format clean

quickstart: $(VENV)/ready
	$(BIN)/snn2chip train digits-tdbn --out $(OUT) --overwrite
	$(BIN)/snn2chip fold-and-export $(OUT)/model.pt -o $(OUT)/model.net --json $(OUT)/export.json
	$(BIN)/snn2chip simulate $(OUT)/model.net --cost --json $(OUT)/simulate.json
	$(BIN)/snn2chip verify $(OUT)/model.pt $(OUT)/model.net --samples 20 --json $(OUT)/verify.json
	$(BIN)/snn2chip report $(OUT)

test: $(VENV)/ready lint
	$(BIN)/python -m pytest -m "not slow and not gpu" -n auto --maxprocesses 4 --dist worksteal

# Everything that takes long or needs a GPU or the full Lava environment; each test says why it skips.
test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m "slow or gpu"

# docs/speed.md and docs/training-speed.md, an hour on a machine that does nothing else: make bench DATA=CIFAR-10's folder
bench: $(VENV)/ready
	$(BIN)/python bench/engines.py --full --rounds 5 --data '$(DATA)'
	$(BIN)/python bench/training.py --rounds 9 --data '$(DATA)'

# The documentation as a site in build/site.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# docs/report.png and docs/explore.png, taken again in Chromium: make pictures DATA=CIFAR-10's folder
PICTURES := build/pictures
pictures: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt playwright
	rm -rf $(PICTURES) && mkdir -p $(PICTURES) && cp models/cifar10-vgg-tdbn-t2/model.pt $(PICTURES)
	$(BIN)/snn2chip fold-and-export $(PICTURES)/model.pt --data '$(DATA)'
	$(BIN)/snn2chip report $(PICTURES) --data '$(DATA)' --samples 20
	$(BIN)/python tools/screenshots.py report $(PICTURES)/report.html
	mkdir $(PICTURES)/explored
	$(BIN)/snn2chip fold-and-export models/digits-tdbn/model.pt -o $(PICTURES)/explored/digits.net
	$(BIN)/snn2chip explore $(PICTURES)/explored/digits.net -o $(PICTURES)/explored/digits.html
	$(BIN)/python tools/screenshots.py explore $(PICTURES)/explored/digits.html

# The tutorials as Jupyter notebooks in build/notebooks, without outputs.
notebooks: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt jupytext
	mkdir -p build/notebooks
	for file in docs/tutorials/*.py; do \
	  $(BIN)/jupytext --quiet --to notebook --output build/notebooks/$$(basename $$file .py).ipynb $$file || exit 1; done

# dist/, for PyPI: sdist, and wheels for Linux on x86-64 and 64-bit Arm whose engine zig compiles for glibc 2.17. What this
# machine's compiler makes needs a libstdc++ as new as its own, and is tagged linux_x86_64, which PyPI refuses.
ZIG := $(abspath $(BIN))/python -m ziglang c++ -s -target
wheels: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ziglang auditwheel
	rm -rf dist
	$(BIN)/python -m build --sdist --no-isolation
	for machine in x86_64 aarch64; do \
	  CXX="$(ZIG) $$machine-linux-gnu.2.17" _PYTHON_HOST_PLATFORM=manylinux_2_17-$$machine \
	    $(BIN)/python -m build --wheel --no-isolation && \
	  $(BIN)/auditwheel show dist/*-py3-none-manylinux_2_17_$$machine.whl | tr '\n' ' ' | \
	    grep -E "consistent with the following platform tag: +\"manylinux_2_(5|12|17)_$$machine" || exit 1; done

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pinned versions that are known to work together; the marker is written last.
EVENTS := snn2chip/simulate/events
$(VENV)/ready: pyproject.toml constraints.txt hatch_build.py $(wildcard $(EVENTS)/*.cpp $(EVENTS)/*.h)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "snn2chip needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
