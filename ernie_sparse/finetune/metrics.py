# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Metrics as plain functions `(predictions, references)`, one of each per row, to a dict of numbers: those of GLUE, of several
labels per document, of labelled words, and of answers as SQuAD and TriviaQA count them. Shares are in 0..1, those of SQuAD
and TriviaQA in percent.
"""

import os
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as entity_scores
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    matthews_corrcoef,
    mean_squared_error,
    precision_recall_fscore_support,
)

from ..errors import InputError

# Of a bootstrap, at most.
NUM_DRAWS = 200


def accuracy(predictions, references) -> dict[str, float]:
    """The share of rows whose class is right."""
    return {"accuracy": accuracy_score(references, predictions)}


def f1_macro(predictions, references) -> dict[str, float]:
    """F1 averaged over the classes that occur in the predictions or the references."""
    return {"f1": f1_score(references, predictions, average="macro")}


def f1_binary(predictions, references) -> dict[str, float]:
    """F1 of class number 1, as GLUE has it for MRPC and QQP; 0 where that class is neither predicted nor right."""
    # Named as the only class of an average, class 1 may be absent, and others than 0 and 1 may be present.
    return {"f1": f1_score(references, predictions, labels=[1], average="macro")}


def matthews_correlation(predictions, references) -> dict[str, float]:
    """Matthews' correlation of classes, 0 where the predictions or the references are all of one class."""
    return {"matthews_correlation": matthews_corrcoef(references, predictions)}


def pearson(predictions, references) -> dict[str, float]:
    """Pearson's correlation, 0 where the predictions or the references are constant."""
    return {"pearson": _correlation(stats.pearsonr, predictions, references)}


def spearmanr(predictions, references) -> dict[str, float]:
    """Spearman's rank correlation, 0 where the predictions or the references are constant."""
    return {"spearmanr": _correlation(stats.spearmanr, predictions, references)}


def _correlation(function: Callable, predictions, references) -> float:
    if not np.isfinite([predictions, references]).all():
        raise InputError("predictions and references have to be finite numbers: there are NaN or infinite ones")
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    return function(predictions, references).statistic


def mse(predictions, references) -> dict[str, float]:
    """The mean of the squared differences."""
    return {"mse": mean_squared_error(references, predictions)}


def multi_label(predictions, references) -> dict[str, float]:
    """
    Rows of zeros and ones, one per label: F1 over all decisions (`f1_micro`, also `f1`), F1 averaged over the labels
    (`f1_macro`, a label that is neither predicted nor right counts 0), and the share of rows whose set is right.
    """
    lengths = {len(row) for rows in (predictions, references) for row in rows}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"rows of several labels have a 0 or a 1 per label, but their lengths are {sorted(lengths)}")
    predictions, references = np.asarray(predictions), np.asarray(references)
    if not np.isin([predictions, references], (0, 1)).all():
        raise ValueError("rows of several labels hold other numbers than 0 and 1")
    # Label by label, and all in one row: scikit-learn's own averages take a single label for two classes.
    micro = f1_score(references.ravel(), predictions.ravel())
    macro = np.mean([f1_score(*columns) for columns in zip(references.T, predictions.T, strict=True)])
    return {"f1_micro": micro, "f1_macro": macro, "f1": micro, "exact_match": accuracy_score(references, predictions)}


# BIO, IOB2, IOBES and BILOU.
ENTITY_LABEL = re.compile(r"O|[BIESLU]-.+")


def token_classification(predictions, references) -> dict[str, float]:
    """
    Labels of words, a list per document. Where all labels of the references are `O` or look like `B-PER`, precision,
    recall and F1 are those of entities as conlleval counts them: span and type both have to be right, and a label that
    cannot continue what stands before it starts an entity. Otherwise they are averaged over the labels. Accuracy is over
    words.
    """
    check_lists(predictions=predictions, references=references)
    for i, (predicted, expected) in enumerate(zip(predictions, references, strict=True)):
        if len(predicted) != len(expected):
            raise ValueError(f"row {i} has {len(expected)} words, but {len(predicted)} predicted labels")
    predicted, expected = ([label for row in rows for label in row] for rows in (predictions, references))
    if not expected:
        raise InputError("there are no words to score")
    if all(map(ENTITY_LABEL.fullmatch, set(expected))):
        precision, recall, f1, _ = entity_scores(_iobes(references), _iobes(predictions), average="micro")
    else:
        precision, recall, f1, _ = precision_recall_fscore_support(expected, predicted, average="macro")
    return {"accuracy": accuracy_score(expected, predicted), "f1": f1, "precision": precision, "recall": recall}


