# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What makes runs of a few updates fast."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_search_of_the_libraries():
    """Every training begins with a collection of garbage, which would look through all that was ever imported."""
    gc.freeze()
