# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse convert`: a BERT-like checkpoint as an ERNIE-Sparse one, and an account of every weight."""

import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .checkpoints import check_checkpoint, has_tokenizer, read_tokenizer
from .command_line import ArgumentParser
from .configuration_ernie_sparse import ErnieSparseConfig
from .conversion_families import CONFIG_FIELDS, DROPPED, FAMILIES, HEADS, WITH_POOLER, Family
from .errors import InputError, input_errors
from .files import CONFIG_FILES, WEIGHT_FILES, check_place, reading, whole_folder
from .model_card import CardFacts, write_card
from .modeling_ernie_sparse import ErnieSparseModel, ErnieSparsePreTrainedModel
from .results import print_table, versions, write_json
from .sparse_pattern import SparsePattern

DEFAULT_MAX_LENGTH = 4096

UNUSED = re.compile(r"[\[<]?(unused|madeupword|extra_id_)_?\d+[\]>]?")
DECODER_BIAS = "cls.predictions.decoder.bias"
POOLER = re.compile(r"(^|\.)pooler\.")
# A checkpoint's weights under these names are the encoder's: none of them may be left over.
ENCODER = re.compile(r"(^|\.)(embeddings|encoder)\.")


@dataclass(frozen=True)
class ConversionReport:
    """
    What became of every weight of the source. Weights are named as in `state_dict`.

    Args:
        source (`str`): The checkpoint, or the class of the source model.
        source_class (`str`): The class that the checkpoint was read with.
        model_class (`str`): The class of the converted model.
        num_source_positions (`int`): The number of tokens that the source reads.
        max_length (`int`): The number of tokens that the converted model reads.
        pattern (`str`): Its own sparse pattern, as text.
        copied (`list[str]`): Weights of the converted model that were copied.
        made (`dict[str, str]`): Weights of the converted model that the source does not have, and how they were made.
        tiled (`dict[str, str]`): Weights of the converted model that repeat those of the source, and up to what length.
        dropped (`dict[str, str]`): Weights of the source that the converted model does not have, and why.
        tokenizer (`str`): The class of the tokenizer and its number of tokens, or `none`.
    """

    source: str
    source_class: str
    model_class: str
    num_source_positions: int
    max_length: int
    pattern: str
    copied: list[str]
    made: dict[str, str]
    tiled: dict[str, str]
    dropped: dict[str, str]
    tokenizer: str

    def rows(self) -> list[tuple[str, object]]:
        """
        The report as a table for people. Weights that differ only by the number of their layer share a row.

        Returns:
            `list[tuple[str, object]]`: What each row is about, and what the report says of it.
        """
        rows = [
            ("source", f"{self.source} ({self.source_class})"),
            ("model", self.model_class),
            ("positions", f"{self.num_source_positions:,} in the source, {self.max_length:,} now"),
            ("pattern", self.pattern),
            ("tokenizer", self.tokenizer),
            ("weights copied", f"{len(self.copied):,}"),
        ]
        for fate in ("tiled", "made", "dropped"):
            told = Counter((re.sub(r"\.\d+\.", ".*.", name), why) for name, why in getattr(self, fate).items())
            rows += [
                (f"weights {fate}", f"{name}{f' ({count} layers)' if '.*.' in name else ''}: {why}")
                for (name, why), count in told.items()
            ]
        return rows


@dataclass(frozen=True)
class Conversion:
    """
    What [`convert`] returns: a converted model, ready to use or to save.

    Args:
        model ([`ErnieSparsePreTrainedModel`]): The model, in evaluation mode.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Its tokenizer; `None` if there is none.
        report ([`ConversionReport`]): What became of every weight.
    """

    model: ErnieSparsePreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    report: ConversionReport

    def save(self, folder: str | Path, command: list[str] | None = None):
        """
        Save the model, the tokenizer, the report as `conversion.json` and a model card. If this fails, nothing is left
        behind.

        Args:
            folder (`str` or `Path`): The folder to write. It must be empty, or not exist.
            command (`list[str]`, *optional*): The words of the command that did the conversion, for `conversion.json`.

        Raises:
            [`InputError`]: `folder` is a file or is not empty, or there is no space for the weights.
            `OSError`: The folder cannot be written.
        """
        out = Path(folder)
        with whole_folder(out, check_target(out)) as complete:
            with input_errors(SafetensorError, about=f"{out} cannot be written"):
                self.model.save_pretrained(complete)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(complete)
            record = {**vars(self.report), "command": command and shlex.join(command), "versions": versions()}
            write_json(complete / "conversion.json", record)
            write_card(complete, out.name, self.model, _card(self.report))


