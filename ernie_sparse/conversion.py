# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse convert`: a BERT-like checkpoint as an ERNIE-Sparse one, and an account of every weight."""

import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from .configuration_ernie_sparse import ErnieSparseConfig
from .modeling_ernie_sparse import (
    ErnieSparseForMaskedLM,
    ErnieSparseForMultipleChoice,
    ErnieSparseForQuestionAnswering,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
    ErnieSparseModel,
    ErnieSparsePreTrainedModel,
)
from .running import ArgumentParser, check_checkpoint, print_table, versions
from .sparse_pattern import SparsePattern

DEFAULT_MAX_LENGTH = 4096

HEADS = {
    "ForMaskedLM": ErnieSparseForMaskedLM,
    "ForPreTraining": ErnieSparseForMaskedLM,
    "ForSequenceClassification": ErnieSparseForSequenceClassification,
    "ForTokenClassification": ErnieSparseForTokenClassification,
    "ForQuestionAnswering": ErnieSparseForQuestionAnswering,
    "ForMultipleChoice": ErnieSparseForMultipleChoice,
}

CONFIG_FIELDS = (
    *("vocab_size", "hidden_size", "embedding_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("hidden_act", "hidden_dropout_prob", "classifier_dropout", "type_vocab_size", "initializer_range"),
    *("layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"),
    *("id2label", "label2id", "problem_type"),
)

WITH_POOLER = (ErnieSparseModel, ErnieSparseForSequenceClassification, ErnieSparseForMultipleChoice)

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json"),
    *("sentencepiece.bpe.model", "spiece.model", "tokenizer.model"),
)


@dataclass(frozen=True)
class Family:
    """
    How the checkpoints of one or several model types differ from ours.

    Args:
        renamings (`Mapping[str, str]`):
            Regular expressions of weight names and what they become, in order, as `from_pretrained` takes them for its
            `key_mapping`. What none matches keeps its name.
        dropped (`Mapping[str, str]`): Regular expressions of weights that have no place here, and why.
        has_position_offset (`bool`): Whether the first `pad_token_id + 1` positions stand for no token.
        heads (`Mapping[str, type]`): Heads of this family that are not those of the other families.
        head_settings (`Mapping[str, Callable[[PreTrainedConfig], dict]]`):
            By head: what our config must say, given the source's.
        fixed_gelu_heads (`tuple[str, ...]`): Heads that use gelu whatever the config's `hidden_act` says.
    """

    renamings: Mapping[str, str]
    dropped: Mapping[str, str] = field(default_factory=dict)
    has_position_offset: bool = False
    heads: Mapping[str, type] = field(default_factory=dict)
    head_settings: Mapping[str, Callable[[PreTrainedConfig], dict]] = field(default_factory=dict)
    fixed_gelu_heads: tuple[str, ...] = ()


def _roberta_like(prefix: str, **differences) -> Family:
    return Family(
        {
            rf"^{prefix}\.": "ernie_sparse.",
            r"^lm_head\.dense\.": "cls.predictions.transform.dense.",
            r"^lm_head\.layer_norm\.": "cls.predictions.transform.LayerNorm.",
            r"^lm_head\.": "cls.predictions.",
            r"^classifier\.dense\.": "ernie_sparse.pooler.dense.",
            r"^classifier\.out_proj\.": "classifier.",
        },
        has_position_offset=True,
        fixed_gelu_heads=("ForMaskedLM",),
        **differences,
    )


FAMILIES = {
    "bert": Family({r"^bert\.": "ernie_sparse."}),
    "big_bird": Family(
        {
            r"^bert\.": "ernie_sparse.",
            r"^pooler\.": "pooler.dense.",
            r"^ernie_sparse\.pooler\.": "ernie_sparse.pooler.dense.",
            r"^classifier\.dense\.": "ernie_sparse.pooler.dense.",
            r"^classifier\.out_proj\.": "classifier.",
            r"^qa_classifier\.qa_outputs\.": "qa_outputs.",
            r"^qa_classifier\.": "qa_feed_forward.",
        },
        head_settings={
            "ForSequenceClassification": lambda source: {"pooler_act": source.hidden_act},
            "ForQuestionAnswering": lambda source: {"qa_feed_forward": True},
        },
    ),
    "camembert": _roberta_like("roberta"),
    "electra": Family(
        {
            r"^electra\.": "ernie_sparse.",
            r"embeddings_project\.": "embeddings.projection.",
            r"^generator_predictions\.": "cls.predictions.transform.",
            r"^generator_lm_head\.": "cls.predictions.decoder.",
            r"^sequence_summary\.summary\.": "ernie_sparse.pooler.dense.",
            r"^classifier\.dense\.": "ernie_sparse.pooler.dense.",
            r"^classifier\.out_proj\.": "classifier.",
        },
        heads={"ForPreTraining": ErnieSparseModel},
        head_settings={
            "ForSequenceClassification": lambda source: {"pooler_act": "gelu"},
            "ForMultipleChoice": lambda source: {"pooler_act": source.summary_activation or "linear"},
        },
        fixed_gelu_heads=("ForMaskedLM",),
    ),
    "ernie": Family({r"^ernie\.": "ernie_sparse."}),
    "longformer": _roberta_like(
        "longformer", dropped={r"\.(query|key|value)_global\.": "global projection: HST uses the local ones throughout"}
    ),
    "roberta": _roberta_like("roberta"),
    "xlm-roberta": _roberta_like("roberta"),
}

