# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""How documents become features and outputs become predictions: one value, for fine-tuning and for `ernie-sparse predict`."""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..configuration_ernie_sparse import ErnieSparseConfig
from ..errors import InputError, input_errors
from ..files import read_json, write_text

FILE_NAME = "finetune.json"

LONG_DOCUMENTS = ("head", "tail", "head_tail", "windows")

# Whether a task type has classes; their names stand in the model's config.
HAS_CLASSES = {
    "single_label": True,
    "multi_label": True,
    "regression": False,
    "token_classification": True,
    "question_answering": False,
    "candidate_choice": False,
}


# The roles that rows cannot do without.
NEEDED_ROLES = {
    "single_label": ("text",),
    "multi_label": ("text",),
    "regression": ("text",),
    "token_classification": ("tokens",),
    "question_answering": ("question", "context"),
    "candidate_choice": ("query", "candidates", "supports"),
}


@dataclass(frozen=True)
class Settings:
    """
    Everything beside the model and the tokenizer that fine-tuning and `ernie-sparse predict` have to agree on. What the
    model's config and the tokenizer say as well is read from there ([`Settings.of`]) and is not saved.

    Args:
        task_type (`str`): One of `task_types.TASK_TYPES`, such as `single_label` or `question_answering`.
        max_length (`int`): Tokens per row, special tokens included.
        block_size (`int`): Tokens per block of the model's pattern.
        num_global_tokens (`int`): Tokens of the leading global blocks, where a question should stand.
        columns (`dict[str, str]`): The column of each role, such as `{"text": "review", "label": "stars"}`.
        label_names (`tuple[str, …]`): The classes, in the order of their numbers; empty where there are none.
        metrics (`tuple[str, …]`):
            Names in `metrics.METRICS`, where texts are classified; the other types have their own. Not saved: predictions
            need none.
        long_documents (`str`):
            What becomes of a document of more than `max_length` tokens, where it is classified: its `head` is kept, its
            `tail`, half of each (`head_tail`), or it is read in `windows` whose logits are averaged.
        stride (`int`): Tokens that two windows of one document share.
        max_answer_length (`int`): Tokens of the longest answer.
        num_best (`int`): How many answers are kept per window and per question.
        null_threshold (`float`, *optional*):
            Question answering: the answer is "" where the best span scores less than this above "no answer". `None`
            where every question has an answer.
    """

    task_type: str
    max_length: int
    block_size: int
    num_global_tokens: int
    columns: dict[str, str]
    label_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    long_documents: str = "head"
    stride: int = 128
    max_answer_length: int = 30
    num_best: int = 20
    null_threshold: float | None = None

    @classmethod
    def of(cls, config: ErnieSparseConfig, max_length: int, *, task_type: str, **others) -> "Settings":
        """
        Args:
            config ([`ErnieSparseConfig`]): Of which the pattern and, where there are classes, `id2label` count.
            others: `columns`, and what else is not the default.
        """
        pattern = config.pattern
        num_global_blocks = min(pattern.num_global_blocks, pattern.num_blocks(max_length))
        names = [config.id2label[number] for number in sorted(config.id2label)] if HAS_CLASSES[task_type] else []
        return cls(
            task_type=task_type,
            max_length=max_length,
            block_size=pattern.block_size,
            num_global_tokens=num_global_blocks * pattern.block_size,
            label_names=tuple(names),
            **others,
        )

    def save(self, folder: str | Path):
        """Write `finetune.json` into `folder`: what stands neither in the model's config nor in the tokenizer."""
        names = ("task_type", "columns", "long_documents", "stride", "max_answer_length", "num_best", "null_threshold")
        content = {name: getattr(self, name) for name in names}
        write_text(Path(folder) / FILE_NAME, json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path, config: ErnieSparseConfig, tokenizer: PreTrainedTokenizerBase) -> "Settings":
        """
        The settings in `folder`, for the model of `config`; rows are as long as the tokenizer says and the model allows.

        Raises:
            [`InputError`]: There is no such file, or it is not one of ours.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise InputError(f"{folder} has no {FILE_NAME}: it was not written by `ernie-sparse finetune`")
        names = list(config.id2label.values())
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise InputError(f"{folder}: id2label in config.json names the class {twice[0]!r} twice: give each its own")
        max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
        with input_errors(OSError, TypeError, ValueError, about=f"{path} is not a file of `ernie-sparse finetune`"):
            content = read_json(path)
            _check_content(content)
            return cls.of(config, max_length, **content)


def _check_content(content: dict):
    """Raise a `ValueError` where a field of `finetune.json` is missing or holds what it cannot."""
    kind, columns = content.get("task_type"), content.get("columns")
    if kind not in list(HAS_CLASSES):
        raise ValueError(f"task_type {kind!r} is not one of {', '.join(HAS_CLASSES)}")
    if not isinstance(columns, dict) or not all(isinstance(name, str) for name in columns.values()):
        raise ValueError(f"columns {columns!r} is no mapping of roles to names")
    lacking = [role for role in NEEDED_ROLES[kind] if role not in columns]
    if lacking:
        raise ValueError(f"columns has none for {', '.join(lacking)}")
    if content.get("long_documents", LONG_DOCUMENTS[0]) not in LONG_DOCUMENTS:
        raise ValueError(f"long_documents {content['long_documents']!r} is not one of {', '.join(LONG_DOCUMENTS)}")
    for name, least in (("stride", 0), ("max_answer_length", 1), ("num_best", 1)):
        value = content.get(name, least)
        if type(value) is not int or not least <= value < 2**31:
            raise ValueError(f"{name} {value!r} is no whole number from {least}")
    threshold = content.get("null_threshold")
    if threshold is not None and (type(threshold) not in (int, float) or not abs(threshold) < 2**31):
        raise ValueError(f"null_threshold {threshold!r} is no number, or too large a one")
