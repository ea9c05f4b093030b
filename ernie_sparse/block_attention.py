# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Attention over a stream under its plan, `(length, num_heads, head_dim)` in and out. Dense, document by document; and by block
table, in two ways: SDPA on gathered keys and values, which runs everywhere, and a function for the CPU.
"""

from collections.abc import Iterator

import torch
from torch import nn

from .block_plan import BlockPlan, Documents

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
    if runs_on_cpu(query):
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
    query_places = plan.places.index_select(0, plan.query_blocks)
    key_places = plan.places.index_select(0, plan.key_blocks.flatten()).view(plan.key_mask.shape)
    local_rows = (
        states.index_select(0, places.flatten()).unflatten(0, places.shape)
        for states, places in ((query, query_places), (key, key_places), (value, key_places))
    )
    outputs = [_sdpa(*local_rows, plan.key_mask[:, None, None], scaling, dropout).flatten(0, 1)]
    if plan.global_parts.index.shape[1]:
        rows = (plan.global_parts.rows(query), plan.documents.rows(key), plan.documents.rows(value))
        mask = None if plan.documents.key_mask is None else plan.documents.key_mask[:, None, None]
        outputs.append(_sdpa(*rows, mask, scaling, dropout).flatten(0, 1))
    return torch.cat(outputs).index_select(0, plan.results)


class _CpuBlockAttention(torch.autograd.Function):
    """
    Weights are made, used and forgotten in chunks that stay in the cache, and made once more in the backward pass. Half
    precision is computed in fp32, under autocast too. SDPA on the CPU has to be given gathered keys and values, and
    with dropout it leaves its fast kernel.
    """

    @staticmethod
    def forward(query, key, value, plan, scaling, dropout, seed):
        with torch.autocast("cpu", enabled=False):
            shape, dtype = query.shape, torch.promote_types(query.dtype, torch.float32)
            states = [part.to(dtype) for part in (query, key, value)]
            rows, generator = [_as_rows(part, plan) for part in states], torch.Generator().manual_seed(seed)
            output_rows = torch.empty_like(rows[0])
            for queries, keys, mask in _local_chunks(plan, shape[1]):
                chunk = _chunk_of(rows, queries, keys, shape[2])
                part = _output(*chunk, mask, scaling, dropout, generator)
                output_rows.index_copy_(0, queries, part.view(len(queries), -1))
            # Places of global blocks are filled in behind it.
            output = _as_stream(output_rows, plan, shape)
            for heads, queries, document, mask in _global_chunks(plan, shape[1]):
                chunk = _parts(states, heads, queries, document, document)
                output[queries, heads] = _output(*chunk, mask, scaling, dropout, generator).transpose(0, 1)
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
            states = (*ctx.saved_tensors, gradient)
            shape, given = gradient.shape, states[0].dtype
            states = [part.to(torch.promote_types(given, torch.float32)) for part in states]
            rows, generator = [_as_rows(part, plan) for part in states], torch.Generator().manual_seed(seed)
            # Of fillers no output was made.
            fillers = (~plan.is_filled).flatten().nonzero().flatten()
            rows[3].view(shape[1], -1, shape[2]).index_fill_(1, fillers, 0.0)
            totals = [torch.empty_like(rows[0]), torch.zeros_like(rows[1]), torch.zeros_like(rows[2])]
            for queries, keys, mask in _local_chunks(plan, shape[1]):
                chunk = _chunk_of(rows, queries, keys, shape[2])
                parts = _gradients(*chunk, mask, scaling, dropout, generator)
                totals[0].index_copy_(0, queries, parts[0].view(len(queries), -1))
                for total, part in zip(totals[1:], parts[1:], strict=True):
                    total.index_add_(0, keys.flatten(), part.view(keys.numel(), -1))
            totals = [_as_stream(total, plan, shape) for total in totals]
            for heads, queries, document, mask in _global_chunks(plan, shape[1]):
                chunk = _parts(states, heads, queries, document, document, queries)
                parts = _gradients(*chunk, mask, scaling, dropout, generator)
                totals[0][queries, heads] = parts[0].transpose(0, 1)
                for total, part in zip(totals[1:], parts[1:], strict=True):
                    total[document, heads] += part.transpose(0, 1)
            return *(total.to(given) for total in totals), None, None, None, None


def _parts(states: list[torch.Tensor], heads: slice, *places: slice) -> list[torch.Tensor]:
    return [part[place, heads].transpose(0, 1) for part, place in zip(states, places, strict=True)]


def _as_rows(states: torch.Tensor, plan: BlockPlan) -> torch.Tensor:
    """`(length, num_heads, head_dim)` to one row per head and block: the states in its places, one after the other."""
    num_heads, head_dim = states.shape[1:]
    index = plan.places.flatten() * num_heads + torch.arange(num_heads)[:, None]
    rows = states.reshape(-1, head_dim).index_select(0, index.flatten())
    return rows.view(num_heads * plan.places.shape[0], -1)


def _as_stream(rows: torch.Tensor, plan: BlockPlan, shape: torch.Size) -> torch.Tensor:
    """The inverse of [`_as_rows`]."""
    index = plan.position_places[:, None] + plan.places.numel() * torch.arange(shape[1])
    return rows.view(-1, shape[2]).index_select(0, index.flatten()).view(shape)


def _local_chunks(plan: BlockPlan, num_heads: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """
    The blocks that are not global, for every head, as many at a time as the cache takes: their rows, those of the blocks they
    see, and the mask of the places there, where there is anything to mask.
    """
    num_blocks, positions = plan.places.shape
    num_queries, width = plan.key_blocks.shape
    if num_queries == 0:
        return
    size = max(1, CHUNK_SCORES // (positions * width * positions))
    offsets = torch.arange(num_heads)[:, None] * num_blocks
    queries = (offsets + plan.query_blocks).flatten().split(size)
    keys = (offsets[:, :, None] + plan.key_blocks).flatten(0, 1).split(size)
    for number, (chunk_queries, chunk_keys) in enumerate(zip(queries, keys, strict=True)):
        row = torch.arange(number * size, number * size + len(chunk_queries)) % num_queries
        mask = plan.key_mask[row]
        yield chunk_queries, chunk_keys, None if mask.all() else mask


def _global_chunks(plan: BlockPlan, num_heads: int) -> Iterator[tuple[slice, slice, slice, torch.Tensor | None]]:
    """
    Heads, global positions, the document that these see, and its mask where it has padding: as much at a time as the cache
    takes. A document lies in the stream in one piece, and is not copied.
    """
    for document, (first, last_global, last) in enumerate(plan.bounds.tolist()):
        if first == last_global:
            continue
        mask = None if plan.is_real is None else plan.documents.key_mask[document]
        num_queries = min(last_global - first, max(1, CHUNK_SCORES // (last - first)))
        size = max(1, CHUNK_SCORES // (num_queries * (last - first)))
        for head in range(0, num_heads, size):
            for query in range(first, last_global, num_queries):
                queries = slice(query, min(query + num_queries, last_global))
                yield slice(head, head + size), queries, slice(first, last), mask


def _chunk_of(rows: list[torch.Tensor], queries: torch.Tensor, keys: torch.Tensor, head_dim: int):
    query, key, value, *gradient = rows
    of_queries = [part.index_select(0, queries).view(len(queries), -1, head_dim) for part in (query, *gradient)]
    of_keys = [part.index_select(0, keys.flatten()).view(len(queries), -1, head_dim) for part in (key, value)]
    return of_queries[0], *of_keys, *of_queries[1:]


def _output(query, key, value, mask, scaling, dropout, generator) -> torch.Tensor:
    weights = _weights(query, key, mask, scaling)
    if dropout:
        weights.mul_(_kept(weights, dropout, generator))
    return torch.bmm(weights, value)


def _gradients(query, key, value, gradient, mask, scaling, dropout, generator) -> tuple[torch.Tensor, ...]:
    """Of query, key and value, from that of the output."""
    weights = _weights(query, key, mask, scaling)
    slopes = torch.bmm(gradient, value.transpose(1, 2))
    dropped = weights
    if dropout:
        kept = _kept(weights, dropout, generator)
        dropped = weights * kept
        slopes.mul_(kept)
    value_gradient = torch.bmm(dropped.transpose(1, 2), gradient)
    slopes = torch.ops.aten._softmax_backward_data(slopes, weights, -1, weights.dtype).mul_(scaling)
    return torch.bmm(slopes, key), torch.bmm(slopes.transpose(1, 2), query), value_gradient


def _weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """Softmax over the keys; `mask` has a row per query row, or one for all."""
    scores = torch.bmm(query * scaling, key.transpose(1, 2))
    if mask is None:
        return scores.softmax(-1)
    least = torch.finfo(scores.dtype).min
    if mask.dim() == 1:
        return scores.masked_fill_(~mask, least).softmax(-1)
    # Only a document's first and last blocks have something to mask.
    rows = (~mask).any(dim=-1).nonzero().flatten()
    masked = scores[rows].masked_fill_(~mask[rows][:, None], least)
    return scores.index_copy_(0, rows, masked).softmax(-1)


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
