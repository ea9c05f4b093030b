# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Token classification: windows that lose no word, labels at first pieces, and the prediction with the most context."""

import string

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from ernie_sparse.errors import InputError
from ernie_sparse.finetune import token_classification
from ernie_sparse.finetune.features import split_notes
from ernie_sparse.finetune.settings import Settings
from ernie_sparse.finetune.token_classification import decode, reduce, score

NAMES = ("B-X", "O", "I-X")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# One piece per letter.
PIECES = (*SPECIALS, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase))
BERT = BertTokenizer(vocab={piece: number for number, piece in enumerate(PIECES)})
# Neither special tokens nor token types, and nothing at all for an empty document.
BARE = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0, "ab": 1, "c": 2}, unk_token="[UNK]")),
    unk_token="[UNK]",
    model_input_names=["input_ids", "attention_mask"],
)
BARE.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
# BERT's normalizer deletes it.
NOTHING = "\u200b"

words = st.text("abc", min_size=1, max_size=6) | st.just(NOTHING)
documents = st.lists(st.lists(words, max_size=20), min_size=1, max_size=4)
# Pieces per window and shared pieces, fewer.
windows = st.integers(1, 9).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))
examples = settings(max_examples=40, deadline=None)


def encode(rows, *arguments):
    """Features and notes."""
    return split_notes(token_classification.encode(rows, *arguments), rows)


def make_settings(max_length: int = 32, stride: int = 4, names: tuple[str, ...] = NAMES) -> Settings:
    return Settings(
        task_type="token_classification",
        max_length=max_length,
        block_size=8,
        num_global_tokens=8,
        columns={},
        label_names=names,
        stride=stride,
    )


def make_rows(documents: list[list[str]], labels: list[list[str]] | None = None) -> Dataset:
    columns = {"id": [f"d{i}" for i in range(len(documents))], "tokens": documents}
    return Dataset.from_dict(columns if labels is None else {**columns, "labels": labels})


def cycled_labels(documents: list[list[str]]) -> list[list[str]]:
    return [[NAMES[(i + k) % 3] for k in range(len(tokens))] for i, tokens in enumerate(documents)]


def pieces_of(tokens: list[str]) -> list[int]:
    """What stands between the special tokens of the whole document, by hand: a word's letters."""
    pieces = [("##" if k else "") + letter for word in tokens if word != NOTHING for k, letter in enumerate(word)]
    return [PIECES.index(piece) for piece in pieces]


def padded(values: list[list[int]]) -> np.ndarray:
    return np.array([row + [-100] * (max(map(len, values)) - len(row)) for row in values])


