# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The types of task: for each the head, and the functions between its rows and the head's tensors."""

from collections.abc import Callable
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedModel

from ..modeling_ernie_sparse import (
    ErnieSparseForCandidateChoice,
    ErnieSparseForQuestionAnswering,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
)
from . import answer_spans, candidate_choice, classification, question_answering, token_classification


class TaskType(NamedTuple):
    """
    Args:
        model_class (`type`): The head.
        encode (`Callable`):
            `(rows, settings, tokenizer, is_training, num_proc=None)` to records, which `features.split_notes` parts.
        decode (`Callable`): `(outputs, features, rows, settings)` to one prediction per row.
        score (`Callable`): `(predictions, rows, settings)` to metrics.
        fields (`tuple[str, …]`): What a prediction has beside its `id`.
        reduce (`Callable`, *optional*): `(outputs, inputs, settings)` on the device, where outputs are wide.
        problem_type (`str`, *optional*): The config's, for sequence classification.
    """

    model_class: type[PreTrainedModel]
    encode: Callable[..., Dataset]
    decode: Callable[..., list[dict]]
    score: Callable[..., dict[str, float]]
    fields: tuple[str, ...]
    reduce: Callable | None = None
    problem_type: str | None = None


def _classification(problem_type: str, *fields: str) -> TaskType:
    functions = (classification.encode, classification.decode, classification.score)
    return TaskType(ErnieSparseForSequenceClassification, *functions, fields, problem_type=problem_type)


TASK_TYPES = {
    "single_label": _classification("single_label_classification", "label", "score", "scores"),
    "multi_label": _classification("multi_label_classification", "labels", "scores"),
    "regression": _classification("regression", "value"),
    "token_classification": TaskType(
        ErnieSparseForTokenClassification,
        token_classification.encode,
        token_classification.decode,
        token_classification.score,
        ("labels", "scores", "entities"),
        token_classification.reduce,
    ),
    "question_answering": TaskType(
        ErnieSparseForQuestionAnswering,
        question_answering.encode,
        answer_spans.decode,
        question_answering.score,
        ("answer", "score", "probability", "start", "end", "n_best"),
        answer_spans.reduce,
    ),
    "candidate_choice": TaskType(
        ErnieSparseForCandidateChoice,
        candidate_choice.encode,
        candidate_choice.decode,
        candidate_choice.score,
        ("answer", "score", "scores"),
    ),
}
