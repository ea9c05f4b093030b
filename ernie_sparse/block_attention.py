# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Attention over a stream under its plan, `(length, num_heads, head_dim)` in and out. Dense, document by document; and by block
table, in three ways: SDPA on gathered keys and values, which runs everywhere, a function for the CPU, and kernels for a GPU.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from .block_kernel import can_take, kernel_block_attention
from .block_plan import BlockPlan, BlockTables, Documents

# How many attention scores the CPU function holds at a time: 4 MiB of fp32, so that they stay in the cache.
CHUNK_SCORES = 2**20


def dense_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: Documents,
    scaling: float,
    dropout: float = 0.0,
    visible: torch.Tensor | None = None,
) -> torch.Tensor:
    """Every position over all of its document or, where `visible` is given, over what it sees there."""
    mask = None if visible is None else visible[:, None]
    if mask is None and documents.key_mask is not None:
        mask = documents.key_mask[:, None, None]
    return documents.stream(_sdpa(*(documents.rows(states) for states in (query, key, value)), mask, scaling, dropout))


def _sdpa(query, key, value, mask: torch.Tensor | None, scaling: float, dropout: float) -> torch.Tensor:
    """SDPA with the heads behind the positions: `(num_rows, length, num_heads, head_dim)`."""
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
    )
    return output.transpose(1, 2)


def block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: BlockPlan,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """
    Softmax attention of every position over those that its block sees.

    Args:
        query, key, value (`torch.Tensor` of shape `(length, num_heads, head_dim)`)
        plan ([`BlockPlan`]): Who sees whom.
        scaling (`float`): Factor on the dot products.
        dropout (`float`, defaults to 0.0): Probability of dropping an attention weight.
    """
    if can_take(query, plan):
        return kernel_block_attention(query, key, value, plan, scaling, dropout)
    if runs_on_cpu(query) and plan.is_real is None:
        seed = int(torch.empty((), dtype=torch.int64).random_()) if dropout else 0
        return _CpuBlockAttention.apply(query, key, value, plan, scaling, dropout, seed)
    return gathered_block_attention(query, key, value, plan, scaling, dropout)


def runs_on_cpu(states: torch.Tensor) -> bool:
    """Whether the function for the CPU can compute on `states`: it is of no use to a compiler or a tracer."""
    return (
        states.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
    )


def gathered_block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: BlockPlan,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """[`block_attention`] on every device, compilable and exportable: keys and values are gathered row by row."""
    tables = plan.tables if isinstance(plan.tables, BlockTables) else BlockTables.of(plan)
    local_rows = (
        states.index_select(0, places.flatten()).unflatten(0, places.shape)
        for states, places in ((query, tables.places), (key, tables.key_places), (value, tables.key_places))
    )
    outputs = [_sdpa(*local_rows, tables.key_mask[:, None, None], scaling, dropout).flatten(0, 1)]
    if plan.num_global_blocks:
        rows = (tables.global_parts.rows(query), plan.documents.rows(key), plan.documents.rows(value))
        mask = None if plan.documents.key_mask is None else plan.documents.key_mask[:, None, None]
        outputs.append(_sdpa(*rows, mask, scaling, dropout).flatten(0, 1))
    return torch.cat(outputs).index_select(0, tables.results)


