# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Padding costs nothing: the blocks of a batch that hold a real token, packed into one row, and the way back. Our choice.
"""

import dataclasses
from typing import NamedTuple

import torch

from .sparse_pattern import BlockPlan

# Packing copies a batch's embeddings and outputs once: not worth it for a few blocks.
LEAST_SHARE = 1 / 16


class PackedBatch(NamedTuple):
    """
    A batch of `batch_size` documents of `num_tokens` tokens as one row of the blocks that are kept: all global blocks,
    document by document, and then all others that hold a real token. Each takes `block_size` places.

    Args:
        plan ([`BlockPlan`]): Which of the kept blocks sees which, and which document each belongs to.
        places (`torch.LongTensor` of shape `(num_kept_blocks * block_size,)`):
            The token in each place, as an index into the flat batch.
        is_token (`torch.BoolTensor` of shape `(num_kept_blocks * block_size,)`):
            `False` before a document's first and behind its last token, where a place holds none.
        blocks (`torch.LongTensor` of shape `(num_kept_blocks,)`): The kept blocks as indices into the batch's blocks.
        batch_size (`int`), num_tokens (`int`), num_blocks (`int`): Of the batch before packing.
    """

    plan: BlockPlan
    places: torch.Tensor
    is_token: torch.Tensor
    blocks: torch.Tensor
    batch_size: int
    num_tokens: int
    num_blocks: int

    def pack(self, tokens: torch.Tensor | None) -> torch.Tensor | None:
        """`(batch_size or 1, num_tokens, …)` to `(1, num_kept_blocks * block_size, …)`; any token where none is."""
        if tokens is None:
            return None
        tokens = tokens.expand(self.batch_size, *tokens.shape[1:]).flatten(0, 1)
        return tokens.index_select(0, self.places)[None]

    def pack_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """The same for the attention mask, as bool: `False` where there is no token."""
        return (self.pack(attention_mask) != 0) & self.is_token

    def unpack(self, tokens: torch.Tensor) -> torch.Tensor:
        """The inverse of [`PackedBatch.pack`]; zero in blocks that were dropped."""
        # One row more, for places that hold no token.
        size = self.batch_size * self.num_tokens
        index = torch.where(self.is_token, self.places, size)
        flat = tokens.new_zeros(size + 1, *tokens.shape[2:]).index_copy(0, index, tokens[0])
        return flat[:size].unflatten(0, (self.batch_size, self.num_tokens))

    def unpack_representatives(self, representatives: torch.Tensor) -> torch.Tensor:
        """`(1, num_kept_blocks * R, …)` to `(batch_size, num_blocks * R, …)`; zero in blocks that were dropped."""
        kept = representatives[0].unflatten(0, (len(self.blocks), -1))
        every = kept.new_zeros(self.batch_size * self.num_blocks, *kept.shape[1:]).index_copy(0, self.blocks, kept)
        return every.flatten(0, 1).unflatten(0, (self.batch_size, -1))


def drop_padding(attention_mask: torch.Tensor, plan: BlockPlan) -> PackedBatch | None:
    """
    The batch without the blocks that hold only padding, or `None` when they are too few to be worth it. Reads the
    number of kept blocks back from the device, once.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch_size, num_tokens)`): Nonzero where a token is real.
        plan ([`BlockPlan`]): The plan for `num_tokens` tokens.
    """
    (batch_size, num_tokens), num_blocks = attention_mask.shape, plan.num_blocks
    shift, block_size, num_global = plan.pattern.block_shift, plan.pattern.block_size, plan.num_global_blocks
    behind = num_blocks * block_size - shift - num_tokens
    is_kept = torch.nn.functional.pad(attention_mask != 0, (shift, behind)).unflatten(1, (num_blocks, -1)).any(dim=-1)
    # A document keeps its global blocks, so that all documents have equally many.
    is_kept[:, :num_global] = True
    counts = is_kept.sum(dim=1)
    num_kept, max_kept = torch.stack([counts.sum(), counts.max()]).tolist()
    if num_kept == 0 or num_kept > (1 - LEAST_SHARE) * batch_size * num_blocks:
        return None
    every = torch.arange(batch_size * num_blocks, device=attention_mask.device).view(batch_size, num_blocks)
    local_blocks = every[:, num_global:][is_kept[:, num_global:]]
    blocks = torch.cat([every[:, :num_global].flatten(), local_blocks])
    packed_of = torch.zeros_like(every)
    packed_of.view(-1)[blocks] = torch.arange(num_kept, device=blocks.device)

    document, row = local_blocks // num_blocks, local_blocks % num_blocks - num_global
    key_blocks = plan.key_blocks[row]
    is_visible = plan.is_visible[row] & is_kept[document[:, None], key_blocks]
    key_blocks = packed_of[document[:, None], key_blocks]
    in_document = torch.arange(max_kept, device=blocks.device) < counts[:, None]
    documents = torch.zeros_like(in_document, dtype=torch.long)
    documents[in_document] = packed_of[is_kept]

    position = (blocks % num_blocks * block_size - shift)[:, None] + torch.arange(block_size, device=blocks.device)
    is_token = (position >= 0) & (position < num_tokens)
    places = (blocks // num_blocks * num_tokens)[:, None] + position.clamp(0, num_tokens - 1)
    every_place = torch.arange(num_kept * block_size, device=blocks.device)
    packed_plan = BlockPlan(
        # Places before a document's first token are places of the row already.
        pattern=dataclasses.replace(plan.pattern, block_shift=0),
        key_blocks=key_blocks,
        is_visible=is_visible,
        places=every_place,
        token_places=every_place,
        first_tokens=every_place[::block_size],
        documents=documents,
        in_document=in_document,
        sees_everything=plan.sees_everything and batch_size == 1,
    )
    return PackedBatch(packed_plan, places.flatten(), is_token.flatten(), blocks, batch_size, num_tokens, num_blocks)
