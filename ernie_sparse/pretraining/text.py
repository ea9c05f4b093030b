# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From texts to a tokenizer, to packed rows of token ids."""

from collections.abc import Iterable

import numpy as np
from datasets import Dataset
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


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens, with BERT's special tokens and sentence frame."""
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
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL_TOKENS)


def pack(dataset: Dataset, text_column: str, tokenizer, max_length: int, num_proc: int | None = None) -> Dataset:
    """
    Rows of `max_length` tokens, `[CLS] … [SEP]`, cut from the documents one after the other; a document ends with
    [SEP]. No token is dropped: the last row of every thousand documents may be shorter.
    """
    for name in ("cls_token_id", "sep_token_id", "mask_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is None:
            raise InputError(f"the tokenizer has no {name.removesuffix('_id')}: masked-LM pretraining needs one")
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    room = max_length - 2

    def pack_documents(batch: dict) -> dict:
        texts = [text for text in batch[text_column] if text and not text.isspace()]
        if not texts:
            return {"input_ids": [], "special_tokens_mask": []}
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        stream = np.concatenate([np.append(ids, last) for ids in encoded]).astype(np.int64)
        rows = [stream[start : start + room] for start in range(0, len(stream) - 1, room)]
        # The frame's [SEP] stands for the one of a document that ends with its row.
        rows = [row[:-1] if row[-1] == last else row for row in rows]
        rows = [np.concatenate([[first], row, [last]]) for row in rows]
        return {
            "input_ids": rows,
            "special_tokens_mask": [np.isin(row, (first, last)).astype(np.int8) for row in rows],
        }

    rows = dataset.map(
        pack_documents, batched=True, remove_columns=dataset.column_names, num_proc=num_proc, desc="Packing rows"
    )
    return rows.add_column("row", np.arange(len(rows)))
