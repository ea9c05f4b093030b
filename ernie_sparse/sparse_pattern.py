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
    Which blocks of a document attend to which. A pattern is an immutable, hashable value, and it belongs to no
    weights: a model can run under any pattern.

    A document is cut into blocks: token `t` is in block `(t + block_shift) // block_size`. Block `q` sees block `k` if
    one of them is global, if they are neighbours in the window, or if `k` is one of the random blocks of `q`. The
    names of the fields and their defaults are our choice; the paper fixes none.

    Args:
        block_size (`int`, defaults to 64): Tokens per block, at least 1.
        num_window_blocks (`int`, defaults to 3):
            Width of the window in blocks, an odd number: the block itself and as many neighbours on each side.
        num_global_blocks (`int`, defaults to 1):
            Number of global blocks. They are the first blocks of the document; they see all blocks, and all blocks see
            them.
        num_random_blocks (`int`, defaults to 0):
            Number of random blocks that each block sees, beside those it sees anyway. They depend on `seed`, on the
            block and on the length of the document only, so they are the same in training and evaluation.
        block_shift (`int`, defaults to 0):
            Number of tokens by which every block boundary moves to the left, from 0 to `block_size - 1`. Block 0 keeps
            `block_size - block_shift` tokens.
        hierarchical (`bool`, defaults to `True`):
            Whether each block has representatives at its head, which attend to each other in step 2. `False` is a
            plain block-sparse Transformer: no representatives, no step 2.
        seed (`int`, defaults to 0): Seed of the random blocks, from 0 to 2**32 - 1.

    Raises:
        `ValueError`: A field has a wrong type or value. The message names the field, its value and what is allowed.

    Example:

    ```python
    >>> from ernie_sparse import SparsePattern

    >>> pattern = SparsePattern(block_size=128)
    >>> print(pattern.changed_by("num_random_blocks=2"))
    block_size=128,num_window_blocks=3,num_global_blocks=1,num_random_blocks=2,block_shift=0,hierarchical=true,seed=0
    ```
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
        Read a pattern from text or from a mapping.

        Args:
            value ([`SparsePattern`], `Mapping` or `str`):
                A pattern, which is returned as it is; a mapping of fields; or text such as `block_size=64,seed=0`, or
                `full` for [`SparsePattern.full`].
                Fields that are not named get the defaults of this class, not those of a model. To change some fields
                of a pattern, use [`SparsePattern.changed_by`] or `dataclasses.replace`.

        Returns:
            [`SparsePattern`]: The pattern.

        Raises:
            `ValueError`: `value` is something else, names an unknown field or one field twice, or holds a value that
                is not allowed.
        """
        if isinstance(value, cls):
            return value
        if type(value).__name__ == cls.__name__ and dataclasses.is_dataclass(value):
            # Of the same code, loaded from a checkpoint a second time.
            value = dataclasses.asdict(value)
        elif value == "full":
            return cls.full()
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
        """
        A copy of this pattern with some fields changed.

        Args:
            text (`str`): The fields to change, such as `num_global_blocks=2,seed=1`.

        Returns:
            [`SparsePattern`]: The new pattern.

        Raises:
            `ValueError`: `text` is no text, names an unknown field or one field twice, or holds a value that is not
                allowed.
        """
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
        """
        The pattern of full attention: all blocks are global, so every token sees every token, at any length.

        Args:
            block_size (`int`, defaults to 64): Tokens per block.
            hierarchical (`bool`, defaults to `False`):
                Whether there are representatives and step 2. Without them the model computes what BERT computes.

        Returns:
            [`SparsePattern`]: The pattern.
        """
        return cls(block_size=block_size, num_global_blocks=MOST, hierarchical=hierarchical)

    def num_blocks(self, num_tokens: int) -> int:
        """The number of blocks in a document of `num_tokens` tokens."""
        return (num_tokens + self.block_shift + self.block_size - 1) // self.block_size

    def sees(self, query_block: int, key_block: int, num_blocks: int) -> bool:
        """
        Whether `query_block` attends to `key_block` in a document of `num_blocks` blocks. Blocks are counted from 0.
        This is the definition of the pattern: the attention of the model is tested against it.
        """
        return self._sees_before_random(query_block, key_block) or key_block in self.random_blocks(
            query_block, num_blocks
        )

    def _sees_before_random(self, query_block: int, key_block: int) -> bool:
        near = abs(query_block - key_block) <= self.num_window_blocks // 2
        return near or min(query_block, key_block) < self.num_global_blocks

    def random_blocks(self, query_block: int, num_blocks: int) -> list[int]:
        """
        The random blocks of `query_block` in a document of `num_blocks` blocks, sorted: of the blocks that it does not
        see anyway, the `num_random_blocks` with the smallest hash of seed, query block and key block. In a longer
        document new blocks may replace some of them; the others stay.
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
    [`SparsePattern.random_blocks`] of many blocks at once, `(num_queries, r)`, padded with -1.

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
