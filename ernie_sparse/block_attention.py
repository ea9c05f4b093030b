# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Attention by block table: rows of query blocks against the key blocks that the table names for them. One definition,
two ways to compute it: SDPA on gathered keys and values, which runs everywhere, and a function for the CPU.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

# How many attention scores the CPU function holds at a time: 4 MiB of fp32, so that they stay in the cache.
CHUNK_SCORES = 2**20


class BlockRows(NamedTuple):
    """
    Rows of a block table, each with its own query blocks and the key blocks they attend to.

    Args:
        query_blocks (`torch.LongTensor` of shape `(num_rows, num_query_blocks)`): No block stands in two rows.
        key_blocks (`torch.LongTensor` of shape `(num_rows, width)`): Any block as a filler where nothing is visible.
        key_mask (`torch.BoolTensor` of shape `(batch_size or 1, num_rows, width * positions_per_block)`, *optional*):
            Which of the positions in `key_blocks` may be attended to; all of them when `None`.
        may_see_nothing (`bool`, defaults to `True`): Whether a row of `key_mask` may be all `False`.
        sees_all_in_order (`bool`, defaults to `False`): Whether there is one row and its key blocks are all, ascending.
    """

    query_blocks: torch.Tensor
    key_blocks: torch.Tensor
    key_mask: torch.Tensor | None
    may_see_nothing: bool = True
    sees_all_in_order: bool = False


def block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tables: tuple[BlockRows, ...],
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """
    Softmax attention of the positions in every row's query blocks over those in its key blocks. Together the tables'
    query blocks are all blocks, in order.

    Args:
        query, key, value (`torch.Tensor` of shape `(batch_size, num_heads, num_blocks, positions_per_block, head_dim)`)
        tables (`tuple` of [`BlockRows`]): Who sees whom.
        scaling (`float`): Factor on the dot products.
        dropout (`float`, defaults to 0.0): Probability of dropping an attention weight.

    Returns:
        `torch.Tensor` of the query's shape: zero in rows that see nothing, with zero gradients there.
    """
    if runs_on_cpu(query):
        seed = int(torch.empty((), dtype=torch.int64).random_()) if dropout else 0
        return _CpuBlockAttention.apply(query, key, value, tables, scaling, dropout, seed)
    return gathered_block_attention(query, key, value, tables, scaling, dropout)


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
    tables: tuple[BlockRows, ...],
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """[`block_attention`] on every device, compilable and exportable: keys and values are gathered row by row."""
    batch_size, num_heads, _, positions, head_dim = query.shape
    query, key, value = (states.flatten(0, 1) for states in (query, key, value))
    outputs, first = [], 0
    for query_blocks, key_blocks, key_mask, may_see_nothing, sees_all_in_order in tables:
        (num_rows, height), width = query_blocks.shape, key_blocks.shape[1]
        last = first + num_rows * height
        row_query = query[:, first:last].reshape(-1, num_rows, height * positions, head_dim)
        if sees_all_in_order:
            row_key, row_value = (states.flatten(1, 2).unsqueeze(1) for states in (key, value))
        else:
            row_key, row_value = (
                states.index_select(1, key_blocks.flatten()).view(-1, num_rows, width * positions, head_dim)
                for states in (key, value)
            )
        if key_mask is not None:
            key_mask = key_mask.expand(batch_size, -1, -1).repeat_interleave(num_heads, dim=0)[:, :, None]
        output = masked_sdpa(row_query, row_key, row_value, key_mask, scaling, dropout, may_see_nothing)
        outputs.append(output.view(-1, num_rows * height, positions, head_dim))
        first = last
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return output.unflatten(0, (batch_size, num_heads))


def masked_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_mask: torch.Tensor | None,
    scaling: float,
    dropout: float,
    may_see_nothing: bool = True,
) -> torch.Tensor:
    """
    SDPA with one mask per key, which broadcasts against `(…, 1, num_keys)`. A row whose keys are all masked is zero: it
    is computed with a zero query as if nothing were masked and then cleared, because kernels differ on such rows and a
    NaN cleared afterwards would still poison the gradient.
    """
    sees_something = None
    if key_mask is not None and may_see_nothing:
        sees_something = key_mask.any(dim=-1, keepdim=True)
        key_mask = key_mask | ~sees_something
        query = query.masked_fill(~sees_something, 0.0)
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=key_mask, dropout_p=dropout, scale=scaling
    )
    return output if sees_something is None else output.masked_fill(~sees_something, 0.0)