def _iobes(documents: Sequence[Sequence[str]]) -> list[list[str]]:
    """Labels as seqeval knows them: BILOU's L is an E, its U an S, and a label of another form is outside."""
    known = [[label if ENTITY_LABEL.fullmatch(label) else "O" for label in labels] for labels in documents]
    return [[{"L": "E", "U": "S"}.get(label[0], label[0]) + label[1:] for label in labels] for labels in known]


def entities(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """Type, first and last word of each entity that the labels of a document make; none where they are of another form."""
    return get_entities(_iobes([labels])[0])


def check_lists(**columns):
    """
    Raises:
        `ValueError`: A row of one of the `columns` is not a list. A string would be taken apart into its letters.
    """
    for name, rows in columns.items():
        for i, row in enumerate(rows):
            if row is None or isinstance(row, str):
                raise ValueError(f"row {i} of the {name} is {row!r}, which is not a list")


SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Single quotes, left and right, and the acute accent; the grave accent is ASCII.
TRIVIA_QA_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4", " "))
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def _normalize(answer: str, punctuation: dict[int, str | None]) -> str:
    """Lower case, punctuation by the table, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(punctuation)).split())


def _exact_and_f1(prediction: str, answers: set[str]) -> tuple[float, float]:
    """Exact match and the best F1 over words, counted as often as they occur, of what is normalised already."""
    words, best = Counter(prediction.split()), 0.0
    for answer in answers:
        others = Counter(answer.split())
        if shared := (words & others).total():
            best = max(best, 2 * shared / (words.total() + others.total()))
    return float(prediction in answers), best


def squad(predictions, references) -> dict[str, float]:
    """
    Exact match and F1 of SQuAD 1.1 and 2.0, in percent: a prediction per question, "" or `None` where there is none, and a
    list of answers. A question with an empty list has no answer, and "" is right. Where there are such questions,
    `HasAns_exact`, `HasAns_f1`, `NoAns_exact` and `NoAns_f1` are of the two kinds apart.
    """
    check_lists(references=references)
    scores = []
    for prediction, answers in zip(predictions, references, strict=True):
        prediction = _normalize(prediction or "", SQUAD_PUNCTUATION)
        # As 2.0 has it: an answer that is nothing but articles and punctuation does not make "" right beside others.
        exact, f1 = _exact_and_f1(prediction, {_normalize(a, SQUAD_PUNCTUATION) for a in answers} - {""} or {""})
        scores.append((100 * exact, 100 * (f1 if prediction else exact)))
    scores, has_answer = np.array(scores), np.array([len(answers) > 0 for answers in references])
    results = dict(zip(("exact_match", "f1"), scores.mean(0), strict=True))
    if not has_answer.all():
        for name, chosen in (("HasAns", has_answer), ("NoAns", ~has_answer)):
            if chosen.any():
                results[f"{name}_exact"], results[f"{name}_f1"] = scores[chosen].mean(0)
    return results


def trivia_qa(predictions, references) -> dict[str, float]:
    """Exact match and F1 of TriviaQA, in percent: the best over the aliases, 0 for a question without a prediction."""
    check_lists(references=references)
    scores = [(0.0, 0.0)] * len(references)
    for i, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        if prediction:
            prediction, *answers = (_normalize(text, TRIVIA_QA_PUNCTUATION) for text in (prediction, *answers))
            scores[i] = _exact_and_f1(prediction, set(answers))
    return dict(zip(("exact_match", "f1"), 100 * np.mean(scores, 0), strict=True))


METRICS: dict[str, Callable] = {
    "accuracy": accuracy,
    "f1_macro": f1_macro,
    "f1_binary": f1_binary,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
    "mse": mse,
    "multi_label": multi_label,
    "token_classification": token_classification,
    "squad": squad,
    "trivia_qa": trivia_qa,
}


def compute(names: Sequence[str], predictions: Sequence, references: Sequence) -> dict[str, float]:
    """
    The results of all the metrics of `METRICS` that are named, in one dict.

    Raises:
        `InputError`: Numbers that are not finite, or documents without words.
        `ValueError`: An unknown name, two metrics that call their results alike, no rows, or rows that do not fit.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"there is no metric {unknown[0]!r}, only {', '.join(METRICS)}")
    if len(predictions) != len(references) or len(references) == 0:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: there has to be one for each"
        )
    results = {}
    with warnings.catch_warnings():
        # Scores that are not defined are 0 here, as the docstrings say, and classes may be many or a single one.
        warnings.simplefilter("ignore", UserWarning)
        for name in names:
            for key, value in METRICS[name](predictions, references).items():
                if key in results:
                    raise ValueError(f"two of the metrics {', '.join(names)} call a result {key!r}")
                results[key] = float(value)
    return results


