# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""How documents become features and outputs become predictions: one value, kept beside the fine-tuned model."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "finetune.json"

LONG_DOCUMENTS = ("head", "tail", "head_tail", "windows")


@dataclass(frozen=True)
class Settings:
    """
    Everything beside the model and the tokenizer that fine-tuning and `ernie-sparse predict` have to agree on.

    Args:
        kind (`str`): One of `kinds.KINDS`, such as `single_label` or `question_answering`.
        max_length (`int`): Tokens per row, special tokens included.
        block_size (`int`): Tokens per block of the model's pattern.
        num_global_tokens (`int`): Tokens of the leading global blocks, where a question should stand.
        columns (`dict[str, str]`): The column of each role, such as `{"text": "review", "label": "stars"}`.
        label_names (`tuple[str, …]`): The classes, in the order of their numbers; empty where there are none.
        metrics (`tuple[str, …]`): Names in `metrics.METRICS`, where texts are classified; the other kinds have their own.
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

    kind: str
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

    def save(self, folder: str | Path):
        """Write `finetune.json` into `folder`."""
        (Path(folder) / FILE_NAME).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Settings":
        """
        Raises:
            `ValueError`: There is no such file, or it is not one of ours.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise ValueError(f"{folder} has no {FILE_NAME}: it was not written by `ernie-sparse finetune`")
        try:
            fields = json.loads(path.read_text())
            return cls(**{**fields, **{name: tuple(fields[name]) for name in ("label_names", "metrics")}})
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a file of `ernie-sparse finetune`: {error}") from None
