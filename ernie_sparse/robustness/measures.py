# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What is measured of a model under two patterns: agreement, attention that is dropped, time and memory."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel

from ..allocator import give_back_freed_memory
from ..sparse_pattern import SparsePattern
from .patterns import blocks_of_tokens, full_attention, seen_blocks

# Own outputs that are kept for the other patterns; beyond that they are computed once more.
KEPT_BYTES = 2**30
# The attention maps of a document are as large as its length squared, in every head of every layer.
MAP_TOKENS = 1024
TIMED_RUNS = 5
TIMED_BATCHES = 3


class OwnOutputs:
    """
    The outputs under the model's own pattern, batch by batch: kept as long as there is room.

    Args:
        forward (`Callable`): `(inputs, pattern)` to a mapping of tensors.
    """

    def __init__(self, forward: Callable, own: SparsePattern, room: int = KEPT_BYTES):
        self.forward, self.own, self.room, self.kept = forward, own, room, {}

    def __call__(self, number: int, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Of batch `number`, which `inputs` are."""
        if number in self.kept:
            return self.kept[number]
        output = self.forward(inputs, self.own)
        size = sum(part.nbytes for part in output.values())
        if size <= self.room:
            self.room -= size
            self.kept[number] = output
        return output


class PatternCalls:
    """
    A model under one pattern, called batch after batch as any model is, and compared with its own pattern on the way.

    Args:
        forward (`Callable`): `(inputs, pattern)` to a mapping of tensors.
        divergence (`Callable`): `(inputs, output, other)` to the symmetric KL of every prediction.
        own ([`OwnOutputs`])
        advance (`Callable[[int], object]`): Told how many inputs have been read.
    """

    def __init__(
        self,
        forward: Callable,
        divergence: Callable,
        pattern: SparsePattern,
        own: OwnOutputs,
        advance: Callable[[int], object],
        device: torch.device,
    ):
        self.forward, self.divergence, self.pattern, self.own = forward, divergence, pattern, own
        self.advance, self.device = advance, device
        self.divergences, self.number = [], 0

    @torch.no_grad()
    def __call__(self, return_dict: bool = True, **inputs) -> Mapping[str, torch.Tensor]:
        expected = self.own(self.number, inputs)
        output = expected if self.pattern == self.own.own else self.forward(inputs, self.pattern)
        self.divergences.append(self.divergence(inputs, expected, output).double().cpu())
        self.number += 1
        self.advance(len(inputs["input_ids"]))
        return output

    def mean_kl(self) -> float:
        """The mean over all predictions of the calls so far."""
        return torch.cat(self.divergences).mean().item()


@torch.no_grad()
def attention_map(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor], own: SparsePattern) -> np.ndarray:
    """
    What every token of one document attends to under full attention, `(num_tokens, num_tokens)`: the mean over layers and
    heads, of the attention that it pays to tokens. Rows add up to 1.

    Args:
        inputs (`Mapping[str, torch.Tensor]`): Of one document without padding.
    """
    names = ("input_ids", "token_type_ids")
    inputs = {name: inputs[name] for name in names if name in inputs}
    with _eager(model):
        found = model.base_model(**inputs, pattern=full_attention(own), output_attentions=True, return_dict=True)
    mean = sum((maps[0] / maps[0].sum(-1, keepdim=True)).double().mean(0) for maps in found.attentions)
    return (mean / len(found.attentions)).cpu().numpy()


@contextmanager
def _eager(model: PreTrainedModel):
    """The attention backend that returns maps."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def dropped_attention(pattern: SparsePattern, maps: Iterable[np.ndarray]) -> float:
    """The share of the attention of [`attention_map`] that falls on tokens which `pattern` does not show; the mean over tokens."""
    dropped = num_tokens = 0.0
    for attention in maps:
        blocks = blocks_of_tokens(pattern, len(attention))
        seen = seen_blocks(pattern, int(blocks[-1]) + 1)[blocks[:, None], blocks[None]]
        dropped += float(attention[~seen].sum())
        num_tokens += len(attention)
    return dropped / num_tokens


def timed_batches(batches: Sequence) -> list:
    """Some of the batches, from long ones to short ones: few of few, for each is read many times."""
    count = min(TIMED_BATCHES, max(1, len(batches) // 10))
    return [batches[int((number + 0.5) * len(batches) / count)] for number in range(count)]


@torch.no_grad()
def seconds_beside(
    forward: Callable, pattern: SparsePattern, own: SparsePattern, batches: Sequence[Mapping[str, torch.Tensor]]
) -> tuple[float, float]:
    """
    Seconds per document under `pattern`, and how many times as long as under `own` it takes: the medians of some runs, both
    patterns by turns.
    """

    def seconds(which: SparsePattern) -> float:
        _synchronize()
        start = time.perf_counter()
        for inputs in batches:
            forward(inputs, which)
        _synchronize()
        return time.perf_counter() - start

    patterns = [pattern] if pattern == own else [pattern, own]
    for which in patterns:
        forward(batches[0], which)
    runs = []
    for number in range(TIMED_RUNS):
        # What goes first changes, so that what changes with time falls on both alike.
        order = patterns if number % 2 == 0 else patterns[::-1]
        found = {which: seconds(which) for which in order}
        runs.append((found[pattern], found[pattern] / found[own]))
    documents = sum(len(inputs["input_ids"]) for inputs in batches)
    own_seconds, ratios = zip(*runs, strict=True)
    return statistics.median(own_seconds) / documents, statistics.median(ratios)


def _synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.no_grad()
def peak_memory(forward: Callable, pattern: SparsePattern, inputs: Mapping[str, torch.Tensor]) -> float | None:
    """MiB that a forward takes at its peak, beside the model; `None` where the system does not say."""
    if inputs["input_ids"].is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward(inputs, pattern)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # What earlier forwards have freed would otherwise serve this one and not be counted.
    give_back_freed_memory()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = _status("VmRSS")
        forward(inputs, pattern)
        return max(0.0, _status("VmHWM") - before)
    except (OSError, KeyError):
        return None


def _status(name: str) -> float:
    """MiB, from what Linux says of this process."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields[name].split()[0]) / 1024
