# Every target makes what it needs: `.venv` with the tested versions. Python 3.11 and make are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow check chaos compat deepspeed bench dist clean

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

# Commands under kills, torn files, full disks and the like: some minutes; more by `TRIALS=1000`.
TRIALS := 200
chaos: $(VENV)/.installed
	$(BIN)/python tests/chaos.py --trials $(TRIALS)

# Saved models, read in environments without this package, by an older transformers than training needs and by the newest.
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
	rm -rf $(VENV) .compat chaos_output compat_output demo_output benchmark_output build dist dist_again *.egg-info
