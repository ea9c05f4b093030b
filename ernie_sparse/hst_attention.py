# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Attention over tokens and representatives under a block plan: one signature and three attention backends, the dense
reference, the block form and FlexAttention.

A sequence has one order: first the representatives of all blocks, block by block, then the tokens. Its length and its
positions count both.
"""

import functools
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from transformers import AttentionInterface
from transformers.utils import logging

from .block_attention import BlockRows, block_attention, masked_sdpa, runs_on_cpu
from .flex_block_mask import FlexTables, compiled_flex_attention, flex_block_mask
from .sparse_pattern import BlockPlan, SparsePattern, block_plan

logger = logging.get_logger(__name__)

# Up to 512 tokens and their representatives, one dense call under the same mask takes no longer than blocks do.
MAX_DENSE_LENGTH = 576


class HstAttentionMaps(NamedTuple):
    """
    The attention weights of one call, cut where tokens and representatives meet. Together the three parts are every
    map there is; the output is computed from them, so each can retain its gradient.

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


def position_blocks(plan: BlockPlan, sequence_length: int) -> torch.Tensor:
    """The block of every position, `(sequence_length,)`, representatives first."""
    blocks = torch.arange(plan.num_blocks, device=plan.key_blocks.device)
    representatives = blocks.repeat_interleave((sequence_length - plan.num_tokens) // plan.num_blocks)
    return torch.cat([representatives, plan.token_blocks])


def dense_mask(plan: BlockPlan, sequence_length: int) -> torch.Tensor:
    """The plan read position by position, `(1, 1, sequence_length, sequence_length)`: True where row sees column."""
    blocks = position_blocks(plan, sequence_length)
    return plan.block_mask()[blocks[:, None], blocks[None, :]][None, None]


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
    The dense reference: one softmax over all positions under [`dense_mask`]. Memory grows with the length squared.

    Args:
        query, key, value (`torch.Tensor` of shape `(batch_size, num_heads, sequence_length, head_dim)`)
        attention_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Which positions are real; all of them when `None`.
        plan ([`BlockPlan`], *optional*): Who sees whom; everyone sees everyone when `None` (HST's second step).
        num_tokens (`int`): How many of the positions, the last ones, are tokens.
        scaling (`float`): Factor on the dot products.
        dropout (`float`, defaults to 0.0): Probability of dropping an attention weight, in training.

    Returns:
        The output of shape `(batch_size, sequence_length, num_heads, head_dim)`, zero in rows that see nothing, and the
        [`HstAttentionMaps`].
    """
    sequence_length = query.shape[2]
    num_representatives = sequence_length - num_tokens
    if plan is None:
        visible = torch.ones(1, 1, sequence_length, sequence_length, dtype=torch.bool, device=query.device)
    else:
        visible = dense_mask(plan, sequence_length)
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
        representative_to_sequence=weights[:, :, :num_representatives],
    )
    to_tokens = torch.matmul(maps.token_to_token, value[:, :, num_representatives:]) + torch.matmul(
        maps.token_to_representative, value[:, :, :num_representatives]
    )
    to_representatives = torch.matmul(maps.representative_to_sequence, value)
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
    The block form: each block's positions against those of the blocks it sees, and the global blocks against their
    whole document. Memory grows linearly with the length. Where everything sees everything, and up to
    `MAX_DENSE_LENGTH` without dropout, it is one dense call. Arguments and output as in [`eager_hst_attention`],
    without the maps.
    """
    dropout = dropout if module.training else 0.0
    sequence_length = query.shape[2]
    if plan is None or plan.sees_everything:
        return _dense_attention(query, key, value, attention_mask, scaling, dropout).transpose(1, 2), None
    if sequence_length <= MAX_DENSE_LENGTH and not dropout and _is_whole(plan):
        key_mask = _cached_dense_mask(plan.pattern, num_tokens, sequence_length, query.device)
        if attention_mask is not None:
            key_mask = key_mask & attention_mask[:, None, None]
        output = masked_sdpa(query, key, value, key_mask, scaling, dropout, may_see_nothing=attention_mask is not None)
        return output.transpose(1, 2), None
    query, key, value = (to_blocks(states, plan, num_tokens, dim=2) for states in (query, key, value))
    tables = _tables(plan, attention_mask, num_tokens, sequence_length)
    output = block_attention(query, key, value, tables, scaling, dropout)
    return from_blocks(output.permute(0, 2, 3, 1, 4), plan, num_tokens), None


def _is_whole(plan: BlockPlan) -> bool:
    """Whether the plan is its pattern's own, so that the pattern stands for it; not where padding was dropped."""
    return not torch.compiler.is_compiling() and plan is block_plan(
        plan.pattern, plan.num_tokens, plan.key_blocks.device
    )


@functools.lru_cache(maxsize=16)
def _cached_dense_mask(
    pattern: SparsePattern, num_tokens: int, sequence_length: int, device: torch.device
) -> torch.Tensor:
    with torch.inference_mode(False):
        return dense_mask(block_plan(pattern, num_tokens, device), sequence_length)


def _dense_attention(query, key, value, attention_mask, scaling, dropout) -> torch.Tensor:
    """Everything sees everything, `(batch_size, num_heads, sequence_length, head_dim)`."""
    if dropout and runs_on_cpu(query):
        # One row of one block, which holds all positions.
        query, key, value = (states.unsqueeze(2) for states in (query, key, value))
        block = torch.zeros(1, 1, dtype=torch.long)
        rows = BlockRows(block, block, None if attention_mask is None else attention_mask[:, None])
        return block_attention(query, key, value, (rows,), scaling, dropout).squeeze(2)
    key_mask = None if attention_mask is None else attention_mask[:, None, None]
    return masked_sdpa(query, key, value, key_mask, scaling, dropout)


def flex_hst_attention(
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
    FlexAttention over tiles of positions. What it cannot do goes through [`sdpa_hst_attention`], with a warning:
    attention dropout, and gradients on the CPU. So does, silently, what is dense. Arguments and output as there.
    """
    lacks = None
    if dropout and module.training:
        lacks = "attention dropout"
    elif (
        query.device.type == "cpu"
        and torch.is_grad_enabled()
        and any(states.requires_grad for states in (query, key, value))
    ):
        lacks = "backward pass on the CPU"
    is_dense = plan is None or plan.sees_everything
    if is_dense or lacks is not None:
        if not is_dense:
            logger.warning_once(f"FlexAttention has no {lacks}: attn_implementation='sdpa' is used instead")
        settings = {"plan": plan, "num_tokens": num_tokens, "scaling": scaling, "dropout": dropout}
        return sdpa_hst_attention(module, query, key, value, attention_mask, **settings)
    sequence_length = query.shape[2]
    tables = _flex_tables(plan, sequence_length)
    block_mask, empty_rows = flex_block_mask(tables, attention_mask, batch_size=len(query))
    behind = tables.position_blocks.shape[0] - sequence_length
    query, key, value = (nn.functional.pad(states, (0, 0, 0, behind)) for states in (query, key, value))
    attention = flex_attention if torch.compiler.is_compiling() else compiled_flex_attention()
    output = attention(query, key, value, block_mask=block_mask, scale=scaling)[:, :, :sequence_length].transpose(1, 2)
    return output if empty_rows is None else output.masked_fill(empty_rows[:, :, None, None], 0.0), None


def _flex_tables(plan: BlockPlan, sequence_length: int) -> FlexTables:
    if not _is_whole(plan):
        return FlexTables.build(plan, position_blocks(plan, sequence_length))
    return _cached_flex_tables(plan.pattern, plan.num_tokens, sequence_length, plan.key_blocks.device)


@functools.lru_cache(maxsize=16)
def _cached_flex_tables(
    pattern: SparsePattern, num_tokens: int, sequence_length: int, device: torch.device
) -> FlexTables:
    with torch.inference_mode(False), torch.no_grad():
        plan = block_plan(pattern, num_tokens, device)
        return FlexTables.build(plan, position_blocks(plan, sequence_length))


def _tables(plan: BlockPlan, attention_mask: torch.Tensor | None, num_tokens: int, sequence_length: int):
    """The plan's two block tables with their masks: global blocks, document by document, and the others."""
    device, num_global = plan.key_blocks.device, plan.num_global_blocks
    is_padded = attention_mask is not None
    has_places = torch.compiler.is_compiling() or num_tokens < len(plan.places)
    if not is_padded:
        attention_mask = torch.ones(1, sequence_length, dtype=torch.bool, device=device)
    # Places before the first and behind the last token become False.
    is_real = to_blocks(attention_mask, plan, num_tokens)
    local_mask = is_real[:, plan.key_blocks] & plan.is_visible[None, :, :, None]
    blocks, tables = torch.arange(plan.num_blocks, device=device), []
    if num_global:
        global_mask = None
        if is_padded or has_places:
            global_mask = (is_real[:, plan.documents] & plan.in_document[None, :, :, None]).flatten(2)
        num_documents = plan.documents.shape[0]
        rows = blocks[:num_global].view(num_documents, -1)
        tables.append(BlockRows(rows, plan.documents, global_mask, is_padded, sees_all_in_order=num_documents == 1))
    if plan.key_blocks.shape[0]:
        tables.append(BlockRows(blocks[num_global:, None], plan.key_blocks, local_mask.flatten(2), is_padded))
    return tuple(tables)


def cut(states: torch.Tensor, size: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `size` along `dim`, and the rest."""
    rest = states.shape[dim] - size
    if torch.compiler.is_exporting():
        # ONNX has no split by sizes that depend on the input.
        return states.narrow(dim, 0, size), states.narrow(dim, size, rest)
    # Split, not sliced twice: the gradient of a slice is a tensor of the whole size.
    return states.split([size, rest], dim=dim)


def to_blocks(states: torch.Tensor, plan: BlockPlan, num_tokens: int, dim: int = 1) -> torch.Tensor:
    """
    `(…, sequence_length, …)`, along `dim`, to `(…, N, R + block_size, …)`: each block's representatives and then its
    tokens. Places before the first and behind the last token are filled with zeros.
    """
    representatives, tokens = cut(states, states.shape[dim] - num_tokens, dim)
    if torch.compiler.is_compiling():
        # By index, so that no number of the pattern becomes a constant of the program.
        nothing = tokens.new_zeros(*tokens.shape[:dim], 1, *tokens.shape[dim + 1 :])
        tokens = torch.cat([tokens, nothing], dim=dim).index_select(dim, plan.places)
    else:
        before = plan.pattern.block_shift
        behind = len(plan.places) - before - num_tokens
        if before or behind:
            tokens = nn.functional.pad(tokens, (*(0, 0) * (tokens.dim() - dim - 1), before, behind))
    parts = [part.unflatten(dim, (plan.num_blocks, -1)) for part in (representatives, tokens)]
    return torch.cat(parts, dim=dim + 1)


def from_blocks(blocks: torch.Tensor, plan: BlockPlan, num_tokens: int) -> torch.Tensor:
    """The inverse of [`to_blocks`], `(batch_size, N, R + block_size, …)` to `(batch_size, sequence_length, …)`."""
    block_size = plan.places.shape[0] // plan.num_blocks
    representatives, tokens = (part.flatten(1, 2) for part in cut(blocks, blocks.shape[2] - block_size, dim=2))
    if torch.compiler.is_compiling():
        tokens = tokens.index_select(1, plan.token_places)
    elif tokens.shape[1] != num_tokens:
        tokens = tokens.narrow(1, plan.pattern.block_shift, num_tokens)
    return torch.cat([representatives, tokens], dim=1)


def sequence_mask(attention_mask: torch.Tensor, plan: BlockPlan, num_representatives: int) -> torch.Tensor:
    """
    Which positions are real, `(batch_size, num_representatives + num_tokens)` bool, from the tokens' `(batch_size,
    num_tokens)` mask (nonzero is real): a representative is real when its block holds a real token.
    """
    is_token = attention_mask != 0
    if num_representatives == 0:
        return is_token
    is_block = to_blocks(is_token, plan, is_token.shape[1]).any(dim=-1)
    return torch.cat([is_block.repeat_interleave(num_representatives // plan.num_blocks, dim=1), is_token], dim=1)


# A mapping of our own: the names are transformers' (`attn_implementation="eager"`, `"sdpa"`), the functions ours, and
# no other model is touched. What is registered with `AttentionInterface.register` is found through it as well.
ALL_ATTENTION_FUNCTIONS = AttentionInterface()
ALL_ATTENTION_FUNCTIONS["eager"] = eager_hst_attention
ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_hst_attention
ALL_ATTENTION_FUNCTIONS["flex_attention"] = flex_hst_attention
