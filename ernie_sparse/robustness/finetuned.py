# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Models that `ernie-sparse finetune` wrote, on a task or on rows of one's own."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from datasets import Dataset

from ..checkpoints import load_model
from ..configuration_ernie_sparse import ErnieSparseConfig
from ..errors import InputError
from ..finetune import data
from ..finetune.agreement import answer_field, divergence, share_of_flips
from ..finetune.arguments import result_names, results_of
from ..finetune.features import split_notes
from ..finetune.predict import columns_of, load_settings
from ..finetune.predictor import Predictor, RowEncoder
from ..finetune.preparation import with_classes
from ..finetune.references import References
from ..finetune.settings import Settings
from ..finetune.task_types import TASK_TYPES
from ..finetune.tasks import OWN_FILES, TASKS, Task
from ..finetune.trainer import FeatureCollator
from ..tables import load_rows, longest_first, subset
from .arguments import COLUMN_ROLES, RobustnessArguments
from .subject import Subject

# Metrics that are the mean of those of single documents.
MEANS = {
    "single_label": ("accuracy",),
    "multi_label": ("exact_match",),
    "regression": (),
    "token_classification": (),
    "question_answering": ("exact_match", "f1"),
    "candidate_choice": ("accuracy",),
}
# What the model is asked, and not told.
REFERENCES = ("labels", "start_positions", "end_positions")


def find_task(args: RobustnessArguments, settings: Settings) -> Task:
    """
    The task of `--task`, or what the model was trained on with the columns that flags name.

    Raises:
        [`InputError`]: The task is of another type than the model's.
    """
    if args.task is not None:
        task = TASKS[args.task]
        if task.task_type != settings.task_type:
            raise InputError(
                f"--task {args.task} is {_words(task.task_type)}, and {args.model} does {_words(settings.task_type)}"
            )
        return task
    columns = columns_of(settings, args, COLUMN_ROLES)
    return dataclasses.replace(OWN_FILES[settings.task_type], columns=columns, label_separator=args.label_separator)


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def documents_of(task: Task, settings: Settings, args: RobustnessArguments, files: list[str] | None) -> Dataset:
    """
    The documents of `files` or, where these are `None`, the task's validation set: what `ernie-sparse finetune` holds out where
    the data has none.

    Raises:
        [`InputError`]: There are none, they have no labels, or other labels than the model.
    """
    if args.unlabelled:
        return load_rows(files, data.row_features(task, False), data.row_by_role, task=task, is_labelled=False)
    needed = "validation" if files is not None or "validation" in task.splits else "train"
    task = dataclasses.replace(task, splits={needed: task.splits.get(needed, needed)})
    splits = data.load_splits(task, files={needed: files}, data_dir=None if files else args.data_dir, needed=needed)
    rows, _, _ = with_classes(task, splits, settings.label_names)
    if needed == "train":
        rows = data.hold_out(rows, args.validation_fraction, args.seed)
    rows = rows["validation"]
    if task.task_type == "question_answering" and not {"answers", "aliases"} & set(rows.column_names):
        names = " and ".join(repr(task.columns[role]) for role in ("answers", "aliases"))
        raise InputError(
            f"there are no answers to score with: the columns {names} are missing or empty (--unlabelled does without)"
        )
    return rows


