# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Which patterns a model is read under, what they are called, and what each costs by counting."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..configuration_ernie_sparse import ErnieSparseConfig
from ..errors import input_errors
from ..sparse_pattern import SparsePattern, random_columns

FULL = "full"
# Of more tokens the time of full attention is beyond what a report is worth.
MAX_FULL_TOKENS = 8192


def full_attention(own: SparsePattern) -> SparsePattern:
    """Every token sees every token; blocks and representatives are those of `own`."""
    return SparsePattern.full(own.block_size, own.hierarchical)


def default_grid(own: SparsePattern, longest: int) -> tuple[list[SparsePattern], dict[str, str]]:
    """
    `own` and the patterns around it, each once; and why which one is left out.

    Args:
        longest (`int`): Tokens of the longest document.
    """
    size, window, num_global, num_random = (
        own.block_size,
        own.num_window_blocks,
        own.num_global_blocks,
        own.num_random_blocks,
    )
    changes = [
        *({"block_size": other, "block_shift": own.block_shift * other // size} for other in (size // 2, 2 * size)),
        *({"num_window_blocks": other} for other in (window - 2, window + 2)),
        *({"num_global_blocks": other} for other in (0, num_global + 1)),
        *({"num_random_blocks": other} for other in (0, num_random + 2)),
        *([{"seed": own.seed + 1}] if num_random else []),
        {"block_shift": (own.block_shift + size // 2) % size},
        {"hierarchical": not own.hierarchical},
    ]
    patterns, left_out = [own], {}
    for change in changes:
        try:
            patterns.append(dataclasses.replace(own, **change))
        except ValueError:
            # Half a block of one token, a window of less than the block, a count beyond its limit: there is none.
            continue
    if longest <= MAX_FULL_TOKENS:
        patterns.append(full_attention(own))
    else:
        left_out["full attention"] = (
            f"the longest document has {longest:,} tokens, and it is measured up to {MAX_FULL_TOKENS:,}: "
            "--patterns full measures it all the same"
        )
    return list(dict.fromkeys(patterns)), left_out


def parse_patterns(own: SparsePattern, texts: Iterable[str]) -> list[SparsePattern]:
    """`own` and those of `--patterns`, each once: `full`, a whole pattern, or the fields in which it differs from `own`."""
    patterns = [own]
    for text in texts:
        with input_errors(about="--patterns"):
            patterns.append(full_attention(own) if text.strip() == FULL else own.changed_by(text))
    return list(dict.fromkeys(patterns))


def label(own: SparsePattern, pattern: SparsePattern) -> str:
    """What a pattern is called in a report: `own`, `full attention`, or the fields in which it differs from `own`."""
    if pattern == own:
        return "own"
    if pattern == full_attention(own):
        return "full attention"
    fields = dataclasses.asdict(pattern)
    changed = {name: value for name, value in fields.items() if value != getattr(own, name)}
    return ",".join(f"{name}={str(value).lower()}" for name, value in changed.items())


@functools.lru_cache(maxsize=64)
def seen_blocks(pattern: SparsePattern, num_blocks: int) -> np.ndarray:
    """[`SparsePattern.sees`] of all blocks of a document at once, `(num_blocks, num_blocks)`."""
    query = torch.arange(num_blocks)[:, None]
    key = query.T
    seen = (query - key).abs() <= pattern.num_window_blocks // 2
    seen |= torch.minimum(query, key) < pattern.num_global_blocks
    for drawn in random_columns(pattern, num_blocks, query, torch.full_like(query, num_blocks)).unbind(1):
        seen |= key == drawn[:, None]
    return seen.numpy()


def blocks_of_tokens(pattern: SparsePattern, num_tokens: int) -> np.ndarray:
    """The block of every token of a document."""
    return (np.arange(num_tokens) + pattern.block_shift) // pattern.block_size


class Cost(NamedTuple):
    """
    Args:
        keys_per_query (`float`): How many keys the query of a token meets, representatives among them; the mean over tokens.
        operations (`float`): Multiplications and additions of all layers, for all documents.
    """

    keys_per_query: float
    operations: float


def cost(pattern: SparsePattern, config: ErnieSparseConfig, lengths: Sequence[int]) -> Cost:
    """What a pattern costs by counting, for documents of these lengths: no clock, and nothing of the head."""
    width, layers = config.hidden_size, config.num_hidden_layers
    per_block = config.num_representatives_per_block * pattern.hierarchical
    keys = operations = num_tokens = 0.0
    for length, count in Counter(lengths).items():
        num_blocks = pattern.num_blocks(length)
        sizes = np.bincount(blocks_of_tokens(pattern, length), minlength=num_blocks).astype(np.float64)
        seen = seen_blocks(pattern, num_blocks) @ (sizes + per_block)
        representatives = per_block * num_blocks
        positions = length + representatives
        # Per layer: the projections, the feed-forward block and, for each pair, a product of keys and one of values.
        layer = 8 * width**2 * positions + 4 * width * config.intermediate_size * positions
        layer += 4 * width * ((sizes + per_block) @ seen)
        # Step 2, which the last layer has not.
        summary = 8 * width**2 * representatives + 4 * width * representatives**2
        operations += count * (layers * layer + (layers - 1) * summary)
        keys += count * (sizes @ seen)
        num_tokens += count * length
    return Cost(keys / num_tokens, operations)
