# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a process of its own is to measure, in a file that imports little: the process reads it when it starts."""

import os
import signal

import torch
from torch import nn

from benchmarks.speed.measure import Case


def pieces(length: int) -> list[torch.Tensor]:
    """A quarter of a MiB per token, in pieces that malloc takes from its heap."""
    return [torch.ones(2**13) for _ in range(8 * length)]


def build_allocating(length: int) -> Case:
    """A step that holds the pieces for a moment, of a model whose building has freed as many below one that it keeps."""
    model = nn.Linear(1, 1)
    *_, model.kept = pieces(length)
    return Case(model, lambda: len(pieces(length)), length)


def build_dying(length: int) -> Case:
    return Case(nn.Linear(1, 1), lambda: os.kill(os.getpid(), signal.SIGKILL), length)


def build_failing(length: int) -> Case:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
