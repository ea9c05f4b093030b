# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The families of checkpoints that can be converted, and how each differs from ERNIE-Sparse: another one is an entry here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedConfig

from .modeling_ernie_sparse import (
    ErnieSparseForMaskedLM,
    ErnieSparseForMultipleChoice,
    ErnieSparseForQuestionAnswering,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
    ErnieSparseModel,
)

# What a class becomes, by the end of its name; any other one becomes the base model.
HEADS = {
    "ForMaskedLM": ErnieSparseForMaskedLM,
    "ForPreTraining": ErnieSparseForMaskedLM,
    "ForSequenceClassification": ErnieSparseForSequenceClassification,
    "ForTokenClassification": ErnieSparseForTokenClassification,
    "ForQuestionAnswering": ErnieSparseForQuestionAnswering,
    "ForMultipleChoice": ErnieSparseForMultipleChoice,
}

WITH_POOLER = (ErnieSparseModel, ErnieSparseForSequenceClassification, ErnieSparseForMultipleChoice)

# What our config takes over from the source's.
CONFIG_FIELDS = (
    *("vocab_size", "hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("hidden_act", "hidden_dropout_prob", "classifier_dropout", "type_vocab_size", "initializer_range"),
    *("layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"),
    *("id2label", "label2id", "problem_type"),
)

# Weights of any family that have no place here, and why.
DROPPED = {
    r"(position|token_type)_ids$": "a buffer",
    r"seq_relationship\.": "next sentence prediction has no head here",
    r"^discriminator_predictions\.": "replaced token detection has no head here",
    r"task_type_embeddings\.": "task 0 is added to the token types, the other tasks have no place here",
}


@dataclass(frozen=True)
class Family:
    """
    How the checkpoints of one or several model types differ from ours.

    Args:
        renamings (`Mapping[str, str]`):
            Regular expressions of weight names and what they become, each applied to what the ones before it left.
        dropped (`Mapping[str, str]`): Regular expressions of weights that have no place here, and why, beyond `DROPPED`.
        has_position_offset (`bool`): Whether the first `pad_token_id + 1` positions stand for no token.
        heads (`Mapping[str, type]`): Heads of this family that are not those of `HEADS`.
        head_settings (`Mapping[str, Callable[[PreTrainedConfig], dict]]`):
            By head: what our config must say, given the source's.
        required (`Mapping[str, Mapping[str, object]]`):
            By head, or by `"*"` for all: settings of the source's config, and the one value that ErnieSparse knows.
        fixed_gelu_heads (`tuple[str, ...]`): Heads that use gelu whatever the config's `hidden_act` says.
    """

    renamings: Mapping[str, str]
    dropped: Mapping[str, str] = field(default_factory=dict)
    has_position_offset: bool = False
    heads: Mapping[str, type] = field(default_factory=dict)
    head_settings: Mapping[str, Callable[[PreTrainedConfig], dict]] = field(default_factory=dict)
    required: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    fixed_gelu_heads: tuple[str, ...] = ()


# A classification head of two layers, the first of which is our pooler.
TWO_LAYERS = {r"^classifier\.dense\.": "ernie_sparse.pooler.dense.", r"^classifier\.out_proj\.": "classifier."}


def _roberta_like(prefix: str, **differences) -> Family:
    return Family(
        {
            rf"^{prefix}\.": "ernie_sparse.",
            r"^lm_head\.dense\.": "cls.predictions.transform.dense.",
            r"^lm_head\.layer_norm\.": "cls.predictions.transform.LayerNorm.",
            r"^lm_head\.": "cls.predictions.",
            **TWO_LAYERS,
        },
        has_position_offset=True,
        fixed_gelu_heads=("ForMaskedLM",),
        **differences,
    )


FAMILIES = {
    "bert": Family({r"^bert\.": "ernie_sparse."}),
    "big_bird": Family(
        {
            r"^bert\.": "ernie_sparse.",
            r"^(ernie_sparse\.)?pooler\.": r"\1pooler.dense.",
            **TWO_LAYERS,
            r"^qa_classifier\.qa_outputs\.": "qa_outputs.",
            r"^qa_classifier\.": "qa_feed_forward.",
        },
        head_settings={
            "ForSequenceClassification": lambda source: {"pooler_act": source.hidden_act},
            "ForQuestionAnswering": lambda source: {"qa_feed_forward": True},
        },
        required={"*": {"rescale_embeddings": False}},
    ),
    "camembert": _roberta_like("roberta"),
    "electra": Family(
        {
            r"^electra\.": "ernie_sparse.",
            r"embeddings_project\.": "embeddings.projection.",
            r"^generator_predictions\.": "cls.predictions.transform.",
            r"^generator_lm_head\.": "cls.predictions.decoder.",
            r"^sequence_summary\.summary\.": "ernie_sparse.pooler.dense.",
            **TWO_LAYERS,
        },
        heads={"ForPreTraining": ErnieSparseModel},
        head_settings={
            "ForSequenceClassification": lambda source: {"pooler_act": "gelu"},
            "ForMultipleChoice": lambda source: {"pooler_act": source.summary_activation or "linear"},
        },
        required={"ForMultipleChoice": {"summary_type": "first", "summary_use_proj": True}},
        fixed_gelu_heads=("ForMaskedLM",),
    ),
    "ernie": Family({r"^ernie\.": "ernie_sparse."}),
    "longformer": _roberta_like(
        "longformer", dropped={r"\.(query|key|value)_global\.": "global projection: HST uses the local ones throughout"}
    ),
    "roberta": _roberta_like("roberta"),
    "xlm-roberta": _roberta_like("roberta"),
}