DROPPED = {
    r"(position|token_type)_ids$": "a buffer",
    r"seq_relationship\.": "next sentence prediction has no head here",
    r"^discriminator_predictions\.": "replaced token detection has no head here",
    r"task_type_embeddings\.": "task 0 is added to the token types, the other tasks have no place here",
}
POOLER = re.compile(r"(^|\.)pooler\.")
# A checkpoint's weights under these names are the encoder's: none of them may be left over.
ENCODER = re.compile(r"(^|\.)(embeddings|encoder)\.")


@dataclass(frozen=True)
class ConversionReport:
    """
    What became of every weight.

    Args:
        source (`str`): The checkpoint, or the class of the model.
        source_class (`str`): The class it was read as.
        model_class (`str`): What it is now.
        num_source_positions (`int`): Tokens that the source reads.
        max_length (`int`): Tokens that the model reads.
        pattern (`str`): Its sparse pattern, as text.
        copied (`list[str]`): Our weights that are the source's.
        made (`dict[str, str]`): Our weights that the source does not have, and how they were made.
        tiled (`dict[str, str]`): Our weights that repeat the source's.
        dropped (`dict[str, str]`): The source's weights that have no place here, and why.
        tokenizer (`str`): Which tokenizer goes along.
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
        """The report for people: names that differ only by layer count as one."""
        rows = [
            ("source", f"{self.source} ({self.source_class})"),
            ("model", self.model_class),
            ("positions", f"{self.num_source_positions:,} in the source, {self.max_length:,} now"),
            ("pattern", self.pattern),
            ("tokenizer", self.tokenizer),
            ("weights copied", f"{len(self.copied):,}"),
        ]
        for kind in ("tiled", "made", "dropped"):
            fates: dict[tuple[str, str], int] = {}
            for name, fate in getattr(self, kind).items():
                key = (re.sub(r"\.\d+\.", ".*.", name), fate)
                fates[key] = fates.get(key, 0) + 1
            rows += [
                (f"weights {kind}", f"{name}{f' ({count} layers)' if '.*.' in name else ''}: {fate}")
                for (name, fate), count in fates.items()
            ]
        return rows


@dataclass(frozen=True)
class Conversion:
    """
    A converted model, ready to use or to save.

    Args:
        model ([`ErnieSparsePreTrainedModel`]): The model, in evaluation mode.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Its tokenizer, if the source has one.
        report ([`ConversionReport`]): What became of every weight.
    """

    model: ErnieSparsePreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    report: ConversionReport

    def save(self, folder: str | Path, command: list[str] | None = None):
        """
        Write model, tokenizer and `conversion.json`, all of them or nothing.

        Raises:
            `ValueError`: `folder` is a file or holds something.
            `OSError`: It cannot be written.
        """
        out = Path(folder)
        check_target(out)
        new = [parent for parent in out.absolute().parents if not parent.exists()]
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
                complete = Path(temporary) / out.name
                self._write(complete, command)
                if out.exists():
                    out.rmdir()
                complete.replace(out)
        except BaseException:
            for parent in new:
                parent.rmdir()
            raise

    def _write(self, folder: Path, command: list[str] | None):
        self.model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        record = {**vars(self.report), "command": command and shlex.join(command), "versions": versions()}
        (folder / "conversion.json").write_text(json.dumps(record, indent=2) + "\n")


def check_target(out: Path):
    """Raise a `ValueError` unless a checkpoint can be written to the folder `out`."""
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: name another folder, or remove it first")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a folder")
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"{out} cannot be written: {nearest} is {'read-only' if nearest.is_dir() else 'a file'}")


def convert(
    model_or_path: PreTrainedModel | str | Path,
    *,
    max_length: int | None = None,
    pattern: SparsePattern | Mapping | str | None = None,
    base_model: bool = False,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
) -> Conversion:
    r"""
    Turn a BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ERNIE, ELECTRA, BigBird or Longformer model into ERNIE-Sparse.

    Every weight of the encoder and of its head is taken over. Position embeddings are repeated up to `max_length`.
    Representatives start as an average token, the layer norms of step 2 as copies of those of step 1 (our choice). Under `SparsePattern.full()` the model gives the source's outputs. Dropout on attention weights becomes 0,
    whatever it was in the source (our choice, see [`ErnieSparseConfig`]).

    Args:
        model_or_path (`PreTrainedModel`, `str` or `Path`): A model, a local checkpoint folder, or a hub id.
        max_length (`int`, *optional*):
            Tokens to read, at least as many as the source. 4096 when `None`, or the source's if that is more.
        pattern ([`SparsePattern`], `Mapping` or `str`, *optional*): The model's own pattern; the default one when `None`.
        base_model (`bool`, defaults to `False`): Leave the source's head behind and keep its pooler.
        tokenizer (`PreTrainedTokenizerBase`, `str` or `Path`, *optional*):
            The tokenizer, or where it lies; when `None` the one beside the checkpoint, if there is one.

    Returns:
        [`Conversion`]: Model, tokenizer and report. `convert(…).save(folder)` writes them.

    Raises:
        `ValueError`: A checkpoint of another family or a decoder, one that cannot be read, that lacks weights or holds
            unknown ones; a `max_length` below the source's; a bad pattern; a tokenizer larger than the vocabulary.

    Example:

    ```python
    >>> from ernie_sparse.conversion import convert

    >>> conversion = convert("roberta-base", max_length=8192)
    >>> conversion.save("roberta-sparse-8192")
    ```"""
    pattern = SparsePattern() if pattern is None else SparsePattern.parse(pattern)
    source = _inspect(model_or_path, base_model)
    max_length = source.check_length(max_length)
    tokenizer = _find_tokenizer(model_or_path, tokenizer, source, max_length)
    weights, dropped = _read_weights(model_or_path, source)
    model, made = _place(weights, source, pattern)
    tiled = {}
    if max_length > source.num_positions:
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

    def check_length(self, max_length: int | None) -> int:
        """The length asked for, or the default one."""
        if max_length is None:
            return max(DEFAULT_MAX_LENGTH, self.num_positions)
        if max_length < self.num_positions:
            raise ValueError(
                f"a length of {max_length} is below the {self.num_positions} tokens that {self.name} reads: ask for at "
                "least as many"
            )
        return max_length

    def check(self):
        """Raise a `ValueError` if the source computes something that ErnieSparse does not."""
        config, name = self.config, self.name
        if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
            raise ValueError(f"{name} is a decoder: ErnieSparse is an encoder")
        if getattr(config, "rescale_embeddings", False):
            raise ValueError(f"{name} has rescale_embeddings=True, which ErnieSparse does not know")
        if self.head in self.family.fixed_gelu_heads and config.hidden_act != "gelu":
            raise ValueError(
                f"{name}: the {self.head} head of {config.model_type} uses gelu, whatever its "
                f"hidden_act={config.hidden_act!r} says; ErnieSparse's uses hidden_act. Convert the base model alone"
            )
        summary = (getattr(config, "summary_type", "first"), getattr(config, "summary_use_proj", True))
        if self.head == "ForMultipleChoice" and summary != ("first", True):
            raise ValueError(f"{name} has (summary_type, summary_use_proj)={summary}: only ('first', True) is known")

    def build_config(self, pattern: SparsePattern) -> ErnieSparseConfig:
        """The config of the same model here, with the source's own positions."""
        values = {name: getattr(self.config, name) for name in CONFIG_FIELDS if hasattr(self.config, name)}
        if values.get("embedding_size") == values["hidden_size"]:
            del values["embedding_size"]
        settings = self.family.head_settings.get(self.head)
        values |= settings(self.config) if settings else {}
        config = ErnieSparseConfig(**values, max_position_embeddings=self.num_positions)
        config.pattern = pattern
        return config


