# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Finding what a command's flags name: models, tokenizers, and the checkpoints of a training."""

import json
from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .configuration_ernie_sparse import ErnieSparseConfig
from .errors import InputError, input_errors
from .sparse_pattern import SparsePattern


def check_checkpoint(name: str, argument: str):
    """Raise an [`InputError`] where `name` can only be a local checkpoint folder, and is none."""
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise InputError(f"{argument} {name}: there is no config.json in this folder")
    elif Path(name).exists():
        raise InputError(f"{argument} {name} is a file: a checkpoint is a folder")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{argument} {name}: there is no such folder")


def load_config(model: str, pattern: str | None) -> ErnieSparseConfig:
    """The config of an ERNIE-Sparse checkpoint (folder or hub id), under another pattern if one is given."""
    check_checkpoint(model, "--model")
    with input_errors(ValueError, OSError, about=f"--model {model}"):
        config = AutoConfig.from_pretrained(model)
    if not isinstance(config, ErnieSparseConfig):
        raise InputError(f"--model {model} is a {config.model_type} checkpoint: an ernie_sparse one is needed")
    set_pattern(config, pattern)
    return config


def set_pattern(config: ErnieSparseConfig, pattern: str | None):
    """Give a config the pattern of `--pattern`, if there is one."""
    if pattern is not None:
        with input_errors(about="--pattern"):
            config.pattern = SparsePattern.parse(pattern)


def load_tokenizer(name: str, config: ErnieSparseConfig | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; an [`InputError`] where it has other tokens than a model of `config` can read."""
    with input_errors(ValueError, OSError, about=f"the tokenizer of {name}"):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if config is not None and len(tokenizer) > config.vocab_size:
        raise InputError(f"the tokenizer of {name} has {len(tokenizer)} tokens, the model only {config.vocab_size}")
    if tokenizer.pad_token_id is None:
        raise InputError(f"the tokenizer of {name} has no pad token: batches need one")
    return tokenizer


def load_model(model_class: type[PreTrainedModel], name: str, config: ErnieSparseConfig, **kwargs) -> PreTrainedModel:
    """A model with the weights of a folder or hub id."""
    with input_errors(ValueError, OSError, SafetensorError, about=f"--model {name}"):
        return model_class.from_pretrained(name, config=config, **kwargs)


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest complete checkpoint of a training in its folder, if any."""

    def step(path: Path) -> int:
        number = path.name.removeprefix("checkpoint-")
        return int(number) if number.isdecimal() else -1

    paths = sorted(Path(folder).glob("checkpoint-*"), key=step, reverse=True)
    return next((str(path) for path in paths if step(path) >= 0 and is_complete(path)), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: Trainer writes its state last."""
    try:
        return "global_step" in json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
