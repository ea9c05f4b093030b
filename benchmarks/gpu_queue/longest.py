# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The longest row that trains within a card's memory."""

from collections.abc import Callable

import torch

from ..speed.measure import OUT_OF_MEMORY, free_memory, left_out_by, synchronize
from ..speed.tasks import CHECKPOINTED, KEPT, TASKS, Row, build_case
from .steps import OURS_SDPA, setup_of

TASK = TASKS["training-checkpointing"]


def longest(fits: Callable[[int], bool], first: int, step: int, most: int) -> int:
    """
    The largest multiple of `step` from `first` to `most` that fits, by doubling and then halving what is between; 0 where
    `first` does not fit. Whatever is shorter than what fits is taken to fit.
    """
    good, bad = 0, None
    length = first
    while bad is None and length <= most:
        good, bad = (length, None) if fits(length) else (good, length)
        length = min(2 * length, most) if length < most else most + 1
    while good and bad is not None and bad - good > step:
        middle = good + max(step, (bad - good) // 2 // step * step)
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def measure_longest(settings: dict, say: Callable[[str], None]) -> dict:
    """
    The longest row of which a training step, forward, backward and AdamW, fits into `settings["memory_bytes"]` of what the
    allocator takes. The model, its table of positions among its weights, is built anew for every length.
    """
    on_gpu = settings["device"] == "cuda"
    if on_gpu:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, settings["memory_bytes"] / whole))
    tries = []

    def fits(length: int) -> bool:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        reason = _training_step(settings, length)
        free_memory()
        peak = torch.cuda.max_memory_allocated() if on_gpu else None
        tries.append({"length": length, "fits": reason is None, "reason": reason, "peak_bytes": peak})
        say(f"{length:,} tokens: {'fits' if reason is None else reason}")
        if reason not in (None, OUT_OF_MEMORY.reason):
            raise RuntimeError(f"at {length:,} tokens: {reason}")
        return reason is None

    found = longest(fits, settings["first"], settings["step"], settings["most"])
    return {"longest": found, "is_bound_of_search": found >= settings["most"], "tries": tries}


def _training_step(settings: dict, length: int) -> str | None:
    """Why a step of that length does not work, if it does not."""
    try:
        row = Row(OURS_SDPA, CHECKPOINTED if settings["checkpointing"] else KEPT)
        case = build_case(TASK, row, setup_of({**settings, "length": length, "compiler": None}), length)
        optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-5)
        # The second step finds the optimizer's own memory taken.
        for _ in range(2):
            case.step()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        synchronize()
        return None
    except Exception as error:
        return left_out_by(error).reason
