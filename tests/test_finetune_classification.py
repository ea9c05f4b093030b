# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Whole texts to features, of any length and with any tokenizer, and averaged logits to predictions and scores."""

from itertools import pairwise

import datasets
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from ernie_sparse.errors import InputError
from ernie_sparse.finetune import classification
from ernie_sparse.finetune.classification import cut_tokens, decode, score, special_tokens_around
from ernie_sparse.finetune.features import split_notes
from ernie_sparse.finetune.settings import Settings

datasets.disable_progress_bars()

CLS, SEP = 2, 3
# ByT5 numbers bytes from 3 on and closes a text with 1.
A, END = 3 + ord("a"), 1


def bert_like() -> PreTrainedTokenizerFast:
    """One token per letter, from 4 on."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_input_names=names)


def encode(rows, *arguments):
    """Features and notes."""
    return split_notes(classification.encode(rows, *arguments), rows)


def make_settings(max_length=6, task_type="single_label", **more) -> Settings:
    more = {"label_names": ("x", "y"), "stride": 1, **more}
    return Settings(task_type=task_type, max_length=max_length, block_size=4, num_global_tokens=4, columns={}, **more)


def texts(*values: str, **columns) -> Dataset:
    return Dataset.from_dict({"text": list(values), "id": [f"r{i}" for i in range(len(values))], **columns})


def letters(word: str) -> list[int]:
    return [4 + ord(letter) - ord("a") for letter in word]


@pytest.mark.parametrize(
    "long_documents, parts",
    [
        ("head", ["abcd"]),
        ("tail", ["defg"]),
        ("head_tail", ["abfg"]),
        ("windows", ["abcd", "defg"]),
    ],
)
def test_of_a_long_text_exactly_these_tokens_are_read(long_documents, parts):
    rows = texts("abcdefg", "ab")
    features, notes = encode(rows, make_settings(long_documents=long_documents), bert_like(), True)
    expected = [[CLS, *letters(part), SEP] for part in (*parts, "ab")]
    assert features["input_ids"][:] == expected
    assert features["attention_mask"][:] == [[1] * len(ids) for ids in expected]
    assert features["token_type_ids"][:] == [[0] * len(ids) for ids in expected]
    assert features["document"][:] == [0] * len(parts) + [1]
    assert features["length"][:] == [len(ids) for ids in expected]
    assert features["document_length"][:] == [9] * len(parts) + [4]
    assert notes == {"longer than the limit": ["r0"]}


@pytest.mark.parametrize(
    "long_documents, parts",
    [("head", ["abcde"]), ("tail", ["cdefg"]), ("head_tail", ["abcfg"]), ("windows", ["abcde", "efg"])],
)
def test_a_tokenizer_of_bytes_that_only_closes_a_text_is_cut_alike(long_documents, parts):
    settings = make_settings(long_documents=long_documents)
    features, notes = encode(texts("abcdefg", "abcde"), settings, ByT5Tokenizer(), True)
    assert features["input_ids"][:] == [[*(3 + ord(c) for c in part), END] for part in (*parts, "abcde")]
    assert "token_type_ids" not in features.column_names
    # A text that fills the row exactly is not longer than the limit.
    assert features["document_length"][:] == [8] * len(parts) + [6] and notes["longer than the limit"] == ["r0"]


def test_special_tokens_are_those_around_a_text():
    assert special_tokens_around(bert_like()) == ([CLS], [SEP])
    assert special_tokens_around(ByT5Tokenizer()) == ([], [END])
    bare = bert_like()
    bare._tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    assert special_tokens_around(bare) == ([], [])
    with pytest.raises(InputError, match="tokenizes a text otherwise when special tokens are added"):
        special_tokens_around(lambda text, add_special_tokens=True: {"input_ids": [5 if add_special_tokens else 4]})


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 60), room=st.integers(2, 20), data=st.data())
def test_windows_hold_every_token_share_the_stride_and_none_is_needless(count, room, data):
    stride = data.draw(st.integers(0, room - 1))
    windows = cut_tokens(list(range(count)), room, make_settings(long_documents="windows", stride=stride))
    assert sorted({token for window in windows for token in window}) == list(range(count))
    assert all(len(window) == room for window in windows[:-1]) and len(windows[-1]) <= room
    for left, right in pairwise(windows):
        assert left[len(left) - stride :] == right[:stride]
        assert right[-1] > left[-1]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 60), room=st.integers(2, 20))
def test_head_tail_is_both_ends_and_fills_the_row(count, room):
    [kept] = cut_tokens(list(range(count)), room, make_settings(long_documents="head_tail"))
    left, right = (room + 1) // 2, room // 2
    assert kept == (list(range(count)) if count <= room else [*range(left), *range(count - right, count)])


def test_a_text_without_tokens_has_a_row_too():
    for tokenizer, ids in ((bert_like(), [CLS, SEP]), (ByT5Tokenizer(), [END])):
        features, _ = encode(texts("", "a"), make_settings(long_documents="windows"), tokenizer, False)
        assert features["input_ids"][0] == ids and features["document"][:] == [0, 1]
        assert "labels" not in features.column_names


def test_a_text_of_which_a_tokenizer_leaves_nothing_is_one_token():
    bare = bert_like()
    bare._tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    for columns in ({}, {"text_pair": ["", "c"]}):
        features, _ = encode(texts("", "b", **columns), make_settings(), bare, False)
        assert features["document"][:] == [0, 1] and features["input_ids"][0] == [0] and features["length"][0] == 1
        found = decode(np.zeros((2, 2)), features, texts("", "b"), make_settings())
        assert [row["score"] for row in found] == [0.5, 0.5]


def test_pairs_are_cut_where_they_are_longer_and_know_which_text_a_token_is_of():
    rows = texts("abcd", "a", text_pair=["efg", "b"], label=["y", "x"])
    features, notes = encode(rows, make_settings(max_length=7), bert_like(), True)
    assert features["input_ids"][:] == [
        [CLS, *letters("ab"), SEP, *letters("ef"), SEP],
        [CLS, *letters("a"), SEP, *letters("b"), SEP],
    ]
    assert features["token_type_ids"][:] == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert features["document_length"][:] == [10, 5] and features["length"][:] == [7, 5]
    assert features["labels"][:] == [1, 0] and notes == {"longer than the limit": ["r0"]}
    features, _ = encode(rows, make_settings(max_length=8), ByT5Tokenizer(), True)
    assert [ids.count(END) for ids in features["input_ids"]] == [2, 2]


@pytest.mark.parametrize("long_documents", ["tail", "head_tail", "windows"])
def test_pairs_are_cut_at_the_end_alone(long_documents):
    rows = texts("a", text_pair=["b"])
    with pytest.raises(InputError, match=f"--long-documents {long_documents} is for single texts"):
        encode(rows, make_settings(long_documents=long_documents), bert_like(), True)


def test_a_stride_has_to_leave_progress():
    with pytest.raises(InputError, match="--stride 4 must be less than the 4 tokens of a window"):
        encode(texts("a"), make_settings(long_documents="windows", stride=4), bert_like(), True)
    encode(texts("a"), make_settings(long_documents="windows", stride=4), ByT5Tokenizer(), True)
    encode(texts("a"), make_settings(long_documents="head", stride=4), bert_like(), True)


@pytest.mark.parametrize(
    "task_type, labels, expected",
    [
        ("single_label", ["y", "x"], [1, 1, 0]),
        ("multi_label", [["y"], ["y", "x"]], [[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]),
        ("regression", [2, -1], [2.0, 2.0, -1.0]),
    ],
)
def test_every_window_has_the_label_of_its_text(task_type, labels, expected):
    rows = texts("abcdefg", "a", label=labels)
    features, _ = encode(rows, make_settings(task_type=task_type, long_documents="windows"), bert_like(), True)
    assert features["labels"][:] == expected
    # The collator makes integers of integers, and the model a loss of that.
    assert np.asarray(features["labels"][:]).dtype == np.asarray(expected).dtype


def features_of(documents: list[int]) -> Dataset:
    return Dataset.from_dict({"document": documents})


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_the_logits_of_a_texts_windows_are_averaged_before_anything_is_made_of_them():
    rows = texts("a", "b")
    outputs = np.array([[0.0, 4.0], [3.0, 0.0], [3.0, -1.0]], dtype=np.float32)
    first, second = decode(outputs, features_of([0, 0, 1]), rows, make_settings())
    # On average 1.5 to 2: neither the larger number of windows nor averaged probabilities decide.
    assert first["id"] == "r0" and first["label"] == "y"
    assert first["scores"] == pytest.approx({"x": 1 / (1 + np.exp(0.5)), "y": 1 / (1 + np.exp(-0.5))})
    assert first["score"] == first["scores"]["y"] and second["label"] == "x"
    # Three windows, of which two say x.
    outputs = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 9.0]], dtype=np.float32)
    assert decode(outputs, features_of([0, 0, 0]), texts("a"), make_settings())[0]["label"] == "y"


def test_every_label_of_a_set_has_its_own_probability():
    outputs = np.array([[logit(0.9), logit(0.2)], [logit(0.4), logit(0.49)]])
    found = decode(outputs, features_of([1, 0]), texts("a", "b"), make_settings(task_type="multi_label"))
    assert [row["labels"] for row in found] == [[], ["x"]]
    assert found[1]["scores"] == pytest.approx({"x": 0.9, "y": 0.2})


def test_a_number_is_the_mean_of_its_windows():
    outputs = np.array([[1.0], [2.0], [7.0]])
    found = decode(outputs, features_of([0, 0, 1]), texts("a", "b"), make_settings(task_type="regression"))
    assert found == [{"id": "r0", "value": 1.5}, {"id": "r1", "value": 7.0}]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_predictions_are_in_the_order_of_the_rows_whatever_that_of_the_features(data):
    documents = [0, 0, 1, 2, 2, 2, 3]
    outputs = np.random.default_rng(data.draw(st.integers(0, 9))).normal(size=(7, 2)).astype(np.float32)
    order = data.draw(st.permutations(range(7)))
    rows = texts("a", "b", "c", "d")
    expected = decode(outputs, features_of(documents), rows, make_settings())
    found = decode(outputs[order], features_of([documents[i] for i in order]), rows, make_settings())
    assert [row["id"] for row in found] == ["r0", "r1", "r2", "r3"]
    for row, other in zip(found, expected, strict=True):
        assert row["label"] == other["label"] and row["scores"] == pytest.approx(other["scores"])


def test_scores_are_of_the_metrics_that_are_named():
    rows = texts("a", "b", "c", "d", label=["x", "y", "y", "y"])
    found = [{"label": label} for label in "xyxy"]
    settings = make_settings(metrics=("accuracy", "f1_macro"))
    assert score(found, rows, settings) == pytest.approx({"accuracy": 0.75, "f1": (2 / 3 + 0.8) / 2})
    # Class number 1 is y.
    assert score(found, rows, make_settings(metrics=("f1_binary",))) == pytest.approx({"f1": 0.8})


def test_sets_of_labels_and_numbers_are_scored():
    rows = texts("a", "b", label=[["x"], ["x", "y"]])
    found = [{"labels": ["x"]}, {"labels": ["y"]}]
    results = score(found, rows, make_settings(task_type="multi_label", metrics=("multi_label",)))
    assert results["f1"] == pytest.approx(0.8) and results["exact_match"] == 0.5
    rows = texts("a", "b", "c", label=[1.0, 2.0, 4.0])
    settings = make_settings(task_type="regression", metrics=("mse", "spearmanr"))
    results = score([{"value": v} for v in (1.0, 3.0, 2.0)], rows, settings)
    assert results == pytest.approx({"mse": 5 / 3, "spearmanr": 0.5})
