# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The queue of `benchmarks/gpu.py`: what is measured, in processes of their own, what is kept of it, and the tables."""

from pathlib import Path

PROG = "python -m benchmarks.gpu"
ROOT = Path(__file__).resolve().parent.parent.parent
