# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Finding what a command's flags name: models and tokenizers."""

from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .configuration_ernie_sparse import ErnieSparseConfig
from .errors import InputError, input_errors
from .files import CONFIG_FILES, TOKENIZER_FILES, WEIGHT_FILES, reading
from .results import digest, hardware
from .sparse_pattern import SparsePattern

logger = logging.get_logger(__name__)

# Beside the files that make a tokenizer.
BESIDE_TOKENIZER = ("special_tokens_map.json", "added_tokens.json", *CONFIG_FILES)
# What is raised where files of weights are damaged, or are of another model.
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, SafetensorError, UnpicklingError)


def check_checkpoint(name: str, argument: str):
    """Raise an [`InputError`] where `name` can only be a local checkpoint folder, and is none."""
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise InputError(f"{argument} {name}: there is no config.json in this folder")
    elif Path(name).exists():
        raise InputError(f"{argument} {name} is a file: a checkpoint is a folder")
    elif _can_only_be_a_path(name):
        raise InputError(f"{argument} {name}: there is no such folder")


def _can_only_be_a_path(name: str) -> bool:
    """Whether a name is no id of the hub, which has one slash at most."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def load_config(model: str, pattern: str | None, argument: str = "--model") -> ErnieSparseConfig:
    """The config of an ERNIE-Sparse checkpoint (folder or hub id), under another pattern if one is given."""
    check_checkpoint(model, argument)
    with reading(f"{argument} {model}", model, CONFIG_FILES):
        # Not AutoConfig: where a config names code beside it, and no model type, it asks whether to run that.
        model_type = PreTrainedConfig.get_config_dict(model)[0].get("model_type")
        if not isinstance(model_type, str):
            raise ValueError(f"model_type {model_type!r} is no name: it is the config of no model, or damaged")
        if model_type != ErnieSparseConfig.model_type:
            raise InputError(f"{argument} {model} is a {model_type} checkpoint: an ernie_sparse one is needed")
        config = ErnieSparseConfig.from_pretrained(model)
        _check_names(config)
    set_pattern(config, pattern)
    return config


def _check_names(config: ErnieSparseConfig):
    """Raise a `ValueError` where what is to be names in a config is something else."""
    for field, names in (("id2label", list(config.id2label.values())), ("architectures", config.architectures or [])):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{field} holds {names!r}: names are needed")


def set_pattern(config: ErnieSparseConfig, pattern: str | None):
    """Give a config the pattern of `--pattern`, if there is one."""
    if pattern is not None:
        with input_errors(about="--pattern"):
            config.pattern = SparsePattern.parse(pattern)


def load_tokenizer(name: str, config: ErnieSparseConfig | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; an [`InputError`] where it has other tokens than a model of `config` can read."""
    tokenizer = read_tokenizer(name)
    if config is not None and len(tokenizer) > config.vocab_size:
        raise InputError(f"the tokenizer of {name} has {len(tokenizer)} tokens, the model only {config.vocab_size}")
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"the tokenizer of {name} has no pad token, which its {TOKENIZER_FILES[0]} should name: batches need one"
        )
    return tokenizer


def read_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, as it is."""
    if Path(name).is_dir() and not has_tokenizer(name):
        raise InputError(f"there is no tokenizer in {name}: {TOKENIZER_FILES[1]} is missing")
    if Path(name).is_file():
        raise InputError(f"there is no tokenizer in {name}: it is a file, and a tokenizer is a folder")
    if not Path(name).exists() and _can_only_be_a_path(name):
        raise InputError(f"there is no tokenizer in {name}: there is no such folder")
    about = f"the tokenizer of {name} cannot be read"
    if Path(name).is_dir() and not has_tokenizer(name, TOKENIZER_FILES[1:]):
        # Some tokenizers need none.
        about += f" (there is no {TOKENIZER_FILES[1]})"
    with reading(about, name, (*TOKENIZER_FILES, *BESIDE_TOKENIZER)):
        # Code beside it is not run, and nobody is asked whether to.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        length = tokenizer.model_max_length
        # Where none is named it is a huge number, and may have become a float.
        if not ((isinstance(length, int) and length > 0) or (isinstance(length, float) and length > 2**31)):
            raise ValueError(f"model_max_length {length!r} is no number of tokens")
    with reading(about, name, TOKENIZER_FILES[1:]):
        # Some of what may be wrong shows where a text is read.
        tokenizer("a", "b", verbose=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # As transformers makes one where the file of the words is missing.
        raise InputError(f"the tokenizer of {name} has no vocabulary")
    return tokenizer


def has_tokenizer(folder: str | Path, files: Collection[str] = TOKENIZER_FILES) -> bool:
    """Whether any file of a tokenizer lies in a folder."""
    return any((Path(folder) / file).exists() for file in files)


def digest_of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of all that decides which tokens a text becomes."""
    # It forgets how its last call cut a text.
    tokenizer("", verbose=False)
    return digest(tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer.get_vocab())


