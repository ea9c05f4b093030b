# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A model with its documents, as a report needs them, whatever the head."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..finetune.metrics import resampled
from .measures import PatternCalls

# Draws of the bootstrap where a score is a mean, and drawing costs next to nothing.
MANY_DRAWS = 1000


class Subject(NamedTuple):
    """
    Args:
        kind (`str`): The type of task, or `masked_lm`.
        model (`PreTrainedModel`): In evaluation mode, on its device.
        rows, features (`Dataset`): The documents, and what the model reads of them, longest first.
        collate (`Callable`): Features to the inputs of a batch.
        batch_size (`int`)
        forward (`Callable`): `(inputs, pattern)` to a mapping of logits.
        divergence (`Callable`): `(inputs, output, other)` to the symmetric KL of every prediction.
        read (`Callable`): Has a [`PatternCalls`] read all documents; the answers, one value of JSON per document.
        flips (`Callable`): The share of predictions in which two lists of answers differ, `None` for numbers.
        score (`Callable`): The metrics of some answers and the numbers of their documents, or one of the metrics alone.
        metric (`str`, *optional*): The metric by which patterns are compared; `None` where nothing can be scored.
        points (`float`): How many points a metric of 1 is: 100, or 1 for metrics in percent.
        weights (`Callable`, *optional*):
            A metric to the weight of every document, where the metric is the weighted mean of those of single documents; else to
            `None`.
        settings (`Mapping`): What else decides the answers.
    """

    kind: str
    model: PreTrainedModel
    rows: Dataset
    features: Dataset
    collate: Callable[[list[dict]], dict[str, torch.Tensor]]
    batch_size: int
    forward: Callable
    divergence: Callable
    read: Callable[[PatternCalls], list]
    flips: Callable[[Sequence, Sequence], float | None]
    score: Callable[..., dict[str, float]]
    metric: str | None
    points: float
    weights: Callable[[str], np.ndarray | None]
    settings: Mapping[str, object]

    def scores(self, answers: Sequence) -> dict[str, float]:
        """The metrics of all documents."""
        return self.score(answers, range(len(answers)))

    def draws(self, answers: Sequence, seed: int) -> dict[str, list[float]]:
        """
        The metrics of draws of as many documents, with replacement: 1,000 of [`Subject.metric`] alone where it is a mean, and of
        all metrics as many as [`bootstrap`] makes where it is not. The draws of other answers are of the same documents.
        """
        weights = self.weights(self.metric)
        if weights is None:
            return resampled(lambda numbers: self.score([answers[i] for i in numbers], numbers), len(answers), seed)
        metric = self.metric
        values = np.array([self.score([answer], [number], metric)[metric] for number, answer in enumerate(answers)])

        def mean(numbers: np.ndarray) -> dict[str, float]:
            return {metric: (values[numbers] @ weights[numbers]) / max(weights[numbers].sum(), 1e-12)}

        return resampled(mean, len(answers), seed, MANY_DRAWS)

    def batches(self) -> list[range]:
        """The numbers of the features of every batch."""
        size = len(self.features)
        return [range(start, min(start + self.batch_size, size)) for start in range(0, size, self.batch_size)]

    def inputs(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch of these features, on the device."""
        batch = self.collate([self.features[number] for number in numbers])
        return {name: value.to(self.model.device) for name, value in batch.items()}
