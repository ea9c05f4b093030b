# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Which block of a document attends to which: the pattern as a value, and its tables for a given number of blocks."""

import dataclasses
import re
from collections.abc import Mapping

import torch

# How many hashes of random blocks are held at a time: 128 KiB each, which stay in the cache.
CHUNK_HASHES = 2**14
# The most that a field may be, but for a seed.
MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class SparsePattern:
    """
    What is attended, as a value: hashable, comparable, independent of any weights. Any ErnieSparse weights run under
    any pattern.

    A document of `num_tokens` tokens is cut into blocks; token `t` belongs to block `(t + block_shift) // block_size`.
    Block `q` sees block `k` when one of them is global, when they are near each other, or when `k` is one of the
    random blocks drawn for `q`. Field names and defaults are our choice; the paper fixes none.

    Args:
        block_size (`int`, defaults to 64): Tokens per block, at least 1.
        num_window_blocks (`int`, defaults to 3): Odd; the block itself and its neighbours on both sides.
        num_global_blocks (`int`, defaults to 1): The first blocks of the document, which see all and are seen by all.
        num_random_blocks (`int`, defaults to 0):
            Blocks drawn for each query block, without replacement, from those it does not see yet. The draw is a
            function of `(seed, query block, key block)` and of the number of blocks, never of a global random state.
        block_shift (`int`, defaults to 0):
            From 0 to `block_size - 1`: moves every block boundary to the left, so that block 0 keeps
            `block_size - block_shift` tokens.
        hierarchical (`bool`, defaults to `True`):
            Whether representatives stand at the head of each block and attend to each other (HST's second step).
            `False` is a plain block-sparse Transformer with neither.
        seed (`int`, defaults to 0): Seed of the random blocks, from 0 to 2**32 - 1.

    Raises:
        `ValueError`: A field has a wrong type or value; the message names the field, the value and what is allowed.
    """

    block_size: int = 64
    num_window_blocks: int = 3
    num_global_blocks: int = 1
    num_random_blocks: int = 0
    block_shift: int = 0
    hierarchical: bool = True
    seed: int = 0

    def __post_init__(self):
        if type(self.hierarchical) is not bool:
            raise ValueError(f"hierarchical={self.hierarchical!r} is not allowed: it must be true or false")
        for name in _INTEGER_FIELDS:
            self._check_integer(name)
        if self.num_window_blocks % 2 == 0:
            raise ValueError(
                f"num_window_blocks={self.num_window_blocks} is not allowed: it must be odd "
                "(the block itself and as many neighbours on each side)"
            )

    def _check_integer(self, name: str):
        value = getattr(self, name)
        low = 1 if name in ("block_size", "num_window_blocks") else 0
        high = 2**32 - 1 if name == "seed" else MOST
        allowed = f"an integer from {low} to {high}"
        if name == "block_shift":
            high = self.block_size - 1
            allowed = f"an integer from 0 to {high} (block_size - 1)"
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}")

    def __str__(self) -> str:
        """The text form, `block_size=64,num_window_blocks=3,…`; [`SparsePattern.parse`] reads it back."""
        values = dataclasses.asdict(self)
        return ",".join(f"{k}={str(v).lower() if v is True or v is False else v}" for k, v in values.items())

    @classmethod
    def parse(cls, value: "SparsePattern | Mapping | str") -> "SparsePattern":
        """
        A pattern from a pattern, from a mapping of fields, or from text such as `block_size=64,seed=0`. Fields that
        are not named take the defaults of this class, whatever model the pattern is later used with;
        `dataclasses.replace(pattern, block_shift=32)` changes an existing one.

        Raises:
            `ValueError`: Anything else, an unknown or repeated field, or a bad value.
        """
        if isinstance(value, cls):
            return value
        if type(value).__name__ == cls.__name__ and dataclasses.is_dataclass(value):
            # Of the same code, loaded from a checkpoint a second time.
            value = dataclasses.asdict(value)
        elif isinstance(value, str):
            value = cls._fields_of_text(value)
        elif not isinstance(value, Mapping):
            raise ValueError(
                f"{value!r} is not a sparse pattern: give a SparsePattern, a mapping of its fields, or text such as "
                f"'{cls()}'"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        for name in value:
            if name not in names:
                raise ValueError(f"{name!r} is not a field of a sparse pattern: the fields are {', '.join(names)}")
        return cls(**value)

    def changed_by(self, text: str) -> "SparsePattern":
        """This pattern but for the fields that `text` names, such as `num_global_blocks=2`. Raises as `parse` does."""
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no text of fields, such as 'num_global_blocks=2'")
        return self.parse({**dataclasses.asdict(self), **self._fields_of_text(text)})

    @classmethod
    def _fields_of_text(cls, text: str) -> dict:
        values = {}
        for item in text.split(","):
            name, equals, word = (part.strip() for part in item.partition("="))
            if not (name and equals and word):
                raise ValueError(f"{item!r} in pattern {text!r} is not name=value; a full pattern reads '{cls()}'")
            if name in values:
                raise ValueError(f"{name!r} stands twice in pattern {text!r}")
            if name == "hierarchical":
                values[name] = {"true": True, "false": False}.get(word.lower(), word)
            else:
                values[name] = int(word) if re.fullmatch("[+-]?[0-9]{1,20}", word) else word
        return values

    @classmethod
    def full(cls, block_size: int = 64, hierarchical: bool = False) -> "SparsePattern":
        """The pattern under which every block is global, so that every token sees every token, at any length."""
        return cls(block_size=block_size, num_global_blocks=MOST, hierarchical=hierarchical)

    def num_blocks(self, num_tokens: int) -> int:
        """Number of blocks of a document of `num_tokens` tokens."""
        return (num_tokens + self.block_shift + self.block_size - 1) // self.block_size

    def sees(self, query_block: int, key_block: int, num_blocks: int) -> bool:
        """
        Whether `query_block` attends to `key_block` in a document of `num_blocks` blocks. This is the definition;
        [`BlockPlan`] is the same as tables.
        """
        return self._sees_before_random(query_block, key_block) or key_block in self.random_blocks(
            query_block, num_blocks
        )

    def _sees_before_random(self, query_block: int, key_block: int) -> bool:
        near = abs(query_block - key_block) <= self.num_window_blocks // 2
        return near or min(query_block, key_block) < self.num_global_blocks

    def random_blocks(self, query_block: int, num_blocks: int) -> list[int]:
        """
        The random key blocks of `query_block`: of the blocks it does not see yet, the `num_random_blocks` ones with
        the smallest hash. As a document grows, blocks are only displaced by new ones, never reshuffled.
        """
        if self.num_random_blocks == 0:
            return []
        unseen = [k for k in range(num_blocks) if not self._sees_before_random(query_block, k)]
        return sorted(sorted(unseen, key=lambda k: (_hash32(self.seed, query_block, k), k))[: self.num_random_blocks])


# Spelled out, because a compiler cannot follow `dataclasses.fields`.
_INTEGER_FIELDS = (
    "block_size",
    "num_window_blocks",
    "num_global_blocks",
    "num_random_blocks",
    "block_shift",
    "seed",
)


def random_columns(pattern: SparsePattern, num_blocks: int, query: torch.Tensor, num_own: torch.Tensor) -> torch.Tensor:
    """
    [`SparsePattern.random_blocks`] of many blocks at once, `(num_queries, r)`, filled up with -1.

    Args:
        num_blocks (`int`): Of the longest document.
        query, num_own (`torch.LongTensor` of shape `(num_queries, 1)`):
            Blocks, by their numbers in their documents, and how many blocks these have.
    """
    count = num_blocks if pattern.num_random_blocks >= num_blocks else pattern.num_random_blocks
    if count == 0:
        return query.new_empty(query.shape[0], 0)
    key, most = torch.arange(num_blocks, device=query.device)[None, :], torch.iinfo(torch.int64).max
    # A compiler's shapes may be symbols, which cannot be split by.
    size = None if torch.compiler.is_compiling() else max(1, CHUNK_HASHES // num_blocks)
    columns = []
    for rows, own in [(query, num_own)] if size is None else zip(query.split(size), num_own.split(size), strict=True):
        unseen = (
            ((rows - key).abs() > pattern.num_window_blocks // 2) & (key >= pattern.num_global_blocks) & (key < own)
        )
        # The key block in the low bits makes every rank distinct, so that ties cannot be broken differently elsewhere.
        rank = ((_hash32(pattern.seed, rows, key) << 24) | key).masked_fill_(~unseen, most)
        rank, drawn = rank.topk(count, dim=1, largest=False)
        columns.append(torch.where(rank == most, -1, drawn))
    return columns[0] if len(columns) == 1 else torch.cat(columns)


def _hash32(seed, query, key):
    """A hash of 32 bits (MurmurHash3's finaliser, chained), the same for Python integers and for int64 tensors."""
    state = seed
    for value in (query, key):
        state = (state ^ value) + 0x9E3779B9
        for multiplier, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
            state = state & 0xFFFFFFFF
            state = (state ^ (state >> shift)) * multiplier
        state = state & 0xFFFFFFFF
        state = state ^ (state >> 16)
    return state
