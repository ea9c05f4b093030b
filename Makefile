# Every target makes what it needs: `.venv` with the tested versions. Python 3.11 and make are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow check docs chaos compat lock audit deepspeed bench results dist wheel clean

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

# The documentation, in site/: open site/index.html; its search needs `python -m http.server -d site`. A warning is an error.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Commands under kills, torn files, full disks and the like: some minutes; more by `TRIALS=1000`.
TRIALS := 200
chaos: $(VENV)/.installed
	$(BIN)/python tests/chaos.py --trials $(TRIALS)

# The lowest versions and the newest, every Python from 3.10 to 3.13 that is on PATH, and saved models without this package. All of it
# needs 20 GB where pip finds torch for GPUs alone; `make compat COMPAT="lowest 3.13"` takes some of it.
COMPAT :=
compat: $(VENV)/.installed
	$(BIN)/python tests/compat.py $(COMPAT)

TOOLS := .compat/tools
$(TOOLS)/.installed: Makefile
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check pip-tools==7.6.2 pip-audit==2.10.1
	touch $@

# What `pip install .` brings, at the versions of constraints.txt, with hashes.
define LOCK_HEAD
# Made by `make lock`: what ernie-sparse needs to run, for Linux on x86-64, Python 3.11 and torch's CPU build, of which pip has to find an
# index. `pip install --require-hashes -r requirements.lock`, then `pip install --no-deps .`
endef
export LOCK_HEAD
lock: $(TOOLS)/.installed
	rm -f .compat/lock.txt
	$(TOOLS)/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
		--constraint constraints.txt --output-file .compat/lock.txt setup.cfg
	@grep -q '^torch==.*+cpu ' .compat/lock.txt || { echo "pip finds no CPU build of torch: PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS can name one"; exit 1; }
	# Under the version that advisories know; its hash is that of the CPU build alone.
	{ echo "$$LOCK_HEAD"; sed '/^torch==/s/+cpu//' .compat/lock.txt; } > requirements.lock

# An audit that did not take place is none that passed: it ends in one line, and fails.
audit: $(TOOLS)/.installed
	@$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements.lock > .compat/audit.txt 2>&1; \
	status=$$?; \
	if test $$status = 0 || grep -q '^Found ' .compat/audit.txt; then cat .compat/audit.txt; \
	else echo "Nothing was audited, the database of advisories cannot be reached or does not answer: $$(tail -n 1 .compat/audit.txt | cut -c -150)"; fi; \
	exit $$status

# Beside the environment: it is built from source, and is no part of what is tested elsewhere.
deepspeed: $(VENV)/.installed
	test -d .compat/deepspeed || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .compat/deepspeed \
		deepspeed==0.19.8 hjson ninja py-cpuinfo msgpack einops
	DS_ACCELERATOR=cpu PATH="$(CURDIR)/$(BIN):$(CURDIR)/.compat/deepspeed/bin:$$PATH" PYTHONPATH=$(CURDIR)/.compat/deepspeed \
		$(BIN)/python -m pytest -q -m deepspeed tests/test_pretraining_processes.py

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed --lengths 512 4096 --tasks forward training --output-dir benchmark_output

# The numbers of README, made again on this machine: ratios of times on a CPU, side by side (an hour on 2 slow cores that do nothing else), and
# the tables of what else is kept. What needs a GPU: `python benchmarks/gpu.py`.
SPEED := --no-memory --threads 2
results: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed --lengths 512 4096 --tasks forward training padding-forward padding-training $(SPEED) \
		--output-dir benchmarks/results/cpu-release
	$(BIN)/python -m benchmarks.speed --lengths 4096 16384 65536 --models no-attention ernie-sparse:sdpa --tasks forward training \
		--seconds-per-run 40 $(SPEED) --output-dir benchmarks/results/cpu-release-long
	set -e; for name in finetuning pretraining recall robustness scaling; do \
		$(BIN)/python -m benchmarks.$$name --results-dir benchmarks/results/$$name --page docs/notebook/$$(echo $$name | sed s/recall/hierarchy/).md; \
	done
	$(BIN)/python -m benchmarks.context --results-dir benchmarks/results/context --page docs/notebook/embeddings.md
	$(BIN)/python -m benchmarks.lra --report --results-dir benchmarks/results/lra --page docs/notebook/lra.md

# Twice from the same commit, to the same files, with the setuptools of constraints.txt. It gives files of an sdist the time of the build,
# so that is packed again (GNU tar).
dist: export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct)
dist: export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
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
	set -e; for tag in $$(git tag --points-at HEAD 'v*'); do \
		test -f dist/ernie_sparse-$${tag#v}.tar.gz || { echo "$$tag is the tag of another version than ernie_sparse.__version__"; exit 1; }; \
	done

# What was built, wheel and sdist, each in an environment without these sources; their dependencies are those of $(VENV).
wheel: dist $(VENV)/.installed
	set -e; for file in dist/*.whl dist/*.tar.gz; do \
		rm -rf .compat/clean && $(PYTHON) -m venv .compat/clean; \
		$(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])" \
			> $$(.compat/clean/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/dependencies.pth; \
		.compat/clean/bin/pip install --quiet --disable-pip-version-check --no-deps $$file; \
		(cd .compat/clean && bin/ernie-sparse --version && bin/python -c "import ernie_sparse; print(ernie_sparse.__file__)" | grep -q /.compat/clean/ \
			&& bin/ernie-sparse show --length 256 > /dev/null && bin/python $(CURDIR)/tests/remote_code.py write . > /dev/null); \
	done

clean:
	rm -rf $(VENV) .compat site chaos_output compat_output demo_output benchmark_output build dist dist_again *.egg-info
