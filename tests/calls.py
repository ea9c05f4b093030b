# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Calls of Python that cannot work, each with its error and a piece of what it says: the other table of test_answers.py. They run in the
folder of answers.py.
"""

import functools
from collections.abc import Callable

import torch
from test_conversion import build as build_source
from test_export import build
from transformers import AutoModel, pipeline

from ernie_sparse import (
    ErnieSparseConfig,
    ErnieSparseForMaskedLM,
    ErnieSparseModel,
    SaorArguments,
    SaorTrainer,
    SparsePattern,
)
from ernie_sparse.conversion import convert
from ernie_sparse.training_arguments import RunArguments

IDS = torch.tensor([[1, 2, 3]])
NAN, HUGE = float("nan"), 2**40
TEXT = "name=value"


def given(function: Callable, **values):
    return functools.partial(function, **values)


def rows(function: Callable, *entries: tuple[dict, str], error=ValueError):
    """Rows of one function: its arguments, and the answer."""
    return [(given(function, **values), error, says) for values, says in entries]


def encode(**values):
    return build()(IDS, **values)


def compare(**values):
    return encode(labels=torch.tensor([0]), **{"consistency_pattern": "block_size=16", **values})


def resize(value):
    return build(ErnieSparseForMaskedLM).resize_position_embeddings(value)


def train(**values):
    # Trainer makes the folder where there is none.
    arguments = RunArguments(output_dir="filled", report_to="none", eval_strategy="no")
    return SaorTrainer(
        **{"model": build(), "args": arguments, "train_dataset": [{"input_ids": [1, 2]}], **values}
    ).train()


def training(**values):
    return RunArguments(output_dir="out", **values)


def answer(**values):
    return pipeline("question-answering", model="question_answering", device="cpu")(**values)


def save(out):
    return convert("bert").save(out)


def with_pattern(value):
    ErnieSparseConfig().pattern = value


CALLS = [
    *rows(
        SparsePattern,
        ({"block_size": 0}, "block_size=0 is not allowed: it must be an integer from 1"),
        ({"block_size": 1.0}, "block_size=1.0 is not allowed"),
        ({"block_size": True}, "block_size=True is not allowed"),
        ({"block_size": "8"}, "block_size='8' is not allowed"),
        ({"block_size": None}, "block_size=None is not allowed"),
        ({"block_size": 2**31}, "block_size=2147483648 is not allowed"),
        ({"num_window_blocks": 0}, "num_window_blocks=0 is not allowed"),
        ({"num_window_blocks": 2}, "num_window_blocks=2 is not allowed: it must be odd"),
        ({"num_global_blocks": -1}, "num_global_blocks=-1 is not allowed"),
        ({"num_random_blocks": -1}, "num_random_blocks=-1 is not allowed"),
        ({"block_shift": 64}, "block_shift=64 is not allowed: it must be an integer from 0 to 63"),
        ({"hierarchical": 1}, "hierarchical=1 is not allowed: it must be true or false"),
        ({"seed": -1}, "seed=-1 is not allowed"),
        ({"seed": NAN}, "seed=nan is not allowed"),
    ),
    *rows(SparsePattern, ({"colour": 3}, "unexpected keyword argument 'colour'"), error=TypeError),
    *rows(
        SparsePattern.parse,
        ({"value": "x"}, f"'x' is not {TEXT}"),
        ({"value": 3}, "3 is not a sparse pattern"),
        ({"value": {"colour": 1}}, "'colour' is not a field of a sparse pattern: the fields are block_size"),
        ({"value": "block_size=8,block_size=8"}, "'block_size' stands twice in pattern"),
    ),
    *rows(
        SparsePattern().changed_by,
        ({"text": 3}, "3 is no text of fields"),
        ({"text": "block_size=0"}, "block_size=0 is not allowed"),
    ),
    *rows(SparsePattern.full, ({"block_size": 0}, "block_size=0 is not allowed")),
    *rows(with_pattern, ({"value": "x"}, f"is not {TEXT}"), ({"value": 3}, "3 is not a sparse pattern")),
    *rows(
        ErnieSparseConfig,
        ({"hidden_size": 0}, "hidden_size=0 is not allowed: it must be an integer from 1 to 65,536"),
        ({"hidden_size": 30}, "hidden_size=30 is not a multiple of num_attention_heads=12"),
        ({"num_window_blocks": 2}, "num_window_blocks=2 is not allowed: it must be odd"),
        ({"classifier_dropout": 2}, "classifier_dropout=2 is not allowed: it must lie between 0 and 1"),
        ({"num_labels": 10**9}, "num_labels=1000000000 is not allowed"),
    ),
    *rows(ErnieSparseConfig, ({"hidden_size": 1.5}, "'hidden_size' expected int, got float"), error=TypeError),
    *rows(
        ErnieSparseModel,
        ({"config": "x"}, "config='x': an ErnieSparseConfig is needed"),
        ({"config": {}}, "config={}: an ErnieSparseConfig is needed"),
        error=TypeError,
    ),
    # By transformers.
    *rows(AutoModel.from_pretrained, ({"pretrained_model_name_or_path": "hollow"}, "Unrecognized model in hollow")),
    *rows(
        ErnieSparseModel.from_pretrained,
        ({"pretrained_model_name_or_path": "hollow"}, "found in directory hollow"),
        ({"pretrained_model_name_or_path": "a-file"}, "a-file"),
        ({"pretrained_model_name_or_path": "no-weights"}, "found in directory no-weights"),
        error=OSError,
    ),
    *rows(
        ErnieSparseModel.from_pretrained,
        ({"pretrained_model_name_or_path": "deep"}, "num_hidden_layers=1000000000 is not allowed"),
        ({"pretrained_model_name_or_path": "lm", "attn_implementation": "x"}, 'attn_implementation="x"'),
    ),
    *rows(
        resize,
        ({"value": 0}, "max_position_embeddings=0 is not allowed"),
        ({"value": 1.5}, "max_position_embeddings=1.5 is not allowed"),
        ({"value": "x"}, "max_position_embeddings='x' is not allowed"),
        ({"value": HUGE}, f"max_position_embeddings={HUGE} is not allowed"),
        ({"value": None}, "new_num_position_embeddings=None: a number is needed"),
    ),
    *rows(
        convert,
        ({"model_or_path": "./nothing"}, "SOURCE ./nothing: there is no such folder"),
        ({"model_or_path": "a-file"}, "SOURCE a-file is a file"),
        ({"model_or_path": "gpt2"}, "gpt2 is a gpt2 checkpoint: bert, big_bird"),
        ({"model_or_path": 3}, "model_or_path=3: a model, a folder or a hub id is needed"),
        ({"model_or_path": None}, "model_or_path=None: a model"),
        ({"model_or_path": "bert", "max_length": 3}, "max_length=3 is below the 64 tokens that bert reads"),
        ({"model_or_path": "bert", "max_length": "x"}, "max_length='x': a whole number is needed"),
        ({"model_or_path": "bert", "max_length": HUGE}, f"max_length: max_position_embeddings={HUGE} is not allowed"),
        ({"model_or_path": "bert", "pattern": "x"}, "pattern: 'x' in pattern 'x'"),
        ({"model_or_path": "bert", "pattern": 3}, "pattern: 3 is not a sparse pattern"),
        ({"model_or_path": "bert", "tokenizer": "hollow"}, "there is no tokenizer in hollow"),
        ({"model_or_path": "bert", "tokenizer": "a-file"}, "there is no tokenizer in a-file: it is a file"),
    ),
    *rows(
        save,
        ({"out": "filled"}, "filled is not empty: name another folder"),
        ({"out": "a-file"}, "a-file is a file: name a folder"),
        ({"out": "a-file/below"}, "a-file/below cannot be written: "),
    ),
    *rows(
        SaorArguments,
        ({"saor_alpha": -1}, "saor_alpha=-1 is not allowed: it must be at least 0, and finite"),
        ({"saor_alpha": NAN}, "saor_alpha=nan is not allowed"),
        ({"saor_alpha": "x"}, "saor_alpha='x' is not allowed: it must be a number"),
        ({"saor_alpha": None}, "saor_alpha=None is not allowed"),
        ({"saor_patterns": []}, "saor_patterns is empty"),
        ({"saor_patterns": None}, "saor_patterns=None is not allowed: it must be a list"),
        ({"saor_patterns": "shift"}, "saor_patterns='shift' is not allowed: it must be a list"),
        ({"saor_patterns": ["x"]}, "saor_patterns: 'x' is not one of shift, block_size"),
        ({"saor_patterns": ["block_size=0"]}, "nor a pattern: block_size=0 is not allowed"),
        ({"saor_seed": 0.5}, "saor_seed=0.5 is not allowed: it must be a whole number"),
        ({"saor_every": 0}, "saor_every=0 is not allowed: it must be at least 1"),
        ({"saor_every": 1.5}, "saor_every=1.5 is not allowed: it must be a whole number"),
        ({"saor_share": 0}, "saor_share=0 is not allowed"),
        ({"saor_share": None}, "saor_share=None is not allowed"),
        ({"saor_alpha_warmup": 2}, "saor_alpha_warmup=2 is not allowed"),
        ({"saor_temperature": 0}, "saor_temperature=0 is not allowed"),
        ({"saor_perturb": "x"}, "saor_perturb=x is not allowed: it must be one of second, both"),
        ({"regularization": "x"}, "regularization=x is not allowed"),
        ({"regularization": "saor", "saor_alpha": 0}, "regularization=saor with saor_alpha=0"),
        ({"regularization": "none", "saor_every": 2}, "saor_every=2 is not for regularization=none"),
        ({"regularization": "alignment", "saor_share": 0.5}, "saor_share=0.5 is not for regularization=alignment"),
    ),
    *rows(
        train,
        ({"model": torch.nn.Linear(2, 2)}, "model is a Linear, which has no config"),
        ({"saor": SaorArguments(saor_share=0.9)}, "saor_share=0.9 of a batch of 8 is all of it"),
        ({"train_dataset": None}, "train_dataset"),
    ),
    (lambda: train(model=build(ErnieSparseModel)), ValueError, "model is an ErnieSparseModel, which takes no labels"),
    (lambda: train(model=build_source("Bert", "ForMaskedLM")), ValueError, "a bert model has no sparse pattern"),
    *rows(train, ({"saor": 3}, "saor=3: SaorArguments"), ({"saor": {}}, "saor={}: SaorArguments"), error=TypeError),
    *rows(
        training,
        ({"seed": -1}, "--seed -1: it must be at least 0"),
        ({"learning_rate": "x"}, "--learning-rate x: it must be at least 0"),
        ({"learning_rate": NAN}, "--learning-rate nan: it must be at least 0"),
        ({"eval_strategy": "x"}, "--eval-strategy x: it must be one of no, steps, epoch"),
        ({"lr_scheduler_kwargs": "x"}, "--lr-scheduler-kwargs x: it must be an object of JSON"),
        ({"lr_scheduler_kwargs": "{x"}, "--lr-scheduler-kwargs {x: it is no JSON"),
        ({"num_train_epochs": 0}, "--num-train-epochs 0: it must be more than 0"),
    ),
    *rows(
        compare,
        ({"consistency_pattern": "x"}, "consistency_pattern: 'x'"),
        ({"consistency_alpha": -1}, "consistency_alpha=-1: a number of at least 0 is needed"),
        ({"consistency_alpha": NAN}, "consistency_alpha=nan: a number of at least 0 is needed"),
        ({"consistency_alpha": "x"}, "consistency_alpha='x': a number is needed"),
    ),
    *rows(
        encode,
        ({"pattern": "x"}, f"pattern: 'x' in pattern 'x' is not {TEXT}"),
        ({"pattern": 3}, "pattern: 3 is not a sparse pattern"),
        ({"consistency_pattern": "block_size=8"}, "consistency_pattern needs labels"),
        ({"labels": torch.tensor([5])}, "labels holds 5: 0 to 1 is allowed"),
    ),
    *rows(
        answer,
        ({}, "the question has to be text: it is missing"),
        ({"question": "who"}, "the context has to be text: it is missing"),
        ({"question": "", "context": "snow"}, "the question is empty"),
        ({"question": "who", "context": ""}, "the context is empty"),
        ({"question": 3, "context": "snow"}, "the question has to be text: 3"),
        ({"question": "who", "context": "snow", "top_k": 0}, "top_k=0: a whole number of at least 1 is needed"),
        ({"question": "who", "context": "snow", "colour": 3}, "colour is unknown: top_k, doc_stride"),
        ({"question": "who", "context": "snow", "max_seq_len": 99}, "max_seq_len=99 is more than the 64 tokens"),
    ),
]
