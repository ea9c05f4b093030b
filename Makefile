# Every target makes what it needs: `.venv` with the tested versions. Python 3.11 and make are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow check compat deepspeed bench clean

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
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "slow and not deepspeed"

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Saved models, read by the lowest and the newest transformers of setup.cfg in environments without this package.
COMPAT := 5.4.0 5.24.0
compat: $(VENV)/.installed
	rm -rf compat_output && $(BIN)/python tests/remote_code.py write compat_output
	set -e; for version in $(COMPAT); do \
		test -d .compat/$$version || $(PYTHON) -m venv .compat/$$version; \
		.compat/$$version/bin/pip install --quiet --disable-pip-version-check torch==$$($(BIN)/python -c "import torch; print(torch.__version__.split('+')[0])") numpy transformers==$$version; \
		HF_HOME=compat_output/cache .compat/$$version/bin/python tests/remote_code.py read compat_output; \
	done

# Beside the environment: it is built from source, and is no part of what is tested elsewhere.
deepspeed: $(VENV)/.installed
	test -d .compat/deepspeed || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .compat/deepspeed \
		deepspeed==0.19.8 hjson ninja py-cpuinfo msgpack einops
	DS_ACCELERATOR=cpu PATH="$(CURDIR)/$(BIN):$(CURDIR)/.compat/deepspeed/bin:$$PATH" PYTHONPATH=$(CURDIR)/.compat/deepspeed \
		$(BIN)/python -m pytest -q -m deepspeed tests/test_pretraining_processes.py

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed --lengths 512 4096 --tasks forward training --output-dir benchmark_output

clean:
	rm -rf $(VENV) .compat compat_output demo_output benchmark_output build *.egg-info
