# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From texts to a tokenizer, to packed rows of token ids."""

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
from datasets import Dataset, Features, Value
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from ..tables import check_text, columns_in, load_hub_rows, load_rows, read_rows

FEATURES = Features({"text": Value("string")})

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def load_texts(
    files: Mapping[str, list[str] | None],
    dataset: str | None = None,
    dataset_config: str | None = None,
    text_column: str = "text",
    sample_by: str = "document",
) -> dict[str, Dataset]:
    """
    Documents, a column `text`, by split: from files (text files cut by `sample_by`, or tables) or from a hub data set.

    Raises:
        [`InputError`]: No source or two, or a row whose `text_column` is missing or holds no text.
    """
    files = {split: names for split, names in files.items() if names}
    if bool(files) == bool(dataset):
        raise InputError("give either --train-file (and --validation-file) or --dataset")
    if files:
        arguments = {"read": partial(read_rows, sample_by=sample_by), "column": text_column}
        return {split: load_rows(names, FEATURES, _document, **arguments) for split, names in files.items()}
    splits = {}
    for split, rows in load_hub_rows(dataset, dataset_config).items():
        if text_column not in rows.column_names:
            raise InputError(f"--text-column {text_column} is not one of {', '.join(rows.column_names)}")
        if getattr(rows.features[text_column], "dtype", None) not in ("string", "large_string"):
            raise InputError(
                f"--text-column {text_column} of {dataset} holds {rows.features[text_column]}: texts are needed"
            )
        splits[split] = rows.select_columns(text_column).rename_columns({text_column: "text"})
    return splits


def _document(row: dict, number: int, column: str) -> dict:
    if column not in row:
        raise InputError(f"--text-column {column}: there is no such column, {columns_in(row)}")
    text = row[column]
    if not isinstance(text, str | None):
        raise InputError(f"column {column!r} holds {text!r:.40} ({type(text).__name__}): a text is needed")
    return {"text": text and check_text(text)}


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


def pack(dataset: Dataset, tokenizer, max_length: int, num_proc: int | None = None) -> Dataset:
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
        texts = [text for text in batch["text"] if text and not text.isspace()]
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
