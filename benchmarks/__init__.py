# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What the published figures come from; run from the root of the repository, as `python -m benchmarks.lra` and so on."""
