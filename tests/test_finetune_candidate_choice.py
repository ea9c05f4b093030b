# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Candidate choice: the layout of the input, what is cut when it is too long, and answers from logits."""

import string

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from ernie_sparse.errors import InputError
from ernie_sparse.finetune import candidate_choice
from ernie_sparse.finetune.candidate_choice import decode, score
from ernie_sparse.finetune.features import split_notes
from ernie_sparse.finetune.settings import Settings

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# One piece per letter.
PIECES = (*SPECIALS, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), ":")
BERT = BertTokenizer(vocab={piece: number for number, piece in enumerate(PIECES)})
CLS, SEP, MASK = (SPECIALS.index(name) for name in ("[CLS]", "[SEP]", "[MASK]"))


def make_other(**specials) -> PreTrainedTokenizerFast:
    """One token per letter, without token types; special tokens of its own."""
    names = [*specials.values(), *string.ascii_lowercase, "[UNK]"]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S"), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", model_input_names=["input_ids", "attention_mask"], **specials
    )


text = st.text("abc", max_size=6)
rows_strategy = st.fixed_dictionaries(
    {
        "query": text,
        "candidates": st.lists(text, min_size=1, max_size=5),
        "supports": st.lists(st.text("abc", max_size=12), max_size=4),
    }
)
examples = settings(max_examples=40, deadline=None)


def encode(rows, *arguments):
    """Features and notes."""
    return split_notes(candidate_choice.encode(rows, *arguments), rows)


def make_settings(max_length: int = 64, num_global_tokens: int = 64) -> Settings:
    return Settings(
        task_type="candidate_choice",
        max_length=max_length,
        block_size=8,
        num_global_tokens=num_global_tokens,
        columns={},
    )


def make_rows(*rows: dict) -> Dataset:
    columns = {"id": [f"q{i}" for i in range(len(rows))]}
    for name in rows[0]:
        columns[name] = [row[name] for row in rows]
    return Dataset.from_dict(columns)


def make_row(query="ab", candidates=("a", "bc"), supports=("cab", "b"), **more) -> dict:
    return {"query": query, "candidates": list(candidates), "supports": list(supports), **more}


def tokens(text: str) -> list[int]:
    return [PIECES.index(letter if k == 0 else f"##{letter}") for k, letter in enumerate(text)]


@pytest.mark.parametrize("is_training", [True, False])
def test_layout(is_training):
    rows = make_rows(make_row(answer="bc"), make_row("c", ["a", "b", "a"], [], answer="a"))
    features, notes = encode(rows, make_settings(), BERT, is_training)
    assert notes == {}
    head = [CLS, *tokens("ab"), SEP, MASK, *tokens("a"), MASK, *tokens("bc"), SEP]
    tail = [*tokens("cab"), SEP, *tokens("b"), SEP]
    assert features[0] == {
        "input_ids": head + tail,
        "attention_mask": [1] * 16,
        "token_type_ids": [0] * 10 + [1] * 6,
        "candidate_positions": [4, 6],
        "labels": 1,
        "document": 0,
        "length": 16,
    }
    # No supports, and of two equal candidates the first is the answer.
    assert features[1]["input_ids"] == [
        CLS,
        *tokens("c"),
        SEP,
        MASK,
        *tokens("a"),
        MASK,
        *tokens("b"),
        MASK,
        *tokens("a"),
        SEP,
    ]
    assert features[1]["labels"] == 0 and features[1]["candidate_positions"] == [3, 5, 7]
    assert features[1]["token_type_ids"] == [0] * 10 and features[1]["document"] == 1


def test_underscores_of_the_query_alone_are_spaces():
    # Two words of the query, while the unknown underscore stays where it stands in a candidate.
    features, _ = encode(make_rows(make_row("a_b c", ["a_b"], [])), make_settings(), BERT, False)
    letters = [PIECES.index(letter) for letter in "abc"]
    assert features["input_ids"][0][1:4] == letters
    assert features["input_ids"][0][5:] == [MASK, letters[0], SPECIALS.index("[UNK]"), letters[1], SEP]


def test_beginning_and_end_stand_in_for_missing_special_tokens():
    tokenizer = make_other(bos_token="<s>", eos_token="</s>", mask_token="<mask>")
    features, _ = encode(make_rows(make_row("a", ["b"], ["c"])), make_settings(), tokenizer, False)
    a, b, c = tokenizer.convert_tokens_to_ids(["a", "b", "c"])
    assert features[0] == {
        "input_ids": [0, a, 1, 2, b, 1, c, 1],
        "attention_mask": [1] * 8,
        "candidate_positions": [3],
        "document": 0,
        "length": 8,
    }
    # Where there are both, cls and sep go first. Without either opening the query is the first.
    both = make_other(bos_token="<s>", eos_token="</s>", mask_token="<mask>", cls_token="<c>", sep_token="<d>")
    assert encode(make_rows(make_row("", ["b"], [])), make_settings(), both, False)[0]["input_ids"][0][:2] == [3, 4]
    neither = make_other(sep_token="<d>", mask_token="<mask>")
    features, _ = encode(make_rows(make_row("", ["b"], [])), make_settings(), neither, False)
    assert features["input_ids"][0][:2] == [0, 1] and features["candidate_positions"][0] == [1]


