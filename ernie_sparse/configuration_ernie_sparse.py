# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""ERNIE-Sparse model configuration"""

import dataclasses
import shutil
from pathlib import Path

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
    Configuration of an [`ErnieSparseModel`]. The defaults give a model of base size (110M parameters) for documents of
    up to 4,096 tokens. Sizes follow BERT; the sparse pattern, the representatives and dropping no attention weights by
    default are our choice.

    Args:
        vocab_size (`int`, defaults to 30522): Size of the vocabulary.
        hidden_size (`int`, defaults to 768): Width of the encoder; a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, defaults to 12): Number of layers.
        num_attention_heads (`int`, defaults to 12): Heads of each attention.
        intermediate_size (`int`, defaults to 3072): Width of the feed-forward part.
        hidden_act (`str`, defaults to `"gelu"`): Its activation.
        hidden_dropout_prob (`float`, defaults to 0.1): Dropout on embeddings and on the output of every sublayer.
        attention_probs_dropout_prob (`float`, defaults to 0.0): Dropout on attention weights.
        max_position_embeddings (`int`, defaults to 4096): The longest input in tokens.
        type_vocab_size (`int`, defaults to 2): Number of token types.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the initial weights.
        layer_norm_eps (`float`, defaults to 1e-12): Epsilon of the layer norms.
        classifier_dropout (`float`, *optional*): Dropout of classification heads; `hidden_dropout_prob` when `None`.
        embedding_size (`int`, *optional*):
            Width of the embeddings; `hidden_size` when `None`. Where it differs, a linear layer follows them.
        pooler_act (`str`, defaults to `"tanh"`):
            Activation of the pooler, which the sequence classification and multiple choice heads stand on.
        qa_feed_forward (`bool`, defaults to `False`):
            Whether the question answering head has a feed-forward block of its own, as BigBird's has.
        num_representatives_per_block (`int`, defaults to 1): Representatives at the head of each block, R.
        block_size, num_window_blocks, num_global_blocks, num_random_blocks, block_shift, hierarchical, pattern_seed:
            The model's own sparse pattern, field by field as in [`SparsePattern`], whose `seed` is called
            `pattern_seed` here. Read or set them together through `config.pattern`.

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
        """The model's own sparse pattern, as a value."""
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
        `PreTrainedConfig.save_pretrained`, with the code of the model beside it: the Auto classes load the folder with
        `trust_remote_code=True` where this package is not installed.
        """
        self.auto_map, folder = dict(AUTO_MAP), Path(save_directory)
        if not folder.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for file in code_files():
                shutil.copyfile(file, folder / file.name)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def validate_pattern(self):
        """The scalars must form a valid [`SparsePattern`]."""
        SparsePattern.parse(self.pattern)
        if self.num_representatives_per_block < 1:
            raise ValueError(
                f"num_representatives_per_block={self.num_representatives_per_block} is not allowed: it must be at "
                "least 1 (hierarchical=False turns representatives off)"
            )


__all__ = ["ErnieSparseConfig"]
