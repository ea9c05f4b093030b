# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Steps of whole models, side by side in one process, and a profile of ours."""

import dataclasses
from collections.abc import Callable

from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from ernie_sparse import SparsePattern

from ..speed.measure import OUT_OF_MEMORY, Case, LeftOut, cuda_peak, free_memory, left_out_by, synchronize, time_rounds
from ..speed.models import MODERNBERT_FLEX, OURS, Sizes, is_ours, note
from ..speed.report import add_ratios, make_cell
from ..speed.tasks import TASKS, Row, Setup, build_case, rows_of

OURS_SDPA = f"{OURS}:sdpa"
# How many kernels a profile names, and how many characters of each.
TOP_KERNELS, NAME_LENGTH = 20, 90


def setup_of(settings: dict, batch_size: int = 1) -> Setup:
    """The models' sizes, the device and the rest, from a measurement's settings."""
    sizes = Sizes(**settings["sizes"], max_length=settings["length"], pattern=SparsePattern.parse(settings["pattern"]))
    return Setup(sizes, settings["device"], settings["dtype"], batch_size, settings.get("compiler"))


def measure_steps(settings: dict, say: Callable[[str], None]) -> dict:
    """
    The cells of one task and length, in the form of the speed benchmark, each with its `batch_size`: as many rows as hold
    `settings["tokens"]`, or fewer where memory does not suffice. Ratios are of the time per row.
    """
    task, length, models = TASKS[settings["task"]], settings["length"], list(settings["models"])
    cases, outcomes, peaks, batches, notes = {}, {}, {}, {}, {}

    def prepare(row: Row):
        prepared = _prepared(task, row, settings)
        if isinstance(prepared, LeftOut):
            outcomes[row] = prepared
        else:
            cases[row], batches[row], notes[row] = prepared
            if task.has_memory and settings["device"] == "cuda":
                peaks[row] = cuda_peak(cases[row])
        free_memory()

    for row in rows_of(task, models):
        prepare(row)
    flex = Row(MODERNBERT_FLEX)
    if isinstance(outcomes.get(flex), LeftOut):
        models.append("modernbert")
        prepare(Row("modernbert"))
    # Whatever building the others made a compiled model compile anew is none of its steps' time.
    time_rounds(cases, 0, float("inf"))
    outcomes |= time_rounds(cases, settings["runs"], settings["seconds_per_step"])
    cells = []
    for row in rows_of(task, models):
        remarks = [note(row.model, length, task.attention_dropout), notes.get(row)]
        if row.model == "modernbert":
            remarks.append("local layers dense")
        if row in batches and batches[row] < max(batches.values()):
            remarks.append(f"batch {batches[row]}")
        num_tokens = cases[row].num_tokens if row in cases else None
        remark = ", ".join(filter(None, remarks)) or None
        cell = make_cell(task, row, length, remark, num_tokens, outcomes[row], peaks.get(row))
        cells.append({**cell, "batch_size": batches.get(row, 1)})
    add_ratios(cells)
    say(summary(cells))
    return {"mode": "eager" if settings["compiler"] is None else "compiled", "cells": cells}


def summary(cells: list[dict]) -> str:
    """Milliseconds of a step of each model, in one line."""
    parts = []
    for cell in cells:
        name = cell["variant"] or ("ours" if is_ours(cell["model"]) else cell["model"])
        if cell["seconds"] is None:
            parts.append(f"{name}: {cell['reason'][:40]}")
        else:
            ratio = cell["over_reference"]
            over = "" if ratio is None or ratio == 1 else f" ({ratio:.2f} x)"
            parts.append(f"{name} {1000 * cell['median_seconds']:.1f} ms{over}")
    return ", ".join(parts)


def _prepared(task, row: Row, settings: dict) -> tuple[Case, int, str | None] | LeftOut:
    """A case that has run once, with its number of rows and what must be known of it."""
    batch_size = max(1, settings["tokens"] // settings["length"])
    while True:
        found = _first_step(task, row, settings, batch_size)
        if found is not OUT_OF_MEMORY or batch_size == 1:
            return found if isinstance(found, LeftOut) else (found[0], batch_size, found[1])
        batch_size //= 2
        free_memory()


def _first_step(task, row: Row, settings: dict, batch_size: int) -> tuple[Case, str | None] | LeftOut:
    try:
        case, remark = build_case(task, row, setup_of(settings, batch_size), settings["length"]), None
        if row.model == "dense" and settings["device"] == "cuda":
            case, remark = _under_flash(case)
        case.step()
        synchronize()
        case.model.zero_grad(set_to_none=True)
        return case, remark
    except Exception as error:
        return left_out_by(error)


def _under_flash(case: Case) -> tuple[Case, str | None]:
    """The dense model on flash attention and nothing else or, where that refuses, as it runs, with a remark."""

    def step():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            case.step()

    try:
        step()
    except RuntimeError as error:
        if left_out_by(error) is OUT_OF_MEMORY:
            raise
        return case, "not on flash"
    return dataclasses.replace(case, step=step), None


def measure_profile(settings: dict, say: Callable[[str], None]) -> dict:
    """Which kernels ours spends its time in, forward and training: a table of each, by time on the device."""
    tables = {}
    for name in ("forward", "training"):
        batch_size = max(1, settings["tokens"] // settings["length"])
        case = build_case(TASKS[name], Row(OURS_SDPA), setup_of(settings, batch_size), settings["length"])
        tables[name] = _profiled(case, settings["runs"], settings["device"] == "cuda")
        busy, top = tables[name]["busy_share"], tables[name]["kernels"][0]
        say(f"{name}: kernels run {busy:.0%} of the time; {top['share']:.0%} of theirs is {top['name'][:50]}")
        del case
        free_memory()
    return {"length": settings["length"], "tables": tables}


def _profiled(case: Case, runs: int, on_gpu: bool) -> dict:
    def step():
        case.model.zero_grad(set_to_none=True)
        case.step()

    for _ in range(2):
        step()
    synchronize()
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    (seconds,) = time_rounds({"step": case}, 1, float("inf"))["step"]
    with profile(activities=activities) as profiler:
        for _ in range(runs):
            step()
        synchronize()
    times = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profiler.key_averages()
        if event.device_type == wanted
    ]
    total = sum(time for time, _, _ in times)
    kernels = [
        {"name": name[:NAME_LENGTH], "calls": count / runs, "ms": time / runs / 1000, "share": time / max(total, 1e-9)}
        for time, count, name in sorted(times, reverse=True)[:TOP_KERNELS]
    ]
    # A step under the profiler takes longer: its kernels are compared with a step outside of it.
    return {"step_ms": 1000 * seconds, "kernels_ms": total / runs / 1000, "busy_share": total / runs / 1e6 / seconds, "kernels": kernels}  # fmt: skip
