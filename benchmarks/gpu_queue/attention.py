# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Attention of one layer alone, beside dense attention and beside what the device can do at most."""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ernie_sparse import SparsePattern
from ernie_sparse.block_attention import gathered_block_attention
from ernie_sparse.block_plan import BlockTables
from ernie_sparse.hst_attention import ALL_ATTENTION_FUNCTIONS

from ..speed.measure import free_memory, left_out_by, synchronize
from ..speed.models import build_encoder
from .steps import OURS_SDPA, setup_of

WARM_UPS = 3
# A backward pass has five products where the forward pass has two.
FORWARD_AND_BACKWARD = 3.5


class Call(NamedTuple):
    """One layer's call of its attention backend: the module, the arguments in order, and those by name."""

    module: nn.Module
    arguments: tuple
    named: dict


def measure_attention(settings: dict, say: Callable[[str], None]) -> dict:
    """
    Of every length, forward alone and with backward, seconds and TFLOP/s of our attention (step 1: tokens and representatives
    against what their blocks see), of the form that gathers keys and values, and of dense attention by SDPA's fast
    kernels; and the two ceilings, a large matrix product and a large copy.
    """
    ceilings = measure_ceilings(settings)
    say(f"ceilings: {ceilings['matmul_tflops']:.3g} TFLOP/s, {ceilings['copy_tb_per_second']:.3g} TB/s")
    rows, tables = [], {}
    for length in settings["lengths"]:
        plan = captured_call({**settings, "length": length}).arguments[3]
        # Which form ours takes: it says whether the kernels ran.
        tables[str(length)] = type(plan.tables).__name__
        for name, build in ATTENTIONS.items():
            for has_backward in (False, True):
                row = {"attention": name, "length": length, "backward": has_backward, "reason": None, "seconds": None}
                try:
                    step, operations = build({**settings, "length": length}, has_backward)
                    row["seconds"] = device_times(step, settings["runs"], settings["device"])
                    row["median_seconds"] = statistics.median(row["seconds"])
                    row["operations"] = operations
                    row["tflops"] = operations / row["median_seconds"] / 1e12
                    row["share_of_matmul"] = row["tflops"] / ceilings["matmul_tflops"]
                except Exception as error:
                    row["reason"] = left_out_by(error).reason
                step = None
                free_memory()
                rows.append(row)
        say(_summary(length, rows))
    return {"ceilings": ceilings, "tables": tables, "rows": rows}


def _summary(length: int, rows: list[dict]) -> str:
    found = [row for row in rows if row["length"] == length and not row["backward"]]
    parts = [
        f"{row['attention']} {row['reason'][:30]}"
        if row["seconds"] is None
        else f"{row['attention']} {1e6 * row['median_seconds']:.0f} us, {row['tflops']:.3g} TFLOP/s"
        for row in found
    ]
    return f"{length:,} tokens, forward: {'; '.join(parts)}"


