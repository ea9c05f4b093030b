# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Questions and documents to windows and targets, logits to answers, and all of it from end to end."""

import math
import string

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from ernie_sparse.errors import InputError
from ernie_sparse.finetune import answer_spans, question_answering
from ernie_sparse.finetune.answer_spans import best_spans, decode, predictions_as_json, reduce
from ernie_sparse.finetune.features import split_notes
from ernie_sparse.finetune.question_answering import score
from ernie_sparse.finetune.settings import Settings

datasets.disable_progress_bars()

ANSWERS = {"text": List(Value("string")), "answer_start": List(Value("int64"))}


def bert_like() -> PreTrainedTokenizerFast:
    """One token per letter or digit; anything else is a word that is not known."""
    letters = string.ascii_lowercase + string.digits
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *",.?$"]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_input_names=names)


def byte_like(processor=None) -> PreTrainedTokenizerFast:
    """One token per byte, without special tokens unless `processor` adds them."""
    words = ["<s>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if processor is not None:
        tokenizer.post_processor = processor
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", model_input_names=names)


TOKENIZERS = {
    "bert": bert_like(),
    "roberta": byte_like(processors.RobertaProcessing(("</s>", 2), ("<s>", 0))),
    "bytes": byte_like(),
}
ALL_TOKENIZERS = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
BERT = TOKENIZERS["bert"]


def encode(rows, *arguments):
    """Features and notes."""
    return split_notes(question_answering.encode(rows, *arguments), rows)


def choices(**overrides) -> Settings:
    sizes = {"max_length": 40, "block_size": 8, "num_global_tokens": 24, "stride": 8, "max_answer_length": 12}
    return Settings(task_type="question_answering", columns={}, **{**sizes, "num_best": 5, **overrides})


def make_rows(*rows: dict) -> Dataset:
    """Rows of `context` and what else is given; `answers` are pairs of text and start."""
    names = {"id": Value("string"), "question": Value("string"), "context": Value("string")}
    if any("answers" in row for row in rows):
        names["answers"] = ANSWERS
    if any("aliases" in row for row in rows):
        names["aliases"] = List(Value("string"))
    columns = {name: [] for name in names}
    for number, row in enumerate(rows):
        row = {"id": str(number), "question": "where?", "answers": None, "aliases": None, **row}
        if row["answers"] is not None:
            row["answers"] = {"text": [a for a, _ in row["answers"]], "answer_start": [s for _, s in row["answers"]]}
        for name in names:
            columns[name].append(row[name])
    return Dataset.from_dict(columns, features=Features(names))


def target_texts(features: Dataset, rows: Dataset) -> list[list[str]]:
    """What the targets of every window of evaluation features say, letter by letter; `[]` is no answer."""
    found = []
    for feature in features:
        context = rows[feature["document"]]["context"]
        spans = zip(feature["start_positions"], feature["end_positions"], strict=True)
        spans = [(start, end) for start, end in spans if (start, end) != (0, 0)]
        found.append([context[feature["offset_starts"][a] : feature["offset_ends"][b]] for a, b in spans])
    return found


def target_spans(context: str, **row) -> set[tuple[int, int]]:
    """The characters of all targets when the whole context fits into one window."""
    rows = make_rows({"context": context, **row})
    features, _ = encode(rows, choices(max_length=400, max_answer_length=100), TOKENIZERS["bytes"], False)
    (feature,) = features
    ends = zip(feature["start_positions"], feature["end_positions"], strict=True)
    return {(feature["offset_starts"][a], feature["offset_ends"][b]) for a, b in ends if b > 0}


@pytest.mark.slow
@ALL_TOKENIZERS
@settings(max_examples=30, deadline=None)
@given(
    question=st.text("abc é", max_size=8),  # of at most 16 bytes, so that none is cut
    context=st.text("abcd é,€", max_size=150),
    max_length=st.integers(36, 60),
    stride=st.integers(0, 13),
)
def test_windows_are_those_that_the_tokenizer_itself_makes(tokenizer, question, context, max_length, stride):
    rows, chosen = make_rows({"question": question, "context": context}), choices(max_length=max_length, stride=stride)
    # With a window of no token at all, which is no feature.
    features = question_answering.encode(rows, chosen, tokenizer, False)
    # In lists: an empty text on its own would not be one of a pair.
    whole = tokenizer([question], [context], return_offsets_mapping=True)
    reference = tokenizer(
        *([question], [context]),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
    )
    names = [name for name in tokenizer.model_input_names if name in reference]
    assert {name: features[name][:] for name in names} == {name: reference[name] for name in names}
    assert features["length"][:] == [len(ids) for ids in reference["input_ids"]]
    # By characters: every token of the context is in a window, and `stride` of them are in the next one as well.
    expected = [span for span, side in zip(whole["offset_mapping"][0], whole.sequence_ids(0), strict=True) if side == 1]
    joined = []
    for feature in features:
        spans = list(zip(feature["offset_starts"], feature["offset_ends"], strict=True))
        assert [span != (-1, -1) for span in spans] == [bool(is_context) for is_context in feature["is_context"]]
        held = [span for span in spans if span != (-1, -1)]
        assert joined[len(joined) - stride :] == held[:stride] or not joined
        joined += held[stride:] if joined else held
    assert joined == expected


@ALL_TOKENIZERS
def test_a_long_question_is_cut_to_half_of_the_window_and_noted(tokenizer):
    rows = make_rows(*({"question": "q" * size, "context": "c" * 50} for size in (20, 21, 90)))
    features, notes = encode(rows, choices(stride=4, num_global_tokens=19), tokenizer, False)
    assert notes["question cut"] == ["1", "2"]
    assert notes["question longer than the global blocks"] == ["0", "1", "2"]
    kept = tokenizer("q" * 20, "c" * 50, truncation="only_second", max_length=40)["input_ids"]
    for document in range(3):
        windows = features.filter(lambda feature, document=document: feature["document"] == document)
        assert windows[0]["input_ids"] == kept
        assert max(windows["length"]) == 40 and len(windows) > 1
    specials = tokenizer(["q"], ["c"]).sequence_ids(0).index(1) - 1
    _, notes = encode(rows.select([0]), choices(stride=4, num_global_tokens=20 + specials), tokenizer, False)
    assert notes == {}


def test_what_cannot_be_encoded_is_an_error_that_says_why():
    rows = make_rows({"context": "abc"})
    with pytest.raises(InputError, match=r"needs a fast tokenizer \(tokenizer\.json\)"):
        encode(rows, choices(), ByT5Tokenizer(), False)
    # [CLS], two [SEP] and a question of 20 leave 17 of 40.
    encode(rows, choices(stride=16), BERT, False)
    for stride in (17, 40, -1):
        with pytest.raises(InputError, match=f"a stride of {stride} tokens makes no progress in windows of 40.* 17 "):
            encode(rows, choices(stride=stride), BERT, False)
    with pytest.raises(InputError, match="training needs answers or aliases"):
        encode(rows, choices(), BERT, True)


def test_evaluation_has_windows_for_empty_documents_and_rows_without_answers():
    rows = make_rows({"context": ""}, {"context": "abc"}, {"context": None})
    features, notes = encode(rows, choices(), BERT, False)
    assert features["document"][:] == [0, 1, 2] and notes == {}
    assert "start_positions" not in features.column_names
    assert features[0]["input_ids"] == BERT(["where?"], [""])["input_ids"][0] and sum(features[0]["is_context"]) == 0
    empty = np.zeros((3, 5))
    outputs = (np.full((3, 5), answer_spans.NO_SPAN), empty.astype(int), empty.astype(int))
    predictions = decode(outputs, features, rows, choices())
    nothing = {"score": 0.0, "probability": 0.0, "start": None, "end": None, "n_best": []}
    assert predictions[0] == {"id": "0", "answer": "", **nothing}
    # Where a question may have no answer, that is sure here.
    assert decode(outputs, features, rows, choices(null_threshold=0.0))[0]["probability"] == 1.0


def test_a_question_of_which_a_tokenizer_leaves_nothing_has_no_window_and_no_answer():
    rows = make_rows({"question": "", "context": ""}, {"context": "abc"})
    features, _ = encode(rows, choices(), TOKENIZERS["bytes"], False)
    assert features["document"][:] == [1]
    first = features["is_context"][0].index(1)
    outputs = (np.array([[2.0]]), np.array([[first]]), np.array([[first + 1]]))
    assert [prediction["answer"] for prediction in decode(outputs, features, rows, choices())] == ["", "ab"]


@ALL_TOKENIZERS
def test_targets_are_the_mentions_that_a_window_holds_as_a_whole(tokenizer):
    context = "x" * 20 + " answer " + "y" * 80 + " other " + "z" * 10 + " answer"
    answers = [("answer", 21), ("other", 109), ("answer", 126), ("answer", 21)]
    assert all(context.startswith(text, start) for text, start in answers)
    rows = make_rows({"context": context, "answers": answers})
    features, _ = encode(rows, choices(max_length=60), tokenizer, False)
    expected = []
    for feature in features:
        ends = zip(feature["offset_starts"], feature["offset_ends"], strict=True)
        held = {place for start, end in ends for place in range(start, end)}
        expected.append([text for text, start in answers[:3] if {*range(start, start + len(text))} <= held])
    assert target_texts(features, rows) == expected
    assert [] in expected and ["answer"] in expected and max(map(len, expected)) > 1
    alone = [f for f, texts in zip(features, expected, strict=True) if not texts]
    assert all(f["start_positions"] == [0] and f["end_positions"] == [0] for f in alone)


def test_an_answer_that_is_not_at_its_start_is_looked_for():
    context = "norm or on, on an onion"
    assert target_spans(context, answers=[("on", 12)]) == {(12, 14)}
    assert target_spans(context, answers=[("on", 18)]) == {(18, 20)}, "as given, within a word"
    assert target_spans(context, answers=[("on", 13)]) == {(12, 14)}
    assert target_spans(context, answers=[("on", 9)]) == {(8, 10)}
    assert target_spans(context, answers=[("on", 22)]) == {(12, 14)}, "a word before a part of one"
    assert target_spans(context, answers=[("nio", 0)]) == {(19, 22)}
    for start in (-1, -2, None, 99):
        assert target_spans(context, answers=[(" onion ", start)]) == {(18, 23)}
    assert target_spans("on a.b, axb", answers=[("a.b", 99)]) == {(3, 6)}


@pytest.mark.parametrize(
    "context, aliases, expected",
    [
        ("Paris, paris and PARIS.", ["pAris"], {"Paris", "paris", "PARIS"}),
        ("Parisian comparisons", ["Paris"], set()),
        ("PARIS1 1Paris paris_b", ["paris"], {"paris"}),
        ("New York City", ["york", " new york ", "New York City", ""], {"New York", "York", "New York City"}),
        ("He paid $100 (US$100), not $1000", ["$100"], {"$100"}),
        ("İİİ in İSTANBUL, at İstanbul", ["İstanbul", "in"], {"İSTANBUL", "İstanbul", "in"}),
        ("İ Straße, STRASSE; aß", ["strasse", "s", "as"], {"Straße", "STRASSE"}),
        ("हिंदी हिं", ["हिं"], {"हिं"}),
        ("a a a", ["a a"], {"a a"}),
    ],
)
def test_aliases_are_found_in_any_case_between_word_boundaries(context, aliases, expected):
    spans = target_spans(context, aliases=aliases)
    assert {context[start:end] for start, end in spans} == expected
    if "हिं" in aliases:
        assert spans == {(6, 9)}
    if aliases == ["a a"]:
        assert spans == {(0, 3), (2, 5)}


@settings(max_examples=40, deadline=None)
@given(st.text("aAİß ,", min_size=1, max_size=20), st.text("aAİß ,", min_size=1, max_size=4))
def test_aliases_are_found_as_if_every_span_were_compared(context, alias):
    def is_edge(place):
        return not (0 < place < len(context) and context[place - 1].isalpha() and context[place].isalpha())

    pairs = [(i, j) for i in range(len(context)) for j in range(i + 1, len(context) + 1)]
    reference = {(i, j) for i, j in pairs if context[i:j].casefold() == alias.strip().casefold()}
    assert target_spans(context, aliases=[alias]) == {(i, j) for i, j in reference if is_edge(i) and is_edge(j)}


def test_given_answers_count_as_aliases_only_where_there_are_aliases():
    context = "Rome, rome, the city"
    assert target_spans(context, answers=[("Rome", 0)]) == {(0, 4)}
    assert target_spans(context, answers=[("Rome", 0)], aliases=[]) == {(0, 4)}
    assert target_spans(context, answers=[("Rome", 0)], aliases=["the city"]) == {(0, 4), (6, 10), (12, 20)}


def test_rows_that_cannot_be_trained_on_are_left_out_named_and_without_a_label_in_evaluation():
    filler = " ".join("abcdefghi" * 5)
    # A window holds 31 letters of the context, the next one begins with the letter 23.
    rows = make_rows(
        {"context": filler, "answers": [("zebra", 3)]},
        {"context": filler, "answers": [], "aliases": ["zebra"]},
        {"context": filler, "answers": [(filler[:25], 0)]},
        {"context": filler, "answers": [(filler[40:63], 40)]},
        {"context": filler},
        {"context": filler, "answers": [("zebra", 3), (filler[:25], 0), (filler[:23], 0)]},
        {"context": filler, "answers": [("", -1)]},
        {"context": filler, "answers": []},
        {"context": filler, "answers": [(" ", 1), ("i", 16)]},
    )
    notes = {
        "answer not in the context": ["0", "1"],
        "answer longer than the limit": ["2"],
        "answer in no window as a whole": ["3"],
        "no answers given": ["4"],
    }
    features, found = encode(rows, choices(), BERT, True)
    assert found == notes
    assert sorted(set(features["document"])) == [5, 6, 7, 8]
    features, found = encode(rows, choices(), BERT, False)
    assert found == notes
    targets = list(zip(features["document"], features["start_positions"], features["end_positions"], strict=True))
    assert targets == [
        *((document, [-1], [-1]) for document in range(5) for _ in range(2)),
        *((5, [8], [19]), (5, [0], [0])),
        *((document, [0], [0]) for document in (6, 7) for _ in range(2)),
        *((8, [16], [16]), (8, [0], [0])),
    ]


def test_a_training_set_of_which_nothing_is_left_has_the_columns_of_any_other():
    rows = make_rows({"context": "abc", "answers": [("x", 0)]}, {"context": "abc", "answers": [("b", 1)]})
    empty, _ = encode(rows.select([0]), choices(), BERT, True)
    full, _ = encode(rows.select([1]), choices(), BERT, True)
    assert len(empty) == 0 and len(full) == 1 and empty.features == full.features
    names = {"input_ids", "token_type_ids", "attention_mask", "document", "length"}
    assert set(full.column_names) == names | {"start_positions", "end_positions"}
    assert full[0]["attention_mask"] == [1] * full[0]["length"]
    evaluation, _ = encode(rows, choices(), TOKENIZERS["bytes"], False)
    assert set(evaluation.column_names) == {*full.column_names, "offset_starts", "offset_ends", "is_context"} - {
        "token_type_ids"
    }


def test_training_draws_as_many_windows_without_a_mention_as_with_one_by_the_id():
    filler = "b " * 300
    rows = make_rows(
        *({"context": "a " + filler, "answers": [("a", 0)]} for _ in range(8)),
        *({"context": filler, "answers": [], "aliases": []} for _ in range(8)),
        {"context": "a " + "b " * 29 + "a", "answers": [("a", 0), ("a", 60)]},
        {"context": "b", "answers": []},
    )
    features, notes = encode(rows, choices(), BERT, True)
    assert notes == {}
    windows = [features.filter(lambda f, document=document: f["document"] == document) for document in range(18)]
    assert [len(part) for part in windows] == [2] * 16 + [1, 1]
    assert all(part["start_positions"][:] == [[8], [0]] for part in windows[:8])
    assert all(part["start_positions"][:] == [[0], [0]] for part in windows[8:16])
    assert windows[16]["start_positions"][:] == [[8, 38]]

    # What sets two windows of such documents apart is their place, which ids do not tell: letters in turn do.
    letters = " ".join(string.ascii_lowercase * 12)
    rows = make_rows(*({"context": letters, "answers": []} for _ in range(8)))
    features, _ = encode(rows, choices(), BERT, True)
    again, _ = encode(rows.select(range(7, -1, -1)), choices(), BERT, True)
    drawn = [features["input_ids"][2 * i : 2 * i + 2] for i in range(8)]
    assert drawn == [again["input_ids"][14 - 2 * i : 16 - 2 * i] for i in range(8)]
    assert all(first != second for first, second in drawn)
    assert any(drawn[0] != other for other in drawn[1:]), "another id is another draw"


def all_spans(start_logits, end_logits, is_context, max_answer_length) -> list[tuple[float, int, int]]:
    """The reference implementation of `best_spans`: every span of one window, best first."""
    spans = [
        (float(start_logits[start]) + float(end_logits[end]), start, end)
        for start in range(len(is_context))
        for end in range(start, min(start + max_answer_length, len(is_context)))
        if is_context[start] and is_context[end]
    ]
    return sorted(spans, reverse=True)


@pytest.mark.parametrize("num_best", [1, 4, 60])
@pytest.mark.parametrize("max_answer_length", [1, 3, 9, 30])
def test_best_spans_are_those_of_all_spans(num_best, max_answer_length):
    # Whole numbers that add up to a different sum for each span: no ties, and exact in half precision as well.
    start_logits = torch.stack([16.0 * torch.randperm(9) for _ in range(6)]) - 60
    end_logits = torch.stack([torch.randperm(9).float() for _ in range(6)])
    is_context = torch.rand(6, 9) < torch.tensor([[0.0], [0.2], [0.5], [0.8], [1.0], [1.0]])
    for dtype in (torch.float32, torch.float16):
        scores, starts, ends = best_spans(
            start_logits.to(dtype), end_logits.to(dtype), is_context, max_answer_length, num_best
        )
        assert scores.shape == starts.shape == ends.shape == (6, num_best) and scores.dtype == torch.float32
        for row in range(6):
            reference = all_spans(start_logits[row], end_logits[row], is_context[row], max_answer_length)[:num_best]
            reference += [(torch.finfo(torch.float32).min, 0, 0)] * (num_best - len(reference))
            assert [*zip(scores[row].tolist(), starts[row].tolist(), ends[row].tolist(), strict=True)] == reference


def test_scores_are_summed_in_single_precision_and_are_above_that_of_no_answer():
    start_logits = torch.tensor([[2048.0, 2048.0, 0.0], [-8.0, 1.0, 2.0]], dtype=torch.float16)
    end_logits = torch.tensor([[1.0, 3.0, 0.0], [0.5, 1.0, 4.0]], dtype=torch.float16)
    inputs = {"is_context": torch.tensor([[0, 1, 0], [0, 1, 1]])}
    scores, starts, ends = reduce((start_logits, end_logits), inputs, choices(num_best=2, max_answer_length=1))
    assert scores.tolist() == [[2.0, torch.finfo(torch.float32).min], [13.5, 9.5]]
    assert starts.tolist() == ends.tolist() == [[1, 0], [2, 1]]


def test_where_the_context_is_may_come_from_another_device():
    logits = torch.zeros(2, 5, device="meta")
    scores, _, _ = reduce((logits, logits), {"is_context": torch.ones(2, 5)}, choices())
    assert scores.device.type == "meta" and scores.shape == (2, 5)


def two_documents() -> tuple[Dataset, Dataset, tuple[np.ndarray, ...]]:
    """Features of two windows of one document around one of another, and spans as `reduce` gives them."""
    rows = make_rows({"context": "one  two three"}, {"context": "four five"})
    features = Dataset.from_dict(
        {
            "document": [0, 1, 0],
            "offset_starts": [[-1, 0, 5, -1], [-1, 0, 5, -1], [-1, 4, 9, -1]],
            "offset_ends": [[-1, 3, 8, -1], [-1, 4, 9, -1], [-1, 8, 14, -1]],
        }
    )
    scores = np.array([[3.0, 2.0, 1.0], [-4.0, answer_spans.NO_SPAN, answer_spans.NO_SPAN], [4.0, 2.5, 0.5]])
    starts = np.array([[2, 1, 1], [1, 0, 0], [1, 2, 1]])
    ends = np.array([[2, 2, 1], [2, 0, 0], [1, 2, 2]])
    return rows, features, (scores.astype(np.float32), starts, ends)


def test_spans_of_all_windows_compete_and_the_same_characters_count_once():
    rows, features, outputs = two_documents()
    predictions = decode(outputs, features, rows, choices(num_best=4))
    # "two" stands in both windows, in the second one with the space before it.
    n_best = [(best["text"], best["score"]) for best in predictions[0]["n_best"]]
    assert n_best == [("two", 4.0), ("three", 2.5), ("one  two", 2.0), ("one", 1.0)]
    assert predictions[0]["id"] == "0" and predictions[0]["answer"] == "two" and predictions[0]["score"] == 4.0
    assert [best["text"] for best in predictions[1]["n_best"]] == ["four five"]
    weights = [math.exp(value) for _, value in n_best]
    shares = [best["probability"] for best in predictions[0]["n_best"]]
    assert shares == pytest.approx([weight / sum(weights) for weight in weights])
    assert predictions[0]["probability"] == shares[0]
    for row, prediction in zip(rows, predictions, strict=True):
        for best in prediction["n_best"]:
            assert row["context"][best["start"] : best["end"]] == best["text"]
        assert row["context"][prediction["start"] : prediction["end"]] == prediction["answer"]
    assert predictions_as_json(predictions) == {"0": "two", "1": "four five"}
    assert len(decode(outputs, features, rows, choices(num_best=2))[0]["n_best"]) == 2


def test_below_the_threshold_there_is_no_answer():
    rows, features, outputs = two_documents()
    for threshold, answers in ((-4.5, ["two", "four five"]), (-3.5, ["two", ""]), (4.0, ["two", ""]), (4.1, ["", ""])):
        predictions = decode(outputs, features, rows, choices(null_threshold=threshold))
        assert [prediction["answer"] for prediction in predictions] == answers
        assert [prediction["score"] for prediction in predictions] == [4.0, -4.0]
    assert predictions[1]["start"] is predictions[1]["end"] is None
    assert predictions[1]["probability"] == pytest.approx(1 / (1 + math.exp(-4)))
    (best,) = predictions[1]["n_best"]
    assert best["probability"] == pytest.approx(math.exp(-4) / (1 + math.exp(-4)))


def test_a_blank_span_is_not_an_answer():
    rows = make_rows({"context": "a  b"})
    features = Dataset.from_dict({"document": [0], "offset_starts": [[-1, 1, 3]], "offset_ends": [[-1, 3, 4]]})
    outputs = (np.array([[9.0, 1.0]]), np.array([[1, 2]]), np.array([[1, 2]]))
    (prediction,) = decode(outputs, features, rows, choices())
    assert prediction["answer"] == "b" and prediction["n_best"] == [
        {"text": "b", "score": 1.0, "probability": 1.0, "start": 3, "end": 4}
    ]


def test_a_text_is_one_answer_at_its_best_place():
    rows = make_rows({"context": "b b c"})
    offsets = {"offset_starts": [[-1, 0, 2, 4]], "offset_ends": [[-1, 1, 3, 5]]}
    features = Dataset.from_dict({"document": [0], **offsets})
    outputs = (np.array([[1.0, 2.0, 0.5]]), np.array([[1, 2, 3]]), np.array([[1, 2, 3]]))
    for num_best in (2, 5):
        (prediction,) = decode(outputs, features, rows, choices(num_best=num_best))
        found = [(best["text"], best["start"], best["score"]) for best in prediction["n_best"]]
        assert found == [("b", 2, 2.0), ("c", 4, 0.5)]
        assert sum(best["probability"] for best in prediction["n_best"]) == pytest.approx(1.0)
    assert (prediction["answer"], prediction["start"], prediction["end"]) == ("b", 2, 3)


def test_a_score_that_is_no_number_is_not_hidden_by_others():
    rows, features, (scores, starts, ends) = two_documents()
    scores[2, 1] = np.nan
    predictions = decode((scores, starts, ends), features, rows, choices())
    assert [math.isnan(prediction["score"]) for prediction in predictions] == [True, False]


def answers_of_a_perfect_model(rows: Dataset, spans: list[tuple[int, int]], tokenizer, chosen: Settings) -> list[dict]:
    """Predictions where the logits know the characters `spans` of every row, and "no answer" elsewhere."""
    features, _ = encode(rows, chosen, tokenizer, False)
    size = max(features["length"]) + 3
    start_logits, end_logits = torch.randn(2, len(features), size).clamp(-2, 2)
    is_context = torch.zeros(len(features), size, dtype=torch.int64)
    for number, feature in enumerate(features):
        is_context[number, : feature["length"]] = torch.tensor(feature["is_context"])
        start, end = spans[feature["document"]]
        starts = [i for i, place in enumerate(feature["offset_starts"]) if place == start]
        ends = [i for i, place in enumerate(feature["offset_ends"]) if place == end]
        is_held = bool(starts and ends)
        start_logits[number, starts[0] if is_held else 0] += 20
        end_logits[number, ends[-1] if is_held else 0] += 20
    # Padding and the question may say what they like.
    start_logits[:, 1:].masked_fill_(is_context[:, 1:] == 0, 99.0)
    end_logits[:, 1:].masked_fill_(is_context[:, 1:] == 0, 99.0)
    outputs = reduce((start_logits, end_logits), {"is_context": is_context}, chosen)
    return decode(tuple(part.numpy() for part in outputs), features, rows, chosen)


@pytest.mark.slow
@ALL_TOKENIZERS
def test_a_model_that_knows_the_answers_gives_them_wherever_they_stand(tokenizer):
    filler = " ".join(f"w{number}" for number in range(60))
    texts = ["needle", "nee dle", "İstanbul, ẞ", "été", "日本"]
    rows, spans = [], []
    for text in texts:
        # At every place, so that it also stands at, over and between the borders of windows.
        for place in (0, *range(60, 90), len(filler)):
            context = f"{filler[:place]} {text} {filler[place:]}"
            if place == 0:
                context += f" {text} and {text}"
            spans.append((place + 1, place + 1 + len(text)))
            rows.append({"context": context, "answers": [(text, place + 1)]})
    rows = make_rows(*rows)
    chosen = choices(max_length=48, stride=18, max_answer_length=16, num_global_tokens=16)
    predictions = answers_of_a_perfect_model(rows, spans, tokenizer, chosen)
    assert [prediction["answer"] for prediction in predictions] == [row["answers"]["text"][0] for row in rows]
    assert all(prediction["score"] > 20 for prediction in predictions)
    assert score(predictions, rows, chosen) == {"exact_match": 100.0, "f1": 100.0}


def test_the_score_is_that_of_triviaqa_where_there_are_aliases_and_of_squad_otherwise():
    predictions = [{"answer": "Big-Apple"}, {"answer": "new york"}, {"answer": ""}]
    squad = make_rows(
        {"context": "x", "answers": [("big apple", 0)]},
        {"context": "x", "answers": [("paris", 0), ("york", 0)]},
        {"context": "x", "answers": []},
    )
    found = score(predictions, squad, choices())
    assert found["exact_match"] == pytest.approx(100 / 3) and found["f1"] == pytest.approx((0 + 200 / 3 + 100) / 3)
    assert found["NoAns_exact"] == 100
    trivia = make_rows(
        {"context": "x", "answers": [], "aliases": ["NYC", "big apple"]},
        {"context": "x", "answers": [("New York", 0)], "aliases": ["NYC"]},
        {"context": "x", "aliases": ["none"]},
    )
    assert score(predictions, trivia, choices()) == pytest.approx({"exact_match": 200 / 3, "f1": 200 / 3})
    assert score(predictions, trivia.remove_columns("answers"), choices())["exact_match"] == pytest.approx(100 / 3)