class _CpuBlockAttention(torch.autograd.Function):
    """
    Keys and values are read where they lie in the stream. Weights are made, used and forgotten in chunks that stay in the
    cache, and made once more in the backward pass. Half precision is computed in fp32, under autocast too. SDPA on the CPU
    has to be given gathered keys and values, and with dropout it leaves its fast kernel.
    """

    @staticmethod
    def forward(query, key, value, plan, scaling, dropout, seed):
        with torch.autocast("cpu", enabled=False):
            states = _wide(query, key, value)
            output, generator = torch.empty_like(states[0]), torch.Generator().manual_seed(seed)
            for queries, keys in _chunks(plan, query.shape[1]):
                weights = _scores(queries.of(states[0]) * scaling, [part.of(states[1]) for part in keys]).softmax(-1)
                if dropout:
                    weights.mul_(_kept(weights, dropout, generator))
                queries.of(output).copy_(_product(weights, [part.of(states[2]) for part in keys]))
            return output.to(query.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        query, key, value, *ctx.settings = inputs
        ctx.save_for_backward(query, key, value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        with torch.autocast("cpu", enabled=False):
            plan, scaling, dropout, seed = ctx.settings
            *states, outer = _wide(*ctx.saved_tensors, gradient)
            # Head by head in memory: what overlaps is added up faster.
            zeros = [outer.new_zeros(outer.transpose(0, 1).shape).transpose(0, 1) for _ in range(2)]
            totals = [torch.empty_like(states[0]), *zeros]
            generator = torch.Generator().manual_seed(seed)
            for queries, keys in _chunks(plan, gradient.shape[1]):
                query, upstream = queries.of(states[0]) * scaling, queries.of(outer)
                of_keys = [part.of(states[1]) for part in keys]
                weights = _scores(query, of_keys).softmax(-1)
                slopes = _scores(upstream, [part.of(states[2]) for part in keys])
                dropped = weights
                if dropout:
                    kept = _kept(weights, dropout, generator)
                    dropped = weights * kept
                    slopes.mul_(kept)
                slopes = torch.ops.aten._softmax_backward_data(slopes, weights, -1, weights.dtype)
                queries.of(totals[0]).copy_(_product(slopes, of_keys).mul_(scaling))
                for total, by_key, rows in ((totals[1], slopes, query), (totals[2], dropped, upstream)):
                    for part, columns in zip(keys, _columns(by_key, of_keys), strict=True):
                        part.add(total, columns, rows)
            return *(total.to(gradient.dtype) for total in totals), None, None, None, None


def _wide(*states: torch.Tensor) -> list[torch.Tensor]:
    return [part.to(torch.promote_types(part.dtype, torch.float32)).contiguous() for part in states]


class _Span(NamedTuple):
    """Positions of the stream, for some heads; or, `count` times the same, for as many blocks of one head."""

    positions: slice
    heads: slice
    count: int

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """`(count, num_positions, head_dim)`."""
        return states[self.positions, self.heads].transpose(0, 1).expand(self.count, -1, -1)

    def add(self, total: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor):
        """Add to what [`_Span.of`] sees the `rows`, `(count, num_rows, head_dim)`, each by its weights for the positions."""
        if self.heads.stop - self.heads.start < self.count:
            # The product sums over the blocks.
            weights, rows = weights.flatten(0, 1)[None], rows.flatten(0, 1)[None]
        total[self.positions, self.heads] += torch.bmm(weights.transpose(1, 2), rows).transpose(0, 1)


class _Blocks(NamedTuple):
    """`count` full blocks of one head, one behind the other from position `first` on, each with the `width - 1` behind it."""

    first: int
    head: int
    count: int
    size: int
    width: int = 1

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """`(count, width * size, head_dim)`: a view, in which wide blocks overlap."""
        step, of_head, _ = states.stride()
        shape = (self.count, self.width * self.size, states.shape[2])
        offset = states.storage_offset() + self.first * step + self.head * of_head
        return states.as_strided(shape, (self.size * step, step, 1), offset)

    def add(self, total: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor):
        """As [`_Span.add`]."""
        products = torch.bmm(weights.transpose(1, 2), rows).split(self.size, dim=1)
        for number, product in enumerate(products):
            self._replace(first=self.first + number * self.size, width=1).of(total).add_(product)


_Part = _Span | _Blocks


def _chunks(plan: BlockPlan, num_heads: int) -> Iterator[tuple[_Part, list[_Part]]]:
    """
    Queries, and all that they see, as much at a time as the cache takes; every position of every head is once among the
    queries. Global blocks see their document. Blocks in the middle of full ones are evenly spaced: they go together, head by
    head, if one has room there. Every other block goes alone, for all heads.
    """
    starts, reach, size = plan.block_bounds.tolist(), plan.reach, plan.block_width
    for block, end in itertools.pairwise(plan.document_bounds.tolist()):
        first = min(block + plan.num_global_blocks, end)
        head = slice(starts[block], starts[first])
        if first > block:
            yield from _spans(head, [slice(starts[block], starts[end])], num_heads)
        width = 2 * reach + 1
        count = CHUNK_SCORES // (size * (width * size + head.stop - head.start))
        inner = _inner_blocks(plan, starts, first, end) if count else range(end, end)
        for number in (*range(first, inner.start), *range(inner.stop, end)):
            keys = [slice(starts[max(first, number - reach)], starts[min(end, number + reach + 1)])]
            if first > block:
                keys.append(head)
            if plan.random_blocks.shape[1]:
                drawn = [block + other for other in plan.random_blocks[number].tolist() if other >= 0]
                keys += [slice(starts[other], starts[other + 1]) for other in drawn]
            yield from _spans(slice(starts[number], starts[number + 1]), keys, num_heads)
        for number, part in itertools.product(
            range(num_heads), (inner[i : i + count] for i in range(0, len(inner), max(1, count)))
        ):
            keys = [_Blocks(starts[part.start - reach], number, len(part), size, width)]
            if first > block:
                keys.append(_Span(head, slice(number, number + 1), len(part)))
            yield _Blocks(starts[part.start], number, len(part), size), keys


def _inner_blocks(plan: BlockPlan, starts: list[int], first: int, end: int) -> range:
    """Of a document's local blocks, from `first` to `end`, those whose windows hold full blocks alone."""
    size, reach = plan.block_width, plan.reach
    full = [number for number in (first, end - 1) if first < end and starts[number + 1] - starts[number] == size]
    inner = range(first + reach + (first not in full), end - reach - (end - 1 not in full))
    return inner if inner and not plan.random_blocks.shape[1] else range(end, end)


def _spans(queries: slice, keys: list[slice], num_heads: int) -> Iterator[tuple[_Span, list[_Span]]]:
    num_keys = sum(part.stop - part.start for part in keys)
    num_queries = min(queries.stop - queries.start, max(1, CHUNK_SCORES // num_keys))
    count = max(1, CHUNK_SCORES // (num_queries * num_keys))
    for head in range(0, num_heads, count):
        heads = slice(head, min(head + count, num_heads))
        for first in range(queries.start, queries.stop, num_queries):
            positions = (slice(first, min(first + num_queries, queries.stop)), *keys)
            part, *parts = (_Span(each, heads, heads.stop - heads.start) for each in positions)
            yield part, parts


def _scores(query: torch.Tensor, keys: list[torch.Tensor]) -> torch.Tensor:
    """`(count, num_rows, num_keys)`, of keys one part behind the other."""
    scores = [torch.bmm(query, part.transpose(1, 2)) for part in keys]
    return scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1)


def _columns(weights: torch.Tensor, keys: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return weights.split([part.shape[1] for part in keys], dim=-1)


def _product(weights: torch.Tensor, values: list[torch.Tensor]) -> torch.Tensor:
    first, *others = zip(_columns(weights, values), values, strict=True)
    output = torch.bmm(*first)
    for part in others:
        output.baddbmm_(*part)
    return output


def _kept(weights: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
    """
    What dropout multiplies the weights by: 0, or 1 / (1 - dropout). 16 random bits decide on each: four weights for one
    draw, where `bernoulli_` draws for each.
    """
    count = weights.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    bits = words.view(torch.int16)[:count].view(weights.shape)
    growth = 1 / (1 - dropout) if dropout < 1 else 0.0
    return (bits >= min(round(dropout * 2**16) - 2**15, 2**15 - 1)).to(weights.dtype).mul_(growth)
