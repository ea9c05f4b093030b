# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Attention over tokens and representatives under a plan: one signature and two attention backends, of which one is the dense
reference implementation."""

from typing import NamedTuple

import torch
from torch import nn
from transformers import AttentionInterface

from .block_attention import block_attention, dense_attention, runs_on_cpu
from .block_kernel import can_take
from .block_plan import BlockPlan, Documents


class HstAttentionMaps(NamedTuple):
    """
    The attention weights of one call in the shape of the batch, cut where tokens and representatives meet. Together the
    three parts are every map there is; the output is computed from them, so each can retain its gradient.

    Args:
        token_to_token (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, num_tokens)`):
            Rows add up to one less the share that goes to representatives.
        token_to_representative (`torch.Tensor` of shape `(batch_size, num_heads, num_tokens, num_representatives)`)
        representative_to_sequence (`torch.Tensor` of shape `(batch_size, num_heads, num_representatives, sequence_length)`):
            Columns in order, representatives first.
    """

    token_to_token: torch.Tensor
    token_to_representative: torch.Tensor
    representative_to_sequence: torch.Tensor


def eager_hst_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: BlockPlan | Documents,
    *,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, HstAttentionMaps | None]:
    """
    The dense reference implementation: one softmax over all positions of a row of the batch, representatives first, under
    [`BlockPlan.visibility`]. Memory grows with the length squared.

    Args:
        query, key, value (`torch.Tensor` of shape `(length, num_heads, head_dim)`): Of the stream.
        plan ([`BlockPlan`] or [`Documents`]): Who sees whom; in `Documents` all see all of their document.
        scaling (`float`): Factor on the dot products.
        dropout (`float`, defaults to 0.0): Probability of dropping an attention weight, in training.

    Returns:
        The output, of the query's shape, and the [`HstAttentionMaps`]; `None` for `Documents`.
    """
    if isinstance(plan, Documents):
        rows, visible, num_representatives = plan, None, 0
        if plan.key_mask is not None:
            visible = plan.key_mask[:, None]
    else:
        rows, num_representatives = _batch_rows(plan)
        visible = plan.visibility(rows) & rows.key_mask[:, None]
    query, key, value = (rows.rows(states).transpose(1, 2) for states in (query, key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None], torch.finfo(scores.dtype).min)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    if visible is not None:
        weights = weights.masked_fill(~visible[:, None], 0.0)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    maps = HstAttentionMaps(
        token_to_token=weights[:, :, num_representatives:, num_representatives:],
        token_to_representative=weights[:, :, num_representatives:, :num_representatives],
        representative_to_sequence=weights[:, :, :num_representatives],
    )
    to_tokens = torch.matmul(maps.token_to_token, value[:, :, num_representatives:]) + torch.matmul(
        maps.token_to_representative, value[:, :, :num_representatives]
    )
    to_representatives = torch.matmul(maps.representative_to_sequence, value)
    output = rows.stream(torch.cat([to_representatives, to_tokens], dim=2).transpose(1, 2))
    return output, maps if isinstance(plan, BlockPlan) else None


def _batch_rows(plan: BlockPlan) -> tuple[Documents, int]:
    """The rows of the batch, first their representatives and then their places, and how many representatives these are."""
    batch_size, num_places = plan.batch.shape
    device, length = plan.tokens.device, plan.position_blocks.shape[0]
    sources = torch.arange(batch_size * num_places, device=device) if plan.sources is None else plan.sources
    # Where every position stands: its row, and its column there.
    rows = sources[plan.first_tokens].div(num_places, rounding_mode="floor")
    rows = rows.repeat_interleave(plan.representatives.shape[0] // max(1, rows.shape[0]))
    sizes = torch.zeros(batch_size, dtype=torch.long, device=device).index_add(0, rows, torch.ones_like(rows))
    width = int(sizes.max())
    columns = torch.arange(rows.shape[0], device=device) - (sizes.cumsum(0) - sizes)[rows]
    places = torch.empty(length, dtype=torch.long, device=device)
    places[plan.representatives] = rows * (width + num_places) + columns
    places[plan.tokens] = sources // num_places * (width + num_places) + width + sources % num_places
    index = torch.zeros(batch_size * (width + num_places), dtype=torch.long, device=device)
    is_real = torch.zeros_like(index, dtype=torch.bool)
    index[places] = torch.arange(length, device=device)
    is_real[places] = True if plan.is_real is None else plan.is_real
    shape = (batch_size, width + num_places)
    return Documents(batch_size, index.view(shape), is_real.view(shape), places), width


def sdpa_hst_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: BlockPlan | Documents,
    *,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """
    The block form: each block's positions against those of the blocks it sees, and the global blocks against their
    whole document. Memory grows linearly with the length. Where everything sees everything, and in short documents
    without dropout, it is one dense call. Arguments and output as in [`eager_hst_attention`], without the maps.
    """
    dropout = dropout if module.training else 0.0
    if isinstance(plan, Documents):
        return dense_attention(query, key, value, plan, scaling, dropout), None
    is_dense = plan.sees_everything or plan.visible is not None
    # Dropout takes SDPA on the CPU off its fast kernel, and a mask on a GPU.
    is_slow = runs_on_cpu(query) if dropout else plan.documents.key_mask is not None and can_take(query, plan)
    if is_dense and not is_slow:
        return dense_attention(query, key, value, plan.documents, scaling, dropout, plan.visible), None
    return block_attention(query, key, value, plan, scaling, dropout), None


# A mapping of our own: the names are transformers' (`attn_implementation="eager"`, `"sdpa"`), the functions ours, and
# no other model is touched. What is registered with `AttentionInterface.register` is found through it as well.
ALL_ATTENTION_FUNCTIONS = AttentionInterface()
ALL_ATTENTION_FUNCTIONS["eager"] = eager_hst_attention
ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_hst_attention
