# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning on tasks: rows of a data set, features, metrics, SaorTrainer."""