def _card(report: ConversionReport) -> CardFacts:
    return CardFacts(
        about=f"The weights of a {report.source_class}, converted to ERNIE-Sparse and not trained since.",
        facts={"positions": f"{report.num_source_positions:,} in the source, repeated up to {report.max_length:,}"},
        source=report.source,
        limits=[
            "Positions beyond the source's and the representatives have not been trained: fine-tune it for long inputs."
        ],
    )


def check_target(out: Path) -> Path:
    """The nearest folder above `out` that there is; an [`InputError`] unless a checkpoint can be written to `out`."""
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty: name another folder, or remove it first")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: name a folder")
    return check_place(out, str(out))


def convert(
    model_or_path: PreTrainedModel | str | Path,
    *,
    max_length: int | None = None,
    pattern: SparsePattern | Mapping | str | None = None,
    base_model: bool = False,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
) -> Conversion:
    r"""
    Turn a BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ERNIE, ELECTRA, BigBird or Longformer model into an ERNIE-Sparse
    model.

    - The weights of the encoder and of its head are copied. Under `SparsePattern.full()` the model gives the outputs
      of the source.
    - Position embeddings are repeated up to `max_length`.
    - Representatives start as an average token or, if the pattern has no global blocks and there is a tokenizer, as
      `[CLS]`. The layer norms of step 2 start as copies of those of step 1. Both are our choice.
    - `attention_probs_dropout_prob` becomes 0, whatever it is in the source. This is our choice as well.

    Args:
        model_or_path (`PreTrainedModel`, `str` or `Path`): A model, the folder of a checkpoint, or a hub id.
        max_length (`int`, *optional*):
            The number of tokens that the result can read, at least that of the source. When `None`: 4096, or that of
            the source if it is larger.
        pattern ([`SparsePattern`], `Mapping` or `str`, *optional*):
            The sparse pattern of the result; the default pattern when `None`.
        base_model (`bool`, defaults to `False`): Whether to leave the head of the source behind and keep its pooler.
        tokenizer (`PreTrainedTokenizerBase`, `str` or `Path`, *optional*):
            The tokenizer, its folder or hub id. When `None`, the one beside the checkpoint, if there is one.

    Returns:
        [`Conversion`]: The model, its tokenizer and the report. `convert(…).save(folder)` writes them.

    Raises:
        [`InputError`]: The source is of another family or a decoder, cannot be read, lacks weights, or has weights that
            are unknown or not finite. Or `max_length` is below that of the source, the pattern is not allowed, or the
            tokenizer has more tokens than the vocabulary of the source.

    Example:

    ```python
    >>> from ernie_sparse.conversion import convert

    >>> conversion = convert("roberta-base", max_length=8192)
    >>> conversion.save("sparse-roberta")
    ```"""
    if not isinstance(model_or_path, PreTrainedModel | str | Path):
        raise InputError(f"model_or_path={model_or_path!r}: a model, a folder or a hub id is needed")
    if not isinstance(max_length, int | None):
        raise InputError(f"max_length={max_length!r}: a whole number is needed")
    with input_errors(about="pattern"):
        pattern = SparsePattern() if pattern is None else SparsePattern.parse(pattern)
    source = _inspect(model_or_path, base_model)
    if max_length is None:
        max_length = max(DEFAULT_MAX_LENGTH, source.num_positions)
    if max_length < source.num_positions:
        raise InputError(
            f"max_length={max_length} is below the {source.num_positions} tokens that {source.name} reads: ask for at least as "
            "many"
        )
    tokenizer = _find_tokenizer(source, tokenizer, max_length)
    weights, dropped = _read_weights(source)
    model, made = _place(weights, source, pattern, tokenizer)
    tiled = {}
    if max_length > source.num_positions:
        with input_errors(about="max_length"):
            model.resize_position_embeddings(max_length)
        name = next(name for name in model.state_dict() if name.endswith("position_embeddings.weight"))
        tiled[name] = f"{source.num_positions:,} positions repeated up to {max_length:,}"
    report = ConversionReport(
        source=source.name,
        source_class=source.source_class.__name__,
        model_class=type(model).__name__,
        num_source_positions=source.num_positions,
        max_length=max_length,
        pattern=str(pattern),
        copied=[name for name in model.state_dict() if name not in made and name not in tiled],
        made=made,
        tiled=tiled,
        dropped=dropped,
        tokenizer="none" if tokenizer is None else f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens",
    )
    return Conversion(model.eval(), tokenizer, report)


