# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From texts to rows: no token lost, frames right, documents whole where they fit, words where they begin."""

import random

import pytest
from transformers import PreTrainedTokenizerFast

from ernie_sparse.pretraining.packing import Packer
from ernie_sparse.pretraining.tokenizer import train_tokenizer

TEXTS = ["A harbour in the north. " * 7, "bees", "In the southern orchard, lemons! " * 11, "x" * 31]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300, max_length=32)


def ids_of(tokenizer, texts) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def documents(row: dict) -> list[list[int]]:
    """The tokens of each document of a row, with its frame."""
    ids, parts = row["input_ids"].tolist(), []
    for length in row["lengths"]:
        parts.append(ids[:length])
        ids = ids[length:]
    assert not ids
    return parts


def test_concatenated_rows_hold_every_token_in_order_and_documents_end_with_sep(tokenizer):
    class InOrder(random.Random):
        def shuffle(self, rows):
            return None

    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows, packed = Packer(tokenizer, 32, "concatenate").rows(TEXTS, InOrder()), []
    for row in rows:
        (ids,) = documents(row)
        assert ids[0] == first and ids[-1] == last and len(ids) <= 32
        packed += ids[1:-1]
    expected = [token for ids in ids_of(tokenizer, TEXTS) for token in ids]
    assert [token for token in packed if token != last] == expected
    assert all(len(row["input_ids"]) >= 31 for row in rows[:-1])
    assert "north. [SEP]bees[SEP]In the" in tokenizer.decode(packed)


def test_documents_stay_whole_where_they_fit_and_none_is_lost(tokenizer):
    texts = [*TEXTS, *(f"lemons {number} " * (number % 4) for number in range(40)), ""]
    rows = Packer(tokenizer, 32).rows(texts, random.Random(0))
    found = [ids for row in rows for ids in documents(row)]
    assert all(len(row["input_ids"]) <= 32 for row in rows)
    assert all(ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id for ids in found)
    whole = [ids[:30] for ids in ids_of(tokenizer, texts) if ids]
    rest = [ids[start : start + 30] for ids in ids_of(tokenizer, texts) for start in range(30, len(ids), 30)]
    assert sorted(ids[1:-1] for ids in found) == sorted(whole + rest)
    # The best fit leaves little room: no two rows could have been one.
    sizes = sorted(len(row["input_ids"]) for row in rows)
    assert sizes[0] + sizes[1] > 32
    assert sum(sizes) / (32 * len(sizes)) > 0.9


def test_the_largest_document_comes_first_and_each_where_the_least_room_is_left(tokenizer):
    texts = ["x y " * count for count in (1, 3, 5, 9, 8)]
    sizes = [len(ids) + 2 for ids in ids_of(tokenizer, texts)]
    assert sizes == [6, 14, 22, 38, 34]
    rows = Packer(tokenizer, 52).rows(texts, random.Random(0))
    # 6 tokens would have room in each of three rows.
    assert sorted(row["lengths"].tolist() for row in rows) == [[22], [34, 6], [38, 14]]


def test_rows_say_where_words_begin_and_frames_are_words(tokenizer):
    (row,) = Packer(tokenizer, 64, with_words=True).rows(["harbours, lemons"], random.Random(0))
    encoded = tokenizer("harbours, lemons", add_special_tokens=False)
    words = encoded.word_ids()
    assert len(set(words)) == 3 < len(words)
    starts = [i == 0 or words[i] != words[i - 1] for i in range(len(words))]
    assert row["is_word_start"].tolist() == [True, *starts, True]


def test_the_order_of_rows_is_drawn_and_the_same_for_the_same_draw(tokenizer):
    packer = Packer(tokenizer, 32)
    orders = [[row["input_ids"].tolist() for row in packer.rows(TEXTS * 5, random.Random(seed))] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[1]) == sorted(orders[2])


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer):
    bare = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
    with pytest.raises(ValueError, match="no mask_token"):
        Packer(bare, 32)