def load_subject(
    args: RobustnessArguments, config: ErnieSparseConfig, tokenizer, files: list[str] | None, model=None, is_test=False
) -> Subject:
    """
    The model with its documents.

    Args:
        files (`list[str]`, *optional*): The documents; the validation set of `--task` when `None`.
        model (`PreTrainedModel`, *optional*): The model, if it has been loaded.
    """
    settings = load_settings(args.model, config, tokenizer)
    task = find_task(args, settings)
    settings = dataclasses.replace(settings, columns=dict(task.columns), metrics=task.metrics)
    metric = None if args.unlabelled else metric_of(task, args.metric)
    rows = documents_of(task, settings, args, files)
    rows = rows if is_test else subset(rows, args.max_documents, args.seed)
    task_type = TASK_TYPES[settings.task_type]
    features, _ = split_notes(task_type.encode(rows, settings, tokenizer, False), rows)
    features = features.remove_columns([name for name in REFERENCES if name in features.column_names])
    empty = len(rows) - len(set(features["document"][:]))
    if empty:
        raise InputError(f"{empty} of {len(rows)} documents cannot be read: the tokenizer leaves nothing of them")
    model = load_model(task_type.model_class, args.model, config) if model is None else model
    return subject_of(model.eval(), settings, tokenizer, rows, longest_first(features), args.batch_size, metric)


def subject_of(
    model, settings: Settings, tokenizer, rows: Dataset, features: Dataset, batch_size: int, metric: str | None
) -> Subject:
    task_type, field = TASK_TYPES[settings.task_type], answer_field(settings.task_type)
    pad = FeatureCollator(tokenizer.pad_token_id, settings, model.config.max_position_embeddings)

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        inputs = pad(batch)
        if settings.task_type == "token_classification":
            inputs["is_word"] = _padded_words(batch, inputs["input_ids"].shape)
        return inputs

    def forward(inputs: Mapping[str, torch.Tensor], pattern) -> Mapping[str, torch.Tensor]:
        given = {name: value for name, value in inputs.items() if name not in ("is_context", "is_word")}
        output = model(**given, pattern=pattern, return_dict=True)
        return type(output)(**{name: value for name, value in output.items() if name.endswith("logits")})

    def diverge(inputs, output, other) -> torch.Tensor:
        return divergence(settings.task_type, inputs.get("is_word", inputs["attention_mask"]), output, other)

    def read(calls) -> list:
        predictor = Predictor(RowEncoder(settings, tokenizer), calls, collate, batch_size)
        predictions = task_type.decode(predictor.outputs(features), features, rows, settings)
        return [prediction[field] for prediction in predictions]

    references = References.of(rows)

    def score(answers, numbers, only: str | None = None) -> dict[str, float]:
        wanted = settings if only is None else _scored_by(settings, only)
        return task_type.score([{field: answer} for answer in answers], references.select(numbers), wanted)

    def weights(metric: str) -> np.ndarray | None:
        return np.ones(len(rows)) if metric in MEANS[settings.task_type] else None

    return Subject(
        kind=settings.task_type,
        model=model,
        rows=rows,
        features=features,
        collate=collate,
        batch_size=batch_size,
        forward=forward,
        divergence=diverge,
        read=read,
        flips=lambda answers, others: share_of_flips(settings.task_type, answers, others),
        score=score,
        metric=metric,
        points=1.0 if settings.task_type == "question_answering" else 100.0,
        weights=weights,
        settings=dataclasses.asdict(settings),
    )


def _padded_words(batch: list[dict], shape: torch.Size) -> torch.Tensor:
    """Which tokens are the first of a word, each of which has a label."""
    is_word = torch.zeros(shape, dtype=torch.bool)
    for row, feature in enumerate(batch):
        is_word[row, : len(feature["word_ids"])] = torch.tensor(feature["word_ids"]) >= 0
    return is_word


def _scored_by(settings: Settings, metric: str) -> Settings:
    """The settings with the metrics alone that have this result."""
    names = [name for name in settings.metrics if metric in results_of([name])]
    return dataclasses.replace(settings, metrics=tuple(names))


def metric_of(task: Task, asked: str | None) -> str:
    """
    By which patterns are compared: what is asked for, else what chooses checkpoints, of numbers a correlation.

    Raises:
        [`InputError`]: There is no such metric, or its points are none of 100.
    """
    names = [name for name in result_names(task) if name != "mse"]
    if asked is not None and asked not in names:
        raise InputError(f"--metric {asked}: patterns are compared by {' or '.join(names)} here")
    return asked or ("pearson" if task.best == "mse" else task.best)
