# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What the model and its heads return and how their passes become losses; the arguments that heads share, and their texts."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring

from .block_plan import BlockPlan
from .saor import SaorLoss, saor_loss
from .sparse_pattern import SparsePattern

Pattern = SparsePattern | BlockPlan | dict | str

PATTERN_ARGS = """
input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
    Ids of the tokens. Give either `input_ids` or `inputs_embeds`. A document has at most `max_position_embeddings`
    tokens.
attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
    1 for real tokens and 0 for padding, which may be on either side. All tokens are real when `None`. Which real
    tokens see each other is up to the pattern.
token_type_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)` or `(1, sequence_length)`, *optional*):
    The types of the tokens, from 0 to `type_vocab_size - 1`; 0 when `None`.
position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)` or `(1, sequence_length)`, *optional*):
    The positions of the tokens, from 0 to `max_position_embeddings - 1`. When `None`, the real tokens of each document
    are counted from 0.
inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
    Word embeddings instead of `input_ids`. `embedding_size` is `hidden_size` unless the config says otherwise.
pattern ([`SparsePattern`], `Mapping`, `str` or `BlockPlan`, *optional*):
    The sparse pattern of this call: a [`SparsePattern`], a mapping of its fields, or text such as
    `block_size=64,seed=0`. `config.pattern` when `None`. With `torch.compile`, give a plan that [`plan_batch`] made
    outside of the model with `is_static=True`: then another pattern or length does not compile the model again.
"""

ALIGNMENT_ARGS = """
alignment_pattern ([`SparsePattern`], `Mapping`, `str` or `BlockPlan`, *optional*):
    Layer alignment: the attention of each layer runs on the same states under this pattern as well, and
    `alignment_loss` is the distance of its outputs from those under `pattern`. Nothing else is changed by it.
num_tokens_in_batch (`int` or `torch.Tensor`, *optional*):
    Divisor of the summed alignment loss; the number of real tokens in the batch when `None`.
"""

DOCUMENTS_ARGS = """
cu_seq_lens_q (`torch.IntTensor` of shape `(num_documents + 1,)`, *optional*):
    For rows that hold several documents: where each document begins in the flattened batch, and where the last one
    ends, as `DataCollatorWithFlattening` gives it. Documents do not see each other, and positions begin at 0 in each.
    There is then one pooled output per document.
"""

HEAD_ARGS = (
    PATTERN_ARGS
    + """
consistency_pattern ([`SparsePattern`], `Mapping`, `str` or `BlockPlan`, *optional*):
    SAOR: a second pass over the same batch runs under this pattern, and `loss` becomes the mean of both task losses
    plus `consistency_alpha` times the divergence of the two output distributions. Needs labels. Logits and hidden
    states are those of the first pass. With the pattern of the first pass this is R-Drop: only dropout differs.
consistency_alpha (`float`, defaults to 1.0):
    Weight of the consistency loss or, with an `alignment_pattern`, of the alignment loss; at least 0.
consistency_temperature (`float`, defaults to 1.0):
    Logits are divided by this number before they are compared, and the divergence is multiplied by its square.
consistency_rows (`torch.LongTensor` of shape `(num_rows,)`, *optional*):
    The rows of the batch for the second pass, in rising order; all rows when `None`.
num_items_in_batch (`int` or `torch.Tensor`, *optional*):
    Divisor of the summed losses; the number of labels in the batch when `None`. `Trainer` gives the number of labels
    in all accumulated batches and processes.
"""
    + ALIGNMENT_ARGS
)


class RegularizationKwargs(TransformersKwargs, total=False):
    """What every head takes beside its named arguments."""

    consistency_pattern: Pattern | None
    consistency_alpha: torch.Tensor | float
    consistency_temperature: float
    consistency_rows: torch.Tensor | None
    alignment_pattern: Pattern | None
    num_tokens_in_batch: torch.Tensor | int | None


CLASS_WEIGHTS_ARGS = (
    HEAD_ARGS
    + """
class_weights (`torch.FloatTensor` of shape `(num_labels,)`, *optional*):
    A factor for each class: the task loss of a prediction is multiplied by that of its label. For single-label classes
    only.
"""
)

CANDIDATE_ARGS = (
    HEAD_ARGS
    + """
candidate_positions (`torch.LongTensor` of shape `(batch_size, num_candidates)`):
    The positions of the candidates' markers in the input. A negative position means that the row has no such
    candidate: its logit is the lowest number of the dtype.
"""
)


