# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From texts to a tokenizer."""

from collections.abc import Iterable

from accelerate.utils import broadcast_object_list
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ..errors import InputError

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def tokenizer_of_all_processes(
    texts: Iterable[str], vocab_size: int, max_length: int, is_main_process: bool
) -> PreTrainedTokenizerFast:
    """As [`train_tokenizer`], which the main process alone does: those of other nodes need not see its disk."""
    trained = [train_tokenizer(texts, vocab_size, max_length).backend_tokenizer.to_str() if is_main_process else None]
    broadcast_object_list(trained)
    return _framed(Tokenizer.from_str(trained[0]), max_length)


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """
    A byte-level BPE tokenizer of at most `vocab_size` tokens, with BERT's special tokens and sentence frame.

    Raises:
        [`InputError`]: `vocab_size` is less than there are bytes and special tokens.
    """
    special = list(SPECIAL_TOKENS.values())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(special) + len(alphabet):
        raise InputError(
            f"a vocabulary of {vocab_size} is too small: bytes and special tokens alone are {len(special) + len(alphabet)}"
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, special.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return _framed(tokenizer, max_length)


def _framed(tokenizer: Tokenizer, max_length: int) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL_TOKENS)
