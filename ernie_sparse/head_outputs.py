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
pattern ([`SparsePattern`], `Mapping`, `str` or [`BlockPlan`], *optional*):
    The sparse pattern of this call alone: a value, its fields, or text such as `block_size=64,seed=0`. The config's
    when `None`. A compiled model takes what [`plan_batch`] makes of the pattern, outside and with `is_static=True`, without
    compiling anew for another pattern or length.
"""

ALIGNMENT_ARGS = """
alignment_pattern ([`SparsePattern`], `Mapping`, `str` or [`BlockPlan`], *optional*):
    Layer alignment: run the attention of each layer under this pattern as well, on the same states, and return how far tokens
    get different outputs from the two. Everything else is of `pattern`.
num_tokens_in_batch (`int` or `torch.Tensor`, *optional*):
    What the summed alignment loss is divided by; the number of real tokens in the batch when `None`.
"""

DOCUMENTS_ARGS = """
cu_seq_lens_q (`torch.IntTensor` of shape `(num_documents + 1,)`, *optional*):
    Several documents in a row: where each begins in the flat batch, and where the last one ends, as
    `DataCollatorWithFlattening` gives it. They do not see each other, and their positions begin anew.
"""

HEAD_ARGS = (
    PATTERN_ARGS
    + """
consistency_pattern ([`SparsePattern`], `Mapping`, `str` or [`BlockPlan`], *optional*):
    SAOR: run a second pass over the same batch under this pattern and add the divergence of the two output
    distributions to the mean of their task losses. Needs labels. Everything but the losses is of the first pass. The
    pattern of the call itself is R-Drop: dropout alone differs.
consistency_alpha (`float`, defaults to 1.0):
    Weight of the consistency loss or, with an `alignment_pattern`, of the alignment loss.
consistency_temperature (`float`, defaults to 1.0):
    What logits are divided by before their distributions are compared; the divergence is multiplied by its square.
consistency_rows (`torch.LongTensor` of shape `(num_rows,)`, *optional*):
    The rows of the batch that the second pass is over, in rising order; all when `None`.
num_items_in_batch (`int` or `torch.Tensor`, *optional*):
    What the summed losses are divided by; the number of labels in the batch when `None`. `Trainer` passes the count
    over all accumulated batches and processes.
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
    Factor on the task loss by the label, where classes exclude each other.
"""
)

CANDIDATE_ARGS = (
    HEAD_ARGS
    + """
candidate_positions (`torch.LongTensor` of shape `(batch_size, num_candidates)`):
    Where the candidates' markers stand; negative where a row has fewer candidates. The logits there are the least
    number of their dtype.
"""
)


@dataclass
@auto_docstring(custom_intro="Output of [`ErnieSparseModel`].")
class ErnieSparseModelOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
        The tokens' hidden states, aligned with `input_ids`.
    pooler_output (`torch.FloatTensor` of shape `(batch_size, hidden_size)`, *optional*):
        The first token's hidden state behind a linear layer and the activation `pooler_act`.
    representative_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_blocks * num_representatives_per_block, hidden_size)`, *optional*):
        The representatives' hidden states, block by block; `None` when the pattern is not hierarchical.
    alignment_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With an alignment pattern: the mean over layers and real tokens of the two-way smooth L1 between the outputs of attention.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    representative_hidden_state: torch.FloatTensor | None = None
    alignment_loss: torch.FloatTensor | None = None


@dataclass
@auto_docstring(custom_intro="Output of the heads that predict classes or numbers.")
class ErnieSparseHeadOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*):
        With labels: the task loss or, with a second pattern, the task loss plus alpha times the consistency or alignment loss.
    logits (`torch.FloatTensor`, *optional*):
        Scores before softmax; `None` from the masked-LM head in training when it is given labels.
    task_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With a second pattern: the task loss, the mean of both passes where there are two.
    consistency_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With a consistency pattern: the symmetric divergence, before alpha.
    alignment_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With an alignment pattern: as in [`ErnieSparseModelOutput`], before alpha.
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
        The mean of the start's and the end's loss; with a second pattern as in the other heads.
    task_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With a second pattern: the task loss, the mean of both passes where there are two.
    consistency_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With a consistency pattern: the symmetric divergence, before alpha.
    alignment_loss (`torch.FloatTensor` of shape `()`, *optional*):
        With an alignment pattern: as in [`ErnieSparseModelOutput`], before alpha.
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
