# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`python -m benchmarks.lra`."""

import sys

from ernie_sparse.cli import run_command

from . import PROG
from .runner import main

if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
