# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Masked rows: a function of seed, epoch and row, never of the batch; evaluation masks fixed."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from ernie_sparse.pretraining.masking import MaskAnew, MaskingCollator, mask_once
from ernie_sparse.pretraining.text import pack, train_tokenizer

TEXTS = ["A harbour in the north. " * 7, "bees", "   ", "In the southern orchard, lemons! " * 11, "x" * 31, None]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((text for text in TEXTS if text), vocab_size=300, max_length=32)


@pytest.fixture
def rows(tokenizer):
    return pack(Dataset.from_dict({"text": TEXTS}), tokenizer, max_length=32)


def test_masking_is_a_function_of_seed_epoch_and_row(tokenizer, rows):
    first, last = rows[0], rows[len(rows) - 1]
    collator = MaskingCollator(tokenizer, mlm_probability=0.5, seed=0)
    together, alone = collator([first, last]), collator([first])
    width = alone["labels"].shape[1]
    assert torch.equal(together["labels"][0, :width], alone["labels"][0])
    assert torch.equal(together["input_ids"][0, :width], alone["input_ids"][0])
    collator.epoch = 1
    assert not torch.equal(collator([first])["labels"], alone["labels"])
    other = MaskingCollator(tokenizer, mlm_probability=0.5, seed=1)
    assert not torch.equal(other([first])["labels"], alone["labels"])


def test_special_tokens_and_padding_are_never_masked(tokenizer, rows):
    batch = MaskingCollator(tokenizer, mlm_probability=0.9, seed=0)([rows[0], rows[len(rows) - 1]])
    labelled = batch["labels"] != -100
    assert 0.5 < labelled.float().mean() < 1
    assert not (labelled & (batch["attention_mask"] == 0)).any()
    special = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id])
    assert not torch.isin(batch["labels"], special).any()


def test_each_epoch_masks_anew_and_a_resumed_one_as_it_did(tokenizer, rows):
    collator = MaskingCollator(tokenizer, mlm_probability=0.5, seed=0)
    callback, labels = MaskAnew(collator), []
    # What Trainer counts is a float: three thirds of an epoch are not quite a whole one.
    for epoch in (0, 0.9999999, 2.0):
        callback.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
        labels.append(collator.mask(rows[0])["labels"])
    expected = []
    for epoch in (0, 1, 2):
        collator.epoch = epoch
        expected.append(collator.mask(rows[0])["labels"])
    assert labels == expected and expected[0] != expected[1] != expected[2]


def test_validation_rows_keep_one_masking(tokenizer, rows):
    masked = [mask_once(rows, tokenizer, 0.3, seed=seed) for seed in (0, 0, 1)]
    assert masked[0]["input_ids"] == masked[1]["input_ids"] and masked[0]["labels"] == masked[1]["labels"]
    assert masked[0]["labels"] != masked[2]["labels"]
    batch = MaskingCollator(tokenizer, 0.3, seed=0)([masked[0][0], masked[0][len(rows) - 1]])
    assert batch["labels"][0].tolist() == masked[0]["labels"][0]
    original = torch.tensor(rows[0]["input_ids"])
    labels = batch["labels"][0]
    assert torch.equal(torch.where(labels == -100, original, labels), original)
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
