# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Time and memory over length: equally large models, what each is timed on, how it is measured, what is left of it."""

PROG = "python -m benchmarks.speed"
