# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""How far two forms of one fine-tuned model agree on the rows of a file: predictions, distributions and scores."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import InputError
from ..saor import bernoulli_divergence, categorical_divergence, gaussian_divergence
from ..tables import FORMATS, find_files
from .data import row_by_role, row_features
from .predict import load_settings
from .predictor import Predictor, RowEncoder, check_any_row, chunks
from .settings import HAS_CLASSES
from .task_types import TASK_TYPES
from .tasks import OWN_FILES
from .trainer import FeatureCollator

BATCH_SIZE = 8
CHUNK_SIZE = 256

# What a prediction is; `answer` of the other types.
ANSWERS = {
    "single_label": "label",
    "multi_label": "labels",
    "token_classification": "labels",
    "regression": "value",
}


def answer_field(task_type: str) -> str:
    """Which field of a prediction is its answer."""
    return ANSWERS.get(task_type, "answer")


def share_of_flips(task_type: str, answers: Sequence, others: Sequence) -> float | None:
    """
    The share of predictions (of words, where words have labels; a set of labels is one) that differ; `None` for numbers.

    Args:
        answers, others (`Sequence`): What stands in [`answer_field`], one per row.
    """
    if task_type == "regression":
        return None
    pairs = list(zip(answers, others, strict=True))
    if task_type == "token_classification":
        pairs = [words for pair in pairs for words in zip(*pair, strict=True)]
    return sum(one != other for one, other in pairs) / max(1, len(pairs))


class _Recorded:
    """A model that keeps the masks and outputs of its calls."""

    def __init__(self, model: Callable):
        self.model, self.device, self.calls = model, torch.device("cpu"), []

    def __call__(self, **inputs):
        output = self.model(**inputs)
        self.calls.append((inputs["attention_mask"], output))
        return output


class RowsOfFile:
    """
    The rows of a file, for a model that `ernie-sparse finetune` wrote.

    Args:
        file (`str`): As `ernie-sparse predict` reads it; rows may have labels.
        name (`str`): The folder or hub id of the model.

    Raises:
        [`InputError`]: No such file, none of its rows can be used, or the model is not a fine-tuned one.
    """

    def __init__(self, file: str, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None):
        (self.source, *others) = find_files([file])
        if others:
            raise InputError(f"--data-file {file} stands for {len(others) + 1} files: one is needed")
        if self.source.suffix.lower() not in FORMATS:
            raise InputError(f"--data-file {file}: {', '.join(FORMATS)} can be read")
        if tokenizer is None:
            raise InputError(f"--data-file {file}: {name} has no tokenizer to read it with")
        settings = load_settings(name, model.config, tokenizer)
        self.settings = dataclasses.replace(settings, metrics=OWN_FILES[settings.task_type].metrics)
        self.encoder = RowEncoder(self.settings, tokenizer)
        self.limit, self.pad_token_id = model.config.max_position_embeddings, tokenizer.pad_token_id
        check_any_row(self.source, self.encoder)

    def compare(self, fp32: Callable, int8: Callable) -> dict:
        """
        Args:
            fp32, int8 (`Callable`): Called as a model is; what they return is compared.

        Returns:
            `dict`: `rows` that were predicted and those `refused`; `flipped`, the share of predictions (of words, where words
            have labels) that differ, `None` for numbers; `symmetric_kl`, the mean of ½ (KL(p‖q) + KL(q‖p)) per prediction of the
            model; `scores` of both on the `scored_rows`, which have labels.
        """
        collator = FeatureCollator(self.pad_token_id, self.settings, self.limit)
        models = [_Recorded(model) for model in (fp32, int8)]
        predict = [Predictor(self.encoder, model, collator, BATCH_SIZE) for model in models]
        pairs, rows, divergences, refused = [], [], [], 0
        for chunk in chunks(self.source, CHUNK_SIZE):
            both = [dict(part(chunk)) for part in predict]
            for number, row in chunk:
                pair = [predictions[number] for predictions in both]
                if any(prediction.get("error") for prediction in pair):
                    refused += 1
                    continue
                pairs.append(pair)
                rows.append(self._labelled(number, row))
            for (mask, output), (_, other) in zip(*(model.calls for model in models), strict=True):
                divergences.append(divergence(self.settings.task_type, mask, output, other))
            for model in models:
                model.calls.clear()
        if not pairs:
            raise InputError(f"--data-file {self.source}: none of its rows could be predicted")
        scored = [place for place, row in enumerate(rows) if row is not None]
        task_type = self.settings.task_type
        answers = [[prediction[answer_field(task_type)] for prediction in pair] for pair in pairs]
        return {
            "rows": len(pairs),
            "refused": refused,
            "flipped": share_of_flips(task_type, *zip(*answers, strict=True)),
            "symmetric_kl": torch.cat(divergences).double().mean().item(),
            "scored_rows": len(scored),
            "scores": self._scores([pairs[place] for place in scored], [rows[place] for place in scored]),
        }

    def _labelled(self, number: int, row: dict) -> dict | None:
        """The row by role with its labels or answers, `None` where it has none, or others than the model knows."""
        try:
            found = row_by_role(row, number, self.encoder.task, is_labelled=True)
        except InputError:
            return None
        references = {name: found[name] for name in ("label", "answers", "aliases", "answer") if name in found}
        if all(value is None for value in references.values()):
            return None
        labels = references.get("label")
        labels = labels if isinstance(labels, list) else [labels]
        is_known = not HAS_CLASSES[self.settings.task_type] or set(labels) <= set(self.settings.label_names)
        is_whole = self.settings.task_type != "token_classification" or len(labels) == len(found["tokens"])
        return found if is_known and is_whole else None

    def _scores(self, pairs: list[list[dict]], rows: list[dict]) -> dict[str, dict[str, float]]:
        if not rows:
            return {}
        types = row_features(self.encoder.task, is_labelled=True)
        table = Dataset.from_dict({name: [row.get(name) for row in rows] for name in types}, features=types)
        for name in ("answers", "aliases"):
            if name in table.column_names and all(row.get(name) is None for row in rows):
                table = table.remove_columns(name)
        if self.settings.task_type == "token_classification":
            table = table.rename_column("label", "labels")
        score = TASK_TYPES[self.settings.task_type].score
        return {
            name: score([pair[which] for pair in pairs], table, self.settings)
            for which, name in enumerate(("fp32", "int8"))
        }


def divergence(task_type: str, mask: torch.Tensor, output, other) -> torch.Tensor:
    """½ (KL(p‖q) + KL(q‖p)) of every prediction in two outputs of a head, as SAOR takes it; padding predicts nothing."""
    if task_type == "question_answering":
        sides = [
            categorical_divergence(*(part[side].masked_fill(mask == 0, -1e9) for part in (output, other)))
            for side in ("start_logits", "end_logits")
        ]
        return 0.5 * (sides[0] + sides[1])
    logits = output["logits"], other["logits"]
    if task_type == "multi_label":
        return bernoulli_divergence(*logits).flatten()
    if task_type == "regression":
        return gaussian_divergence(*logits).flatten()
    found = categorical_divergence(*logits)
    return found[mask != 0] if task_type == "token_classification" else found
