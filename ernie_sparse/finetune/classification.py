# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Rows of text and label to features of sequence classification."""

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import EvalPrediction

from .metrics import ClassificationMetric


def check_columns(raw: DatasetDict, text_column: str, label_column: str):
    """
    Raises:
        `ValueError`: There is no train split, a column is missing, or a text or a label is.
    """
    if "train" not in raw:
        raise ValueError(f"there is no train split, only {', '.join(raw)}")
    for split, rows in raw.items():
        for column in (text_column, label_column):
            if column not in rows.column_names:
                raise ValueError(f"the {split} split has no column {column!r}, only {', '.join(rows.column_names)}")
            missing = [i for i, value in enumerate(rows[column]) if value is None or value == ""]
            if missing:
                raise ValueError(
                    f"column {column!r} of the {split} split is empty in {len(missing)} of {len(rows)} rows, the first "
                    f"of them row {missing[0]}"
                )


def label_names(train_set: Dataset, label_column: str) -> list[str]:
    """
    The classes, in the order of their numbers: a `ClassLabel`'s own, otherwise every label of the training set, sorted.

    Raises:
        `ValueError`: Labels that are not classes, or a single class.
    """
    feature = train_set.features[label_column]
    if isinstance(feature, ClassLabel):
        names = feature.names
    else:
        if not (feature.dtype in ("string", "large_string", "bool") or "int" in str(feature.dtype)):
            raise ValueError(f"column {label_column!r} holds {feature.dtype}: classes are strings or whole numbers")
        names = [str(value) for value in sorted(set(train_set[label_column]))]
    if len(names) < 2:
        raise ValueError(f"the training set has a single class, {names[0]!r}: there is nothing to learn")
    return names


def encode(
    rows: Dataset, split: str, tokenizer, names: list[str], text_column: str, label_column: str, max_length: int
) -> Dataset:
    """
    Features `input_ids`, `attention_mask` and `labels`, and `is_truncated`, whether the document was longer than
    `max_length` tokens.

    Raises:
        `ValueError`: A label that the training set does not have.
    """
    feature = rows.features[label_column]
    numbers = {name: number for number, name in enumerate(names)}
    to_name = feature.int2str if isinstance(feature, ClassLabel) else str

    def encode_batch(batch: dict) -> dict:
        whole = tokenizer(batch[text_column], return_attention_mask=False, verbose=False)["input_ids"]
        encoded = tokenizer(batch[text_column], truncation=True, max_length=max_length)
        unknown = sorted({to_name(label) for label in batch[label_column]} - set(numbers))
        if unknown:
            raise ValueError(
                f"label {unknown[0]!r} in the {split} split is none of the training set's: {', '.join(names)}"
            )
        encoded["labels"] = [numbers[to_name(label)] for label in batch[label_column]]
        encoded["is_truncated"] = [len(ids) > max_length for ids in whole]
        return encoded

    return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc=f"Tokenizing {split}")


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro F1 of a Trainer's predictions."""
    metric = ClassificationMetric()
    return metric.compute(predictions=np.argmax(prediction.predictions, axis=-1), references=prediction.label_ids)
