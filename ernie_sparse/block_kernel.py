# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Attention by block table on a GPU: Triton kernels, forward and backward, that read queries, keys and values where they lie in the
stream.

A program takes a *tile* of rows: up to 64 tokens of one block, or at most 16 representatives of blocks in a row. What a block sees
are ranges of the stream: the global blocks of its document and its window, gone through as one line of columns, and behind them
its random blocks. Only what is left at the end of the line needs a mask, and representatives, whose windows differ. Who sees
is also seen, but for random blocks, whose table is transposed: so in the backward pass the same tiles, now of keys, go through
the queries that see them, and nothing is written twice. Global blocks see, and are seen by, their whole document: where it is
long it is divided into parts, whose results are merged.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import torch
from torch.library import triton_op, wrap_triton

try:
    import triton
    import triton.language as tl

    jit = triton.jit
except ImportError:
    triton = None

    def jit(function):
        return function


# Rows of a product on tensor cores: at most, of tokens; and always, of representatives.
MAX_TILE_TOKENS, TILE_REPRESENTATIVES = 64, 16
# How many positions of a document a program takes whose rows see all of it.
PART = 1024


class KernelTables(NamedTuple):
    """
    What the kernels read of a [`BlockPlan`], `int32` all. A tile is four numbers: a block, -1 in an empty tile; its first token
    that is in the tile or, of representatives, how many blocks are; the part of what it sees; and the first row of its results
    in the buffer of those that are merged, -1 where none is.

    Args:
        blocks (`torch.IntTensor` of shape `(N, 7)`):
            Where a block begins and ends; where what is real of its document ends; where the range of its document's global
            blocks begins and ends, and where its window does. A global block's window is its document, the other range empty.
        token_tiles, representative_tiles (`torch.IntTensor` of shape `(…, 4)`): Those of global blocks first, part by part.
        drawn, drawn_bounds (`torch.IntTensor` of shape `(N * r,)`, `(N + 1,)`): The random blocks that each block sees; -1 for none.
        drawing, drawing_bounds: The same for those that see it.
        merged (`torch.Tensor` of shape `(num_token_tiles, num_representative_tiles, num_parts, num_rows)`):
            Of nothing: its shape says how many tiles are merged, of how many parts, and how many rows a tile of tokens has.
    """

    blocks: torch.Tensor
    token_tiles: torch.Tensor
    representative_tiles: torch.Tensor
    drawn: torch.Tensor
    drawn_bounds: torch.Tensor
    drawing: torch.Tensor
    drawing_bounds: torch.Tensor
    merged: torch.Tensor

    @classmethod
    def of(cls, plan: NamedTuple, max_length: int) -> KernelTables:
        """
        Args:
            max_length (`int`): The positions of the longest document.
        """
        bounds, documents, num_blocks = plan.block_bounds, plan.block_documents, plan.block_documents.shape[0]
        first, end = plan.document_bounds[documents], plan.document_bounds[documents + 1]
        every = torch.arange(num_blocks + 1, device=bounds.device)
        head, is_global = (
            torch.minimum(first + plan.num_global_blocks, end),
            plan.block_numbers < plan.num_global_blocks,
        )
        real = bounds[end]
        if plan.is_real is not None:
            # Padding stands behind what is real of a document.
            before = torch.nn.functional.pad(plan.is_real.cumsum(0), (1, 0))
            real = bounds[first] + before[real] - before[bounds[first]]
        low, high = torch.maximum(every[:-1] - plan.reach, head), torch.minimum(every[1:] + plan.reach, end)
        edges = (
            torch.minimum(real, bounds[torch.where(is_global, *pair)])
            for pair in ((first, first), (first, head), (first, low), (end, high))
        )
        blocks = torch.stack([bounds[:-1], bounds[1:], real, *edges], dim=1)
        drawn = torch.where((plan.random_blocks < 0) | is_global[:, None], -1, plan.random_blocks + first[:, None])
        width, drawn = drawn.shape[1], drawn.flatten()
        in_order, order = drawn.sort(stable=True)
        drawing = (order // max(1, width), torch.searchsorted(in_order, every))
        token_tiles, representative_tiles, merged = _tiles(plan, max_length)
        tables = (blocks, token_tiles, representative_tiles, drawn, width * every, *drawing)
        return cls(*(table.int() for table in tables), merged)


def runs_on(device: torch.device, block_size: int, num_representatives: int) -> bool:
    """Whether the kernels are expected to run there, on such blocks."""
    is_traced = torch.jit.is_tracing() or torch.compiler.is_exporting()
    has_rows = block_size >= 16 and num_representatives <= TILE_REPRESENTATIVES
    return device.type == "cuda" and triton is not None and has_rows and not is_traced


def can_take(query: torch.Tensor, plan: NamedTuple) -> bool:
    """Whether [`kernel_block_attention`] can compute this: the head sizes and types that the kernels are made for."""
    return (
        isinstance(plan.tables, KernelTables)
        and 16 <= query.shape[2] <= 128
        and query.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not torch._C._are_functorch_transforms_active()
    )


def plain_block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: NamedTuple,
    scaling: float,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    The plain reference implementation of [`kernel_block_attention`]: block by block, from the same tables.

    Args:
        kept (`torch.Tensor` of shape `(num_heads, length, length)`, *optional*): What dropout multiplies the weights by.
    """
    blocks, drawn, drawn_bounds = (
        table.tolist() for table in (plan.tables.blocks, plan.tables.drawn, plan.tables.drawn_bounds)
    )
    outputs = []
    for number, (begin, end, _, *edges) in enumerate(blocks):
        seen = [*range(*edges[:2]), *range(*edges[2:])]
        for other in drawn[drawn_bounds[number] : drawn_bounds[number + 1]]:
            seen += range(blocks[other][0], min(blocks[other][1:3])) if other >= 0 else []
        scores = torch.einsum("qhd,khd->hqk", query[begin:end], key[seen]) * scaling
        weights = scores.softmax(-1)
        if kept is not None:
            weights = weights * kept[:, begin:end, seen]
        outputs.append(torch.einsum("hqk,khd->qhd", weights, value[seen]))
    return torch.cat(outputs)


def tile_rows(num_tokens: int) -> int:
    """Of a tile of tokens, for blocks of `num_tokens`: a number even where that is a compiler's symbol."""
    return 16 if num_tokens <= 16 else 32 if num_tokens <= 32 else MAX_TILE_TOKENS


def _tiles(plan: NamedTuple, max_length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The tiles of tokens and of representatives, and [`KernelTables.merged`]."""
    num_representatives, num_global, device = plan.num_representatives, plan.num_global_blocks, plan.block_bounds.device
    first, end = plan.document_bounds[:-1, None], plan.document_bounds[1:, None]
    every = torch.arange(plan.block_numbers.shape[0], device=device)
    size = plan.block_width - num_representatives
    rows = tile_rows(size)
    inner = torch.arange(0, size, rows, device=device)
    num_parts = (max_length + PART - 1) // PART

    def tokens(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks, places = torch.broadcast_tensors(blocks.flatten()[:, None], inner)
        return blocks.flatten(), places.flatten()

    of_global = first + torch.arange(num_global, device=device)
    global_tokens = tokens(torch.where(of_global < end, of_global, -1))
    local_tokens = tokens(torch.where(plan.block_numbers < num_global, -1, every))
    # As many blocks at a time as have room for their representatives.
    step = max(1, TILE_REPRESENTATIVES // max(1, num_representatives))
    of_global = first + torch.arange(0, num_global, step, device=device)
    counts = (torch.minimum(first + num_global, end) - of_global).clamp(0, step)
    global_groups = torch.where(counts > 0, of_global, -1).flatten(), counts.flatten()
    num_local = (end - first - num_global).clamp(min=0)
    groups = torch.nn.functional.pad(((num_local + step - 1) // step).flatten().cumsum(0), (1, 0))
    number = torch.arange(every.shape[0] // step + first.shape[0], device=device)
    document = torch.searchsorted(groups, number, right=True).clamp(max=first.shape[0]) - 1
    begin = (number - groups[document]) * step
    counts = (num_local[document, 0] - begin).clamp(0, step)
    local_groups = torch.where(counts > 0, first[document, 0] + num_global + begin, -1), counts
    if num_representatives == 0:
        global_groups, local_groups = ((part[:0], part[:0]) for part in (global_groups[0], local_groups[0]))

    num_merged = (0, 0)
    if num_parts > 1:
        num_merged = (global_tokens[0].shape[0], global_groups[0].shape[0])
    token_rows = num_merged[0] * num_parts * rows
    tiles = [
        _in_parts(*global_tokens, num_parts, 0, rows),
        _in_parts(*local_tokens, 1, 0, 0),
        _in_parts(*global_groups, num_parts, token_rows, TILE_REPRESENTATIVES),
        _in_parts(*local_groups, 1, 0, 0),
    ]
    merged = torch.empty((), device=device).expand(*num_merged, num_parts, rows)
    return torch.cat(tiles[:2]), torch.cat(tiles[2:]), merged


def _in_parts(blocks: torch.Tensor, inner: torch.Tensor, num_parts: int, first_row: int, num_rows: int) -> torch.Tensor:
    """Every tile once for each part of what it sees, with its rows in the buffer."""
    number = torch.arange(blocks.shape[0], device=blocks.device)[:, None]
    part = torch.arange(num_parts, device=blocks.device)[None, :]
    row = torch.full_like(number * part, -1)
    if num_parts > 1:
        row = first_row + (number * num_parts + part) * num_rows
    tiles = torch.broadcast_tensors(blocks[:, None], inner[:, None], part, row)
    return torch.stack([column.flatten() for column in tiles], dim=1)


@jit
def _rows(states, position, is_there, stride, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Of one head, `(num_positions, WIDTH)`; zero where nothing is."""
    column = tl.arange(0, WIDTH)[None, :]
    pointers = states + position.to(tl.int64)[:, None] * stride + column
    if is_there is not None:
        rows = tl.load(pointers, mask=is_there[:, None] & (column < HEAD_DIM), other=0.0)
    elif HEAD_DIM < WIDTH:
        rows = tl.load(pointers, mask=column < HEAD_DIM, other=0.0)
    else:
        rows = tl.load(pointers)
    return rows


@jit
def _store(states, rows, position, is_row, stride, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr):
    column = tl.arange(0, WIDTH)[None, :]
    pointers = states + position.to(tl.int64)[:, None] * stride + column
    tl.store(pointers, rows.to(states.dtype.element_ty), mask=is_row[:, None] & (column < HEAD_DIM))


@jit
def _tile(
    work: tl.constexpr, tile, states, tables, call, settings: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr,
    IS_TOKENS: tl.constexpr,
):  # fmt: skip
    """
    `work` with the rows of a tile: their positions, and which of them there are; their blocks; what they see; and the first row
    of their results in the buffer. All that positions come from is loaded here: a compiler that asks what a kernel writes takes
    every pointer for written that is handed to a function which returns a position.
    """
    if tl.load(tile) >= 0:
        blocks, num_representatives, _, _ = tables
        block, inner, part, buffer = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
        rows = tl.arange(0, ROWS)
        if IS_TOKENS:
            # A tile may be divided among programs.
            inner += tl.program_id(2) * ROWS
            own, last = block + 0 * rows, block
            position = tl.load(blocks + block * 7) + num_representatives + inner + rows
            is_row = position < tl.load(blocks + block * 7 + 1)
        else:
            last = block + inner - 1
            own = tl.minimum(block + rows // num_representatives, last)
            position = tl.load(blocks + own * 7) + rows % num_representatives
            is_row = rows < inner * num_representatives
        begin, end = tl.load(blocks + block * 7 + 5), tl.load(blocks + last * 7 + 6)
        if buffer >= 0:
            begin += part * PART
            end = tl.minimum(end, begin + PART)
            buffer += tl.program_id(2) * ROWS
        place = position, is_row, own, (block, last, begin, end), buffer
        work(states, place, tables, call, settings, ROWS, IS_TOKENS)


@jit
def _visit(step: tl.constexpr, state, given, own, seen, tables, settings: tl.constexpr, IS_TOKENS: tl.constexpr):
    """The state after a step with all that the rows of a tile see, a column tile at a time."""
    COLUMNS, TAIL, HAS_RANDOM, _, _, _, _ = settings
    blocks, _, others, others_bounds = tables
    block, last, begin, end = seen
    head = tl.load(blocks + block * 7 + 3)
    num_head = tl.load(blocks + block * 7 + 4) - head
    total = num_head + tl.maximum(end - begin, 0)
    if IS_TOKENS:
        full = total // COLUMNS * COLUMNS
        for first in range(0, full, COLUMNS):
            index = first + tl.arange(0, COLUMNS)
            position = tl.where(index < num_head, head + index, begin + index - num_head)
            state = step(state, given, position, None, None, settings)
        for first in range(full, total, TAIL):
            index = first + tl.arange(0, TAIL)
            position = tl.where(index < num_head, head + index, begin + index - num_head)
            state = step(state, given, position, index < total, (index < total)[None, :], settings)
    else:
        low, high = tl.load(blocks + own * 7 + 5)[:, None], tl.load(blocks + own * 7 + 6)[:, None]
        for first in range(0, total, COLUMNS):
            index = first + tl.arange(0, COLUMNS)
            position = tl.where(index < num_head, head + index, begin + index - num_head)
            is_seen = (position[None, :] >= low) & (position[None, :] < high) | (index < num_head)[None, :]
            state = step(state, given, position, index < total, is_seen & (index < total)[None, :], settings)
    if HAS_RANDOM:
        for row in range(block, last + 1):
            for number in range(tl.load(others_bounds + row), tl.load(others_bounds + row + 1)):
                other = tl.load(others + number)
                first = tl.load(blocks + other * 7, mask=other >= 0, other=0)
                stop = tl.load(blocks + other * 7 + 1, mask=other >= 0, other=0)
                stop = tl.minimum(stop, tl.load(blocks + other * 7 + 2, mask=other >= 0, other=0))
                for start in range(first, stop, TAIL):
                    position = start + tl.arange(0, TAIL)
                    is_seen = (position < stop)[None, :] & (own == row)[:, None]
                    state = step(state, given, position, position < stop, is_seen, settings)
    return state


@jit
def _kept(query_position, key_position, head, dropout, seed):
    """What dropout multiplies a weight by, 0 or 1 / (1 - dropout): a function of the seed, the head and the two positions."""
    key_position, query_position = tl.broadcast(key_position, query_position)
    number, _, _, _ = tl.philox(seed, key_position, query_position, head + 0 * key_position, 0 * key_position)
    share = (number >> 8).to(tl.int32).to(tl.float32) * 5.9604645e-08
    return tl.where(share < dropout, 0.0, 1.0 / (1.0 - dropout))


@jit
def _forward_step(state, given, position, is_there, is_seen, settings: tl.constexpr):
    output, largest, total = state
    query, keys, values, own_position, call = given
    scaling, _, stride, head, dropout, seed = call
    _, _, _, HEAD_DIM, WIDTH, PRECISION, IS_DROPPING = settings
    key = _rows(keys, position, is_there, stride, HEAD_DIM, WIDTH)
    value = _rows(values, position, is_there, stride, HEAD_DIM, WIDTH)
    scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scaling
    if is_seen is not None:
        scores = tl.where(is_seen, scores, float("-inf"))
    now = tl.maximum(largest, tl.max(scores, 1))
    shrink = tl.exp2(largest - now)
    weights = tl.exp2(scores - now[:, None])
    total = total * shrink + tl.sum(weights, 1)
    if IS_DROPPING:
        weights *= _kept(own_position[:, None], position[None, :], head, dropout, seed)
    output = tl.dot(weights.to(value.dtype), value, output * shrink[:, None], input_precision=PRECISION)
    return output, now, total


@jit
def _query_step(state, given, position, is_there, is_seen, settings: tl.constexpr):
    query, upstream, norm, delta, keys, values, own_position, call = given
    scaling, _, stride, head, dropout, seed = call
    _, _, _, HEAD_DIM, WIDTH, PRECISION, IS_DROPPING = settings
    key = _rows(keys, position, is_there, stride, HEAD_DIM, WIDTH)
    value = _rows(values, position, is_there, stride, HEAD_DIM, WIDTH)
    scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scaling
    weights = tl.exp2(scores - norm[:, None])
    if is_seen is not None:
        weights = tl.where(is_seen, weights, 0.0)
    slopes = tl.dot(upstream, tl.trans(value), input_precision=PRECISION)
    if IS_DROPPING:
        slopes *= _kept(own_position[:, None], position[None, :], head, dropout, seed)
    slopes = weights * (slopes - delta[:, None])
    return tl.dot(slopes.to(key.dtype), key, state, input_precision=PRECISION)


@jit
def _key_step(state, given, position, is_there, is_seen, settings: tl.constexpr):
    of_key, of_value = state
    key, value, queries, upstreams, norms, deltas, own_position, call = given
    scaling, _, stride, head, dropout, seed = call
    _, _, _, HEAD_DIM, WIDTH, PRECISION, IS_DROPPING = settings
    query = _rows(queries, position, is_there, stride, HEAD_DIM, WIDTH)
    upstream = _rows(upstreams, position, is_there, stride, HEAD_DIM, WIDTH)
    if is_there is None:
        norm, delta = tl.load(norms + position), tl.load(deltas + position)
    else:
        norm = tl.load(norms + position, mask=is_there, other=0.0)
        delta = tl.load(deltas + position, mask=is_there, other=0.0)
    scores = tl.dot(key, tl.trans(query), input_precision=PRECISION) * scaling
    weights = tl.exp2(scores - norm[None, :])
    if is_seen is not None:
        weights = tl.where(is_seen, weights, 0.0)
    slopes = tl.dot(value, tl.trans(upstream), input_precision=PRECISION)
    dropped = weights
    if IS_DROPPING:
        kept = _kept(position[None, :], own_position[:, None], head, dropout, seed)
        dropped = weights * kept
        slopes *= kept
    of_value = tl.dot(dropped.to(upstream.dtype), upstream, of_value, input_precision=PRECISION)
    slopes = weights * (slopes - delta[None, :])
    of_key = tl.dot(slopes.to(query.dtype), query, of_key, input_precision=PRECISION)
    return of_key, of_value


@jit
def _forward_rows(states, place, tables, call, settings: tl.constexpr, ROWS: tl.constexpr, IS_TOKENS: tl.constexpr):
    _, _, stride, _, _, _ = call
    _, _, _, HEAD_DIM, WIDTH, _, _ = settings
    position, is_row, own, seen, first = place
    buffered = first + tl.arange(0, ROWS)
    query, key, value, output, norms, buffer, buffer_norms = states
    given = _rows(query, position, is_row, stride, HEAD_DIM, WIDTH), key, value, position, call
    zeros = tl.zeros([ROWS, WIDTH], tl.float32)
    state = zeros, tl.full([ROWS], -1e30, tl.float32), tl.zeros([ROWS], tl.float32)
    state = _visit(_forward_step, state, given, own, seen, tables, settings, IS_TOKENS)
    result, largest, total = state
    # Padding may see nothing.
    total = tl.where(total > 0, total, 1.0)
    norm, result = largest + tl.log2(total), result / total[:, None]
    if first >= 0:
        _store(buffer, result, buffered, is_row, stride, HEAD_DIM, WIDTH)
        tl.store(buffer_norms + buffered, norm, mask=is_row)
    else:
        _store(output, result, position, is_row, stride, HEAD_DIM, WIDTH)
        tl.store(norms + position, norm, mask=is_row)


@jit
def _query_rows(states, place, tables, call, settings: tl.constexpr, ROWS: tl.constexpr, IS_TOKENS: tl.constexpr):
    _, factor, stride, _, _, _ = call
    _, _, _, HEAD_DIM, WIDTH, _, _ = settings
    position, is_row, own, seen, first = place
    buffered = first + tl.arange(0, ROWS)
    query, key, value, output, upstream, norms, deltas, gradient, buffer = states
    slopes = _rows(upstream, position, is_row, stride, HEAD_DIM, WIDTH)
    result = _rows(output, position, is_row, stride, HEAD_DIM, WIDTH)
    delta = tl.sum(result.to(tl.float32) * slopes.to(tl.float32), 1)
    tl.store(deltas + position, delta, mask=is_row)
    norm = tl.load(norms + position, mask=is_row, other=0.0)
    rows = _rows(query, position, is_row, stride, HEAD_DIM, WIDTH)
    given = rows, slopes, norm, delta, key, value, position, call
    state = tl.zeros([ROWS, WIDTH], tl.float32)
    state = _visit(_query_step, state, given, own, seen, tables, settings, IS_TOKENS) * factor
    if first >= 0:
        _store(buffer, state, buffered, is_row, stride, HEAD_DIM, WIDTH)
    else:
        _store(gradient, state, position, is_row, stride, HEAD_DIM, WIDTH)


@jit
def _key_rows(states, place, tables, call, settings: tl.constexpr, ROWS: tl.constexpr, IS_TOKENS: tl.constexpr):
    _, factor, stride, _, _, _ = call
    _, _, _, HEAD_DIM, WIDTH, _, _ = settings
    position, is_row, own, seen, first = place
    buffered = first + tl.arange(0, ROWS)
    query, key, value, upstream, norms, deltas, of_key, of_value, buffer, second_buffer = states
    keys = _rows(key, position, is_row, stride, HEAD_DIM, WIDTH)
    values = _rows(value, position, is_row, stride, HEAD_DIM, WIDTH)
    given = keys, values, query, upstream, norms, deltas, position, call
    state = tl.zeros([ROWS, WIDTH], tl.float32), tl.zeros([ROWS, WIDTH], tl.float32)
    state = _visit(_key_step, state, given, own, seen, tables, settings, IS_TOKENS)
    for_key, for_value = state
    # Nothing real sees padding.
    blocks, _, _, _ = tables
    is_real = (position < tl.load(blocks + own * 7 + 2))[:, None]
    for_key, for_value = tl.where(is_real, for_key * factor, 0.0), tl.where(is_real, for_value, 0.0)
    if first >= 0:
        _store(buffer, for_key, buffered, is_row, stride, HEAD_DIM, WIDTH)
        _store(second_buffer, for_value, buffered, is_row, stride, HEAD_DIM, WIDTH)
    else:
        _store(of_key, for_key, position, is_row, stride, HEAD_DIM, WIDTH)
        _store(of_value, for_value, position, is_row, stride, HEAD_DIM, WIDTH)


@jit
def _forward_kernel(
    query, key, value, output, norms, buffer, buffer_norms, seed, blocks, token_tiles, representative_tiles, others,
    others_bounds, num_token_tiles, num_representatives, length, buffer_length, scaling, factor, dropout,
    PART: tl.constexpr, ROWS: tl.constexpr, FEW_ROWS: tl.constexpr, COLUMNS: tl.constexpr, TAIL: tl.constexpr,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr, IS_DROPPING: tl.constexpr,
    HAS_RANDOM: tl.constexpr, HAS_REPRESENTATIVES: tl.constexpr,
):  # fmt: skip
    head, of_head, stride = tl.program_id(1), tl.program_id(1) * HEAD_DIM, tl.num_programs(1) * HEAD_DIM
    settings: tl.constexpr = (COLUMNS, TAIL, HAS_RANDOM, HEAD_DIM, WIDTH, PRECISION, IS_DROPPING)
    call = (scaling, factor, stride, head, dropout, tl.load(seed) if IS_DROPPING else 0)
    tables = (blocks, num_representatives, others, others_bounds)
    states = (
        query + of_head, key + of_head, value + of_head, output + of_head, norms + head * length, buffer + of_head,
        buffer_norms + head * buffer_length,
    )  # fmt: skip
    number = tl.program_id(0)
    if number < num_token_tiles:
        tile = token_tiles + number * 4
        _tile(_forward_rows, tile, states, tables, call, settings, PART, ROWS, True)
    elif HAS_REPRESENTATIVES and tl.program_id(2) == 0:
        tile = representative_tiles + (number - num_token_tiles) * 4
        _tile(_forward_rows, tile, states, tables, call, settings, PART, FEW_ROWS, False)


@jit
def _query_kernel(
    query, key, value, output, upstream, norms, deltas, gradient, buffer, seed, blocks, token_tiles, representative_tiles,
    others, others_bounds, num_token_tiles, num_representatives, length, scaling, factor, dropout,
    PART: tl.constexpr, ROWS: tl.constexpr, FEW_ROWS: tl.constexpr, COLUMNS: tl.constexpr, TAIL: tl.constexpr,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr, IS_DROPPING: tl.constexpr,
    HAS_RANDOM: tl.constexpr, HAS_REPRESENTATIVES: tl.constexpr,
):  # fmt: skip
    head, of_head, stride = tl.program_id(1), tl.program_id(1) * HEAD_DIM, tl.num_programs(1) * HEAD_DIM
    settings: tl.constexpr = (COLUMNS, TAIL, HAS_RANDOM, HEAD_DIM, WIDTH, PRECISION, IS_DROPPING)
    call = (scaling, factor, stride, head, dropout, tl.load(seed) if IS_DROPPING else 0)
    tables = (blocks, num_representatives, others, others_bounds)
    states = (
        query + of_head, key + of_head, value + of_head, output + of_head, upstream + of_head, norms + head * length,
        deltas + head * length, gradient + of_head, buffer + of_head,
    )  # fmt: skip
    number = tl.program_id(0)
    if number < num_token_tiles:
        tile = token_tiles + number * 4
        _tile(_query_rows, tile, states, tables, call, settings, PART, ROWS, True)
    elif HAS_REPRESENTATIVES and tl.program_id(2) == 0:
        tile = representative_tiles + (number - num_token_tiles) * 4
        _tile(_query_rows, tile, states, tables, call, settings, PART, FEW_ROWS, False)


@jit
def _key_kernel(
    query, key, value, upstream, norms, deltas, of_key, of_value, buffer, second_buffer, seed, blocks, token_tiles,
    representative_tiles, others, others_bounds, num_token_tiles, num_representatives, length, scaling, factor, dropout,
    PART: tl.constexpr, ROWS: tl.constexpr, FEW_ROWS: tl.constexpr, COLUMNS: tl.constexpr, TAIL: tl.constexpr,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr, IS_DROPPING: tl.constexpr,
    HAS_RANDOM: tl.constexpr, HAS_REPRESENTATIVES: tl.constexpr,
):  # fmt: skip
    head, of_head, stride = tl.program_id(1), tl.program_id(1) * HEAD_DIM, tl.num_programs(1) * HEAD_DIM
    settings: tl.constexpr = (COLUMNS, TAIL, HAS_RANDOM, HEAD_DIM, WIDTH, PRECISION, IS_DROPPING)
    call = (scaling, factor, stride, head, dropout, tl.load(seed) if IS_DROPPING else 0)
    tables = (blocks, num_representatives, others, others_bounds)
    states = (
        query + of_head, key + of_head, value + of_head, upstream + of_head, norms + head * length, deltas + head * length,
        of_key + of_head, of_value + of_head, buffer + of_head, second_buffer + of_head,
    )  # fmt: skip
    number = tl.program_id(0)
    if number < num_token_tiles:
        tile = token_tiles + number * 4
        _tile(_key_rows, tile, states, tables, call, settings, PART, ROWS, True)
    elif HAS_REPRESENTATIVES and tl.program_id(2) == 0:
        tile = representative_tiles + (number - num_token_tiles) * 4
        _tile(_key_rows, tile, states, tables, call, settings, PART, FEW_ROWS, False)


@jit
def _merge_rows(states, place, tables, call, settings: tl.constexpr, ROWS: tl.constexpr, IS_TOKENS: tl.constexpr):
    output, norms, buffer, buffer_norms = states
    position, is_row, _, _, first = place
    num_parts, stride = call
    HEAD_DIM, WIDTH, IS_MEAN = settings
    result, largest = tl.zeros([ROWS, WIDTH], tl.float32), tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for part in range(0, num_parts):
        buffered = first + part * ROWS + tl.arange(0, ROWS)
        rows = _rows(buffer, buffered, is_row, stride, HEAD_DIM, WIDTH)
        if IS_MEAN:
            norm = tl.load(buffer_norms + buffered, mask=is_row, other=0.0)
            now = tl.maximum(largest, norm)
            shrink, weight = tl.exp2(largest - now), tl.exp2(norm - now)
            result = result * shrink[:, None] + rows * weight[:, None]
            largest, total = now, total * shrink + weight
        else:
            result += rows
    if IS_MEAN:
        result /= total[:, None]
        tl.store(norms + position, largest + tl.log2(total), mask=is_row)
    _store(output, result, position, is_row, stride, HEAD_DIM, WIDTH)


@jit
def _merge_kernel(
    output, norms, buffer, buffer_norms, blocks, token_tiles, representative_tiles, num_token_tiles, num_representatives,
    num_parts, length, buffer_length, ROWS: tl.constexpr, FEW_ROWS: tl.constexpr, HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr, IS_MEAN: tl.constexpr, HAS_REPRESENTATIVES: tl.constexpr,
):  # fmt: skip
    """The parts of what sees, or is seen by, all of its document: their mean by their weights, or their sum."""
    number, head, stride = tl.program_id(0), tl.program_id(1), tl.num_programs(1) * HEAD_DIM
    settings: tl.constexpr = (HEAD_DIM, WIDTH, IS_MEAN)
    call, tables = (num_parts, stride), (blocks, num_representatives, blocks, blocks)
    states = (
        output + head * HEAD_DIM,
        norms + head * length,
        buffer + head * HEAD_DIM,
        buffer_norms + head * buffer_length,
    )
    if number < num_token_tiles:
        _tile(_merge_rows, token_tiles + number * num_parts * 4, states, tables, call, settings, 1, ROWS, True)
    elif HAS_REPRESENTATIVES:
        tile = representative_tiles + (number - num_token_tiles) * num_parts * 4
        _tile(_merge_rows, tile, states, tables, call, settings, 1, FEW_ROWS, False)


def _settings(states: torch.Tensor, num_representatives: int) -> dict:
    """The constants that every kernel takes."""
    head_dim = states.shape[2]
    return {
        "FEW_ROWS": TILE_REPRESENTATIVES,
        "HEAD_DIM": head_dim,
        "WIDTH": 16 if head_dim <= 16 else 32 if head_dim <= 32 else 64 if head_dim <= 64 else 128,
        "HAS_REPRESENTATIVES": num_representatives > 0,
    }


def _visiting(
    states: torch.Tensor, tables: list[torch.Tensor], dropout: float, rows: int, of_keys: bool = False
) -> dict:
    """
    The constants of the kernels that go through what tiles see, and how they are launched: so that registers suffice on an A100 and
    on an H100. With bf16 and heads of 64 a thread has 108 of them on an H100 in the forward kernel, 146 in that of queries and
    137 in that of keys, and a program 40, 48 and 32 KiB of shared memory (`python -m benchmarks.kernel_resources` has them all).
    """
    is_large, is_wide = states.shape[2] > 64, states.dtype == torch.float32
    columns = 16 if is_wide else 32 if is_large or of_keys or dropout or rows < 32 else 64
    has_tf32 = states.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return {
        "PART": PART,
        "ROWS": min(rows, 16) if is_large and is_wide else rows,
        "COLUMNS": columns,
        "TAIL": 16,
        "PRECISION": "tf32" if has_tf32 else "ieee",
        "IS_DROPPING": dropout > 0,
        "HAS_RANDOM": tables[3].shape[0] > 0,
        "num_warps": 8 if is_large or is_wide else 4,
        "num_stages": 1 if is_wide else 2,
    }


def _num_buffered(merged: torch.Tensor) -> int:
    of_tokens, of_representatives, num_parts, rows = merged.shape
    return num_parts * (of_tokens * rows + of_representatives * TILE_REPRESENTATIVES)


@triton_op(f"ernie_sparse_{zlib.crc32(__name__.encode()):08x}::block_attention", mutates_args={})
def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tables: list[torch.Tensor],
    seed: torch.Tensor | None,
    scaling: float,
    dropout: float,
    num_representatives: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the logarithm to the base of 2 of the sum of every row's weights, `(num_heads, length)`."""
    blocks, token_tiles, representative_tiles, drawn, drawn_bounds, _, _, merged = tables
    length, num_heads, _ = query.shape
    num_buffered = _num_buffered(merged)
    output, norms = torch.empty_like(query), query.new_empty(num_heads, length, dtype=torch.float32)
    buffer = query.new_empty(num_buffered, *query.shape[1:], dtype=torch.float32)
    buffer_norms = query.new_empty(num_heads, num_buffered, dtype=torch.float32)
    settings, rows = _settings(query, num_representatives), tile_rows(merged.shape[3])
    visiting = _visiting(query, tables, dropout, rows)
    grid = (token_tiles.shape[0] + representative_tiles.shape[0], num_heads, rows // visiting["ROWS"])
    wrap_triton(_forward_kernel)[grid](
        query, key, value, output, norms, buffer, buffer_norms, blocks if seed is None else seed, blocks, token_tiles,
        representative_tiles, drawn, drawn_bounds, token_tiles.shape[0], num_representatives, length, num_buffered,
        scaling * math.log2(math.e), 1.0, dropout, **visiting, **settings,
    )  # fmt: skip
    if num_buffered:
        _merge(output, norms, buffer, buffer_norms, tables, num_representatives, rows, True, settings)
    return output, norms


def _merge(output, norms, buffer, buffer_norms, tables, num_representatives, rows: int, is_mean: bool, settings: dict):
    blocks, token_tiles, representative_tiles, *_, merged = tables
    grid = (merged.shape[0] + merged.shape[1], output.shape[1])
    wrap_triton(_merge_kernel)[grid](
        output, norms, buffer, buffer_norms, blocks, token_tiles, representative_tiles, merged.shape[0],
        num_representatives, merged.shape[2], output.shape[0], buffer.shape[0], ROWS=rows, IS_MEAN=is_mean, **settings,
    )  # fmt: skip


@triton_op(f"ernie_sparse_{zlib.crc32(__name__.encode()):08x}::block_attention_backward", mutates_args={})
def _attend_backward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    norms: torch.Tensor,
    upstream: torch.Tensor,
    tables: list[torch.Tensor],
    seed: torch.Tensor | None,
    scaling: float,
    dropout: float,
    num_representatives: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    blocks, token_tiles, representative_tiles, drawn, drawn_bounds, drawing, drawing_bounds, merged = tables
    length, num_heads, _ = query.shape
    num_buffered = _num_buffered(merged)
    of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    deltas = torch.empty_like(norms)
    buffer = query.new_empty(2, num_buffered, *query.shape[1:], dtype=torch.float32)
    settings, rows = _settings(query, num_representatives), tile_rows(merged.shape[3])
    visiting = _visiting(query, tables, dropout, rows)
    grid = (token_tiles.shape[0] + representative_tiles.shape[0], num_heads, rows // visiting["ROWS"])
    seed = blocks if seed is None else seed
    factors = (scaling * math.log2(math.e), scaling, dropout)
    wrap_triton(_query_kernel)[grid](
        query, key, value, output, upstream, norms, deltas, of_query, buffer[0], seed, blocks, token_tiles,
        representative_tiles, drawn, drawn_bounds, token_tiles.shape[0], num_representatives, length, *factors,
        **visiting, **settings,
    )  # fmt: skip
    if num_buffered:
        _merge(of_query, norms, buffer[0], norms, tables, num_representatives, rows, False, settings)
    wrap_triton(_key_kernel)[grid](
        query, key, value, upstream, norms, deltas, of_key, of_value, buffer[0], buffer[1], seed, blocks, token_tiles,
        representative_tiles, drawing, drawing_bounds, token_tiles.shape[0], num_representatives, length, *factors,
        **_visiting(query, tables, dropout, rows, of_keys=True), **settings,
    )  # fmt: skip
    if num_buffered:
        for gradient, part in zip((of_key, of_value), buffer.unbind(), strict=True):
            _merge(gradient, norms, part, norms, tables, num_representatives, rows, False, settings)
    return of_query, of_key, of_value


def _setup_context(ctx, inputs, output):
    query, key, value, tables, seed, *ctx.numbers = inputs
    ctx.num_tables, ctx.has_seed = len(tables), seed is not None
    ctx.save_for_backward(query, key, value, *output, *tables, *([seed] if ctx.has_seed else []))


def _backward(ctx, upstream, _):
    # Once: recomputed activations can be asked for no more often.
    saved = ctx.saved_tensors
    tables, seed = list(saved[5 : 5 + ctx.num_tables]), saved[-1] if ctx.has_seed else None
    gradients = _attend_backward(*saved[:5], upstream.contiguous(), tables, seed, *ctx.numbers)
    return *gradients, [None] * ctx.num_tables, None, None, None, None


_attend.register_autograd(_backward, setup_context=_setup_context)


def kernel_block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: NamedTuple,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """`block_attention` by the kernels, of a plan with [`KernelTables`]."""
    seed = torch.randint(2**62, (1,), device=query.device) if dropout else None
    states = (part.contiguous() for part in (query, key, value))
    return _attend(*states, list(plan.tables), seed, scaling, dropout, plan.num_representatives)[0]
