# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The command line of `ernie-sparse finetune`, beside SAOR's and the training's."""

import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments

from ..command_line import MOST_PROCESSES, check_least, check_most, check_seeds
from ..errors import InputError
from ..trainer import SaorArguments, check_label_smoothing, check_optimizer
from ..training_arguments import check_best_metric
from .data import ROLES
from .metrics import hub_metric
from .settings import LONG_DOCUMENTS
from .task_types import TASK_TYPES
from .tasks import Task


def _column(role: str, default: str):
    return field(default=None, metadata={"help": f"Column of {role} ({default} if None)."})


@dataclass
class FinetuneArguments:
    _argument_group_name: ClassVar[str] = "model and data"

    model: str = field(metadata={"help": "ERNIE-Sparse checkpoint, a folder or a hub id."})
    tokenizer: str | None = field(default=None, metadata={"help": "Tokenizer (folder or hub id); the model's if None."})
    pattern: str | None = field(
        default=None,
        metadata={"help": "Sparse pattern to train and save the model with; the checkpoint's own if None."},
    )
    task: str | None = field(default=None, metadata={"help": "A task by name; --list shows them."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Local files of the task (train.parquet and so on) instead of the hub's."}
    )
    train_file: list[str] | None = field(
        default=None, metadata={"help": "csv, json, jsonl or parquet files to train on."}
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "Files to evaluate on."})
    test_file: list[str] | None = field(default=None, metadata={"help": "Files for one last evaluation at the end."})
    dataset: str | None = field(default=None, metadata={"help": "Hub data set instead of files."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration, or the task's."})
    kind: str | None = field(
        default=None,
        metadata={
            "help": "What your own rows hold: single_label (if None), multi_label, regression, token_classification, "
            "question_answering or candidate_choice."
        },
    )
    text_column: str | None = _column("the documents", "text")
    text_pair_column: str | None = _column("a second text", "none")
    label_column: str | None = _column("the labels", "label, for token classification labels")
    label_separator: str = field(default="|", metadata={"help": "Between the labels of a multi-label row in one cell."})
    id_column: str | None = _column("the rows' names", "id, else their numbers")
    tokens_column: str | None = _column("lists of words", "tokens")
    question_column: str | None = _column("questions", "question")
    context_column: str | None = _column("the documents that questions are about", "context")
    answers_column: str | None = _column("answers in SQuAD's form", "answers")
    aliases_column: str | None = _column("lists of accepted answers", "aliases")
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens per row; the recipe's if None, or the model's limit if that is less."}
    )
    long_documents: str = field(
        default="head",
        metadata={
            "help": "Texts of more tokens: keep their head, tail or head_tail (half of each), or read them in windows whose "
            "logits are averaged."
        },
    )
    stride: int | None = field(
        default=None,
        metadata={
            "help": "Tokens that two windows of a document share (128, or a quarter of the row if that is less)."
        },
    )
    max_answer_length: int = field(default=30, metadata={"help": "Tokens of the longest answer."})
    num_best: int = field(default=20, metadata={"help": "Answers kept per window and question."})
    null_threshold: float | None = field(
        default=None,
        metadata={
            "help": "Answer nothing where the best span scores less than this above 'no answer'; None: always answer."
        },
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training set held out where there is no validation set."}
    )
    max_train_documents: int | None = field(default=None, metadata={"help": "Train on so many rows, drawn by --seed."})
    max_validation_documents: int | None = field(
        default=None, metadata={"help": "Validate on so many rows, drawn by --seed."}
    )
    max_test_documents: int | None = field(default=None, metadata={"help": "Test on so many rows, drawn by --seed."})
    drop_repeated: bool = field(
        default=False, metadata={"help": "Leave out training rows whose text stands in another split as well."}
    )
    longer_than: int | None = field(
        default=None, metadata={"help": "Report texts of more than so many tokens on their own as well."}
    )
    class_weights: str = field(default="none", metadata={"help": "balanced: weigh classes by how rare they are."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better one."}
    )
    seeds: list[int] | None = field(
        default=None,
        metadata={"help": "One run per seed, in seed-N of the output folder; mean and deviation at the end."},
    )
    search_trials: int | None = field(
        default=None,
        metadata={
            "help": "First look for rate, epochs and batch size in so many trials, on the validation set (optuna)."
        },
    )
    lora_rank: int | None = field(
        default=None, metadata={"help": "Train adapters of this rank (peft), merged into the weights at the end."}
    )
    preprocessing_processes: int | None = field(default=None, metadata={"help": "Processes that tokenize."})
    hub_metrics: list[str] = field(
        default_factory=list, metadata={"help": "Metrics of the hub's evaluate library to compute as well."}
    )

    def __post_init__(self):
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"--validation-fraction {self.validation_fraction}: it must lie between 0 and 1")
        if self.long_documents not in LONG_DOCUMENTS:
            raise InputError(f"--long-documents {self.long_documents!r} is not one of {', '.join(LONG_DOCUMENTS)}")
        if self.class_weights not in ("none", "balanced"):
            raise InputError(f"--class-weights {self.class_weights!r} is not one of none, balanced")
        least = {
            "max_length": 8,
            **dict.fromkeys(("max_train_documents", "max_validation_documents", "max_test_documents"), 1),
            **dict.fromkeys(
                ("max_answer_length", "num_best", "lora_rank", "search_trials", "early_stopping_patience"), 1
            ),
            "preprocessing_processes": 1,
            **dict.fromkeys(("stride", "longer_than"), 0),
        }
        check_least(self, least)
        check_most(self, {"preprocessing_processes": MOST_PROCESSES})
        check_seeds(self.seeds or ())
        sources = {
            "--train-file": self.train_file or self.validation_file or self.test_file,
            "--dataset": self.dataset,
            "--data-dir": self.data_dir,
        }
        given = [flag for flag, value in sources.items() if value]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} were given: rows come from one place")
        if self.dataset_config and self.dataset is None and self.task is None:
            raise InputError(f"--dataset-config {self.dataset_config}: it needs --dataset or --task")
        if self.data_dir and self.task is None:
            raise InputError("--data-dir needs --task: it says which files to look for")
        if self.task is None and not given:
            raise InputError("give --task, --train-file (and --validation-file) or --dataset")
        if self.task is not None and self.kind is not None:
            raise InputError("--kind is for rows of your own: a task has its own")

    def files(self) -> dict[str, list[str] | None]:
        return {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}

    def check_reports(self, task: Task):
        """Raise an [`InputError`], before the training, where something is asked for that this type of task has not."""
        if self.longer_than is not None and task.task_type not in ("single_label", "multi_label", "regression"):
            raise InputError("--longer-than is for whole texts")
        if self.null_threshold is not None and task.task_type != "question_answering":
            raise InputError(f"--null-threshold is for question answering: here it is {task.task_type}")
        if self.hub_metrics and task.task_type not in ("single_label", "regression"):
            raise InputError("--hub-metrics are for single_label and regression tasks")
        for name in self.hub_metrics:
            hub_metric(name)

    def check_training(self, task: Task, saor: SaorArguments, training: TrainingArguments):
        """Raise an [`InputError`], before anything is loaded, for flags of the training that this type of task cannot do."""
        task_type, has_class_weights = TASK_TYPES[task.task_type], self.class_weights != "none"
        if has_class_weights and task.task_type not in ("single_label", "token_classification"):
            raise InputError(f"--class-weights {self.class_weights} needs classes that exclude each other")
        head, problem_type = task_type.model_class, task_type.problem_type
        check_label_smoothing(training.label_smoothing_factor, saor, head, problem_type, has_class_weights)
        check_optimizer(training)
        if self.early_stopping_patience is not None and not training.load_best_model_at_end:
            raise InputError(
                f"--early-stopping-patience {self.early_stopping_patience}: it needs --load-best-model-at-end true, and "
                "evaluation as often as saving"
            )
        check_best_metric(training, result_names(task))

    def with_columns(self, task: Task) -> Task:
        """
        `task` with the columns that the command line names, each for the role in the flag's name. Raises an [`InputError`] for
        a role that this type of task has not.
        """
        values = {role: getattr(self, f"{role}_column") for role in COLUMN_FLAGS}
        named = {role: column for role, column in values.items() if column}
        read = ["id", *itertools.chain(*ROLES[task.task_type]), *ALSO_READ.get(task.task_type, ("text_pair",))]
        for role, column in named.items():
            if role not in read:
                raise InputError(
                    f"--{role.replace('_', '-')}-column {column}: of {task.task_type}, {', '.join(read)} are read alone"
                )
        columns = {"id": "id", **task.columns, **named}
        return dataclasses.replace(task, columns=columns, label_separator=self.label_separator)


def result_names(task: Task) -> list[str]:
    """What the metrics of a task call their results."""
    return results_of(task.metrics or _RESULTS[task.task_type])


def results_of(metrics: Iterable[str]) -> list[str]:
    """What metrics call their results."""
    return list(dict.fromkeys(name for metric in metrics for name in _NAMES.get(metric, (metric,))))


# What the types of task without metrics of their choice are scored by, and what a metric calls its results, if not as itself.
_RESULTS = {
    "token_classification": ("accuracy", "f1", "precision", "recall"),
    "question_answering": ("exact_match", "f1"),
    "candidate_choice": ("accuracy",),
}
_NAMES = {
    "f1_macro": ("f1",),
    "f1_binary": ("f1",),
    "multi_label": ("f1_micro", "f1_macro", "f1", "exact_match"),
}
# What may be read beside what a row needs, of types of task that have no second text.
ALSO_READ = {"token_classification": (), "question_answering": ("answers", "aliases"), "candidate_choice": ()}
# The roles whose columns have a flag.
COLUMN_FLAGS = ("text", "text_pair", "label", "id", "tokens", "question", "context", "answers", "aliases")