def measure_ceilings(settings: dict) -> dict:
    """What the device can do at most: TFLOP/s of a square matrix product, and TB/s of a copy, bytes read and written."""
    device, size = settings["device"], settings["matmul_size"]
    left, right = (_random((size, size), settings) for _ in range(2))
    products = device_times(lambda: left @ right, settings["runs"], device)
    source = torch.randint(0, 255, (settings["copy_bytes"],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copies = device_times(lambda: target.copy_(source), settings["runs"], device)
    return {
        "matmul_seconds": products,
        "copy_seconds": copies,
        "matmul_tflops": 2 * size**3 / statistics.median(products) / 1e12,
        "copy_tb_per_second": 2 * source.numel() / statistics.median(copies) / 1e12,
    }


def device_times(step: Callable[[], object], runs: int, device: str) -> list[float]:
    """The seconds of `runs` calls after some that are not counted, on a GPU by its own clock, between two events."""
    for _ in range(WARM_UPS):
        step()
    synchronize()
    if device != "cuda":
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        return seconds
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for first, last in events:
        first.record()
        step()
        last.record()
    synchronize()
    return [first.elapsed_time(last) / 1000 for first, last in events]


def captured_call(settings: dict) -> Call:
    """What the first layer of our model hands to its attention backend, at a length and batch size."""
    calls, name = [], "recorded"

    def record(module, *arguments, **named):
        calls.append(Call(module, arguments, named))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *arguments, **named)

    setup = setup_of({**settings, "compiler": None})
    setup = dataclasses.replace(setup, sizes=dataclasses.replace(setup.sizes, num_layers=1))
    model = build_encoder(OURS_SDPA, setup.sizes).to(setup.device, getattr(torch, setup.dtype)).eval()
    shape = (max(1, settings["tokens"] // settings["length"]), settings["length"])
    ALL_ATTENTION_FUNCTIONS[name] = record
    try:
        model.config._attn_implementation = name
        with torch.no_grad():
            model(torch.randint(10, setup.sizes.vocab_size, shape, device=setup.device))
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
    return calls[0]


def seen_pairs(pattern: SparsePattern, length: int, per_block: int = 1) -> int:
    """How many pairs of positions see each other in a document of `length` tokens and their representatives."""
    count, reach, num_global = pattern.num_blocks(length), pattern.num_window_blocks // 2, pattern.num_global_blocks
    starts = [max(0, number * pattern.block_size - pattern.block_shift) for number in range(count)] + [length]
    sizes = [end - start + per_block * pattern.hierarchical for start, end in itertools.pairwise(starts)]
    total = sum(sizes)
    pairs = 0
    for number, size in enumerate(sizes):
        if number < num_global:
            pairs += size * total
        else:
            seen = {*range(max(0, number - reach), min(count, number + reach + 1)), *range(min(num_global, count))}
            pairs += size * sum(sizes[other] for other in seen.union(pattern.random_blocks(number, count)))
    return pairs


def _random(shape: tuple[int, ...], settings: dict) -> torch.Tensor:
    return torch.randn(shape, device=settings["device"], dtype=getattr(torch, settings["dtype"]))


def _step(attend: Callable, states: list[torch.Tensor], has_backward: bool) -> Callable[[], object]:
    """A call of `attend` on query, key and value, or one with the gradients of all three."""
    if not has_backward:
        return torch.no_grad()(lambda: attend(*states))
    states = [part.requires_grad_() for part in states]
    gradient = torch.randn_like(attend(*states))
    return lambda: torch.autograd.grad(attend(*states), states, gradient)


def _ours(settings: dict, has_backward: bool, is_gathered: bool = False) -> tuple[Callable, int]:
    call = captured_call(settings)
    query, _, _, plan, *rest = call.arguments
    states = [_random(tuple(query.shape), settings) for _ in range(3)]
    if is_gathered:
        if not isinstance(plan.tables, BlockTables):
            plan = plan._replace(tables=BlockTables.of(plan))

        def attend(*states):
            return gathered_block_attention(*states, plan, call.named["scaling"])
    else:

        def attend(*states):
            return ALL_ATTENTION_FUNCTIONS["sdpa"](call.module, *states, plan, *rest, **call.named)[0]

    batch_size = max(1, settings["tokens"] // settings["length"])
    pairs = batch_size * seen_pairs(SparsePattern.parse(settings["pattern"]), settings["length"])
    operations = 4 * query.shape[-1] * query.shape[-2] * pairs * (FORWARD_AND_BACKWARD if has_backward else 1)
    return _step(attend, states, has_backward), int(operations)


def _gathered(settings: dict, has_backward: bool) -> tuple[Callable, int]:
    return _ours(settings, has_backward, is_gathered=True)


def _dense(backend: SDPBackend) -> Callable[[dict, bool], tuple[Callable, int]]:
    def build(settings: dict, has_backward: bool) -> tuple[Callable, int]:
        length, heads = settings["length"], settings["sizes"]["num_heads"]
        head_size = settings["sizes"]["hidden_size"] // heads
        shape = (max(1, settings["tokens"] // length), heads, length, head_size)
        states = [_random(shape, settings) for _ in range(3)]

        def attend(*states):
            with sdpa_kernel(backend):
                return nn.functional.scaled_dot_product_attention(*states)

        operations = 4 * head_size * heads * shape[0] * length**2 * (FORWARD_AND_BACKWARD if has_backward else 1)
        return _step(attend, states, has_backward), int(operations)

    return build


ATTENTIONS = {
    "ours": _ours,
    "gathered": _gathered,
    "dense, flash": _dense(SDPBackend.FLASH_ATTENTION),
    "dense, cuDNN": _dense(SDPBackend.CUDNN_ATTENTION),
}
