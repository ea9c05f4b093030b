# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Metrics against values worked by hand from the published rules, and their `evaluate` modules against them."""

import importlib.util
import sys
import warnings

import evaluate
import numpy as np
import pytest

from ernie_sparse.errors import InputError
from ernie_sparse.finetune.evaluate_modules import load
from ernie_sparse.finetune.metrics import METRICS, average_over_tasks, compute, hub_metric

# prediction, accepted answers, then exact match and F1 of SQuAD, then of TriviaQA.
ANSWERS = [
    ("The Broncos!", ["broncos"], 1, 1, 1, 1),
    ("an apple a day", ["Apple Day"], 1, 1, 1, 1),
    ("anthem", ["them"], 0, 0, 0, 0),  # an article inside a word stays
    ("pizza", ["pizz"], 0, 0, 0, 0),  # so does what only ends like one
    ("thé vert", ["vert"], 0, 2 / 3, 0, 2 / 3),  # or begins like one
    ("U.S.A.", ["USA"], 1, 1, 0, 0),  # TriviaQA: "u s", its a is an article
    ("U.S.A.", ["U S"], 0, 0, 1, 1),
    ("snow_white", ["Snow White"], 0, 0, 1, 1),
    ("A-ha", ["aha"], 1, 1, 0, 0),
    ("A-ha", ["ha"], 0, 0, 1, 1),
    ("\u2018Hamlet\u2019", ["Hamlet"], 0, 0, 1, 1),  # SQuAD knows ASCII punctuation only
    ("rock\u00b4n`roll", ["rock n roll"], 0, 0, 1, 1),
    ("“Hamlet”", ["Hamlet"], 0, 0, 0, 0),  # nor does TriviaQA know double curly quotes
    ("1,000", ["1000"], 1, 1, 0, 0),
    ("1,000", ["1 000"], 0, 0, 1, 1),
    ("42", ["forty-two", "42"], 1, 1, 1, 1),
    ("1914\u20131918", ["1914-1918"], 0, 0, 0, 0),  # an en dash is not ASCII
    ("ha ha ha", ["ha ha"], 0, 4 / 5, 0, 4 / 5),  # two of three, not all three
    ("white snow", ["snow white"], 0, 1, 0, 1),
    ("Barack Obama", ["Obama", "Barack Hussein Obama"], 0, 4 / 5, 0, 4 / 5),
    ("Barack Obama", ["Barack Hussein Obama", "Obama"], 0, 4 / 5, 0, 4 / 5),
    ("day\u2014the\u2014night", ["day\u2014 \u2014night"], 1, 1, 1, 1),  # an article becomes a space
    ("CAFÉ  au\tlait\n", ["café au lait"], 1, 1, 1, 1),
    ("cafe", ["café"], 0, 0, 0, 0),
    ("東京 タワー", ["東京"], 0, 2 / 3, 0, 2 / 3),
    ("", ["Paris"], 0, 0, 0, 0),
    ("", ["the", "Beatles"], 0, 0, 0, 0),  # "the" normalises to nothing, yet the question has an answer
    ("", ["the"], 1, 1, 0, 0),
    ("The", ["the"], 1, 1, 1, 0),  # TriviaQA: equal, but without words to share
    ("", [], 1, 1, 0, 0),
    ("the", [], 1, 1, 0, 0),
    ("Paris", [], 0, 0, 0, 0),
]

TWO_CLASSES = ([1, 1, 0, 0, 1], [1, 0, 0, 1, 1])  # 2 true and 1 false positive, 1 true and 1 false negative


@pytest.mark.parametrize("prediction, answers, squad_exact, squad_f1, trivia_exact, trivia_f1", ANSWERS)
def test_answers_by_hand(prediction, answers, squad_exact, squad_f1, trivia_exact, trivia_f1):
    squad = compute(["squad"], [prediction], [answers])
    trivia = compute(["trivia_qa"], [prediction], [answers])
    assert (squad["exact_match"], squad["f1"]) == pytest.approx((100 * squad_exact, 100 * squad_f1))
    assert trivia == pytest.approx({"exact_match": 100 * trivia_exact, "f1": 100 * trivia_f1})