def check_memory(model_class: type[PreTrainedModel], config: ErnieSparseConfig, about: str):
    """Raise an [`InputError`] where the weights alone, in fp32, are more than this machine's memory."""
    with torch.device("meta"):
        count = model_class(config).num_parameters()
    needed, memory = 4 * count / 2**30, hardware()["memory_gib"]
    if memory is not None and needed > memory:
        raise InputError(
            f"{about}: {count:,} weights take {needed:,.1f} GiB, and this machine has {memory}: ask for smaller sizes"
        )


def load_model(
    model_class: type[PreTrainedModel],
    name: str,
    config: ErnieSparseConfig,
    new_head: bool = False,
    argument: str = "--model",
) -> PreTrainedModel:
    """
    A model with the weights of a folder or hub id, in fp32 whatever type they are stored in.

    Args:
        new_head (`bool`):
            Whether the head may be a new one, where the checkpoint has that of another task or of other classes; and the
            representatives, where it has none. What is new is logged.
        argument (`str`, defaults to `"--model"`): How the command line calls it.

    Raises:
        [`InputError`]: The checkpoint cannot be read, lacks other weights, has some of other sizes or for which the model has
            no place, or some that are not finite.
    """
    check_memory(model_class, config, f"{argument} {name}")
    # Instead of transformers' report of what is missing there is an error, or one line.
    reports = logging.get_logger("transformers.modeling_utils")
    reports.addFilter(_is_error)
    try:
        with reading(f"{argument} {name}", name, WEIGHT_FILES, *UNREADABLE):
            model, info = model_class.from_pretrained(
                name, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
            )
    finally:
        reports.removeFilter(_is_error)
    has_own_head = model_class.__name__ in (config.architectures or ())
    missing, resized = set(info["missing_keys"]), {key[0] for key in info["mismatched_keys"]}
    fresh = {key for key in missing if new_head and _may_be_new(model, key, not has_own_head)}
    fresh |= {key for key in resized if new_head and _may_be_new(model, key, True)}
    homeless = {key for key in info["unexpected_keys"] if ".layer." in key or "embeddings." in key}
    for reason, keys in (
        ("lacks", missing - fresh),
        ("has shapes that do not fit its config.json", resized - fresh),
        ("has more than its config.json says", homeless),
        ("has weights that are not finite", {n for n, w in model.named_parameters() if not w.isfinite().all()}),
    ):
        if keys:
            raise InputError(f"{argument} {name} {reason}: {_listed(keys)}")
    for reason, keys in (
        (f"new weights, which {name} does not have", fresh),
        (f"weights of {name} that {model_class.__name__} has no use for", set(info["unexpected_keys"])),
    ):
        if keys:
            logger.warning_once(f"{reason}: {_listed(keys)}")
    return model


def _is_error(record) -> bool:
    return record.levelno >= logging.ERROR


def _may_be_new(model: PreTrainedModel, key: str, head: bool) -> bool:
    is_head = not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key
    return head if is_head else "representative" in key


def _listed(keys: Collection[str]) -> str:
    """The names of some weights, the first few of them."""
    return ", ".join(sorted(keys)[:6]) + (f", … ({len(keys)} in all)" if len(keys) > 6 else "")