def _inspect(model_or_path: PreTrainedModel | str | Path, base_model: bool) -> _Source:
    if isinstance(model_or_path, PreTrainedModel):
        config, architecture = model_or_path.config, type(model_or_path).__name__
        name = f"the {architecture}"
    else:
        name = str(model_or_path)
        config = _read_config(name)
        architecture = str((config.architectures or [""])[0])
    family = FAMILIES[_known_family(name, config.model_type)]
    head = next((suffix for suffix in HEADS if architecture.endswith(suffix)), "")
    source_class = getattr(transformers, architecture, None) if head and not base_model else None
    if source_class is None or source_class.config_class is not type(config):
        source_class, head = MODEL_MAPPING[type(config)], ""
    source = _Source(name, config, family, source_class, head)
    source.check()
    return source


def _known_family(name: str, model_type: str | None) -> str:
    if model_type not in FAMILIES:
        raise ValueError(f"{name} is a {model_type} checkpoint: {', '.join(FAMILIES)} can be converted")
    return model_type


def _read_config(name: str) -> PreTrainedConfig:
    check_checkpoint(name, "SOURCE")
    # Not AutoConfig at once: of a model type it does not know it says much that does not help here.
    try:
        values, _ = PreTrainedConfig.get_config_dict(name)
    except OSError as error:
        raise ValueError(f"the config of {name} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{name}: config.json holds no mapping")
    _known_family(name, values.get("model_type"))
    return AutoConfig.from_pretrained(name)


