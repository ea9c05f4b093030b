# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The encoders of the comparison, one row each and all of one size, and the classifier that stands on any of them."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    BigBirdConfig,
    LongformerConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from ernie_sparse import ErnieSparseConfig, SparsePattern
from ernie_sparse.input_checks import check_labels
from ernie_sparse.modeling_ernie_sparse import ErnieSparseHeadOutput
from ernie_sparse.saor import saor_loss

from .tasks import LraTask

# The small size in which PyTorch re-implementations of the benchmark compare encoders. No dropout on attention weights,
# which BigBird's sparse attention does not have: our choice.
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    # As wide as PyTorch's own of that width. BERT's 0.02 is of width 768: at 64, attention begins nearly flat.
    "initializer_range": 0.07,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "sep_token_id": None,
}
BLOCK_SIZE = 64
BIGBIRD_RANDOM_BLOCKS = 3
# A shorter batch turns BigBird into full attention, for good.
BIGBIRD_MIN_LENGTH = (5 + 2 * BIGBIRD_RANDOM_BLOCKS) * BLOCK_SIZE + 1
# Both sides together: as wide as three blocks.
LONGFORMER_WINDOW = 3 * BLOCK_SIZE


@dataclass(frozen=True)
class LraModel:
    """
    Args:
        what (`str`): In a few words, for the list and the tables.
        pattern ([`SparsePattern`], *optional*): Of an ERNIE-Sparse encoder; `None` for an encoder of transformers.
        saor_alpha (`float`): Weight of SAOR's consistency loss.
        saor_patterns (`tuple[str]`, *optional*): What SAOR draws the second pattern from, where not its defaults.
        min_length (`int`): Batches are padded to at least that many symbols.
        not_captured (`str`, *optional*): Why its steps cannot be CUDA graphs, where they cannot.
    """

    what: str
    pattern: SparsePattern | None = None
    saor_alpha: float = 0.0
    saor_patterns: tuple[str, ...] | None = None
    min_length: int = 1
    not_captured: str | None = None


HST = SparsePattern(block_size=BLOCK_SIZE)
FLAT = SparsePattern(block_size=BLOCK_SIZE, hierarchical=False)

MODELS = {
    "hst": LraModel("ERNIE-Sparse: HST", HST),
    "hst-saor": LraModel("ERNIE-Sparse: HST and SAOR", HST, saor_alpha=1.0),
    "hst-rdrop": LraModel("HST and R-Drop", HST, saor_alpha=1.0, saor_patterns=("none",)),
    "flat": LraModel("the same pattern without HST", FLAT),
    "bigbird-like": LraModel(
        "BigBird's pattern without HST", FLAT.changed_by("num_global_blocks=2,num_random_blocks=3")
    ),
    "window": LraModel("window only", FLAT.changed_by("num_global_blocks=0")),
    "dense": LraModel("full attention", SparsePattern.full(BLOCK_SIZE)),
    "bigbird": LraModel(
        "BigBird of transformers",
        min_length=BIGBIRD_MIN_LENGTH,
        not_captured="draws its random blocks on the CPU in every forward, and a captured one would keep its first draw",
    ),
    "longformer": LraModel(
        "Longformer of transformers", not_captured="reads back from the device which places see everything"
    ),
}

# Changes of a pattern that no draw of SAOR's defaults makes: what a model is asked about that was trained with it.
UNSEEN_PATTERNS = (
    "block_size=16",
    "block_size=256",
    "num_window_blocks=7",
    "num_global_blocks=0",
    "num_global_blocks=4",
    "num_random_blocks=6",
    "hierarchical=false",
)


def build_config(name: str, task: LraTask, pattern: SparsePattern | None = None) -> PreTrainedConfig:
    """The config of the encoder called `name` for a task, under another pattern than its own if one is given."""
    settings = {**SIZES, "vocab_size": task.vocab_size, "max_position_embeddings": task.max_length}
    if name == "bigbird":
        # It fills its input up to whole blocks, and each place there needs a position.
        settings["max_position_embeddings"] = -(-task.max_length // BLOCK_SIZE) * BLOCK_SIZE
        return BigBirdConfig(
            **settings,
            attention_type="block_sparse",
            block_size=BLOCK_SIZE,
            num_random_blocks=BIGBIRD_RANDOM_BLOCKS,
        )
    if name == "longformer":
        # Its positions begin behind that of padding.
        settings["max_position_embeddings"] += 1
        return LongformerConfig(**settings, attention_window=LONGFORMER_WINDOW)
    config = ErnieSparseConfig(**{key: value for key, value in settings.items() if key != "sep_token_id"})
    config.pattern = pattern or MODELS[name].pattern
    return config


def encoder_of(masked_lm: PreTrainedModel) -> PreTrainedModel:
    """The encoder of a model for masked modelling, without BigBird's pooler, which nothing here reads."""
    encoder = masked_lm.base_model
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


class LraClassifier(nn.Module):
    """
    Mean pooling over the symbols of each document and a head of two layers. Two documents are encoded on their own, by the
    same weights, and the head reads both vectors, their product and their difference.

    Args:
        encoder (`PreTrainedModel`): Any base model, without a pooler.
        num_documents (`int`): 1 or 2.
        num_labels (`int`)
    """

    # Trainer passes the number of labels of the whole update.
    accepts_loss_kwargs = True

    def __init__(self, encoder: PreTrainedModel, num_documents: int, num_labels: int):
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        width = self.config.hidden_size * (1 if num_documents == 1 else 4)
        self.classifier = nn.Sequential(
            nn.Linear(width, self.config.intermediate_size),
            nn.ReLU(),
            nn.Dropout(self.config.hidden_dropout_prob),
            nn.Linear(self.config.intermediate_size, num_labels),
        )

    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor,
        labels: torch.LongTensor | None = None,
        pattern=None,
        consistency_pattern=None,
        consistency_alpha: float = 1.0,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> ErnieSparseHeadOutput | SequenceClassifierOutput:
        """
        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(batch_size, num_documents, sequence_length)`)
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*)
            pattern, consistency_pattern, consistency_alpha, num_items_in_batch: As for the heads of ERNIE-Sparse, the
                patterns for its encoders alone.
        """
        passes = [pattern] if consistency_pattern is None else [pattern, consistency_pattern]
        logits = [self._logits(input_ids, attention_mask, p) for p in passes]
        if labels is None:
            return SequenceClassifierOutput(logits=logits[0])
        check_labels(
            "categorical", labels, ("batch_size",), input_ids.shape[:1], logits[0].shape[-1], num_items_in_batch
        )
        losses = saor_loss(
            "categorical", logits[0], labels, *logits[1:], alpha=consistency_alpha, num_items=num_items_in_batch
        )
        return ErnieSparseHeadOutput(**losses._asdict(), logits=logits[0])

    def _logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, pattern) -> torch.Tensor:
        batch_size, num_documents = input_ids.shape[:2]
        mask = attention_mask.flatten(0, 1)
        options = {} if pattern is None else {"pattern": pattern}
        if self.config.model_type == "longformer":
            # As it ships: the first place sees all and is seen by all.
            options["global_attention_mask"] = torch.zeros_like(mask).index_fill(1, mask.new_zeros(1), 1)
        states = self.encoder(input_ids.flatten(0, 1), mask, **options).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1)
        pooled = pooled.view(batch_size, num_documents, -1)
        if num_documents == 1:
            return self.classifier(pooled[:, 0])
        first, second = pooled.unbind(1)
        return self.classifier(torch.cat([first, second, first * second, first - second], dim=-1))
