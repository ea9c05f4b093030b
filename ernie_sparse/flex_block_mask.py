# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A block plan as FlexAttention reads it: a `BlockMask` of tiles, and the rule of what is visible inside a tile."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .sparse_pattern import BlockPlan

# FlexAttention's own default.
TILE_SIZE = 128


class FlexTables(NamedTuple):
    """
    What one plan gives FlexAttention for one sequence length. Shapes depend on the bucket and on how many random blocks
    there are, not on the rest of the pattern, so that a program compiled for one pattern serves the others.

    Args:
        position_blocks (`torch.IntTensor` of shape `(length,)`):
            The block of every position; N for those that fill the bucket.
        num_global_blocks, reach (`torch.IntTensor` of shape `()`): Of the pattern; reach is the window to one side.
        random_blocks (`torch.IntTensor` of shape `(length, width)`):
            The random blocks that each position's block sees, filled up with -1; width is a multiple of 4.
        visible (`torch.BoolTensor` of shape `(N, N)`): Which block sees which.
        partial_tiles, full_tiles (`torch.BoolTensor` of shape `(num_tiles, num_tiles)`):
            Tiles in which some, and in which all, positions see each other.
    """

    position_blocks: torch.Tensor
    num_global_blocks: torch.Tensor
    reach: torch.Tensor
    random_blocks: torch.Tensor
    visible: torch.Tensor
    partial_tiles: torch.Tensor
    full_tiles: torch.Tensor

    @classmethod
    def build(cls, plan: BlockPlan, position_blocks: torch.Tensor) -> "FlexTables":
        num_blocks, device = plan.num_blocks, position_blocks.device
        length = bucket_length(position_blocks.shape[0])
        filled = torch.nn.functional.pad(position_blocks, (0, length - position_blocks.shape[0]), value=num_blocks)
        visible = plan.block_mask()
        # Which tile holds positions of which block; the last column is the filling.
        holds = torch.zeros(length // TILE_SIZE, num_blocks + 1, device=device)
        holds[torch.arange(length, device=device) // TILE_SIZE, filled] = 1.0
        holds, is_filled = holds[:, :num_blocks], holds[:, num_blocks] > 0
        some = holds @ visible.float() @ holds.T > 0
        hidden = holds @ (~visible).float() @ holds.T > 0
        full = some & ~hidden & ~is_filled
        return cls(
            position_blocks=filled.int(),
            num_global_blocks=torch.tensor(plan.num_global_blocks, dtype=torch.int32, device=device),
            reach=torch.tensor(min(plan.pattern.num_window_blocks // 2, num_blocks), dtype=torch.int32, device=device),
            random_blocks=_random_blocks(plan, filled).int(),
            visible=visible,
            partial_tiles=some & ~full,
            full_tiles=full,
        )


def _random_blocks(plan: BlockPlan, position_blocks: torch.Tensor) -> torch.Tensor:
    num_global, width = plan.num_global_blocks, -(-plan.pattern.num_random_blocks // 4) * 4
    query = torch.arange(num_global, plan.num_blocks, device=position_blocks.device)[:, None]
    is_near = (query - plan.key_blocks).abs() <= plan.pattern.num_window_blocks // 2
    is_random = plan.is_visible & ~is_near & (plan.key_blocks >= num_global)
    drawn = torch.where(is_random, plan.key_blocks, -1).sort(dim=1, descending=True).values[:, :width]
    table = torch.full((plan.num_blocks + 1, width), -1, device=position_blocks.device)
    table[num_global : plan.num_blocks, : drawn.shape[1]] = drawn
    return table[position_blocks]


def bucket_length(sequence_length: int) -> int:
    """The power of two of tiles that holds `sequence_length` positions, as a number of positions."""
    return TILE_SIZE << max(-(-sequence_length // TILE_SIZE) - 1, 0).bit_length()


def flex_block_mask(
    tables: FlexTables, attention_mask: torch.Tensor | None, batch_size: int
) -> tuple[BlockMask, torch.Tensor | None]:
    """
    The block mask of a batch, and which positions see nothing, `(batch_size, sequence_length)`, where there is padding.
    Those see the whole of the tiles they visit, because kernels differ on empty rows: their output has to be cleared.

    Args:
        attention_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*): Real positions.
    """
    is_filling = tables.position_blocks == tables.visible.shape[0]
    if attention_mask is None:
        sees_nothing = is_filling.repeat(batch_size, 1)
        is_real = ~sees_nothing
        empty_rows, tiles = None, (tables.partial_tiles, tables.full_tiles)
    else:
        sequence_length = attention_mask.shape[1]
        is_real = torch.nn.functional.pad(attention_mask, (0, is_filling.shape[0] - sequence_length))
        blocks = tables.position_blocks[:sequence_length].long()
        in_block = attention_mask.new_zeros(batch_size, tables.visible.shape[0], dtype=torch.float32)
        in_block = in_block.index_add(1, blocks, attention_mask.float())
        empty_rows = (in_block @ tables.visible.float().T == 0)[:, blocks]
        sees_nothing = torch.nn.functional.pad(empty_rows, (0, is_filling.shape[0] - sequence_length), value=True)
        # Which positions are real is not known tile by tile.
        tiles = (tables.partial_tiles | tables.full_tiles, torch.zeros_like(tables.full_tiles))
    partial, full = (_first(mask) for mask in tiles)
    block_mask = BlockMask.from_kv_blocks(
        *partial, *full, BLOCK_SIZE=TILE_SIZE, mask_mod=_mask_mod(tables, is_real, sees_nothing)
    )
    return block_mask, empty_rows


def _mask_mod(tables: FlexTables, is_real: torch.Tensor, sees_nothing: torch.Tensor) -> Callable:
    position_blocks, random_blocks = tables.position_blocks, tables.random_blocks
    num_global_blocks, reach = tables.num_global_blocks, tables.reach

    def mask_mod(batch, head, query, key):
        query_block, key_block = position_blocks[query], position_blocks[key]
        is_visible = (query_block - key_block).abs() <= reach
        is_visible = is_visible | (torch.minimum(query_block, key_block) < num_global_blocks)
        for column in range(random_blocks.shape[1]):
            is_visible = is_visible | (random_blocks[query, column] == key_block)
        return (is_visible & is_real[batch, key]) | sees_nothing[batch, query]

    return mask_mod


def _first(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many columns of each row are True, and their indices first, as `BlockMask` stores them."""
    indices = mask.int().argsort(dim=1, descending=True, stable=True)
    return mask.sum(dim=1)[None, None].int(), indices[None, None].int()


@functools.cache
def compiled_flex_attention() -> Callable:
    return torch.compile(flex_attention, dynamic=False)