def _find_tokenizer(model_or_path, tokenizer, source: _Source, max_length: int) -> PreTrainedTokenizerBase | None:
    """The tokenizer given, or the one beside the source if there is one, for documents of `max_length` tokens."""
    if tokenizer is None:
        if isinstance(model_or_path, PreTrainedModel) or _lacks_tokenizer(model_or_path):
            return None
        tokenizer = model_or_path
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        if _lacks_tokenizer(tokenizer):
            raise ValueError(f"there is no tokenizer in {tokenizer}")
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(tokenizer))
        except Exception as error:
            raise ValueError(f"the tokenizer of {tokenizer} cannot be read: {error}") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"the tokenizer of {tokenizer.name_or_path} has no vocabulary")
    if len(tokenizer) > source.config.vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, {source.name} only {source.config.vocab_size}")
    tokenizer.model_max_length = max_length
    return tokenizer


def _lacks_tokenizer(place: str | Path) -> bool:
    folder = Path(place)
    return folder.is_dir() and not any((folder / file).exists() for file in TOKENIZER_FILES)


def _read_weights(model_or_path, source: _Source) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The source's weights that have a place here, with the positions of real tokens only, and why others have none."""
    dropped = {}
    if isinstance(model_or_path, PreTrainedModel):
        # Cloned: training the one must not move the other.
        weights = {name: weight.clone() for name, weight in model_or_path.state_dict().items()}
        prefix = f"{model_or_path.base_model_prefix}."
        if not source.head and model_or_path.base_model is not model_or_path:
            reason = f"{source.source_class.__name__} does not use it"
            dropped = {name: reason for name in weights if not name.startswith(prefix)}
            weights = {name.removeprefix(prefix): weight for name, weight in weights.items() if name not in dropped}
    else:
        weights, dropped = _load(str(model_or_path), source)
    reasons = {**DROPPED, **source.family.dropped}
    if source.model_class not in WITH_POOLER:
        reasons[POOLER.pattern] = f"{source.model_class.__name__} has no pooler"
    elif "classifier.dense.weight" in weights:
        reasons[POOLER.pattern] = "the head has a layer of its own in its place"
    kept = {}
    for name, weight in weights.items():
        reason = next((reason for pattern, reason in reasons.items() if re.search(pattern, name)), None)
        if reason is None:
            kept[name] = weight
        else:
            dropped[name] = reason
    for name in list(kept):
        if name.endswith("embeddings.position_embeddings.weight"):
            kept[name] = kept[name][source.position_offset :]
        task_types = name.replace("token_type", "task_type")
        if task_types != name and task_types in weights:
            kept[name] = kept[name] + weights[task_types][0]
    return kept, dropped


