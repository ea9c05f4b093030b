# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Metrics as `evaluate` modules that need no network: those of GLUE, of several labels per document, of labelled words, and
of answers as SQuAD and TriviaQA count them. Shares are in 0..1, those of SQuAD and TriviaQA in percent.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import evaluate
import numpy as np
from datasets import Features, List, Value
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    matthews_corrcoef,
    mean_squared_error,
    precision_recall_fscore_support,
)

# A number goes in as a float even where it is a class: evaluate would truncate 0.7 to 0, scikit-learn refuses it.
NUMBER = Value("float64")
STRING = Value("string")


class OfflineMetric(evaluate.Metric):
    """Base of the metrics: results stay in memory, so that two processes cannot meet in one cache file."""

    prediction = NUMBER
    reference = NUMBER

    def __init__(self, keep_in_memory: bool = True, **kwargs):
        super().__init__(keep_in_memory=keep_in_memory, **kwargs)

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=f"predictions: {self.prediction}, references: {self.reference}, one each per row",
            features=Features({"predictions": self.prediction, "references": self.reference}),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """
        Raises:
            `ValueError`: A row that has to be a list is not. evaluate would take a string apart into its letters.
        """
        for name, rows in (("predictions", predictions), ("references", references)):
            if isinstance(self.features[name], List):
                for i, row in enumerate(rows):
                    if row is None or isinstance(row, str):
                        raise ValueError(f"row {i} of the {name} is {row!r}, which is not a list")
        super().add_batch(predictions=predictions, references=references, **kwargs)


class Accuracy(OfflineMetric):
    """The share of rows whose class is right."""

    def _compute(self, predictions, references):
        return {"accuracy": accuracy_score(references, predictions)}


class MacroF1(OfflineMetric):
    """F1 averaged over the classes that occur in the predictions or the references."""

    def _compute(self, predictions, references):
        return {"f1": f1_score(references, predictions, average="macro")}


class BinaryF1(OfflineMetric):
    """F1 of class number 1, as GLUE has it for MRPC and QQP; 0 where that class is neither predicted nor right."""

    def _compute(self, predictions, references):
        # Named as the only class of an average, class 1 may be absent, and others than 0 and 1 may be present.
        return {"f1": f1_score(references, predictions, labels=[1], average="macro", zero_division=0.0)}


class MatthewsCorrelation(OfflineMetric):
    """Matthews' correlation of classes, 0 where the predictions or the references are all of one class."""

    def _compute(self, predictions, references):
        # Of a single class scikit-learn returns 0 too, but warns.
        single = len({*predictions, *references}) == 1
        return {"matthews_correlation": 0.0 if single else matthews_corrcoef(references, predictions)}


def correlation(function, predictions: Sequence[float], references: Sequence[float]) -> float:
    """
    A correlation of `scipy.stats`, and 0.0, without a warning, where it is not defined because all predictions or all
    references are the same.

    Raises:
        `ValueError`: A number is not finite.
    """
    if not np.isfinite([predictions, references]).all():
        raise ValueError("predictions and references have to be finite numbers: there are NaN or infinite ones")
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    return function(predictions, references).statistic


class Pearson(OfflineMetric):
    """Pearson's correlation, 0 where the predictions or the references are constant."""

    def _compute(self, predictions, references):
        return {"pearson": correlation(stats.pearsonr, predictions, references)}


class Spearman(OfflineMetric):
    """Spearman's rank correlation, 0 where the predictions or the references are constant."""

    def _compute(self, predictions, references):
        return {"spearmanr": correlation(stats.spearmanr, predictions, references)}


class MeanSquaredError(OfflineMetric):
    """The mean of the squared differences."""

    def _compute(self, predictions, references):
        return {"mse": mean_squared_error(references, predictions)}


def f1_of_counts(true: int, predicted: int, expected: int) -> float:
    """F1 of `true` hits among what was `predicted` and what was `expected`: 0 where there is nothing of either."""
    return 2 * true / (predicted + expected) if predicted + expected else 0.0