class _Source(NamedTuple):
    """What is known of a source before its weights are read."""

    origin: PreTrainedModel | str
    name: str
    config: PreTrainedConfig
    family: Family
    source_class: type[PreTrainedModel]
    head: str

    @property
    def model_class(self) -> type[ErnieSparsePreTrainedModel]:
        """What it becomes."""
        return {**HEADS, **self.family.heads}.get(self.head, ErnieSparseModel)

    @property
    def position_offset(self) -> int:
        """Positions at the beginning of the table that stand for no token."""
        return (self.config.pad_token_id or 0) + 1 if self.family.has_position_offset else 0

    @property
    def num_positions(self) -> int:
        """Tokens that the source reads."""
        return self.config.max_position_embeddings - self.position_offset

    def check(self):
        """Raise an [`InputError`] if the source computes something that ErnieSparse does not."""
        config, name = self.config, self.name
        if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
            raise InputError(f"{name} is a decoder: ErnieSparse is an encoder")
        if self.head in self.family.fixed_gelu_heads and config.hidden_act != "gelu":
            raise InputError(
                f"{name}: the {self.head} head of {config.model_type} uses gelu, whatever its "
                f"hidden_act={config.hidden_act!r} says; ErnieSparse's uses hidden_act. Convert the base model alone"
            )
        required = self.family.required
        for setting, known in {**required.get("*", {}), **required.get(self.head, {})}.items():
            value = getattr(config, setting)
            if value != known:
                raise InputError(f"{name} has {setting}={value!r}, which ErnieSparse does not know")

    def build_config(self, pattern: SparsePattern) -> ErnieSparseConfig:
        """The config of the same model here, with the source's own positions."""
        values = {name: getattr(self.config, name) for name in CONFIG_FIELDS if hasattr(self.config, name)}
        if values.get("embedding_size") == values["hidden_size"]:
            del values["embedding_size"]
        values |= self.family.head_settings.get(self.head, lambda source: {})(self.config)
        config = ErnieSparseConfig(**values, max_position_embeddings=self.num_positions)
        config.pattern = pattern
        return config


def _inspect(origin: PreTrainedModel | str | Path, base_model: bool) -> _Source:
    if isinstance(origin, PreTrainedModel):
        config, architecture = origin.config, type(origin).__name__
        name = f"the {architecture}"
        family = _find_family(name, config.model_type)
    else:
        origin = name = str(origin)
        check_checkpoint(name, "SOURCE")
        with reading(f"the config of {name} cannot be read", name, CONFIG_FILES):
            # Not AutoConfig at once: of a model type it does not know it says much that does not help here.
            values, _ = PreTrainedConfig.get_config_dict(name)
            family = _find_family(name, values.get("model_type"))
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            architecture = str((config.architectures or [""])[0])
    head = next((suffix for suffix in HEADS if architecture.endswith(suffix)), "")
    source_class = getattr(transformers, architecture, None) if head and not base_model else None
    if source_class is None or source_class.config_class is not type(config):
        source_class, head = transformers.MODEL_MAPPING[type(config)], ""
    source = _Source(origin, name, config, family, source_class, head)
    source.check()
    return source


def _find_family(name: str, model_type: str | None) -> Family:
    if model_type not in FAMILIES:
        article = "an" if str(model_type)[:1] in tuple("aeiou") else "a"
        raise InputError(f"{name} is {article} {model_type} checkpoint: {', '.join(FAMILIES)} can be converted")
    return FAMILIES[model_type]


def _find_tokenizer(source: _Source, tokenizer, max_length: int) -> PreTrainedTokenizerBase | None:
    """The tokenizer given, or the one beside the source if there is one, for documents of `max_length` tokens."""
    if tokenizer is None:
        if isinstance(source.origin, PreTrainedModel) or (
            Path(source.origin).is_dir() and not has_tokenizer(source.origin)
        ):
            return None
        tokenizer = source.origin
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = read_tokenizer(str(tokenizer))
    if len(tokenizer) > source.config.vocab_size:
        raise InputError(f"the tokenizer has {len(tokenizer)} tokens, {source.name} only {source.config.vocab_size}")
    tokenizer.model_max_length = max_length
    return tokenizer