def test_squad_tells_questions_without_an_answer_apart():
    predictions = ["Paris", "Lyon", "big Rome", "", "Oslo", "", ""]
    references = [["Paris"], ["Nice"], ["Rome"], [], [], [], ["Bonn"]]
    assert compute(["squad"], predictions, references) == pytest.approx(
        {
            "exact_match": 100 * 3 / 7,
            "f1": 100 * (3 + 2 / 3) / 7,
            "HasAns_exact": 25.0,
            "HasAns_f1": 100 * (1 + 2 / 3) / 4,
            "NoAns_exact": 100 * 2 / 3,
            "NoAns_f1": 100 * 2 / 3,
        }
    )


def test_squad_keys_follow_the_references():
    assert set(compute(["squad"], ["x"], [["x"]])) == {"exact_match", "f1"}
    none_answerable = compute(["squad"], ["", "x"], [[], []])
    assert none_answerable == {"exact_match": 50.0, "f1": 50.0, "NoAns_exact": 50.0, "NoAns_f1": 50.0}


@pytest.mark.parametrize("name, right", [("squad", 50.0), ("trivia_qa", 0.0)])
def test_a_question_without_a_prediction(name, right):
    results = compute([name], [None, None], [["x"], []])
    assert results["exact_match"] == results["f1"] == right
    assert compute([name], [None, "x"], [["x"], ["x"]])["exact_match"] == 50.0


def test_a_share_in_percent_over_all_questions():
    results = compute(["trivia_qa"], ["x", "y", "", "x y"], [["x"], ["x"], ["x"], ["z", "y"]])
    assert results == pytest.approx({"exact_match": 25.0, "f1": 100 * (1 + 2 / 3) / 4})


@pytest.mark.parametrize(
    "name, expected",
    [
        ("accuracy", {"accuracy": 3 / 5}),
        ("f1_binary", {"f1": 2 / 3}),
        ("f1_macro", {"f1": (2 / 3 + 1 / 2) / 2}),
        ("matthews_correlation", {"matthews_correlation": 1 / 6}),  # (2·1 - 1·1) / sqrt(3·3·2·2)
    ],
)
def test_two_classes_by_hand(name, expected):
    assert compute([name], *TWO_CLASSES) == pytest.approx(expected)


def test_f1_is_of_class_one():
    assert compute(["f1_binary"], [1, 2, 2, 1, 1], [1, 1, 2, 0, 1])["f1"] == pytest.approx(4 / 6)
    for rows, f1 in (([0, 0], 0.0), ([1, 1], 1.0), ([0, 2], 0.0)):
        assert compute(["f1_binary"], rows, rows)["f1"] == f1


def test_scores_by_hand():
    results = compute(["pearson", "spearmanr", "mse"], [1, 2, 3], [1, 3, 2])
    # Deviations (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2·2).
    assert results == pytest.approx({"pearson": 0.5, "spearmanr": 0.5, "mse": 2 / 3})
    bent = compute(["pearson", "spearmanr"], [0.1, 0.2, 9.0], [1.0, 2.0, 3.0])
    assert bent["spearmanr"] == pytest.approx(1.0) and bent["pearson"] < 0.9


CONSTANTS = [([1.3] * 3, [1, 2, 3]), ([1, 2, 3], [1.3] * 3), ([1], [2])]
ONE_CLASS = [([1, 1], [0, 1]), ([0, 1], [1, 1]), ([1, 1], [1, 1])]


@pytest.mark.parametrize(
    "name, predictions, references",
    [
        *((name, *rows) for name in ("pearson", "spearmanr") for rows in CONSTANTS),
        *(("matthews_correlation", *rows) for rows in ONE_CLASS),
    ],
)
def test_a_constant_has_no_correlation(name, predictions, references):
    assert compute([name], predictions, references) == {name: 0.0}


@pytest.mark.parametrize("dtype", ["int64", "float32", "bool"])
def test_several_labels_by_hand(dtype):
    predictions = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype)
    references = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype)
    # Per label 2·1/(2+1), 2·1/(1+1) and 0; in all 2·2/(3+3).
    results = compute(["multi_label"], predictions, references)
    assert results == pytest.approx({"f1_micro": 2 / 3, "f1_macro": 5 / 9, "f1": 2 / 3, "exact_match": 2 / 3})
    nothing = compute(["multi_label"], [[0, 0]], [[0, 0]])
    assert all(type(value) is float for value in nothing.values())
    assert nothing == {"f1_micro": 0.0, "f1_macro": 0.0, "f1": 0.0, "exact_match": 1.0}


