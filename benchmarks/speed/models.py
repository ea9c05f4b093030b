# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The encoders that are compared, all of one width, depth, vocabulary and longest input."""

import dataclasses
import functools
from collections.abc import Callable

import torch
from transformers import (
    AttentionInterface,
    BertConfig,
    BertModel,
    BigBirdConfig,
    BigBirdModel,
    LongformerConfig,
    LongformerModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
)

from ernie_sparse import ErnieSparseConfig, ErnieSparseForMaskedLM, ErnieSparseModel, SparsePattern
from ernie_sparse.errors import InputError
from ernie_sparse.hst_attention import ALL_ATTENTION_FUNCTIONS

OURS = "ernie-sparse"
# The same model without attention.
NO_ATTENTION = "no-attention"
NO_ATTENTION_FUNCTION = "identity_on_value"
MODERNBERT_FLEX = "modernbert-flex"
BIGBIRD_BLOCK_SIZE, BIGBIRD_RANDOM_BLOCKS = 64, 3
LONGFORMER_WINDOW = 512


@dataclasses.dataclass(frozen=True)
class Sizes:
    """
    What all models share. The feed-forward part is four times as wide as the encoder.

    Args:
        pattern ([`SparsePattern`]): Of the ernie-sparse models alone.
    """

    hidden_size: int = 768
    num_layers: int = 2
    num_heads: int = 12
    vocab_size: int = 30522
    max_length: int = 16384
    pattern: SparsePattern = dataclasses.field(default_factory=SparsePattern)

    @property
    def intermediate_size(self) -> int:
        return 4 * self.hidden_size

    def config(self, attention_dropout: float) -> dict:
        """The arguments of a config in BERT's names."""
        return {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_length,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": attention_dropout,
        }


def _identity_on_value(module, query, key, value, plan, **kwargs):
    return value, None


def _ernie_sparse_config(sizes: Sizes, attention_dropout: float, backend: str) -> ErnieSparseConfig:
    config = ErnieSparseConfig(**sizes.config(attention_dropout), attn_implementation=backend)
    config.pattern = sizes.pattern
    return config


def _ernie_sparse(sizes: Sizes, attention_dropout: float, backend: str) -> ErnieSparseModel:
    return ErnieSparseModel(_ernie_sparse_config(sizes, attention_dropout, backend), add_pooling_layer=False)


def _no_attention(sizes: Sizes, attention_dropout: float) -> ErnieSparseModel:
    # transformers refuses an `attn_implementation` that it does not know; importing the package does not tell it.
    AttentionInterface.register(NO_ATTENTION_FUNCTION, _identity_on_value)
    # Without representatives: the leanest form of the same layers.
    flat = dataclasses.replace(sizes, pattern=dataclasses.replace(sizes.pattern, hierarchical=False))
    return _ernie_sparse(flat, attention_dropout, NO_ATTENTION_FUNCTION)


def _dense(sizes: Sizes, attention_dropout: float) -> BertModel:
    config = BertConfig(**sizes.config(attention_dropout), attn_implementation="sdpa")
    return BertModel(config, add_pooling_layer=False)


def _bigbird(sizes: Sizes, attention_dropout: float) -> BigBirdModel:
    config = BigBirdConfig(
        **sizes.config(attention_dropout),
        attention_type="block_sparse",
        block_size=BIGBIRD_BLOCK_SIZE,
        num_random_blocks=BIGBIRD_RANDOM_BLOCKS,
    )
    return BigBirdModel(config, add_pooling_layer=False)


def _longformer(sizes: Sizes, attention_dropout: float) -> LongformerModel:
    settings = sizes.config(attention_dropout)
    # Its positions begin behind that of padding, 1.
    settings["max_position_embeddings"] = sizes.max_length + 2
    config = LongformerConfig(**settings, attention_window=LONGFORMER_WINDOW)
    return LongformerModel(config, add_pooling_layer=False)


def _modernbert(sizes: Sizes, attention_dropout: float, backend: str = "sdpa") -> ModernBertModel:
    config = ModernBertConfig(
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        # Gated: three matrices of this width cost what the others' two of full width do.
        intermediate_size=round(sizes.intermediate_size * 2 / 3),
        vocab_size=sizes.vocab_size,
        max_position_embeddings=sizes.max_length,
        embedding_dropout=0.1,
        mlp_dropout=0.1,
        attention_dropout=attention_dropout,
        attn_implementation=backend,
        pad_token_id=0,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    )
    if hasattr(config, "reference_compile"):
        config.reference_compile = False
    return ModernBertModel(config)


BUILDERS: dict[str, Callable[[Sizes, float], PreTrainedModel]] = {
    NO_ATTENTION: _no_attention,
    "dense": _dense,
    "bigbird": _bigbird,
    "longformer": _longformer,
    "modernbert": _modernbert,
    # Under SDPA its local layers are dense, under a mask; here the mask says which blocks are not computed at all.
    MODERNBERT_FLEX: functools.partial(_modernbert, backend="flex_attention"),
}
DEFAULT_MODELS = (NO_ATTENTION, f"{OURS}:sdpa", "dense", "bigbird", "longformer", "modernbert")


def canonical_name(name: str) -> str:
    """
    The name of a row: one of [`BUILDERS`], or `ernie-sparse:<backend>` with `sdpa` where no backend is named.

    Raises:
        [`InputError`]: No such model or backend.
    """
    family, colon, backend = name.partition(":")
    if family == OURS and (not colon or backend in ALL_ATTENTION_FUNCTIONS.valid_keys()):
        return f"{OURS}:{backend or 'sdpa'}"
    if name not in BUILDERS:
        backends = ", ".join(f"{OURS}:{backend}" for backend in ("sdpa", "eager"))
        raise InputError(f"--models {name}: it must be one of {backends}, {', '.join(BUILDERS)}")
    return name


def is_ours(name: str) -> bool:
    return name.startswith(f"{OURS}:")


def build_encoder(name: str, sizes: Sizes, attention_dropout: float = 0.0) -> PreTrainedModel:
    """The base model called `name`, without a pooler, with weights drawn from seed 0."""
    torch.manual_seed(0)
    builder = BUILDERS.get(name) or functools.partial(_ernie_sparse, backend=name.partition(":")[2])
    return builder(sizes, attention_dropout)


def build_masked_lm(name: str, sizes: Sizes, attention_dropout: float = 0.0) -> ErnieSparseForMaskedLM:
    """As [`build_encoder`], of our own models, with the masked-LM head."""
    torch.manual_seed(0)
    return ErnieSparseForMaskedLM(_ernie_sparse_config(sizes, attention_dropout, name.partition(":")[2]))


def note(name: str, length: int, attention_dropout: float = 0.0) -> str | None:
    """What must be known of a model at this length to read its figures."""
    if name == "bigbird":
        if length <= (5 + 2 * BIGBIRD_RANDOM_BLOCKS) * BIGBIRD_BLOCK_SIZE:
            return "full attention"
        return "drops no attention weights" if attention_dropout else None
    if name == "longformer" and length % LONGFORMER_WINDOW:
        return f"padded to {-(-length // LONGFORMER_WINDOW) * LONGFORMER_WINDOW}"
    return None
