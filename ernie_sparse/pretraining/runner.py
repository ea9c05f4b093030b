# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse pretrain`: masked-LM pretraining with SAOR on local files or a hub data set."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed

from ..checkpoints import load_config, load_model, load_tokenizer, set_pattern
from ..command_line import CommandParser, fields_of
from ..configuration_ernie_sparse import ErnieSparseConfig
from ..errors import InputError, input_errors
from ..model_card import CardFacts, Score, write_card
from ..modeling_ernie_sparse import ErnieSparseForMaskedLM
from ..results import Record
from ..run import Run
from ..sparse_pattern import SparsePattern
from ..tables import SAMPLE_BY
from ..trainer import SaorArguments, SaorTrainer, check_label_smoothing, check_optimizer
from ..training_arguments import RunArguments, check_best_metric, training_facts
from .masking import MaskAnew, MaskingCollator, mask_once
from .text import load_texts, pack, train_tokenizer

# What the model card calls it.
REGULARISED = {"r-drop": "R-Drop", "saor": "SAOR", "alignment": "layer alignment"}
USAGE = """(--model DIR | --train-tokenizer SIZE | --tokenizer DIR) (--train-file F [F ...] | --dataset NAME) --output-dir OUT [options]

examples:
  ernie-sparse pretrain --train-file a.txt b.txt --train-tokenizer 8000 --config hidden_size=256,num_hidden_layers=4 \\
      --max-length 1024 --output-dir out --num-train-epochs 1
  ernie-sparse pretrain --model DIR --dataset Salesforce/wikitext --dataset-config wikitext-103-raw-v1 --output-dir out
"""


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
        default=None, metadata={"help": "Text, csv, json, jsonl or parquet files to train on."}
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "Files to evaluate on."})
    dataset: str | None = field(default=None, metadata={"help": "Hub data set instead of files."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the text; of text files it is text."})
    sample_by: str = field(
        default="document",
        metadata={"help": "What a document is in a text file: document (the file), paragraph or line."},
    )
    validation_fraction: float = field(
        default=0.05, metadata={"help": "Share of the packed rows held out where there is no validation file or split."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens per row; the model's max_position_embeddings if None."}
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens to mask and predict."})
    preprocessing_processes: int | None = field(default=None, metadata={"help": "Processes that tokenize."})

    def __post_init__(self):
        if self.sample_by not in SAMPLE_BY:
            raise InputError(f"--sample-by {self.sample_by}: it must be one of {', '.join(SAMPLE_BY)}")
        if not 0 < self.mlm_probability < 1:
            raise InputError(f"--mlm-probability {self.mlm_probability}: it must lie between 0 and 1")
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"--validation-fraction {self.validation_fraction}: it must lie between 0 and 1")
        if self.max_length is not None and self.max_length < 8:
            raise InputError(f"--max-length {self.max_length}: it must be at least 8")
        if self.model is not None and (self.config is not None or self.train_tokenizer is not None):
            raise InputError("--config and --train-tokenizer are for a new model: leave them out with --model")
        if self.model is None and (self.tokenizer is None) == (self.train_tokenizer is None):
            raise InputError("a new model needs either --tokenizer or --train-tokenizer (or go on with --model)")


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


def build_tokenizer(
    args: PretrainArguments,
    config: ErnieSparseConfig,
    train_set: Dataset,
    max_length: int,
    folder: Path,
    is_main_process: bool,
) -> PreTrainedTokenizerBase:
    """The model's tokenizer, another one, or one that the main process trains on the training text and leaves in `folder`."""
    if args.train_tokenizer is None:
        return load_tokenizer(args.tokenizer or args.model, config if args.model else None)
    if is_main_process:
        texts = (text for batch in train_set.iter(batch_size=100) for text in batch["text"] if text)
        train_tokenizer(texts, args.train_tokenizer, max_length).save_pretrained(folder)
    return load_tokenizer(folder)


def build_config(args: PretrainArguments) -> ErnieSparseConfig:
    """The config of the model to train, but for what its tokenizer decides."""
    if args.model is not None:
        return load_config(args.model, args.pattern)
    values = parse_config(args.config)
    if args.max_length is not None:
        values.setdefault("max_position_embeddings", args.max_length)
    with input_errors(about="--config"):
        config = ErnieSparseConfig(**values)
    set_pattern(config, args.pattern)
    return config


def build_model(args: PretrainArguments, config: ErnieSparseConfig, tokenizer) -> ErnieSparseForMaskedLM:
    """The checkpoint's model, or a new one for the tokenizer's vocabulary."""
    if args.model is not None:
        return load_model(ErnieSparseForMaskedLM, args.model, config, new_head=True)
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    with input_errors(ValueError, KeyError, about="--config"):
        return ErnieSparseForMaskedLM(config)


def build_rows(args: PretrainArguments, raw, tokenizer, max_length: int, seed: int) -> tuple[Dataset, Dataset]:
    """Packed training rows, and packed validation rows under one fixed masking."""

    def packed(split: str) -> Dataset:
        return pack(raw[split], tokenizer, max_length, args.preprocessing_processes)

    rows = packed("train")
    if "validation" in raw:
        validation = packed("validation")
    else:
        if len(rows) < 2:
            raise InputError(f"the text fills {len(rows)} row(s) of {max_length} tokens: too few to train and validate")
        split = rows.train_test_split(test_size=max(1, round(len(rows) * args.validation_fraction)), seed=seed)
        rows, validation = split["train"], split["test"]
    if not len(rows) or not len(validation):
        raise InputError("there is no text to train or to validate on")
    return rows, mask_once(validation, tokenizer, args.mlm_probability, seed)


def main(argv: list[str]):
    """Run `ernie-sparse pretrain` with the arguments `argv`."""
    parser = CommandParser("ernie-sparse pretrain", USAGE, __doc__, PretrainArguments, SaorArguments, RunArguments)
    args, saor, training = parser.fill(parser.given(argv))
    training.prediction_loss_only = True
    check_best_metric(training)
    check_optimizer(training)
    check_label_smoothing(training.label_smoothing_factor, saor, ErnieSparseForMaskedLM)
    facts = {**fields_of(args, saor), **training_facts(training)}
    config = build_config(args)
    # What stands in for flags that are not given, so that a run is the same one where they are spelt out.
    resolved = {
        "tokenizer": args.tokenizer or args.model,
        "pattern": str(config.pattern),
        "max_length": args.max_length or config.max_position_embeddings,
    }
    run = Run(Record(parser.prog, argv), training, facts | resolved)
    checkpoint = run.checkpoint()
    try:
        pretrain(args, config, saor, training, run, facts, checkpoint)
    finally:
        run.release()


def pretrain(
    args: PretrainArguments,
    config: ErnieSparseConfig,
    saor: SaorArguments,
    training: RunArguments,
    run: Run,
    facts: dict,
    checkpoint: str | None,
):
    """One run: read and pack the text, train, evaluate, leave model, results and picture in its folder."""
    set_seed(training.seed)
    max_length = args.max_length or config.max_position_embeddings
    if max_length > config.max_position_embeddings:
        raise InputError(
            f"--max-length {max_length} is more than max_position_embeddings={config.max_position_embeddings}"
        )
    with training.main_process_first(desc="reading and packing the text"):
        files = {"train": args.train_file, "validation": args.validation_file}
        raw = load_texts(files, args.dataset, args.dataset_config, args.text_column, args.sample_by)
        if checkpoint is not None:
            tokenizer = load_tokenizer(checkpoint)
        else:
            folder = Path(training.output_dir) / "tokenizer"
            tokenizer = build_tokenizer(args, config, raw["train"], max_length, folder, training.process_index == 0)
        rows, validation = build_rows(args, raw, tokenizer, max_length, training.seed)
    run.check_data({"train": [rows], "validation": [validation]})
    if run.finished_results() is not None:
        return
    model = build_model(args, config, tokenizer)
    collator = MaskingCollator(tokenizer, args.mlm_probability, training.seed)
    with input_errors():
        trainer = SaorTrainer(
            model=model,
            args=training,
            saor=saor,
            train_dataset=rows,
            eval_dataset=validation,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[MaskAnew(collator)],
        )
    run.train(trainer, checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    if not trainer.is_world_process_zero():
        return
    perplexity = math.exp(min(metrics["eval_loss"], 700.0))
    results = {
        "eval_loss": metrics["eval_loss"],
        "perplexity": perplexity,
        "steps": trainer.state.global_step,
        "max_length": max_length,
        "training_rows": len(rows),
        "validation_rows": len(validation),
        "arguments": facts,
    }
    table = [
        ("parameters", f"{model.num_parameters():,}"),
        ("training rows", f"{len(rows):,} of {max_length:,} tokens"),
        ("steps", trainer.state.global_step),
        ("validation loss", metrics["eval_loss"]),
        ("validation perplexity", perplexity),
        ("model", training.output_dir),
    ]
    written = trainer.accelerator.unwrap_model(trainer.model)
    write_card(run.folder, training.hub_model_id or run.folder.name, written, card_of(args, training, results))
    run.finish(results, table, trainer.state.log_history)
    if training.push_to_hub:
        trainer.push_to_hub(has_card=True)


def card_of(args: PretrainArguments, training: RunArguments, results: dict) -> CardFacts:
    steps, rows, arm = results["steps"], results["training_rows"], results["arguments"]["regularization"]
    return CardFacts(
        about="An ERNIE-Sparse encoder, pretrained to predict masked tokens"
        + (f" with {REGULARISED[arm]} (alpha {results['arguments']['saor_alpha']:g})." if arm != "none" else "."),
        facts={
            "trained on": f"{rows:,} rows of {results['max_length']:,} tokens, {steps:,} steps, seed {training.seed}",
        },
        source=args.model,
        data=args.dataset,
        evaluated_on=f"{results['validation_rows']:,} rows that were held out",
        scores=[Score("loss", results["eval_loss"]), Score("perplexity", results["perplexity"])],
        limits=["One training with one seed."],
    )
