# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Attention over tokens and representatives under a block plan: one signature, a dense oracle and a block-sparse twin.

Every executor takes its slots in one order: first the representatives of all blocks, block by block, then the tokens.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers import AttentionInterface

from .sparse_pattern import BlockPlan


class HstAttentionMaps(NamedTuple):
    """
    The attention weights of one call, cut where tokens and representatives meet. Together the three parts are every
    map there is; the output is computed from them, so each can retain its gradient.

    Args:
        token_to_token (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, num_tokens)`):
            Rows add up to one less the share that goes to representatives.
        token_to_representative (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, num_representatives)`)
        representative_to_slot (`torch.Tensor` of shape `(batch_size, num_heads, num_representatives, num_slots)`):
            Columns in slot order, representatives first.
    """

    token_to_token: torch.Tensor
    token_to_representative: torch.Tensor
    representative_to_slot: torch.Tensor


def slot_blocks(plan: BlockPlan, num_tokens: int, num_slots: int) -> torch.Tensor:
    """The block of every slot, `(num_slots,)`, representatives first."""
    blocks = torch.arange(plan.num_blocks, device=plan.key_blocks.device)
    representatives = blocks.repeat_interleave((num_slots - num_tokens) // plan.num_blocks)
    return torch.cat([representatives, plan.token_blocks(num_tokens)])


def eager_hst_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    plan: BlockPlan | None,
    num_tokens: int,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, HstAttentionMaps]:
    """
    The dense oracle: one softmax over all slots under the plan's dense mask. Memory grows with the square of the length.

    Args:
        query, key, value (`torch.Tensor` of shape `(batch_size, num_heads, num_slots, head_dim)`): Slots in order.
        attention_mask (`torch.BoolTensor` of shape `(batch_size, num_slots)`, *optional*):
            Which slots are real; all of them when `None`.
        plan ([`BlockPlan`], *optional*): Who sees whom; everyone sees everyone when `None` (HST's second step).
        num_tokens (`int`): How many of the slots, the last ones, are tokens.
        scaling (`float`): Factor on the dot products.
        dropout (`float`, defaults to 0.0): Probability of dropping an attention weight, in training.

    Returns:
        The output of shape `(batch_size, num_slots, num_heads, head_dim)`, zero in rows that see nothing, and the
        [`HstAttentionMaps`].
    """
    num_slots = query.shape[2]
    num_representatives = num_slots - num_tokens
    visible = torch.ones(1, 1, num_slots, num_slots, dtype=torch.bool, device=query.device)
    if plan is not None:
        blocks = slot_blocks(plan, num_tokens, num_slots)
        visible = plan.block_mask()[blocks[:, None], blocks[None, :]][None, None]
    if attention_mask is not None:
        visible = visible & attention_mask[:, None, None, :]
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = weights.masked_fill(~visible, 0.0)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    maps = HstAttentionMaps(
        token_to_token=weights[:, :, num_representatives:, num_representatives:],
        token_to_representative=weights[:, :, num_representatives:, :num_representatives],
        representative_to_slot=weights[:, :, :num_representatives],
    )
    to_tokens = torch.matmul(maps.token_to_token, value[:, :, num_representatives:]) + torch.matmul(
        maps.token_to_representative, value[:, :, :num_representatives]
    )
    to_representatives = torch.matmul(maps.representative_to_slot, value)
    return torch.cat([to_representatives, to_tokens], dim=2).transpose(1, 2), maps


def sdpa_hst_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    plan: BlockPlan | None,
    num_tokens: int,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """
    The block form on `scaled_dot_product_attention`: each block's slots against the gathered slots of the blocks it
    sees, and the global blocks against everything. Memory grows linearly with the length. Arguments and output as in
    [`eager_hst_attention`], without the maps.
    """
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    dropout = dropout if module.training else 0.0
    if plan is None or plan.sees_everything:
        return _masked_sdpa(query, key, value, attention_mask, scaling, dropout), None
    blocked_query, blocked_key, blocked_value = (to_blocks(states, plan, num_tokens) for states in (query, key, value))
    window_mask = _window_mask(attention_mask, plan, num_tokens, query)
    batch_size, _, block_slots, num_heads, head_dim = blocked_query.shape
    num_global, (num_local, width) = plan.num_global_blocks, plan.key_blocks.shape
    gathered = (
        _gather_blocks(states, plan.key_blocks).view(batch_size * num_local, width * block_slots, num_heads, head_dim)
        for states in (blocked_key, blocked_value)
    )
    local_query = blocked_query[:, num_global:].reshape(batch_size * num_local, block_slots, num_heads, head_dim)
    output = _masked_sdpa(
        local_query, *gathered, window_mask, scaling, dropout, may_see_nothing=attention_mask is not None
    ).view(batch_size, num_local, block_slots, num_heads, head_dim)
    if num_global:
        global_query = blocked_query[:, :num_global].flatten(1, 2)
        global_output = _masked_sdpa(global_query, key, value, attention_mask, scaling, dropout)
        output = torch.cat([global_output.unflatten(1, (num_global, block_slots)), output], dim=1)
    return from_blocks(output, plan, num_tokens, query.shape[1]), None