@pytest.mark.parametrize(
    "tokenizer, message",
    [
        (ByT5Tokenizer(), "ByT5Tokenizer has no mask token"),
        (make_other(cls_token="<c>", mask_token="<mask>"), "has no sep or eos token"),
    ],
)
def test_a_tokenizer_without_the_tokens_needed_is_refused(tokenizer, message):
    with pytest.raises(InputError, match=message):
        encode(make_rows(make_row()), make_settings(), tokenizer, True)


@given(st.lists(rows_strategy, min_size=1, max_size=3), st.integers(14, 60))
@examples
def test_every_row_is_evaluated_and_every_marker_stays(rows, max_length):
    features, notes = encode(make_rows(*rows), make_settings(max_length), BERT, False)
    assert features["document"] == list(range(len(rows)))
    for i, (row, feature) in enumerate(zip(rows, features, strict=True)):
        ids, positions, row_id = feature["input_ids"], feature["candidate_positions"], f"q{i}"
        assert len(ids) == feature["length"] == len(feature["attention_mask"]) <= max_length
        assert [k for k, token in enumerate(ids) if token == MASK] == positions
        assert len(positions) == len(row["candidates"])
        # What stands in each part, read back.
        end = ids.index(SEP, positions[-1])
        query = ids[1 : positions[0] - 1]
        parts = [ids[start + 1 : stop] for start, stop in zip(positions, [*positions[1:], end], strict=True)]
        assert ids[0] == CLS and ids[positions[0] - 1] == SEP and ids[-1] == SEP
        assert feature["token_type_ids"] == [0] * (end + 1) + [1] * (len(ids) - end - 1)
        whole = [tokens(row["query"]), *map(tokens, row["candidates"])]
        is_long = 3 + sum(map(len, whole)) + len(parts) > max_length - 1
        assert (row_id in notes.get("candidates cut", [])) == is_long
        kept = [query, *parts]
        assert all(part == full[: len(part)] for part, full in zip(kept, whole, strict=True))
        if not is_long:
            assert kept == whole
        else:
            assert len(query) == min(len(whole[0]), max_length // 4)
            # Even: what is cut is as long as any, and one token more each would not fit.
            cut = [len(part) for part, full in zip(parts, whole[1:], strict=True) if len(part) < len(full)]
            assert all(length == max(map(len, parts)) for length in cut)
            assert not cut or end + 1 + len(cut) > max_length - 1
        supports = [token for support in row["supports"] for token in (*tokens(support), SEP)]
        left = max_length - end - 1
        assert left >= 1
        assert (row_id in notes.get("supports cut", [])) == (len(supports) > left)
        expected = supports if len(supports) <= left else [*supports[: left - 1], SEP]
        assert ids[end + 1 :] == expected


def test_what_does_not_fit_is_noted():
    # 10 tokens of query and candidates, 6 of supports.
    rows = make_rows(make_row(answer="a"))
    for max_length, num_global_tokens, expected in (
        (16, 10, {}),
        (15, 10, {"supports cut": ["q0"]}),
        (16, 9, {"candidates longer than the global blocks": ["q0"]}),
        (11, 10, {"supports cut": ["q0"]}),
    ):
        for is_training in (True, False):
            features, notes = encode(rows, make_settings(max_length, num_global_tokens), BERT, is_training)
            assert len(features) == 1 and notes == expected
            assert features["length"][0] == min(16, max_length)
    features, notes = encode(rows, make_settings(10), BERT, True)
    assert len(features) == 0 and "input_ids" in features.column_names
    assert notes == {"query and candidates longer than the limit": ["q0"]}
    features, notes = encode(rows, make_settings(10), BERT, False)
    # One candidate piece less, and one place for what follows.
    assert features["input_ids"][0] == [CLS, *tokens("ab"), SEP, MASK, *tokens("a"), MASK, *tokens("b"), SEP, SEP][:10]
    assert notes == {"candidates cut": ["q0"], "supports cut": ["q0"]}


def test_more_candidates_than_places_are_refused_in_evaluation():
    # Beside [CLS], two [SEP], one place behind them and two of eight for the query.
    setup = make_settings(max_length=8)
    fits, does_not = make_row("abc", ["a", "b"]), make_row("abc", ["a", "b", "c"])
    features, _ = encode(make_rows(fits), setup, BERT, False)
    assert features["candidate_positions"][0] == [4, 5]
    with pytest.raises(InputError, match=r"row q1: it has 3 candidates.* only 2 have a place"):
        encode(make_rows(fits, does_not), setup, BERT, False)
    rows = make_rows({**does_not, "answer": "a"})
    assert encode(rows, setup, BERT, True)[1] == {"query and candidates longer than the limit": ["q0"]}


@pytest.mark.parametrize("answer", ["c", "", None])
def test_an_answer_that_is_no_candidate_is_wrong_but_not_trained_on(answer):
    rows, setup = make_rows(make_row(answer="a"), make_row(answer=answer), make_row(answer="bc")), make_settings()
    features, notes = encode(rows, setup, BERT, True)
    assert features["document"] == [0, 2] and features["labels"] == [0, 1]
    assert notes == {"answer not among the candidates": ["q1"]}
    features, notes = encode(rows, setup, BERT, False)
    assert features["labels"] == [0, -100, 1] and notes == {"answer not among the candidates": ["q1"]}
    predictions = decode(np.array([[2.0, 1.0], [0.0, 3.0], [0.0, 1.0]]), features, rows, setup)
    assert score(predictions, rows, setup) == {"accuracy": pytest.approx(2 / 3)}


def test_a_row_without_candidates():
    rows = make_rows(make_row(answer="a"), make_row(candidates=[], answer="a"))
    features, notes = encode(rows, make_settings(), BERT, True)
    assert features["document"] == [0] and notes == {"no candidates": ["q1"]}
    with pytest.raises(InputError, match="row q1: it has no candidates"):
        encode(rows, make_settings(), BERT, False)


def test_rows_without_answers_are_evaluated():
    features, notes = encode(make_rows(make_row()), make_settings(), BERT, False)
    assert "labels" not in features.column_names and notes == {}


@pytest.mark.parametrize("filler", [-100.0, 100.0, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_decode_reads_a_row_s_own_candidates(dtype, filler):
    rows = make_rows(make_row(candidates=["a", "b", "c"]), make_row(candidates=["x", "y"]), make_row(candidates=["z"]))
    features, _ = encode(rows, make_settings(), BERT, False)
    with np.errstate(over="ignore"):
        outputs = np.array(
            [[0.0, np.log(3.0), -np.inf], [-300.0, -300.0 + np.log(4.0), filler], [-5.0, filler, filler]]
        ).astype(dtype)
    predictions = decode(outputs, features, rows, make_settings())
    expected = [
        ("q0", "b", {"a": 0.25, "b": 0.75, "c": 0.0}),
        ("q1", "y", {"x": 0.2, "y": 0.8}),
        ("q2", "z", {"z": 1.0}),
    ]
    for prediction, (row_id, answer, scores) in zip(predictions, expected, strict=True):
        tolerance = 0.05 if dtype == np.float16 else 1e-4
        assert prediction["id"] == row_id and prediction["answer"] == answer
        assert prediction["scores"] == pytest.approx(scores, abs=tolerance)
        assert prediction["score"] == prediction["scores"][answer]
        assert type(prediction["score"]) is float


def test_decode_matches_rows_by_document():
    rows = make_rows(make_row(), make_row("c"), make_row("a"))
    features, _ = encode(rows, make_settings(), BERT, False)
    order = [2, 0, 1]
    outputs = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    predictions = decode(outputs[order], features.select(order), rows, make_settings())
    assert [prediction["answer"] for prediction in predictions] == ["bc", "a", "bc"]


def test_probabilities_of_a_candidate_given_twice_add_up():
    rows = make_rows(make_row(candidates=["a", "b", "a"]))
    features, _ = encode(rows, make_settings(), BERT, False)
    prediction = decode(np.log([[0.3, 0.4, 0.3]]), features, rows, make_settings())[0]
    assert prediction["answer"] == "a" and prediction["scores"] == pytest.approx({"a": 0.6, "b": 0.4})


def test_large_logits_have_probabilities():
    rows = make_rows(make_row(candidates=["a", "b"]))
    features, _ = encode(rows, make_settings(), BERT, False)
    for logit in (-5000.0, 5000.0):
        prediction = decode(np.array([[logit, logit + np.log(3.0)]]), features, rows, make_settings())[0]
        assert prediction["scores"] == pytest.approx({"a": 0.25, "b": 0.75})


def test_documents_are_counted_over_all_batches():
    rows = make_rows(*[make_row("", ["a"], [])] * 1001, make_row("", ["b"], []))
    features, _ = encode(rows, make_settings(), BERT, False)
    assert features["document"] == list(range(1002))


def test_score_is_the_share_of_right_answers():
    rows = make_rows(*(make_row(answer=answer) for answer in ("a", "bc", "a", "a")))
    predictions = [{"answer": answer} for answer in ("a", "a", "bc", "a")]
    assert score(predictions, rows, make_settings()) == {"accuracy": 0.5}
