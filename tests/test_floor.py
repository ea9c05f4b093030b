# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What attention may cost on top of the linear layers."""

import importlib.util
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
def test_a_forward_of_4096_tokens_takes_at_most_one_and_a_half_times_its_floor():
    path = Path(__file__).parents[1] / "benchmarks" / "floor.py"
    spec = importlib.util.spec_from_file_location("floor", path)
    floor = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(floor)
    torch.set_num_threads(2)
    assert floor.ratio(length=4096, layers=2, runs=5, backward=False) <= 1.5
