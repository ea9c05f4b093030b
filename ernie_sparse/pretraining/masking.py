# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Masked rows for masked-LM training: the same masks whatever the batch size, the number of processes, or a break."""

import random

import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, TrainerCallback


def mask(row: dict, tokenizer, mlm_probability: float, seed: int, epoch: int) -> dict[str, list[int]]:
    """
    `input_ids` and `labels` of one row, a function of `(seed, epoch, row)`: every token that is not special is predicted
    with the probability `mlm_probability`, and of those 80 % become the mask token, 10 % any token, and 10 % stay (BERT's).
    """
    generator = torch.Generator().manual_seed(random.Random(f"{seed}/{epoch}/{row['row']}").getrandbits(63))
    ids = torch.tensor(row["input_ids"])
    is_special = torch.tensor(row["special_tokens_mask"], dtype=torch.bool)

    def draw(probability: float) -> torch.Tensor:
        return torch.bernoulli(
            torch.full(ids.shape, probability).masked_fill(is_special, 0), generator=generator
        ).bool()

    is_predicted, is_hidden, is_replaced = draw(mlm_probability), draw(0.8), draw(0.5)
    others = torch.randint(len(tokenizer), ids.shape, generator=generator)
    shown = torch.where(is_hidden, tokenizer.mask_token_id, torch.where(is_replaced, others, ids))
    return {
        "input_ids": torch.where(is_predicted, shown, ids).tolist(),
        "labels": torch.where(is_predicted, ids, -100).tolist(),
    }


class MaskingCollator:
    """
    Batches of packed rows, each masked by [`mask`] as the epoch has it: a resumed run, other batch sizes, workers and numbers
    of processes mask alike. Rows that carry labels (see [`mask_once`]) are only padded.
    """

    def __init__(self, tokenizer, mlm_probability: float, seed: int):
        self.tokenizer, self.mlm_probability, self.seed = tokenizer, mlm_probability, seed
        self.padding = DataCollatorForTokenClassification(tokenizer)
        # Workers that are kept from epoch to epoch have a copy of all else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return self._epoch.item()

    @epoch.setter
    def epoch(self, epoch: int):
        self._epoch.fill_(epoch)

    def mask(self, row: dict) -> dict:
        """`input_ids` and `labels` of one row, masked as this epoch masks it."""
        return mask(row, self.tokenizer, self.mlm_probability, self.seed, self.epoch)

    def __call__(self, rows: list[dict]) -> dict:
        return self.padding([row if "labels" in row else self.mask(row) for row in rows])


class MaskAnew(TrainerCallback):
    """Tells a [`MaskingCollator`] the epoch, of which no row has been asked for yet: batches are read ahead within one."""

    def __init__(self, collator: MaskingCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        # What Trainer counts is a float.
        self.collator.epoch = int(state.epoch + 1e-9)


def mask_once(rows: Dataset, tokenizer, mlm_probability: float, seed: int) -> Dataset:
    """The rows with one fixed masking, so that every evaluation asks the same questions."""
    return rows.map(
        mask,
        fn_kwargs={"tokenizer": tokenizer, "mlm_probability": mlm_probability, "seed": seed, "epoch": 0},
        remove_columns=["special_tokens_mask", "row"],
        desc="Masking the validation rows",
    )
