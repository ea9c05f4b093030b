# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a process of its own is to measure, in a file that imports little: the process reads it when it starts."""

import os
import signal

import torch
from torch import nn

from benchmarks.speed.measure import Case


def build_allocating(length: int) -> Case:
    """A step that holds a quarter of a MiB per token for a moment."""
    return Case(nn.Linear(1, 1), lambda: torch.ones(length, 2**16).sum(), length)


def build_dying(length: int) -> Case:
    return Case(nn.Linear(1, 1), lambda: os.kill(os.getpid(), signal.SIGKILL), length)


def build_failing(length: int) -> Case:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
