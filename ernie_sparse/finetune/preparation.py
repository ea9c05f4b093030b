# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From a command line to all that fine-tuning needs: config, tokenizer, rows, features, labels."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainingArguments

from ..checkpoints import load_config, load_tokenizer
from ..configuration_ernie_sparse import ErnieSparseConfig
from ..errors import InputError
from ..tables import longest_first, subset
from . import data
from .arguments import FinetuneArguments
from .features import split_notes
from .prediction_files import SAME_ID
from .settings import HAS_CLASSES, Settings
from .task_types import TASK_TYPES
from .tasks import Task


@dataclass
class Job:
    """All that the runs of one command share."""

    name: str
    task: Task
    config: ErnieSparseConfig
    tokenizer: PreTrainedTokenizerBase
    settings: Settings
    rows: dict[str, Dataset]
    features: dict[str, Dataset]
    notes: dict[str, dict[str, list[str]]]
    repeated: dict[str, int]
    class_weights: torch.Tensor | None

    @property
    def last(self) -> str:
        return "test" if "test" in self.rows else "validation"


class Selection(NamedTuple):
    """
    Args:
        rows (`dict[str, Dataset]`): By split.
        names (`tuple[str, …]`): The classes.
        repeated (`dict[str, int]`): How many training rows stand in another split as well.
        blanks (`dict[str, list[str]]`): The rows, by id, that had blanks around a label.
    """

    rows: dict[str, Dataset]
    names: tuple[str, ...]
    repeated: dict[str, int]
    blanks: dict[str, list[str]]


def prepare(name: str, task: Task, args: FinetuneArguments, training: TrainingArguments) -> Job:
    """Read, check and tokenize everything, so that what is wrong with the data is said before anything is trained."""
    args.check_reports(task)
    config = load_task_config(task, args)
    tokenizer = load_tokenizer(args.tokenizer or args.model, config)
    splits = data.load_splits(
        task, files=args.files(), data_dir=args.data_dir, dataset=args.dataset, dataset_config=args.dataset_config
    )
    rows, names, repeated, blanks = select_rows(task, args, splits, training.seed)
    describe_labels(config, task.task_type, names)
    settings = make_settings(task, args, config)
    # Kept beside the model: how much of a text it was trained to read.
    tokenizer.model_max_length = settings.max_length
    encode, features, notes = TASK_TYPES[task.task_type].encode, {}, {}
    for split, split_rows in rows.items():
        records = encode(split_rows, settings, tokenizer, split == "train", args.preprocessing_processes)
        features[split], notes[split] = split_notes(records, split_rows)
        if blanks.get(split):
            notes[split]["blanks around the label removed"] = blanks[split]
        if split != "train":
            features[split] = longest_first(features[split])
            if task.task_type == "question_answering":
                notes[split][SAME_ID] = repeated_ids(split_rows)
    if len(features["train"]) == 0:
        reasons = "; ".join(f"{note}: {', '.join(ids[:5])}" for note, ids in notes["train"].items() if ids)
        raise InputError(f"no training row can be used ({reasons})")
    weights = balanced_weights(features["train"], len(names)) if args.class_weights == "balanced" else None
    return Job(name, task, config, tokenizer, settings, rows, features, notes, repeated, weights)


def load_task_config(task: Task, args: FinetuneArguments) -> ErnieSparseConfig:
    """The config of the model to train, with its pattern, but for what its labels decide."""
    config = load_config(args.model, args.pattern)
    if args.lora_rank is not None and args.lora_rank > config.hidden_size:
        # Adapters of a higher rank can do no more, and a huge one fills the memory.
        raise InputError(f"--lora-rank {args.lora_rank} is more than hidden_size={config.hidden_size} of {args.model}")
    if task.recipe.num_global_blocks and args.pattern is None:
        config.num_global_blocks = max(config.num_global_blocks, task.recipe.num_global_blocks)
    return config


