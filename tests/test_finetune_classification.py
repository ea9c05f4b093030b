# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Rows of text and label to features, with a tokenizer that is not written in Rust."""

from datasets import Dataset
from transformers import ByT5Tokenizer

from ernie_sparse.finetune.classification import encode


def test_documents_are_cut_counted_and_labelled_by_a_python_tokenizer_too():
    rows = Dataset.from_dict({"text": ["x" * 30, "y" * 9, "z"], "label": ["b", "a", "b"]})
    features = encode(rows, "train", ByT5Tokenizer(), ["a", "b"], "text", "label", max_length=10)
    assert [len(ids) for ids in features["input_ids"]] == [10, 10, 2]
    assert features["is_truncated"] == [True, False, False]
    assert features["labels"] == [1, 0, 1]