def _read_weights(source: _Source) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The source's weights that have a place here, under our names, and why the others have none."""
    weights, unused = _load(source)
    not_finite = [
        name for name, weight in weights.items() if weight.is_floating_point() and not weight.isfinite().all()
    ]
    _refuse(not_finite, f"{source.name} holds weights that are not finite")
    reason = f"{source.source_class.__name__} does not use it"
    dropped = {name: f"{reason}; the base model does" if POOLER.search(name) else reason for name in unused}
    reasons = {**DROPPED, **source.family.dropped}
    if source.model_class not in WITH_POOLER:
        reasons[POOLER.pattern] = f"{source.model_class.__name__} has no pooler"
    elif "classifier.dense.weight" in weights:
        reasons[POOLER.pattern] = "the head has a layer of its own in its place"
    placed = {}
    for name, weight in weights.items():
        reason = next((reason for pattern, reason in reasons.items() if re.search(pattern, name)), None)
        if reason is not None:
            dropped[name] = reason
            continue
        if name.endswith("embeddings.position_embeddings.weight"):
            weight = weight[source.position_offset :]
        if name.endswith("embeddings.token_type_embeddings.weight"):
            task_types = weights.get(name.replace("token_type", "task_type"))
            weight = weight if task_types is None else weight + task_types[0]
        for pattern, ours in source.family.renamings.items():
            name = re.sub(pattern, ours, name)
        placed[name] = weight
    if DECODER_BIAS in placed:
        # Theirs have it twice, as one or, not tied, with one that is used.
        placed[DECODER_BIAS.replace("decoder.", "")] = placed.pop(DECODER_BIAS)
    return placed, dropped


def _load(source: _Source) -> tuple[dict[str, torch.Tensor], Collection[str]]:
    """The weights of a source, and the names of those that its class does not use."""
    model, class_name = source.origin, source.source_class.__name__
    if isinstance(model, PreTrainedModel):
        used = model if source.head else model.base_model
        # Cloned: training the one must not move the other.
        weights = {name: weight.clone() for name, weight in used.state_dict().items()}
        prefix = "" if used is model else f"{model.base_model_prefix}."
        return weights, [name for name in model.state_dict() if name.removeprefix(prefix) not in weights]
    # No code of ours runs inside.
    with reading(f"{source.name} cannot be loaded as {class_name}", source.name, WEIGHT_FILES):
        model, info = _fill(source, source.source_class, source.name, config=source.config)
    missing = [name for name in info["missing_keys"] if not POOLER.search(name)]
    _refuse(missing, f"{source.name} lacks weights of {class_name}")
    strange = [
        name
        for name in info["unexpected_keys"]
        if ENCODER.search(name) and not any(re.search(pattern, name) for pattern in DROPPED)
    ]
    _refuse(strange, f"{source.name} holds weights that {class_name} does not know")
    weights = {name: weight for name, weight in model.state_dict().items() if name not in info["missing_keys"]}
    return weights, sorted(info["unexpected_keys"])


