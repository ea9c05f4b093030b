# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Masked rows for masked-LM training: the same masks whatever the batch size, the number of processes, or a break."""

import random

import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, DataCollatorForTokenClassification, TrainerCallback


class MaskingCollator:
    """
    Batches of packed rows. Rows without labels are masked by transformers' collator, each with a generator of its own,
    a function of `(seed, epoch, row)`: a resumed run, other batch sizes and other numbers of processes mask alike. Rows
    that carry labels (see [`mask_once`]) are only padded.
    """

    def __init__(self, tokenizer, mlm_probability: float, seed: int):
        self.masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mlm_probability, seed=seed)
        self.padding = DataCollatorForTokenClassification(tokenizer)
        self.seed = seed
        self.epoch = 0

    def mask(self, row: dict) -> dict:
        """`input_ids` and `labels` of one row, masked as this epoch masks it."""
        seed = random.Random(f"{self.seed}/{self.epoch}/{row['row']}").getrandbits(63)
        self.masking.generator = torch.Generator().manual_seed(seed)
        batch = self.masking([{name: row[name] for name in ("input_ids", "special_tokens_mask")}])
        return {name: batch[name][0].tolist() for name in ("input_ids", "labels")}

    def __call__(self, rows: list[dict]) -> dict:
        return self.padding([row if "labels" in row else self.mask(row) for row in rows])


class MaskAnew(TrainerCallback):
    """Tells a [`MaskingCollator`] the epoch."""

    def __init__(self, collator: MaskingCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch + 1e-6)


def mask_once(rows: Dataset, tokenizer, mlm_probability: float, seed: int) -> Dataset:
    """The rows with one fixed masking, so that every evaluation asks the same questions."""
    collator = MaskingCollator(tokenizer, mlm_probability, seed)
    return rows.map(collator.mask, remove_columns=["special_tokens_mask", "row"], desc="Masking the validation rows")
