# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Layer alignment: in each layer attention runs on the same states under a second pattern as well, and what tokens get from the
two is pulled together, as SSA (arXiv 2511.20102) does it with full and sparse attention. Only the first pattern's output goes on.

Blocks and representatives of two patterns do not correspond, tokens do: they alone are compared. The states of the second
pattern's representatives, which are keys and values there, do not exist in such a pass. In their place stands, for each block
of the second pattern, the representative of that block of the first which holds its middle token (our choice). It is a state
that the model made to be read as a representative, with what step 2 of the layers below has brought it, where the mean of a
block's tokens would be none; and a pattern has no distance from itself.
"""

from typing import NamedTuple

import torch
from torch import nn

from .block_plan import BlockPlan


class LayerAlignment(NamedTuple):
    """
    The second pattern of one call, beside the first.

    Args:
        plan ([`BlockPlan`]): Of the second pattern, over the same batch.
        sources (`torch.LongTensor` of shape `(length,)`):
            For every position of the second plan's stream, the position of the first's whose state stands there.
        tokens (`torch.LongTensor` of shape `(num_tokens,)`): The positions of tokens in the first plan's stream.
        is_padding (`torch.BoolTensor` of shape `(num_tokens,)`, *optional*): Which tokens are not real; `None` where all are.
    """

    plan: BlockPlan
    sources: torch.Tensor
    tokens: torch.Tensor
    is_padding: torch.Tensor | None

    @classmethod
    def of(cls, first: BlockPlan, second: BlockPlan) -> "LayerAlignment":
        """
        Raises:
            `ValueError`: Plans of different batches, or representatives in the second that the first has no states for.
        """
        if first.tokens.shape != second.tokens.shape:
            raise ValueError("pattern and alignment_pattern are plans of different batches")
        if second.is_hierarchical and not first.is_hierarchical:
            raise ValueError(
                "the alignment_pattern is hierarchical and the pattern of the pass is not: there are no states for its "
                "representatives"
            )
        representatives = first.representatives
        if second.is_hierarchical:
            blocks = first.position_blocks[first.tokens[_middle_tokens(second)]]
            representatives = representatives.unflatten(0, (-1, first.num_representatives))[blocks].flatten()
        is_padding = None if first.is_real is None else ~first.is_real[first.tokens]
        return cls(second, second.join(first.tokens, representatives), first.tokens, is_padding)

    def loss(self, output: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """
        smooth_l1(a, stop(b)) + smooth_l1(b, stop(a)), meant over a token's features and summed over real tokens.

        Args:
            output, other (`torch.Tensor` of shape `(length, num_heads, head_dim)`): Of attention under the two plans.
        """
        dtype = torch.promote_types(output.dtype, torch.float32)
        pair = [
            states.index_select(0, tokens).flatten(1).to(dtype)
            for states, tokens in ((output, self.tokens), (other, self.plan.tokens))
        ]
        if self.is_padding is not None:
            pair = [states.masked_fill(self.is_padding[:, None], 0.0) for states in pair]
        loss = nn.functional.smooth_l1_loss(*pair, reduction="sum") / pair[0].shape[1]
        # The two terms are equal, and the gradients of both together are those of one whose gradient is not stopped.
        return loss + loss.detach()


def _middle_tokens(plan: BlockPlan) -> torch.Tensor:
    """The token in the middle of the real ones of each block: most of the block stands in the other pattern's block around it."""
    num_real = plan.num_tokens[plan.block_documents] - plan.token_numbers[plan.first_tokens]
    num_real = torch.minimum(plan.block_bounds.diff() - plan.num_representatives, num_real).clamp(min=1)
    return plan.first_tokens + (num_real - 1).div(2, rounding_mode="floor")
