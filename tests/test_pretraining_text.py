# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From texts to packed rows: no token lost, frames right."""

import pytest
from datasets import Dataset

from ernie_sparse.pretraining.text import pack, train_tokenizer

TEXTS = ["A harbour in the north. " * 7, "bees", "   ", "In the southern orchard, lemons! " * 11, "x" * 31, None]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((text for text in TEXTS if text), vocab_size=300, max_length=32)


@pytest.fixture
def rows(tokenizer):
    return pack(Dataset.from_dict({"text": TEXTS}), tokenizer, max_length=32)


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


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer):
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
    with pytest.raises(ValueError, match="no mask_token"):
        pack(Dataset.from_dict({"text": TEXTS}), bare, max_length=32)