def _load(path: str, source: _Source) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The weights of a checkpoint, and those that its class does not use."""
    class_name = source.source_class.__name__
    try:
        model, info = source.source_class.from_pretrained(
            path, config=source.config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as {class_name}: {error}") from error
    _check_shapes(path, source.source_class, info)
    missing = {name for name in info["missing_keys"] if not POOLER.search(name)}
    if missing:
        raise ValueError(f"{path} lacks weights of {class_name}: {_few(missing)}")
    strange = {
        name
        for name in info["unexpected_keys"]
        if ENCODER.search(name) and not any(re.search(pattern, name) for pattern in DROPPED)
    }
    if strange:
        raise ValueError(f"{path} holds weights that {class_name} does not know: {_few(strange)}")
    weights = {name: weight for name, weight in model.state_dict().items() if name not in info["missing_keys"]}
    reason = f"{class_name} does not use it"
    return weights, {
        name: f"{reason}; the base model does" if POOLER.search(name) else reason
        for name in sorted(info["unexpected_keys"])
    }


def _place(weights, source: _Source, pattern: SparsePattern) -> tuple[ErnieSparsePreTrainedModel, dict[str, str]]:
    """The model with these weights and those that it has beyond them, and how the latter were made."""
    zeros = set()
    for name in list(weights):
        bias = re.sub(r"(\.attention\.self\.\w+)\.weight$", r"\1.bias", name)
        if bias not in weights:
            weights[bias] = weights[name].new_zeros(len(weights[name]))
            zeros.add(bias[bias.index("encoder.") :])
    model, info = source.model_class.from_pretrained(
        None,
        config=source.build_config(pattern),
        state_dict=weights,
        key_mapping=dict(source.family.renamings),
        dtype=next(iter(weights.values())).dtype,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    _check_shapes(source.name, source.model_class, info)
    # With the mapping kept, transformers would save the weights under the names they were read from.
    model._weight_conversions = None
    made = _make_representatives(model)
    made |= dict.fromkeys(
        (name for name in model.state_dict() if name.endswith(tuple(zeros))), "zero, as in the source"
    )
    made |= dict.fromkeys(filter(POOLER.search, sorted(info["missing_keys"])), "at random: the source has none")
    made |= dict.fromkeys({"cls.predictions.bias"} & info["missing_keys"], "zero, and unused: the decoder has its own")
    strange = info["missing_keys"] - set(made) | info["unexpected_keys"]
    if strange:
        raise ValueError(f"the weights of {source.name} do not fit {type(model).__name__}: {_few(strange)}")
    return model, made


def _check_shapes(name: str, model_class: type[PreTrainedModel], info: dict):
    wrong = {
        f"{weight} ({tuple(found)} where {tuple(expected)} is expected)"
        for weight, found, expected in info["mismatched_keys"]
    }
    if wrong:
        raise ValueError(f"the weights of {name} do not fit {model_class.__name__}: {_few(wrong)}")


def _few(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


@torch.no_grad()
def _make_representatives(model: ErnieSparsePreTrainedModel) -> dict[str, str]:
    """
    Let the representatives start as an average token, and step 2 with the layer norms of step 1.

    Vocabularies are more or less in the order of frequency, so the n-th word is weighted with 1/n (Zipf's law). In our
    measurements this disturbs a converted model half as much as the embedding of [CLS] does (`docs/conversion.md`).
    """
    embeddings = model.base_model.embeddings
    words = embeddings.word_embeddings.weight.float()
    shares = 1 / torch.arange(1, len(words) + 1, dtype=torch.float32, device=words.device)
    average = shares @ words / shares.sum() + embeddings.token_type_embeddings.weight[0]
    embeddings.representative_embeddings.weight.copy_(average)
    for layer in model.base_model.encoder.layer[:-1]:
        layer.attention.representative_LayerNorm.load_state_dict(layer.attention.output.LayerNorm.state_dict())
    fates = {"representative_embeddings.": "the average token", "representative_LayerNorm.": "copy of output.LayerNorm"}
    return {name: fate for name in model.state_dict() for part, fate in fates.items() if part in name}


USAGE = """SOURCE OUT [--max-length N] [--pattern TEXT]

examples:
  ernie-sparse convert bert-base-uncased bert-sparse-4096
  ernie-sparse convert ./my-roberta my-roberta-sparse --max-length 8192 --pattern block_size=64,num_window_blocks=5
"""


def main(argv: list[str]):
    """Run `ernie-sparse convert` with the arguments `argv`."""
    parser = ArgumentParser(
        prog="ernie-sparse convert",
        usage=f"ernie-sparse convert {USAGE}",
        description="Turn a checkpoint of another encoder into an ERNIE-Sparse one: "
        "BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ERNIE, ELECTRA, BigBird or Longformer.",
    )
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
    args = parser.parse_args(argv)
    check_target(Path(args.out))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    conversion = convert(
        args.source,
        max_length=args.max_length,
        pattern=args.pattern,
        base_model=args.base_model,
        tokenizer=args.tokenizer,
    )
    conversion.save(args.out, command=["ernie-sparse", "convert", *argv])
    print_table([*conversion.report.rows(), ("saved in", args.out)])