def outputs_of(labels: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """What a model gives that is sure of these classes."""
    classes = padded(list(labels))
    return classes, np.ones(classes.shape)


@pytest.mark.parametrize("is_training", [True, False])
def test_first_pieces_carry_the_labels(is_training):
    rows = make_rows([["ab", "C", "ada"], ["b"]], [["B-X", "I-X", "O"], ["O"]])
    features, notes = encode(rows, make_settings(), BERT, is_training)
    assert notes == {}
    first, second = features
    ids = [PIECES.index(piece) for piece in ("[CLS]", "a", "##b", "c", "a", "##d", "##a", "[SEP]")]
    assert first == {
        "input_ids": ids,
        "attention_mask": [1] * 8,
        "token_type_ids": [0] * 8,
        "word_ids": [-1, 0, -1, 1, 2, -1, -1, -1],
        "labels": [-100, 0, -100, 2, 1, -100, -100, -100],
        "document": 0,
        "length": 8,
    }
    assert second["document"] == 1 and second["length"] == 3 and second["labels"] == [-100, 1, -100]


def test_features_follow_the_tokenizer_and_the_rows():
    features, _ = encode(make_rows([["ab", "x"]]), make_settings(), BARE, False)
    assert set(features.column_names) == {"input_ids", "attention_mask", "word_ids", "document", "length"}
    assert features["input_ids"][0] == [1, 0] and features["word_ids"][0] == [0, 1]


def test_a_window_may_begin_inside_a_word():
    rows = make_rows([["abcab", "b"]], [["B-X", "O"]])
    features, _ = encode(rows, make_settings(max_length=5, stride=1), BERT, True)
    assert features["word_ids"] == [[-1, 0, -1, -1, -1], [-1] * 5, [-1, -1, 1, -1]]
    assert features["labels"] == [[-100, 0, -100, -100, -100], [-100] * 5, [-100, -100, 1, -100]]


@given(documents, windows)
@examples
def test_windows_lose_no_piece_and_no_word(documents, window):
    size, stride = window
    labels = cycled_labels(documents)
    features, notes = encode(make_rows(documents, labels), make_settings(size + 2, stride), BERT, False)
    assert notes == {}
    of_document = [[row for row in features if row["document"] == i] for i in range(len(documents))]
    assert features["document"] == sorted(features["document"])
    for tokens, names, own in zip(documents, labels, of_document, strict=True):
        assert own
        rebuilt, seen = [], set()
        for k, row in enumerate(own):
            assert row["input_ids"][0] == 2 and row["input_ids"][-1] == 3
            content = row["input_ids"][1:-1]
            assert row["length"] == len(row["input_ids"]) == len(content) + 2 <= size + 2
            assert row["attention_mask"] == [1] * row["length"] and row["token_type_ids"] == [0] * row["length"]
            # No window but the last is short, and that one holds something new.
            assert len(content) == size or k == len(own) - 1
            if k:
                assert content[:stride] == rebuilt[len(rebuilt) - stride :] and len(content) > stride
            rebuilt += content[stride if k else 0 :]
            for word, label in zip(row["word_ids"], row["labels"], strict=True):
                assert label == (-100 if word < 0 else NAMES.index(names[word]))
            firsts = [word for word in row["word_ids"] if word >= 0]
            assert len(firsts) == sum(PIECES[token] in string.ascii_lowercase for token in content)
            seen |= set(firsts)
        assert rebuilt == pieces_of(tokens)
        assert seen == {i for i, word in enumerate(tokens) if word != NOTHING}


@given(documents, windows, st.integers(0, 2**32 - 1))
@examples
def test_decode_takes_the_window_with_the_most_context(documents, window, seed):
    size, stride = window
    rows, setup = make_rows(documents), make_settings(size + 2, stride)
    features, _ = encode(rows, setup, BERT, False)
    draw = np.random.default_rng(seed)
    classes = padded([draw.integers(0, 3, length).tolist() for length in features["length"]])
    shares = draw.random(classes.shape, dtype=np.float32)
    predictions = decode((classes, shares), features, rows, setup)
    assert [prediction["id"] for prediction in predictions] == rows["id"]
    for i, (tokens, prediction) in enumerate(zip(documents, predictions, strict=True)):
        expected = []
        for word in range(len(tokens)):
            found = []
            for best, share, row in zip(classes, shares, features, strict=True):
                if row["document"] == i and word in row["word_ids"]:
                    place = row["word_ids"].index(word)
                    found.append((min(place, row["length"] - 1 - place), NAMES[best[place]], share[place]))
            # The first of several with as much.
            expected.append(max(found, key=lambda pair: pair[0])[1:] if found else ("O", 0.0))
        assert list(zip(prediction["labels"], prediction["scores"], strict=True)) == expected


@given(documents, windows)
@examples
def test_right_outputs_give_the_references(documents, window):
    size, stride = window
    if not any(word != NOTHING for tokens in documents for word in tokens):
        documents = [*documents, ["a"]]
    labels = [
        ["O" if word == NOTHING else name for word, name in zip(tokens, names, strict=True)]
        for tokens, names in zip(documents, cycled_labels(documents), strict=True)
    ]
    rows, setup = make_rows(documents, labels), make_settings(size + 2, stride)
    features, _ = encode(rows, setup, BERT, False)
    predictions = decode(outputs_of(features["labels"]), features, rows, setup)
    assert [prediction["labels"] for prediction in predictions] == labels
    assert score(predictions, rows, setup)["accuracy"] == 1.0


def test_score_counts_entities():
    rows = make_rows([["a", "b", "c"], ["a"]], [["B-X", "I-X", "O"], ["B-X"]])
    predictions = [{"id": "d0", "labels": ["B-X", "O", "O"]}, {"id": "d1", "labels": ["B-X"]}]
    results = score(predictions, rows, make_settings())
    assert results["accuracy"] == 0.75
    assert results["precision"] == results["recall"] == results["f1"] == 0.5


def test_a_word_without_a_piece_gets_the_default():
    rows = make_rows([["a", NOTHING, "b"]])
    for names, default in ((NAMES, "O"), (("NOUN", "VERB"), "NOUN")):
        setup = make_settings(names=names)
        features, _ = encode(rows, setup, BERT, False)
        assert features["word_ids"][0] == [-1, 0, 2, -1]
        outputs = np.zeros((1, 4), dtype=np.int64)
        outputs[0, 2] = 1
        (prediction,) = decode((outputs, np.full((1, 4), 0.75)), features, rows, setup)
        assert prediction["labels"] == [names[0], default, names[1]]
        assert prediction["scores"] == [0.75, 0.0, 0.75]


@pytest.mark.parametrize("tokenizer", [BERT, BARE], ids=["bert", "bare"])
@pytest.mark.parametrize("tokens", [[], [NOTHING], [""]], ids=["none", "swallowed", "blank"])
def test_an_empty_document_is_evaluated_but_not_trained_on(tokens, tokenizer):
    if tokenizer is BARE and tokens == [NOTHING]:
        tokens = [" "]
    labels = ["O"] * len(tokens)
    rows, setup = make_rows([["c"], tokens, ["ab"]], [["B-X"], labels, ["I-X"]]), make_settings()
    features, notes = encode(rows, setup, tokenizer, False)
    assert features["document"] == [0, 1, 2] and notes == {}
    assert min(features["length"]) > 0 and set(features["labels"][1]) == {-100}
    assert features["length"] == [len(mask) for mask in features["attention_mask"]]
    predictions = decode(outputs_of(features["labels"]), features, rows, setup)
    assert [prediction["labels"] for prediction in predictions] == [["B-X"], labels, ["I-X"]]

    features, notes = encode(rows, setup, tokenizer, True)
    assert features["document"] == [0, 2] and notes == {"no tokens": ["d1"]}
    # Nothing but rows that are left out.
    features, notes = encode(rows.select([1]), setup, tokenizer, True)
    assert len(features) == 0 and "input_ids" in features.column_names and notes == {"no tokens": ["d1"]}


def test_labels_and_words_have_to_be_as_many():
    rows = make_rows([["a", "b"], ["c"], ["a"]], [["O"], ["O"], ["O", "O"]])
    features, notes = encode(rows, make_settings(), BERT, True)
    assert features["document"] == [1] and notes == {"as many labels as tokens are needed": ["d0", "d2"]}
    with pytest.raises(InputError, match="row d0: it has 2 tokens and 1 labels"):
        encode(rows, make_settings(), BERT, False)


@pytest.mark.parametrize("is_training", [True, False])
def test_an_unknown_label_is_refused_with_its_row(is_training):
    rows = make_rows([["a"], ["b", "c"]], [["O"], ["O", "B-Y"]])
    with pytest.raises(InputError, match="'B-Y' of row d1 is not one of B-X, O, I-X"):
        encode(rows, make_settings(), BERT, is_training)


@pytest.mark.parametrize("stride, is_allowed", [(3, True), (4, False), (9, False)])
def test_a_stride_without_progress_is_refused(stride, is_allowed):
    rows, setup = make_rows([["abcabc"]]), make_settings(max_length=6, stride=stride)
    if is_allowed:
        assert len(encode(rows, setup, BERT, False)[0]) == 3
        return
    with pytest.raises(InputError, match=f"stride={stride} .*max_length=6 hold 4"):
        encode(rows, setup, BERT, False)


def test_a_tokenizer_without_word_ids_is_refused():
    with pytest.raises(InputError, match=r"ByT5Tokenizer .*needs a fast tokenizer \(tokenizer.json\)"):
        encode(make_rows([["a"]]), make_settings(), ByT5Tokenizer(), False)


def test_documents_are_counted_over_all_batches():
    features, notes = encode(make_rows([["a"]] * 1001 + [[], ["b"]]), make_settings(), BERT, True)
    assert features["document"] == [*range(1001), 1002] and notes == {"no tokens": ["d1001"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reduce_takes_the_best_class_and_its_probability(dtype):
    logits = torch.tensor([[[0.1, 3.0, 2.0], [5.0, 1.0, -1.0]], [[0.0, 0.0, 1.0], [-3000.0, -1000.0, -2000.0]]])
    logits = logits.to(dtype)
    classes, probabilities = reduce(logits, {}, make_settings())
    assert classes.tolist() == [[1, 0], [2, 1]]
    torch.testing.assert_close(probabilities, logits.float().softmax(-1).max(-1).values)


def test_entities_are_where_their_words_are():
    tokens = ["Anna", "van", "", "Berg", "lives", "in", "Köln", "."]
    rows, setup = make_rows([tokens]), make_settings(names=("O", "B-PER", "I-PER", "I-LOC"))
    features = Dataset.from_dict({"document": [0], "word_ids": [list(range(8))]})
    outputs = (np.array([[1, 2, 2, 2, 0, 0, 3, 0]]), np.array([[0.9, 0.5, 0.5, 0.7, 1.0, 1.0, 0.6, 1.0]]))
    (prediction,) = decode(outputs, features, rows, setup)
    person, place = prediction["entities"]
    words = {"start_word": 0, "end_word": 4, "start": 0, "end": 14}
    assert person == {"type": "PER", "text": "Anna van  Berg", "score": pytest.approx(0.65), **words}
    words = {"start_word": 6, "end_word": 7, "start": 24, "end": 28}
    assert place == {"type": "LOC", "text": "Köln", "score": pytest.approx(0.6), **words}
    for entity in prediction["entities"]:
        assert " ".join(tokens)[entity["start"] : entity["end"]] == entity["text"]
        assert " ".join(tokens[entity["start_word"] : entity["end_word"]]) == entity["text"]
    # Labels of another form make none.
    other = make_settings(names=("NOUN", "VERB", "ADJ", "X"))
    assert decode(outputs, features, rows, other)[0]["entities"] == []