class MultiLabel(OfflineMetric):
    """
    Rows of zeros and ones, one per label: F1 over all decisions (`f1_micro`, also `f1`), F1 averaged over the labels
    (`f1_macro`, a label that is neither predicted nor right counts 0), and the share of rows whose set is right.
    """

    prediction = List(NUMBER)
    reference = List(NUMBER)

    def _compute(self, predictions, references):
        lengths = {len(row) for rows in (predictions, references) for row in rows}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(
                f"rows of several labels have a 0 or a 1 per label, but their lengths are {sorted(lengths)}"
            )
        predictions, references = np.asarray(predictions), np.asarray(references)
        if not np.isin([predictions, references], (0, 1)).all():
            raise ValueError("rows of several labels hold other numbers than 0 and 1")
        true = (predictions * references).sum(0)
        predicted, expected = predictions.sum(0), references.sum(0)
        micro = f1_of_counts(true.sum(), predicted.sum(), expected.sum())
        return {
            "f1_micro": micro,
            "f1_macro": np.mean([f1_of_counts(*counts) for counts in zip(true, predicted, expected, strict=True)]),
            "f1": micro,
            "exact_match": (predictions == references).all(1).mean(),
        }


@lru_cache(maxsize=4096)
def entity_label(label: str) -> tuple[str, str] | None:
    """Prefix and type of a label such as `B-PER` (BIO, IOB2, IOBES, BILOU), `("O", "")` of `O`, `None` of others."""
    if label == "O":
        return "O", ""
    parts = re.fullmatch(r"([BIESLU])-(.+)", label, re.DOTALL)
    return parts.groups() if parts else None


def entities(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """
    The entities of one document, each with its type, its first word and the word after its last.

    Badly formed sequences are read as conlleval reads them: a label that cannot continue what stands before it, such as
    an `I-` after `O` or after another type, starts an entity. Labels of another form are outside.
    """
    found = set()
    start, open_type, may_continue = 0, "", False
    for i, label in enumerate([*labels, "O"]):
        prefix, kind = entity_label(label) or ("O", "")
        continues = may_continue and kind == open_type and prefix in "IEL"
        if open_type and not continues:
            found.add((open_type, start, i))
        if not continues:
            start = i
        open_type, may_continue = kind, prefix in "BI"
    return found


class TokenClassification(OfflineMetric):
    """
    Labels of words, a list per document. Where all labels of the references are `O` or look like `B-PER`, precision,
    recall and F1 are those of entities, whose span and type both have to be right, summed over all documents. Otherwise
    they are averaged over the labels. Accuracy is over words.
    """

    prediction = List(STRING)
    reference = List(STRING)

    def _compute(self, predictions, references):
        for i, (predicted, expected) in enumerate(zip(predictions, references, strict=True)):
            if len(predicted) != len(expected):
                raise ValueError(f"row {i} has {len(expected)} words, but {len(predicted)} predicted labels")
        flat = [[label for row in rows for label in row] for rows in (predictions, references)]
        if not flat[0]:
            raise ValueError("there are no words to score")
        numbers = {label: number for number, label in enumerate(sorted({*flat[0], *flat[1]}))}
        predicted, expected = np.array([[numbers[label] for label in labels] for labels in flat])
        if all(map(entity_label, set(flat[1]))):
            precision, recall, f1 = self.of_entities(predictions, references)
        else:
            precision, recall, f1, _ = precision_recall_fscore_support(
                expected, predicted, average="macro", zero_division=0.0
            )
        return {"accuracy": accuracy_score(expected, predicted), "f1": f1, "precision": precision, "recall": recall}

    @staticmethod
    def of_entities(predictions, references) -> tuple[float, float, float]:
        """Precision, recall and F1; 0 where there is nothing to count, as conlleval has it."""
        true = predicted = expected = 0
        for of_prediction, of_reference in zip(map(entities, predictions), map(entities, references), strict=True):
            true += len(of_prediction & of_reference)
            predicted += len(of_prediction)
            expected += len(of_reference)
        return true / max(predicted, 1), true / max(expected, 1), f1_of_counts(true, predicted, expected)


SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Single quotes, left and right, and the acute accent; the grave accent is ASCII.
TRIVIA_QA_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "\u2018\u2019\u00b4", " "))
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(answer: str, punctuation: dict[int, str | None]) -> str:
    """Lower case, punctuation by the table, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(punctuation)).split())


def best_match(prediction: str, answers: set[str]) -> tuple[float, float]:
    """Exact match and the best F1 over words, counted as often as they occur, of what is normalised already."""
    if prediction and prediction in answers:
        return 1.0, 1.0
    words = Counter(prediction.split())
    best = 0.0
    for answer in answers:
        others = answer.split()
        if not words.keys().isdisjoint(others):
            best = max(best, f1_of_counts((words & Counter(others)).total(), words.total(), len(others)))
    return float(prediction in answers), best


class AnswerMetric(OfflineMetric):
    """Base of the metrics of answers: a prediction per question, `None` where there is none, and a list of answers."""

    prediction = STRING
    reference = List(STRING)

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Read a question without a prediction as answered by ""."""
        predictions = ["" if prediction is None else prediction for prediction in predictions]
        super().add_batch(predictions=predictions, references=references, **kwargs)