class _CpuBlockAttention(torch.autograd.Function):
    """
    Weights are made, used and forgotten in chunks that stay in the cache, and made once more in the backward pass. Half
    precision is computed in fp32, under autocast too. SDPA on the CPU has to be given gathered keys and values, and
    with dropout it leaves its fast kernel.
    """

    @staticmethod
    def forward(query, key, value, tables, scaling, dropout, seed):
        with torch.autocast("cpu", enabled=False):
            dtype = torch.promote_types(query.dtype, torch.float32)
            query_rows, key_rows, value_rows = (_as_rows(states, dtype) for states in (query, key, value))
            head_dim = query.shape[4]
            output = torch.empty_like(query_rows)
            generator = torch.Generator().manual_seed(seed)
            for queries, keys, mask in _chunks(tables, query.shape):
                chunk_query = query_rows.index_select(0, queries).view(len(keys), -1, head_dim)
                chunk_key, chunk_value = (
                    rows.index_select(0, keys.flatten()).view(len(keys), -1, head_dim)
                    for rows in (key_rows, value_rows)
                )
                weights = _weights(chunk_query, chunk_key, mask, scaling)
                if dropout:
                    weights.mul_(_kept(weights, dropout, generator))
                output.index_copy_(0, queries, torch.bmm(weights, chunk_value).view(len(queries), -1))
            return output.view(query.shape).to(query.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        query, key, value, *ctx.settings = inputs
        ctx.save_for_backward(query, key, value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        with torch.autocast("cpu", enabled=False):
            tables, scaling, dropout, seed = ctx.settings
            query, key, value = ctx.saved_tensors
            dtype, head_dim = torch.promote_types(query.dtype, torch.float32), query.shape[4]
            query_rows, key_rows, value_rows, gradient_rows = (
                _as_rows(states, dtype) for states in (query, key, value, gradient)
            )
            query_gradient = torch.empty_like(query_rows)
            key_gradient, value_gradient = torch.zeros_like(key_rows), torch.zeros_like(value_rows)
            generator = torch.Generator().manual_seed(seed)
            for queries, keys, mask in _chunks(tables, query.shape):
                chunk, keys = len(keys), keys.flatten()
                chunk_query, chunk_gradient = (
                    rows.index_select(0, queries).view(chunk, -1, head_dim) for rows in (query_rows, gradient_rows)
                )
                chunk_key, chunk_value = (
                    rows.index_select(0, keys).view(chunk, -1, head_dim) for rows in (key_rows, value_rows)
                )
                weights = _weights(chunk_query, chunk_key, mask, scaling)
                slopes = torch.bmm(chunk_gradient, chunk_value.transpose(1, 2))
                dropped = weights
                if dropout:
                    kept = _kept(weights, dropout, generator)
                    dropped = weights * kept
                    slopes.mul_(kept)
                value_gradient.index_add_(
                    0, keys, torch.bmm(dropped.transpose(1, 2), chunk_gradient).view(len(keys), -1)
                )
                slopes = torch.ops.aten._softmax_backward_data(slopes, weights, -1, dtype)
                query_gradient.index_copy_(
                    0, queries, torch.bmm(slopes, chunk_key).mul_(scaling).view(len(queries), -1)
                )
                key_gradient.index_add_(
                    0, keys, torch.bmm(slopes.transpose(1, 2), chunk_query).view(len(keys), -1), alpha=scaling
                )
            gradients = (query_gradient, key_gradient, value_gradient)
            return *(rows.view(query.shape).to(query.dtype) for rows in gradients), None, None, None, None


def _as_rows(states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """One row per block of each head of each document: its positions' states one after the other."""
    return states.to(dtype).reshape(-1, states.shape[3] * states.shape[4])


def _chunks(
    tables: tuple[BlockRows, ...], shape: torch.Size
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """The tables' rows for every head of every document, as many at a time as the cache takes: query blocks (flat), key
    blocks, and the mask of the keys where there is one."""
    batch_size, num_heads, num_blocks, positions, _ = shape
    offsets = torch.arange(batch_size * num_heads)[:, None, None] * num_blocks
    for query_blocks, key_blocks, key_mask, *_ in tables:
        num_rows, height = query_blocks.shape
        size = max(1, CHUNK_SCORES // (height * positions * key_blocks.shape[1] * positions))
        queries, keys = ((offsets + blocks).flatten(0, 1).split(size) for blocks in (query_blocks, key_blocks))
        masks = [None] * len(keys)
        if key_mask is not None:
            row = torch.arange(batch_size * num_heads * num_rows)
            document = row // (num_heads * num_rows) if len(key_mask) > 1 else 0
            mask_rows = (document * num_rows + row % num_rows).split(size)
            masks = (key_mask.flatten(0, 1)[index] for index in mask_rows)
        for chunk_queries, chunk_keys, mask in zip(queries, keys, masks, strict=True):
            yield chunk_queries.flatten(), chunk_keys, None if mask is None or mask.all() else mask


def _weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """Softmax over the keys, zero in rows that see nothing."""
    scores = torch.bmm(query * scaling, key.transpose(1, 2))
    if mask is None:
        return scores.softmax(-1)
    # Only a document's first and last blocks and padded ones have something to mask.
    rows = (~mask).any(dim=-1).nonzero().flatten()
    mask = mask[rows]
    masked = scores[rows].masked_fill_(~mask[:, None], torch.finfo(scores.dtype).min)
    weights = scores.index_copy_(0, rows, masked).softmax(-1)
    return weights.index_fill_(0, rows[~mask.any(dim=-1)], 0.0)


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