def _place(
    weights, source: _Source, pattern: SparsePattern, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[ErnieSparsePreTrainedModel, dict[str, str]]:
    """The model with these weights and those that it has beyond them, and how the latter were made."""
    zeros = {}
    for name, weight in weights.items():
        bias = re.sub(r"(\.attention\.self\.\w+)\.weight$", r"\1.bias", name)
        if bias not in weights:
            zeros[bias] = weight.new_zeros(len(weight))
    dtype = next(iter(weights.values())).dtype
    with input_errors(about=source.name):
        config = source.build_config(pattern)
    weights = {**weights, **zeros}
    model, info = _fill(source, source.model_class, None, config=config, state_dict=weights, dtype=dtype)
    made = _make_representatives(model, tokenizer) | dict.fromkeys(zeros, "zero, as in the source")
    made |= dict.fromkeys(filter(POOLER.search, sorted(info["missing_keys"])), "at random: the source has none")
    strange = info["missing_keys"] - set(made) | info["unexpected_keys"]
    _refuse(strange, f"the weights of {source.name} do not fit {type(model).__name__}")
    return model, made


def _fill(source: _Source, model_class: type[PreTrainedModel], path: str | None, **options):
    """A model by `from_pretrained`, and the names that it reports. Raises an [`InputError`] for weights of another shape."""
    model, info = model_class.from_pretrained(path, ignore_mismatched_sizes=True, output_loading_info=True, **options)
    wrong = [
        f"{weight} ({tuple(found)} where {tuple(expected)} is expected)"
        for weight, found, expected in info["mismatched_keys"]
    ]
    _refuse(wrong, f"the weights of {source.name} do not fit {model_class.__name__}")
    return model, info


def _refuse(weights: Collection[str], why: str):
    """Raise an [`InputError`] if there are such weights."""
    shown = ", ".join(sorted(weights)[:3])
    if weights:
        raise InputError(f"{why}: {shown}{f' and {len(weights) - 3} more' if len(weights) > 3 else ''}")


@torch.no_grad()
def _make_representatives(
    model: ErnieSparsePreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, str]:
    """
    Let the representatives start as a token that does least harm or, without global blocks, most good; and step 2 with the layer
    norms of step 1.

    With global blocks, an average token disturbs a converted model half as much as [CLS] does. Without them, a model whose
    representatives start as [CLS] learns to carry by them what an average token does not (`docs/notebook/conversion.md`). Vocabularies are
    more or less in the order of frequency, so the n-th token of the average is weighted with 1/n (Zipf's law).
    """
    embeddings = model.base_model.embeddings
    words = embeddings.word_embeddings.weight.float()
    cls_token_id = None if tokenizer is None else tokenizer.cls_token_id
    if model.config.pattern.num_global_blocks == 0 and cls_token_id is not None:
        start, fate = words[cls_token_id], "the token [CLS]"
    else:
        occurs = _occurring(tokenizer, len(words)).to(words.device)
        shares = torch.where(occurs, 1 / occurs.cumsum(0), 0.0)
        start, fate = shares @ words / shares.sum(), "the average token"
    embeddings.representative_embeddings.weight.copy_(start + embeddings.token_type_embeddings.weight[0])
    for layer in model.base_model.encoder.layer[:-1]:
        layer.attention.representative_LayerNorm.load_state_dict(layer.attention.output.LayerNorm.state_dict())
    fates = {"representative_embeddings.": fate, "representative_LayerNorm.": "copy of output.LayerNorm"}
    return {name: fate for name in model.state_dict() for part, fate in fates.items() if part in name}


def _occurring(tokenizer: PreTrainedTokenizerBase | None, size: int) -> torch.Tensor:
    """
    Which rows of the word embeddings are of tokens that a text has, as far as a tokenizer says: not special ones, and not those
    that a vocabulary keeps free, which stand first in BERT's.
    """
    if tokenizer is None:
        return torch.ones(size, dtype=torch.bool)
    special = {*tokenizer.all_special_ids}
    tokens = tokenizer.convert_ids_to_tokens(range(min(size, len(tokenizer))))
    occurs = torch.zeros(size, dtype=torch.bool)
    # An id that a vocabulary leaves out has no token.
    occurs[: len(tokens)] = torch.tensor(
        [i not in special and token is not None and not UNUSED.fullmatch(token) for i, token in enumerate(tokens)]
    )
    return occurs


def main(argv: list[str]):
    """Run `ernie-sparse convert` with the arguments `argv`."""
    parser = ArgumentParser.of_command("convert")
    parser.add_argument("source", metavar="SOURCE", help="the checkpoint, a folder or a hub id")
    parser.add_argument("out", metavar="OUT", help="the folder to write; it must not exist or be empty")
    parser.add_argument(
        "--max-length",
        type=int,
        help=f"tokens to read, at least as many as the source ({DEFAULT_MAX_LENGTH}, or the source's if that is more)",
    )
    parser.add_argument("--pattern", help=f"the model's own sparse pattern ({SparsePattern()})")
    parser.add_argument(
        "--base-model", action="store_true", help="leave the source's head behind and keep its pooler, if it has one"
    )
    parser.add_argument("--tokenizer", help="tokenizer, a folder or a hub id (the one beside SOURCE)")
    options = vars(parser.parse_args(argv))
    source, out = options.pop("source"), options.pop("out")
    check_target(Path(out))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    conversion = convert(source, **options)
    conversion.save(out, command=["ernie-sparse", "convert", *argv])
    print_table([*conversion.report.rows(), ("saved in", out)])
