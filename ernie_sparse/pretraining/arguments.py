# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The command line of `ernie-sparse pretrain`: model and text."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from ..command_line import check_least, check_most
from ..configuration_ernie_sparse import RANGES, ErnieSparseConfig
from ..errors import InputError
from ..sparse_pattern import SparsePattern
from ..tables import SAMPLE_BY
from .masking import MASKINGS
from .packing import PACKINGS


@dataclass
class PretrainArguments:
    _argument_group_name: ClassVar[str] = "model and text"

    model: str | None = field(
        default=None, metadata={"help": "ERNIE-Sparse checkpoint to go on with (folder or hub id). None: a new model."}
    )
    config: str | None = field(
        default=None, metadata={"help": "Sizes of a new model, as hidden_size=256,num_hidden_layers=4,…"}
    )
    pattern: str | None = field(
        default=None, metadata={"help": f"The model's own sparse pattern, as text; the default is {SparsePattern()}"}
    )
    tokenizer: str | None = field(default=None, metadata={"help": "Tokenizer (folder or hub id); the model's if None."})
    train_tokenizer: int | None = field(
        default=None, metadata={"help": "Train a byte-level BPE tokenizer of this many tokens on the training text."}
    )
    train_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Text, csv, json, jsonl or parquet files to train on, or patterns such as 'papers-*.jsonl'; .gz, .bz2, .xz and .zst "
            "files of them are unpacked while they are read."
        },
    )
    train_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "How often each entry of --train-file is read in a pass: 2 is twice, 0.5 every other document."
        },
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "Files to evaluate on."})
    dataset: str | None = field(default=None, metadata={"help": "Hub data set instead of files."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the text; of text files it is text."})
    sample_by: str = field(
        default="document",
        metadata={"help": "What a document is in a text file: document (the file), paragraph or line."},
    )
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "Leave out rows that cannot be read, and count them, instead of stopping."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Make rows while they are trained on, instead of writing all of them to disk first: needs --max-steps, and evaluates "
            "and saves by steps (--eval-steps, --save-steps). Without --validation-file, the first documents are held out."
        },
    )
    packing: str = field(
        default="documents",
        metadata={
            "help": "documents: a row holds whole documents that do not see each other; longer ones are split. concatenate: one after "
            "the other, cut wherever a row ends, and all that is in a row sees each other."
        },
    )
    masking: str = field(
        default="token", metadata={"help": "What is masked together: a token, a word, or a span of words (SpanBERT's)."}
    )
    validation_fraction: float = field(
        default=0.05, metadata={"help": "Share of the packed rows held out where there is no validation file or split."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens per row; the model's max_position_embeddings if None."}
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens to mask and predict."})

    def __post_init__(self):
        for name, allowed in (("sample_by", SAMPLE_BY), ("packing", PACKINGS), ("masking", MASKINGS)):
            if getattr(self, name) not in allowed:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} {getattr(self, name)}: it must be one of {', '.join(allowed)}")
        for name in ("mlm_probability", "validation_fraction"):
            if not 0 < getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} {getattr(self, name)}: it must lie between 0 and 1")
        check_least(self, {"max_length": 8})
        check_most(self, {"train_tokenizer": RANGES["vocab_size"][1]})
        if self.model is not None and (self.config is not None or self.train_tokenizer is not None):
            raise InputError("--config and --train-tokenizer are for a new model: leave them out with --model")
        if self.model is None and (self.tokenizer is None) == (self.train_tokenizer is None):
            raise InputError("a new model needs either --tokenizer or --train-tokenizer (or go on with --model)")
        if bool(self.train_file) == bool(self.dataset):
            raise InputError("give either --train-file (and --validation-file) or --dataset")
        if self.dataset_config and not self.dataset:
            raise InputError(f"--dataset-config {self.dataset_config}: it needs --dataset")
        self._check_weights()

    def _check_weights(self):
        if self.train_weights is None:
            return
        if len(self.train_weights) != len(self.train_file or ()):
            raise InputError(
                f"--train-weights {' '.join(map(str, self.train_weights))}: one is needed for each entry of --train-file"
            )
        if not all(0 < weight <= 100 for weight in self.train_weights):
            raise InputError(
                f"--train-weights {' '.join(map(str, self.train_weights))}: each must be more than 0 and at most 100"
            )


def parse_config(text: str | None) -> dict:
    """`hidden_size=256,hidden_dropout_prob=0.0` as a mapping, each value of the type of ErnieSparseConfig's default."""
    values = {}
    defaults = ErnieSparseConfig().to_dict()
    for item in text.split(",") if text else []:
        name, _, word = (part.strip() for part in item.partition("="))
        if not isinstance(defaults.get(name), int | float | str):
            known = ", ".join(sorted(k for k, v in defaults.items() if isinstance(v, int | float | str)))
            raise InputError(f"--config: {name!r} is not one of {known}")
        value_type = type(defaults[name])
        try:
            values[name] = {"true": True, "false": False}[word.lower()] if value_type is bool else value_type(word)
        except (ValueError, KeyError):
            raise InputError(f"--config: {name}={word!r} is not of type {value_type.__name__}") from None
        if not isinstance(values[name], str) and not math.isfinite(values[name]):
            raise InputError(f"--config: {name}={word!r} is not a finite number")
    return values
