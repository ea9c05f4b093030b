# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What peft adapts where nothing is named (`target_modules`): as in BERT, whose layers have the same names."""

from types import ModuleType

TABLES = "peft.utils.constants"


def register(tables: ModuleType):
    """Enter our model type into every table of peft that has targets for BERT; what it says of ours itself stays."""
    for name, targets in vars(tables).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and "bert" in targets:
            targets.setdefault("ernie_sparse", targets["bert"])