@dataclass
@auto_docstring(custom_intro="Output of [`ErnieSparseModel`].")
class ErnieSparseModelOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
        The hidden states of the tokens after the last layer, in the order of the input; zero for padding.
    pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`, *optional*):
        The last hidden state of the first real token after a linear layer and the activation `pooler_act`. `None`
        without a pooling layer.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*, with `output_hidden_states=True`):
        The hidden states of the tokens after the embeddings and after each layer, each of shape
        `(batch_size, sequence_length, hidden_size)`.
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*, with `output_attentions=True`):
        The attention weights between tokens in step 1 of each layer, each of shape
        `(batch_size, num_heads, sequence_length, sequence_length)`. The weights of a token add up to 1 minus what it
        gives to representatives. Only the attention backend `eager` makes them; with the others the tuple is empty.
    representative_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_blocks * num_representatives_per_block, hidden_size)`, *optional*):
        The hidden states of the representatives after the last layer, block by block; `None` if the pattern is not
        hierarchical.
    alignment_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With an alignment pattern: the mean over layers and real tokens of `smooth_l1(a, b) + smooth_l1(b, a)`, where
        `a` and `b` are the outputs of attention under the two patterns.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    representative_hidden_state: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None


@dataclass
@auto_docstring(custom_intro="Output of all heads but [`ErnieSparseForQuestionAnswering`].")
class ErnieSparseHeadOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*):
        With labels: the task loss. With a second pattern: the task loss plus `consistency_alpha` times the consistency
        or alignment loss.
    logits (`torch.FloatTensor`, *optional*):
        The outputs before softmax or sigmoid, or the predicted numbers. Their shape depends on the head. The masked-LM
        head returns `None` in training when it gets labels.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*, with `output_hidden_states=True`):
        As in [`ErnieSparseModelOutput`].
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*, with `output_attentions=True`):
        As in [`ErnieSparseModelOutput`].
    task_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With labels and a second pattern: the task loss; with a consistency pattern, the mean over both passes.
    consistency_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With a consistency pattern: the symmetric divergence, not yet multiplied by `consistency_alpha`.
    alignment_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With an alignment pattern: as in [`ErnieSparseModelOutput`], not yet multiplied by `consistency_alpha`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    task_loss: torch.FloatTensor | None = None
    consistency_loss: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None


@dataclass
@auto_docstring(custom_intro="Output of [`ErnieSparseForQuestionAnswering`].")
class ErnieSparseQuestionAnsweringOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*):
        With labels: the mean of the losses of start and end. With a second pattern as in [`ErnieSparseHeadOutput`].
    start_logits (`torch.FloatTensor` of shape `(batch_size, sequence_length)`):
        For each token, the score before softmax that the answer starts there.
    end_logits (`torch.FloatTensor` of shape `(batch_size, sequence_length)`):
        For each token, the score before softmax that the answer ends there.
    hidden_states (`tuple[torch.FloatTensor, ...]`, *optional*, with `output_hidden_states=True`):
        As in [`ErnieSparseModelOutput`].
    attentions (`tuple[torch.FloatTensor, ...]`, *optional*, with `output_attentions=True`):
        As in [`ErnieSparseModelOutput`].
    task_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With labels and a second pattern: the task loss; with a consistency pattern, the mean over both passes.
    consistency_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With a consistency pattern: the symmetric divergence, not yet multiplied by `consistency_alpha`.
    alignment_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With an alignment pattern: as in [`ErnieSparseModelOutput`], not yet multiplied by `consistency_alpha`.
    """

    loss: torch.FloatTensor | None = None
    start_logits: torch.FloatTensor | None = None
    end_logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    task_loss: torch.FloatTensor | None = None
    consistency_loss: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None


class Passes(NamedTuple):
    """
    The passes of a head.

    Args:
        outputs (`list[ErnieSparseModelOutput]`): Of the base model, one or two.
        alpha, temperature (`float`), rows (`torch.LongTensor`, *optional*): As in [`saor_loss`].
    """

    outputs: list[ErnieSparseModelOutput]
    alpha: torch.Tensor | float = 1.0
    temperature: float = 1.0
    rows: torch.Tensor | None = None

    def each(self, states: torch.Tensor | None) -> list[torch.Tensor | None]:
        """What the passes have of `states`, which have a row for every row of the batch."""
        is_part = self.rows is not None and states is not None
        second = states.index_select(0, self.rows) if is_part else states
        return [states, second][: len(self.outputs)]

    def losses(self, distribution: str, logits, labels: torch.Tensor | None, num_items, class_weights=None) -> SaorLoss:
        """The losses of the passes' logits; none without labels."""
        if labels is None:
            return SaorLoss()
        second, weights = logits[1] if len(logits) > 1 else None, (self.alpha, num_items, class_weights)
        labels = labels.to(logits[0].device)
        return saor_loss(distribution, logits[0], labels, second, *weights, self.temperature, self.rows)

    def fields(self, losses: SaorLoss) -> dict:
        """What every head returns beside its logits."""
        alignment = self.outputs[0].alignment_loss
        if alignment is not None and losses.loss is not None:
            losses = SaorLoss(losses.loss + self.alpha * alignment, losses.loss)
        hidden_states, attentions = self.outputs[0].hidden_states, self.outputs[0].attentions
        recorded = {"hidden_states": hidden_states, "attentions": attentions}
        return {**losses._asdict(), "alignment_loss": alignment, **recorded}
