# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Long Range Arena: its tasks and their data, its models in one harness, and the page of results."""

PROG = "python -m benchmarks.lra"