def to_blocks(slots: torch.Tensor, plan: BlockPlan, num_tokens: int) -> torch.Tensor:
    """
    `(batch_size, num_slots, …)` in slot order to `(batch_size, N, R + block_size, …)`: each block's representatives
    and then its tokens. Places before the first and behind the last token are filled with zeros.
    """
    num_representatives = slots.shape[1] - num_tokens
    before = plan.pattern.block_shift
    behind = plan.num_blocks * plan.pattern.block_size - before - num_tokens
    representatives = slots[:, :num_representatives].unflatten(1, (plan.num_blocks, -1))
    tokens = slots[:, num_representatives:]
    if before or behind:
        rest = slots.shape[2:]
        tokens = torch.cat(
            [tokens.new_zeros(len(tokens), before, *rest), tokens, tokens.new_zeros(len(tokens), behind, *rest)], dim=1
        )
    return torch.cat([representatives, tokens.unflatten(1, (plan.num_blocks, -1))], dim=2)


def from_blocks(blocks: torch.Tensor, plan: BlockPlan, num_tokens: int, num_slots: int) -> torch.Tensor:
    """The inverse of [`to_blocks`]."""
    per_block = (num_slots - num_tokens) // plan.num_blocks
    before = plan.pattern.block_shift
    representatives = blocks[:, :, :per_block].flatten(1, 2)
    tokens = blocks[:, :, per_block:].flatten(1, 2)[:, before : before + num_tokens]
    return torch.cat([representatives, tokens], dim=1)


def slot_mask(attention_mask: torch.Tensor, plan: BlockPlan, num_representatives: int) -> torch.Tensor:
    """
    Which slots are real, `(batch_size, num_representatives + num_tokens)` bool, from the tokens' `(batch_size,
    num_tokens)` mask (nonzero is real): a representative is real when its block holds a real token.
    """
    is_token = attention_mask != 0
    if num_representatives == 0:
        return is_token
    is_block = to_blocks(is_token, plan, is_token.shape[1]).any(dim=-1)
    return torch.cat([is_block.repeat_interleave(num_representatives // plan.num_blocks, dim=1), is_token], dim=1)


def _gather_blocks(blocked: torch.Tensor, key_blocks: torch.Tensor) -> torch.Tensor:
    """Row `(i, j)` of every document: its block `key_blocks[i, j]`, as `(batch_size · (N - G) · W, …)`."""
    batch_size, num_blocks = blocked.shape[:2]
    offsets = torch.arange(batch_size, device=blocked.device) * num_blocks
    index = offsets[:, None] + key_blocks.flatten()
    # Whole rows of one matrix: measured at half the time of the same selection along an inner dimension.
    return blocked.reshape(batch_size * num_blocks, -1).index_select(0, index.flatten())


def _window_mask(
    attention_mask: torch.Tensor | None, plan: BlockPlan, num_tokens: int, query: torch.Tensor
) -> torch.Tensor:
    """Which gathered slots each local block may attend to, `(batch_size · (N - G), W · (R + block_size))`."""
    if attention_mask is None:
        attention_mask = torch.ones(1, query.shape[1], dtype=torch.bool, device=query.device)
    blocked = to_blocks(attention_mask, plan, num_tokens)
    mask = blocked[:, plan.key_blocks] & plan.is_visible[None, :, :, None]
    return mask.expand(query.shape[0], -1, -1, -1).flatten(2, 3).flatten(0, 1)


def _masked_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_mask: torch.Tensor | None,
    scaling: float,
    dropout: float,
    may_see_nothing: bool = True,
) -> torch.Tensor:
    """
    SDPA on `(batch_size, length, num_heads, head_dim)` with one mask per key. A row whose keys are all masked is zero:
    it is computed with a zero query as if nothing were masked and then cleared, because kernels differ on such rows and
    a NaN cleared afterwards would still poison the gradient.
    """
    sees_something = None
    if key_mask is not None:
        if may_see_nothing:
            sees_something = key_mask.any(dim=-1, keepdim=True)
            key_mask = key_mask | ~sees_something
            query = query.masked_fill(~sees_something[:, :, None, None], 0.0)
        key_mask = key_mask[:, None, None, :]
    output = nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=key_mask,
        dropout_p=dropout,
        scale=scaling,
    ).transpose(1, 2)
    if sees_something is not None:
        output = output.masked_fill(~sees_something[:, :, None, None], 0.0)
    return output


# A mapping of our own: the names are transformers' (`attn_implementation="eager"`, `"sdpa"`), the functions ours, and no
# other model is touched. Executors registered with `AttentionInterface.register` are found through it as well.
ALL_ATTENTION_FUNCTIONS = AttentionInterface()
ALL_ATTENTION_FUNCTIONS["eager"] = eager_hst_attention
ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_hst_attention
