# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The command line of `ernie-sparse robustness`."""

from dataclasses import dataclass, field, fields
from typing import ClassVar

from ..command_line import check_least
from ..errors import InputError
from ..finetune.tasks import TASKS
from ..tables import SAMPLE_BY

EPSILON = 0.5


def _column(role: str):
    return field(default=None, metadata={"help": f"Column of {role} (as in training)."})


@dataclass
class RobustnessArguments:
    _argument_group_name: ClassVar[str] = "model, documents and patterns"

    model: str = field(
        metadata={"help": "What `ernie-sparse finetune` wrote, or a masked language model; a folder or a hub id."}
    )
    output_dir: str = field(metadata={"help": "The folder of the report; new, or that of the same report."})
    task: str | None = field(
        default=None, metadata={"help": "The validation set of a task of `ernie-sparse finetune --list`."}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Local files of the task instead of the hub's."})
    validation_file: list[str] | None = field(
        default=None, metadata={"help": "Files with labels, as for training; text files for a masked language model."}
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Share of a task's training set that was held out, where it has no validation set."},
    )
    max_documents: int | None = field(default=None, metadata={"help": "Read so many documents, drawn by --seed."})
    unlabelled: bool = field(
        default=False, metadata={"help": "The files have no labels: no scores, and all that needs none."}
    )
    metric: str | None = field(
        default=None, metadata={"help": "The score to compare patterns by; what the checkpoint was chosen by if None."}
    )
    patterns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Patterns instead of those around the model's own: the fields that differ from it, as block_size=32, "
            "a whole pattern, or full."
        },
    )
    choose: bool = field(
        default=False, metadata={"help": "Find the cheapest pattern whose score is within --epsilon of the own one's."}
    )
    epsilon: float | None = field(
        default=None,
        metadata={"help": f"Points of the score (of 100) that may be lost, with 95 %% confidence; {EPSILON} if None."},
    )
    test_file: list[str] | None = field(
        default=None, metadata={"help": "Files on which the pattern that was chosen is compared with the own one."}
    )
    save: str | None = field(
        default=None,
        metadata={"help": "Folder for the model with the pattern that was chosen; --model itself changes its config."},
    )
    batch_size: int = field(default=8, metadata={"help": "Documents per forward pass."})
    attention_documents: int = field(default=8, metadata={"help": "Documents whose attention is looked at; 0: none."})
    timing: bool = field(
        default=True,
        metadata={"help": "Measure time and memory, which takes as long as reading some hundred documents."},
    )
    seed: int = field(
        default=42, metadata={"help": "Of documents that are drawn or held out, of masks and of the bootstrap."}
    )
    text_column: str | None = _column("the documents")
    text_pair_column: str | None = _column("a second text")
    label_column: str | None = _column("the labels")
    label_separator: str = field(default="|", metadata={"help": "Between the labels of a multi-label row in one cell."})
    id_column: str | None = _column("the rows' names")
    tokens_column: str | None = _column("lists of words")
    question_column: str | None = _column("questions")
    context_column: str | None = _column("the documents that questions are about")
    answers_column: str | None = _column("answers in SQuAD's form")
    aliases_column: str | None = _column("lists of accepted answers")
    query_column: str | None = _column("what candidates are chosen for")
    candidates_column: str | None = _column("candidates")
    supports_column: str | None = _column("the documents that say which candidate it is")
    answer_column: str | None = _column("the right candidate")
    max_length: int | None = field(
        default=None, metadata={"help": "Masked language models: tokens per row; as many as the model reads if None."}
    )
    sample_by: str = field(
        default="document", metadata={"help": "Masked language models: a text file's document, paragraph or line."}
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Masked language models: share of masked tokens."})

    def __post_init__(self):
        check_least(self, {"max_documents": 1, "batch_size": 1, "attention_documents": 0, "seed": 0, "max_length": 8})
        for name in ("validation_fraction", "mlm_probability"):
            if not 0 < getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} {getattr(self, name)}: it must lie between 0 and 1")
        if self.sample_by not in SAMPLE_BY:
            raise InputError(f"--sample-by {self.sample_by}: it must be one of {', '.join(SAMPLE_BY)}")
        self._check_documents()
        self._check_choice()

    def _check_documents(self):
        if self.task is not None and self.task not in TASKS:
            raise InputError(f"--task {self.task!r} is not one of {', '.join(TASKS)}")
        if self.data_dir is not None and self.task is None:
            raise InputError("--data-dir needs --task: it says which files to look for")
        if self.validation_file and self.data_dir:
            raise InputError("--validation-file and --data-dir were given: documents come from one place")
        if self.validation_file is None and self.task is None:
            raise InputError("give --task, or --validation-file with the documents to read")
        if self.unlabelled and self.validation_file is None:
            raise InputError(f"--unlabelled is for --validation-file: --task {self.task} has labels")
        if self.unlabelled and self.metric:
            raise InputError(f"--metric {self.metric} needs labels: leave --unlabelled out")

    def _check_choice(self):
        if self.choose and self.unlabelled:
            raise InputError("--choose compares scores: it needs labels, so leave --unlabelled out")
        if self.epsilon is not None and not self.epsilon > 0:
            raise InputError(f"--epsilon {self.epsilon:g}: it must be more than 0 points")
        for name in ("epsilon", "test_file", "save"):
            if getattr(self, name) is not None and not self.choose:
                raise InputError(f"--{name.replace('_', '-')} is for the pattern that --choose finds: add --choose")
        if self.epsilon is None:
            self.epsilon = EPSILON


# The roles whose columns have a flag.
COLUMN_ROLES = [
    entry.name.removesuffix("_column") for entry in fields(RobustnessArguments) if entry.name.endswith("_column")
]
