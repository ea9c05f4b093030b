# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Metrics as `evaluate` modules that need no network."""

import datasets
import evaluate
from sklearn.metrics import accuracy_score, f1_score


class ClassificationMetric(evaluate.Metric):
    """Accuracy, and F1 averaged over the classes, of single-label predictions."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Accuracy and macro-averaged F1, by scikit-learn.",
            citation="",
            inputs_description="predictions and references: lists of class numbers",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references):
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1": float(f1_score(references, predictions, average="macro", zero_division=0.0)),
        }
