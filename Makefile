# Every target makes what it needs: `.venv` with the tested versions. Python 3.11 and make are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow check compat deepspeed bench dist clean

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

# The lowest versions and the newest, every Python from 3.10 to 3.13 that is on PATH, and saved models without this package. All of it
# needs 20 GB where pip finds torch for GPUs alone; `make compat COMPAT="lowest 3.13"` takes some of it.
COMPAT :=
compat: $(VENV)/.installed
	$(BIN)/python tests/compat.py $(COMPAT)

# Beside the environment: it is built from source, and is no part of what is tested elsewhere.
deepspeed: $(VENV)/.installed
	test -d .compat/deepspeed || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .compat/deepspeed \
		deepspeed==0.19.8 hjson ninja py-cpuinfo msgpack einops
	DS_ACCELERATOR=cpu PATH="$(CURDIR)/$(BIN):$(CURDIR)/.compat/deepspeed/bin:$$PATH" PYTHONPATH=$(CURDIR)/.compat/deepspeed \
		$(BIN)/python -m pytest -q -m deepspeed tests/test_pretraining_processes.py

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed --lengths 512 4096 --tasks forward training --output-dir benchmark_output

# Twice from the same commit, to the same files, as whoever has this setuptools will build them. It gives files of an sdist the time of
# the build, so that is packed again (GNU tar).
dist: export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct)
dist:
	test -d .compat/build || $(PYTHON) -m venv .compat/build
	.compat/build/bin/pip install --quiet --disable-pip-version-check build==1.6.1
	rm -rf dist dist_again
	.compat/build/bin/python -m build --outdir dist . > /dev/null
	.compat/build/bin/python -m build --outdir dist_again . > /dev/null
	set -e; for folder in dist dist_again; do \
		mkdir $$folder/unpacked && tar -xzf $$folder/*.tar.gz -C $$folder/unpacked; \
		name=$$(ls $$folder/unpacked); \
		tar --sort=name --mtime=@$$SOURCE_DATE_EPOCH --owner=0 --group=0 --numeric-owner -C $$folder/unpacked -c $$name \
			| gzip -n > $$folder/$$name.tar.gz; \
		rm -r $$folder/unpacked; \
	done
	cd dist && sha256sum * > ../SHA256SUMS && mv ../SHA256SUMS SHA256SUMS
	cd dist_again && sha256sum --check ../dist/SHA256SUMS

clean:
	rm -rf $(VENV) .compat compat_output demo_output benchmark_output build dist dist_again *.egg-info