def bootstrap(
    score: Callable[[np.ndarray], Mapping[str, float]], num_rows: int, seed: int
) -> dict[str, tuple[float, float]]:
    """
    Of every metric of a split the interval that holds it with 95 % confidence: the middle of what it is on as many rows, drawn
    from these with replacement. 200 draws, fewer of very many rows.

    Args:
        score (`Callable`): The metrics of the rows with these numbers.
    """
    return intervals(resampled(score, num_rows, seed))


def resampled(
    score: Callable[[np.ndarray], Mapping[str, float]], num_rows: int, seed: int, num_draws: int | None = None
) -> dict[str, list[float]]:
    """
    What every metric is on each of the draws of [`bootstrap`]. The draws are a function of the other arguments: those of two
    models on the same rows are pairs.

    Args:
        num_draws (`int`, *optional*): 200, and fewer of very many rows, when `None`.
    """
    generator = np.random.default_rng(seed)
    num_draws = num_draws or max(20, min(NUM_DRAWS, 10**6 // num_rows))
    drawn = [score(generator.integers(num_rows, size=num_rows)) for _ in range(num_draws)]
    return {name: [float(metrics[name]) for metrics in drawn] for name in drawn[0]}


def intervals(drawn: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """The middle 95 % of what [`resampled`] returns."""
    ends = {name: np.quantile(values, [0.025, 0.975]) for name, values in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def hub_metric(name: str):
    """
    A metric of the Hub or, where `name` begins with `.` or `/`, of a local script, by `evaluate.load`. Either is code that
    runs here.

    Raises:
        `InputError`: It cannot be loaded, for whatever reason: such a script may raise anything; or `name` is of the Hub, but
            a local script of this name would be run instead.
    """
    import evaluate

    if not name.startswith((".", os.sep)) and os.path.lexists(name):
        raise InputError(
            f"the metric {name!r}: there is a file or folder of this name here, whose code would be run instead of the Hub's: "
            f"name it ./{name} if that is meant, or run the command in another folder"
        )
    try:
        return evaluate.load(name, keep_in_memory=True)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the metric {name!r} cannot be loaded: {reason}") from None


def average_over_tasks(results: Mapping[str, Mapping[str, float]]) -> float:
    """
    GLUE's average: a task's score is the mean of its metrics. MNLI's two test sets, `mnli` and `mnli_mismatched`, are
    one task.

    Args:
        results (`Mapping[str, Mapping[str, float]]`): The metrics of each task, as shares, not in percent.

    Raises:
        `ValueError`: No tasks, a task without metrics, or a value beyond -1..1.
    """
    scores = {}
    for task, metrics in results.items():
        if not metrics:
            raise ValueError(f"task {task} has no metrics")
        for name, value in metrics.items():
            if not -1 <= value <= 1:
                raise ValueError(f"{name} of task {task} is {value}, not a share in 0..1 or a correlation in -1..1")
        scores.setdefault("mnli" if task == "mnli_mismatched" else task, []).extend(metrics.values())
    if not scores:
        raise ValueError("there are no tasks to average over")
    return float(np.mean([np.mean(of_task) for of_task in scores.values()]))
