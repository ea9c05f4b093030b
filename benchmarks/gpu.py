# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python benchmarks/gpu.py --minutes M` or `python -m benchmarks.gpu --minutes M`: everything that has to be measured on a GPU, the
most wanted first, in the time there is.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:
        # Run as a file, whose folder stands where the root of the repository has to stand.
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.gpu_queue import PROG
    from benchmarks.gpu_queue.runner import main
    from ernie_sparse.cli import run_command

    sys.exit(run_command(PROG, main, sys.argv[1:]))