class Squad(AnswerMetric):
    """
    Exact match and F1 of SQuAD 1.1 and 2.0, in percent. A question with an empty list of answers has none, and "" is
    right. Where there are such questions, `HasAns_exact`, `HasAns_f1`, `NoAns_exact` and `NoAns_f1` are of the two
    kinds apart.
    """

    @staticmethod
    def score(prediction: str, answers: list[str]) -> tuple[float, float]:
        prediction = normalize_answer(prediction, SQUAD_PUNCTUATION)
        # As 2.0 has it: an answer that is nothing but articles and punctuation does not make "" right beside others.
        answers = {normalize_answer(answer, SQUAD_PUNCTUATION) for answer in answers} - {""} or {""}
        exact, f1 = best_match(prediction, answers)
        return exact, f1 if prediction else exact

    def _compute(self, predictions, references):
        scores = 100 * np.array([self.score(*row) for row in zip(predictions, references, strict=True)])
        has_answer = np.array([len(answers) > 0 for answers in references])
        results = dict(zip(("exact_match", "f1"), scores.mean(0), strict=True))
        if not has_answer.all():
            for name, chosen in (("HasAns", has_answer), ("NoAns", ~has_answer)):
                if chosen.any():
                    results[f"{name}_exact"], results[f"{name}_f1"] = scores[chosen].mean(0)
        return results


class TriviaQA(AnswerMetric):
    """Exact match and F1 of TriviaQA, in percent: the best over the aliases, 0 for a question without a prediction."""

    @staticmethod
    def score(prediction: str, answers: list[str]) -> tuple[float, float]:
        if not prediction:
            return 0.0, 0.0
        answers = {normalize_answer(answer, TRIVIA_QA_PUNCTUATION) for answer in answers}
        return best_match(normalize_answer(prediction, TRIVIA_QA_PUNCTUATION), answers)

    def _compute(self, predictions, references):
        scores = 100 * np.array([self.score(*row) for row in zip(predictions, references, strict=True)])
        return dict(zip(("exact_match", "f1"), scores.mean(0), strict=True))


METRICS: dict[str, type[evaluate.Metric]] = {
    "accuracy": Accuracy,
    "f1_macro": MacroF1,
    "f1_binary": BinaryF1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearmanr": Spearman,
    "mse": MeanSquaredError,
    "multi_label": MultiLabel,
    "token_classification": TokenClassification,
    "squad": Squad,
    "trivia_qa": TriviaQA,
}


def compute(names: Sequence[str], predictions: list, references: list) -> dict[str, float]:
    """
    The results of all the metrics of `METRICS` that are named, in one dict.

    Raises:
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
    for name in names:
        for key, value in METRICS[name]().compute(predictions=predictions, references=references).items():
            if key in results:
                raise ValueError(f"two of the metrics {', '.join(names)} call a result {key!r}")
            results[key] = float(value)
    return results


def hub_metric(name: str) -> evaluate.Metric:
    """
    A metric of the Hub or of a local script, by `evaluate.load`.

    Raises:
        `ValueError`: It cannot be loaded, for whatever reason: such a script may raise anything.
    """
    try:
        return evaluate.load(name, keep_in_memory=True)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the metric {name!r} cannot be loaded: {reason}") from None


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
        group = "mnli" if task == "mnli_mismatched" else task
        scores.setdefault(group, []).extend(metrics.values())
    if not scores:
        raise ValueError("there are no tasks to average over")
    return float(np.mean([np.mean(of_task) for of_task in scores.values()]))
