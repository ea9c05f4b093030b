# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""ERNIE-Sparse model configuration"""

import dataclasses
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from .sparse_pattern import SparsePattern

# What the Auto classes find in the code that is saved beside a config.
AUTO_MAP = {
    "AutoConfig": "configuration_ernie_sparse.ErnieSparseConfig",
    "AutoModel": "modeling_ernie_sparse.ErnieSparseModel",
    **{
        f"AutoModelFor{head}": f"modeling_ernie_sparse.ErnieSparseFor{head}"
        for head in (
            "MaskedLM",
            "MultipleChoice",
            "QuestionAnswering",
            "SequenceClassification",
            "TokenClassification",
        )
    },
}

# The least and the most of every number that decides what is built. The most are our choice: beyond them nobody has meant it, and
# a machine would be building until its memory is full.
RANGES = {
    "vocab_size": (1, 10_000_000),
    "hidden_size": (1, 65_536),
    "num_hidden_layers": (1, 1_000),
    "num_attention_heads": (1, 4_096),
    "intermediate_size": (1, 1_048_576),
    "max_position_embeddings": (1, 2**24),
    "type_vocab_size": (1, 1_000_000),
    "embedding_size": (1, 65_536),
    "num_representatives_per_block": (1, 1_024),
    "chunk_size_feed_forward": (0, 2**31 - 1),
}
MOST_LABELS = 1_000_000
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
PROBABILITIES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")


def code_files() -> list[Path]:
    """
    The files a model needs that is loaded without this package. None where this file was itself loaded from among them: it may
    stand alone there, and transformers saves the others.
    """
    modeling = Path(__file__).with_name("modeling_ernie_sparse.py")
    return (
        [Path(file) for file in sorted({str(modeling), *get_relative_import_files(modeling)})]
        if modeling.exists()
        else []
    )


