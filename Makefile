# Every target makes what it needs: `.venv` with the tested versions. Python 3.11 and make are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow check bench clean

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py --output-dir demo_output

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n auto --dist loadfile

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m slow

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed --lengths 512 4096 --tasks forward training --output-dir benchmark_output

clean:
	rm -rf $(VENV) demo_output benchmark_output build *.egg-info
