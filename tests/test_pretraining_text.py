# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From texts to packed rows to masked batches: no token lost, frames right, evaluation masks fixed."""

import pytest
import torch
from datasets import Dataset

from ernie_sparse.masking import MaskingCollator, mask_once
from ernie_sparse.pretraining.text import pack, train_tokenizer

TEXTS = ["A harbour in the north. " * 7, "bees", "   ", "In the southern orchard, lemons! " * 11, "x" * 31, None]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((text for text in TEXTS if text), vocab_size=300, max_length=32)


@pytest.fixture
def rows(tokenizer):
    return pack(Dataset.from_dict({"text": TEXTS}), "text", tokenizer, max_length=32)


def test_packed_rows_hold_every_token_in_order_and_documents_end_with_sep(tokenizer, rows):
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    packed = []
    for row in rows["input_ids"]:
        assert row[0] == first and row[-1] == last and len(row) <= 32
        packed += row[1:-1]
    documents = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in TEXTS if t and not t.isspace()]
    assert [token for token in packed if token != last] == [token for ids in documents for token in ids]
    assert all(len(row) >= 31 for row in rows["input_ids"][:-1])
    text = tokenizer.decode(packed)
    assert "north. [SEP]bees[SEP]In the" in text


def test_special_tokens_mask_marks_the_frame_and_the_documents_ends(tokenizer, rows):
    for row in rows:
        special = {tokenizer.cls_token_id, tokenizer.sep_token_id}
        assert row["special_tokens_mask"] == [int(token in special) for token in row["input_ids"]]


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


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
    with pytest.raises(ValueError, match="no mask_token"):
        pack(Dataset.from_dict({"text": TEXTS}), "text", bare, max_length=32)