def test_a_single_one_of_several_labels():
    """One column, which scikit-learn would take for classes 0 and 1."""
    results = compute(["multi_label"], [[1], [0], [1], [0]], [[1], [0], [0], [0]])
    assert results == pytest.approx({"f1_micro": 2 / 3, "f1_macro": 2 / 3, "f1": 2 / 3, "exact_match": 3 / 4})


@pytest.mark.parametrize(
    "labels, well_formed",
    [
        ("O I-PER I-PER O I-PER", "O B-PER I-PER O B-PER"),  # an I- after O starts one
        ("B-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),  # so does one of another type
        ("I-PER B-PER B-PER I-PER", "B-PER B-PER B-PER I-PER"),
        ("B-PER I-PER E-PER S-LOC O", "B-PER I-PER I-PER B-LOC O"),
        ("S-PER S-PER", "B-PER B-PER"),
        ("S-PER I-PER", "B-PER B-PER"),  # nothing continues what has ended
        ("B-PER E-PER E-PER I-PER", "B-PER I-PER B-PER B-PER"),
        ("B-PER I-PER L-PER U-PER", "B-PER I-PER I-PER B-PER"),
        ("U-PER I-PER L-PER L-PER U-PER L-PER", "B-PER B-PER I-PER B-PER B-PER B-PER"),
        ("B-art-work I-art-work I-art", "B-art-work I-art-work B-art"),
        ("B-PER other I-PER X-PER I- PER O-PER", "B-PER O B-PER O O O O"),  # labels of another form are outside
        ("", ""),
    ],
)
def test_how_sequences_of_other_forms_are_read(labels, well_formed):
    documents = [["B-Z"], labels.split()], [["B-Z"], well_formed.split()]
    assert compute(["token_classification"], *documents)["f1"] == 1.0


def test_labelled_entities_by_hand():
    references = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"], ["O", "O"], []]
    predictions = [["B-PER", "I-PER", "O", "O"], ["I-ORG", "B-LOC"], ["B-LOC", "O"], []]
    # 2 right of 4 predicted and 3 expected; 3, 0 and 1 of 8 words.
    assert compute(["token_classification"], predictions, references) == pytest.approx(
        {"accuracy": 1 / 2, "f1": 4 / 7, "precision": 1 / 2, "recall": 2 / 3}
    )


def test_an_entity_is_right_only_as_a_whole():
    references = [["B-PER", "I-PER", "I-PER", "B-LOC"]]
    predictions = [["B-PER", "I-PER", "O", "B-ORG"]]
    results = compute(["token_classification"], predictions, references)
    assert results == {"accuracy": 0.5, "f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_entities_end_with_their_document():
    results = compute(["token_classification"], [["B-X"], ["I-X"]], [["B-X"], ["B-X"]])
    assert results == {"accuracy": 0.5, "f1": 1.0, "precision": 1.0, "recall": 1.0}
    assert compute(["token_classification"], [["O"], ["B-X"]], [["B-X"], ["O"]])["f1"] == 0.0
    none = compute(["token_classification"], [["O", "O"]], [["O", "O"]])
    assert none == {"accuracy": 1.0, "f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_labels_that_are_no_entities():
    # N: 1 right of 2 predicted and 3 expected; V: 1 of 2 and 1; D is never predicted, X never right.
    references = [["N", "N", "V"], ["N"], ["D"]]
    predictions = [["N", "V", "V"], ["X"], ["N"]]
    assert compute(["token_classification"], predictions, references) == pytest.approx(
        {"accuracy": 2 / 5, "precision": (1 / 2 + 1 / 2) / 4, "recall": (1 / 3 + 1) / 4, "f1": (2 / 5 + 2 / 3) / 4}
    )
    for label in ("N", "B-", "B", "-X", "O-X"):  # a single label of another form in the references is enough
        f1 = compute(["token_classification"], [["B-X", label, "V"]], [["B-X", label, label]])["f1"]
        assert f1 == pytest.approx((1 + 2 / 3) / 3)
    assert compute(["token_classification"], [["B-X", "N"]], [["B-X", "O"]])["f1"] == 1.0


@pytest.mark.parametrize(
    "names, predictions, references, message",
    [
        (["accuracy", "bleu"], [1], [1], "no metric 'bleu', only accuracy, f1_macro, .*trivia_qa"),
        (["f1_macro", "f1_binary"], [1], [1], "f1_macro, f1_binary call a result 'f1'"),
        (["accuracy"], [], [], "0 predictions for 0 references"),
        (["accuracy"], [1, 0], [1], "2 predictions for 1 references"),
        (["accuracy"], [0.7, 0.2], [1, 0], "continuous"),
        (["f1_macro"], [0.7, 0.2], [1, 0], "continuous"),
        (["f1_binary"], [0.7, 0.2], [1, 0], "continuous"),
        (["matthews_correlation"], [0.7, 0.2], [1, 0], "continuous"),
        (["mse"], [float("nan"), 1.0], [1.0, 2.0], "NaN"),
        (["multi_label"], [[1, 0], [1]], [[1, 0], [1, 0]], r"lengths are \[1, 2\]"),
        (["multi_label"], [[1, 0]], [[1]], r"lengths are \[1, 2\]"),
        (["multi_label"], [[]], [[]], r"lengths are \[0\]"),
        (["multi_label"], [[0.7, 0.2]], [[1, 0]], "other numbers than 0 and 1"),
        (["multi_label"], [[1, 0]], [[2, 0]], "other numbers than 0 and 1"),
        (["token_classification"], [["O"], ["O"]], [["O"], ["O", "O"]], "row 1 has 2 words, but 1 predicted"),
        (["token_classification"], ["O"], [["O"]], "row 0 of the predictions is 'O', which is not a list"),
        (["squad"], ["x", "x"], [["x"], "x"], "row 1 of the references is 'x', which is not a list"),
        (["trivia_qa"], ["x"], [None], "row 0 of the references is None, which is not a list"),
    ],
)
def test_what_does_not_fit_is_refused(names, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        compute(names, predictions, references)


@pytest.mark.parametrize(
    "name, predictions, references, message",
    [
        ("pearson", [float("nan"), 1.0], [1.0, 2.0], "finite"),
        ("spearmanr", [1.0, 2.0], [float("inf"), 1.0], "finite"),
        ("token_classification", [[], []], [[], []], "no words"),
    ],
)
def test_what_a_user_can_mend(name, predictions, references, message):
    with pytest.raises(InputError, match=message):
        compute([name], predictions, references)


def test_undefined_scores_and_rare_classes_do_not_warn():
    many = list(range(30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute(["pearson", "spearmanr"], [1, 1], [1, 2])
        compute(["accuracy", "f1_macro", "matthews_correlation"], many, many)
        compute(["f1_binary", "matthews_correlation"], [0, 0], [0, 0])
        compute(["multi_label"], [[0, 0]], [[0, 0]])
        for labels in (["O"], ["?"], ["B-X", "?"]):
            compute(["token_classification"], [labels], [["O"] * len(labels)])
            compute(["token_classification"], [labels], [["N"] * len(labels)])


SAMPLES = {
    **dict.fromkeys(("accuracy", "f1_macro", "f1_binary", "matthews_correlation"), TWO_CLASSES),
    **dict.fromkeys(("pearson", "spearmanr", "mse"), ([0.7, 2.5, 3.0], [1, 3, 2])),
    "multi_label": ([[1, 0], [1, 1]], [[1, 0], [0, 1]]),
    "token_classification": ([["B-X", "O"], [], ["I-X"]], [["B-X", "O"], [], ["O"]]),
    **dict.fromkeys(("squad", "trivia_qa"), (["x", "y z", ""], [["x"], ["y", "z"], []])),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_module_of_evaluate_is_its_function(name):
    predictions, references = SAMPLES[name]
    expected = compute([name], predictions, references)
    assert load(name).description == METRICS[name].__doc__
    assert load(name).compute(predictions=predictions, references=references) == expected
    # A batch at a time, beside another module.
    combined = evaluate.combine([load(name), load(name)])
    for i in range(len(predictions)):
        combined.add_batch(predictions=predictions[i : i + 1], references=references[i : i + 1])
    assert combined.compute() == {f"{name}_{i}_{key}": value for i in range(2) for key, value in expected.items()}


@pytest.mark.parametrize(
    "name, predictions, references, message",
    [
        ("accuracy", [0.7, 0.2], [1, 0], "continuous"),
        ("multi_label", [[1, 0]], ["10"], "row 0 of the references is '10', which is not a list"),
        ("token_classification", ["O"], [["O"]], "row 0 of the predictions is 'O', which is not a list"),
        ("squad", ["x", "x"], [["x"], "x"], "row 1 of the references is 'x', which is not a list"),
    ],
)
def test_what_evaluate_would_turn_into_something_else(name, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        load(name).compute(predictions=predictions, references=references)


def test_two_processes_cannot_meet_in_a_file(tmp_path):
    """Several at work at once, as two runs on one machine are, leave no file and get their own results."""
    first, second = (load("accuracy", cache_dir=str(tmp_path)) for _ in range(2))
    first.add_batch(predictions=[1, 1], references=[1, 0])
    second.add_batch(predictions=[1], references=[1])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert first.compute() == {"accuracy": 0.5} and second.compute() == {"accuracy": 1.0}


def test_the_functions_need_no_evaluate(monkeypatch):
    for name in ("evaluate", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it fails
    spec = importlib.util.find_spec("ernie_sparse.finetune.metrics")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.compute(["accuracy"], [1], [1]) == {"accuracy": 1.0}


def test_metrics_of_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "load", lambda name, **kwargs: asked.append((name, kwargs)) or load("mse"))
    assert hub_metric("owner/mse").compute(predictions=[1], references=[3]) == {"mse": 4.0}
    assert asked == [("owner/mse", {"keep_in_memory": True})]


NOT_FOUND = FileNotFoundError("Couldn't find\nany module")


@pytest.mark.parametrize(
    "error, reason", [(NOT_FOUND, "Couldn't find any module"), (ConnectionError(), "ConnectionError")]
)
def test_a_metric_of_the_hub_that_cannot_be_loaded(monkeypatch, error, reason):
    def load(name, **kwargs):
        raise error

    monkeypatch.setattr(evaluate, "load", load)
    with pytest.raises(InputError) as caught:
        hub_metric("owner/none")
    assert str(caught.value) == f"the metric 'owner/none' cannot be loaded: {reason}"


def test_code_of_this_folder_is_run_only_where_it_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "accuracy").mkdir()
    (tmp_path / "accuracy" / "accuracy.py").write_text("raise SystemExit('it was run')")
    for name in ("accuracy", "accuracy/accuracy.py", "accuracy/"):
        with pytest.raises(InputError, match=f"the metric '{name}': there is a file or folder of this name here"):
            hub_metric(name)
    for name in ("./accuracy", str(tmp_path / "accuracy")):
        with pytest.raises(SystemExit, match="it was run"):
            hub_metric(name)


def test_average_over_tasks_by_hand():
    results = {
        "mrpc": {"accuracy": 0.8, "f1": 0.9},
        "mnli": {"accuracy": 0.6},
        "mnli_mismatched": {"accuracy": 0.7},
        "cola": {"matthews_correlation": -0.05},
    }
    assert average_over_tasks(results) == pytest.approx((0.85 + 0.65 - 0.05) / 3)
    assert type(average_over_tasks({"mnli_mismatched": {"accuracy": np.float64(0.7)}})) is float


@pytest.mark.parametrize(
    "results, message",
    [
        ({}, "no tasks"),
        ({"rte": {}}, "task rte has no metrics"),
        ({"rte": {"accuracy": 66.4}}, "accuracy of task rte is 66.4"),
        ({"rte": {"accuracy": float("nan")}}, "accuracy of task rte is nan"),
    ],
)
def test_averages_that_make_no_sense_are_refused(results, message):
    with pytest.raises(ValueError, match=message):
        average_over_tasks(results)