def select_rows(task: Task, args: FinetuneArguments, splits: dict[str, data.Split], seed: int) -> Selection:
    """Which rows are used, with every label as one of the classes' names."""
    rows, names, blanks = with_classes(task, splits)
    roles = {"question_answering": ["question", "context"], "candidate_choice": ["query", "supports"]}
    found = data.repeated_rows(rows, roles.get(task.task_type, ["text", "text_pair", "tokens"]))
    if args.drop_repeated:
        drop = set().union(*found.values())
        rows["train"] = rows["train"].select([i for i in range(len(rows["train"])) if i not in drop])
        if len(rows["train"]) == 0:
            raise InputError("every training row stands in another split as well: --drop-repeated leaves none")
    rows = data.hold_out(rows, args.validation_fraction, seed)
    limits = {"train": args.max_train_documents, "test": args.max_test_documents}
    rows = {s: subset(r, limits.get(s, args.max_validation_documents), seed) for s, r in rows.items()}
    return Selection(rows, names, {split: len(numbers) for split, numbers in found.items()}, blanks)


def with_classes(
    task: Task, splits: dict[str, data.Split], names: tuple[str, ...] | None = None
) -> tuple[dict[str, Dataset], tuple[str, ...], dict[str, list[str]]]:
    """
    The rows by split, every label one of the classes' names; these names; and the rows, by id, that had blanks around a label.

    Args:
        names (`tuple[str, …]`, *optional*): The classes; those of the training set when `None`.
    """
    blanks = {}
    if HAS_CLASSES[task.task_type]:
        for name, split in splits.items():
            rows, blanks[name] = data.without_blanks(split.rows)
            splits[name] = split._replace(rows=rows)
        names = data.class_names(splits["train"], task) if names is None else names
        for split in splits.values():
            data.check_labels(split, names)
    rows = {name: split.rows for name, split in splits.items()}
    if task.task_type == "token_classification":
        rows = {split: r.rename_column("label", "labels") for split, r in rows.items()}
    return rows, names or (), blanks


def repeated_ids(rows: Dataset) -> list[str]:
    """The ids that stood before, as often as they stand once more: rows of one id share a place among the answers."""
    seen = set()
    return [row_id for row_id in rows["id"][:] if row_id in seen or seen.add(row_id)]


def make_settings(task: Task, args: FinetuneArguments, config: ErnieSparseConfig) -> Settings:
    limit = config.max_position_embeddings
    if args.max_length is not None and args.max_length > limit:
        raise InputError(f"--max-length {args.max_length} is more than max_position_embeddings={limit}")
    max_length = args.max_length or min(task.recipe.max_length, limit)
    return Settings.of(
        config,
        max_length,
        task_type=task.task_type,
        columns=dict(task.columns),
        metrics=task.metrics,
        long_documents=args.long_documents,
        stride=min(128, max_length // 4) if args.stride is None else args.stride,
        max_answer_length=args.max_answer_length,
        num_best=args.num_best,
        null_threshold=args.null_threshold,
    )


def describe_labels(config: ErnieSparseConfig, task_type: str, names: tuple[str, ...]):
    """Write what the head predicts into the config."""
    config.problem_type = TASK_TYPES[task_type].problem_type
    if task_type == "regression":
        config.num_labels = 1
    elif names:
        config.num_labels = len(names)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}


def balanced_weights(features: Dataset, num_labels: int) -> torch.Tensor:
    """
    A weight per class inverse to how often it stands in the training set, 1 on average over its labels.

    Raises:
        [`InputError`]: Labels that do not exclude each other.
    """
    labels = features["labels"] if "labels" in features.column_names and num_labels else []
    flat = np.concatenate([np.atleast_1d(row) for row in labels]) if len(labels) else np.zeros(0)
    if flat.size == 0 or flat.dtype.kind != "i":
        raise InputError("--class-weights balanced needs classes that exclude each other")
    counts = np.bincount(flat[flat >= 0], minlength=num_labels)
    present = counts > 0
    weights = np.ones(num_labels)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return torch.tensor(weights, dtype=torch.float32)
