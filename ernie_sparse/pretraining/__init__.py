# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Masked-LM pretraining with SAOR: text, packed rows, masking, SaorTrainer."""