@strict
class ErnieSparseConfig(PreTrainedConfig):
    r"""
    The configuration of an ERNIE-Sparse model: its sizes and its own sparse pattern. The defaults give a model of base
    size (about 110M parameters) that reads up to 4,096 tokens.

    Sizes follow BERT. The sparse pattern, the representatives and `attention_probs_dropout_prob=0.0` are our choice.
    The fields of every transformers config, such as `num_labels`, `id2label` and `problem_type`, can be given as well.

    Args:
        vocab_size (`int`, defaults to 30522): Number of tokens in the vocabulary.
        hidden_size (`int`, defaults to 768): Width of the hidden states; a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, defaults to 12): Number of layers.
        num_attention_heads (`int`, defaults to 12): Number of attention heads in each layer.
        intermediate_size (`int`, defaults to 3072): Width of the feed-forward part of each layer.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the feed-forward part, by its name in transformers.
        hidden_dropout_prob (`float`, defaults to 0.1): Dropout on embeddings and on the output of every sublayer.
        attention_probs_dropout_prob (`float`, defaults to 0.0): Dropout on attention weights.
        max_position_embeddings (`int`, defaults to 4096): The longest document that the model reads, in tokens.
        type_vocab_size (`int`, defaults to 2): Number of token types.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the random initial weights.
        layer_norm_eps (`float`, defaults to 1e-12): Epsilon of the layer norms.
        classifier_dropout (`float`, *optional*):
            Dropout before the linear layer of classification heads; `hidden_dropout_prob` when `None`.
        embedding_size (`int`, *optional*):
            Width of the embeddings; `hidden_size` when `None`. If it is not `hidden_size`, a linear layer follows the
            embeddings, as in ELECTRA.
        pooler_act (`str`, defaults to `"tanh"`):
            Activation of the pooler. The heads for sequence classification and multiple choice use the pooler.
        qa_feed_forward (`bool`, defaults to `False`):
            Whether the question answering head has a feed-forward block of its own, as in BigBird.
        pad_token_id (`int`, defaults to 0): The id of the padding token.
        tie_word_embeddings (`bool`, defaults to `True`):
            Whether the masked-LM head shares its weight matrix with the word embeddings.
        num_representatives_per_block (`int`, defaults to 1):
            Number of representatives at the head of each block, if the pattern is hierarchical.
        block_size, num_window_blocks, num_global_blocks, num_random_blocks, block_shift, hierarchical, pattern_seed:
            The fields of the model's own [`SparsePattern`], with the same defaults. `pattern_seed` is the pattern's
            `seed`. `config.pattern` reads or sets all of them.

    Raises:
        `StrictDataclassError`: A field has a wrong type or a value that is not allowed. The message names the field,
            its value and what is allowed. (The class is in `huggingface_hub.errors`.)
        `ValueError`: The same for `num_labels`, `id2label`, `label2id` and `dtype`.

    Example:

    ```python
    >>> from ernie_sparse import ErnieSparseConfig, ErnieSparseModel

    >>> config = ErnieSparseConfig(block_size=128, num_random_blocks=1)
    >>> model = ErnieSparseModel(config)
    >>> print(config.pattern)
    block_size=128,num_window_blocks=3,num_global_blocks=1,num_random_blocks=1,block_shift=0,hierarchical=true,seed=0
    ```"""

    model_type = "ernie_sparse"
    # In a config the pattern's `seed` would not say of what.
    attribute_map = {"seed": "pattern_seed"}
    keys_to_ignore_at_inference = [
        "task_loss",
        "consistency_loss",
        "alignment_loss",
        "hidden_states",
        "attentions",
        "representative_hidden_state",
    ]

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.0
    max_position_embeddings: int = 4096
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | int | None = None
    embedding_size: int | None = None
    pooler_act: str = "tanh"
    qa_feed_forward: bool = False
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True
    num_representatives_per_block: int = 1
    block_size: int = 64
    num_window_blocks: int = 3
    num_global_blocks: int = 1
    num_random_blocks: int = 0
    block_shift: int = 0
    hierarchical: bool = True
    pattern_seed: int = 0

    @property
    def pattern(self) -> SparsePattern:
        """
        The model's own sparse pattern. Set it to anything that [`SparsePattern.parse`] takes: a pattern, a mapping of
        fields, or text. Fields that are not named get their defaults.
        """
        return SparsePattern(
            block_size=self.block_size,
            num_window_blocks=self.num_window_blocks,
            num_global_blocks=self.num_global_blocks,
            num_random_blocks=self.num_random_blocks,
            block_shift=self.block_shift,
            hierarchical=self.hierarchical,
            seed=self.pattern_seed,
        )

    @pattern.setter
    def pattern(self, value):
        for name, field_value in dataclasses.asdict(SparsePattern.parse(value)).items():
            setattr(self, name, field_value)

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """
        Save the config as `config.json`, with the code of the model beside it. So the Auto classes can load the folder
        with `trust_remote_code=True` on a machine without this package.

        Args:
            save_directory (`str` or `Path`): The folder; it is made if it does not exist.
            push_to_hub (`bool`, defaults to `False`): Whether to push the folder to the Hub as well.
            kwargs: As for `PreTrainedConfig.save_pretrained`.
        """
        self.auto_map, folder = dict(AUTO_MAP), Path(save_directory)
        if not folder.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for file in code_files():
                shutil.copyfile(file, folder / file.name)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def __post_init__(self, **kwargs):
        # Before a name is made for each of them, and while it can be said which field it is.
        check_integer("num_labels", kwargs.get("num_labels"), 1, MOST_LABELS)
        for name in ("id2label", "label2id"):
            value = getattr(self, name)
            numbers = value.keys() if name == "id2label" and isinstance(value, Mapping) else ()
            if not isinstance(value, Mapping | None) or not all(str(number).isdigit() for number in numbers):
                raise ValueError(f"{name}={value!r:.80} is not allowed: it must say which number each class has")
        if isinstance(self.dtype, str) and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype={self.dtype!r} is not allowed: it must be a type of torch, such as float32")
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Every number must lie where a model can be built of it ([`RANGES`])."""
        for name, (low, high) in RANGES.items():
            hint = " (hierarchical=False turns representatives off)" if name == "num_representatives_per_block" else ""
            check_integer(name, getattr(self, name, None), low, high, hint)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={self.num_attention_heads}"
            )
        check_integer("pad_token_id", self.pad_token_id, 0, self.vocab_size - 1)
        for name in PROBABILITIES:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is not allowed: it must lie between 0 and 1")
        for name, is_allowed, least in (
            ("initializer_range", self.initializer_range >= 0, "at least 0"),
            ("layer_norm_eps", self.layer_norm_eps > 0, "more than 0"),
        ):
            value = getattr(self, name)
            if not (is_allowed and math.isfinite(value)):
                raise ValueError(f"{name}={value} is not allowed: it must be a finite number, {least}")

    def validate_names(self):
        """Activations and the kind of problem must be known ones."""
        # Not at the top: it brings much that importing the package does not need.
        from transformers.activations import ACT2FN

        for name, known in (("hidden_act", ACT2FN), ("pooler_act", ACT2FN), ("problem_type", PROBLEM_TYPES)):
            if getattr(self, name) not in known:
                listed = ", ".join(sorted(map(str, known)))
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: it must be one of {listed}")

    def validate_pattern(self):
        """The scalars must form a valid [`SparsePattern`]."""
        SparsePattern.parse(self.pattern)


def check_integer(name: str, value: int | None, low: int, high: int, hint: str = ""):
    """Raise a `ValueError` that names the field where a value, if there is one, is no integer from `low` to `high`."""
    if value is not None and (type(value) is not int or not low <= value <= high):
        raise ValueError(f"{name}={value!r} is not allowed: it must be an integer from {low:,} to {high:,}{hint}")


__all__ = ["ErnieSparseConfig"]
