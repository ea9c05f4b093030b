# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse finetune`: sequence classification with SAOR on csv, json or parquet files or a hub data set."""

from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from transformers import AutoTokenizer, DataCollatorWithPadding, set_seed

from ..modeling_ernie_sparse import ErnieSparseForSequenceClassification
from ..running import as_dict, finish, load_config, load_raw_dataset, parse_arguments, resume_point
from ..trainer import SaorTrainer
from .classification import check_columns, compute_metrics, encode, label_names

USAGE = """--model DIR (--train-file F [F ...] [--validation-file F] [--test-file F] | --dataset NAME) --output-dir OUT [options]

examples:
  ernie-sparse finetune --model pretrained --train-file train.csv --validation-file dev.csv --output-dir out
  ernie-sparse finetune --model DIR --dataset stanfordnlp/imdb --max-length 2048 --learning-rate 3e-5 --output-dir out
"""


@dataclass
class FinetuneArguments:
    _argument_group_name: ClassVar[str] = "model and data"

    model: str = field(metadata={"help": "ERNIE-Sparse checkpoint, a folder or a hub id."})
    tokenizer: str | None = field(default=None, metadata={"help": "Tokenizer (folder or hub id); the model's if None."})
    pattern: str | None = field(
        default=None,
        metadata={"help": "Sparse pattern to train and save the model with; the checkpoint's own if None."},
    )
    train_file: list[str] | None = field(
        default=None, metadata={"help": "csv, json, jsonl or parquet files to train on."}
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "Files to evaluate on."})
    test_file: list[str] | None = field(default=None, metadata={"help": "Files for one last evaluation at the end."})
    dataset: str | None = field(default=None, metadata={"help": "Hub data set instead of files."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration."})
    text_column: str = field(default="text", metadata={"help": "Column of the documents."})
    label_column: str = field(default="label", metadata={"help": "Column of the classes, strings or whole numbers."})
    max_length: int | None = field(
        default=None, metadata={"help": "Cut documents to this many tokens; the model's limit if None."}
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training set held out where there is no validation set."}
    )

    def __post_init__(self):
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"--validation-fraction {self.validation_fraction}: it must lie between 0 and 1")
        if self.max_length is not None and self.max_length < 3:
            raise ValueError(f"--max-length {self.max_length}: it must be at least 3")


def load_splits(args: FinetuneArguments, seed: int) -> dict:
    """Train, validation and, if there is one, test rows; validation is held out from train where it is missing."""
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    raw = load_raw_dataset(files, args.dataset, args.dataset_config)
    raw = {split: raw[split] for split in ("train", "validation", "test") if split in raw}
    check_columns(raw, args.text_column, args.label_column)
    if "validation" not in raw:
        if len(raw["train"]) < 2:
            raise ValueError("one training document is too few to hold any out: give --validation-file")
        held_out = max(1, round(len(raw["train"]) * args.validation_fraction))
        split = raw["train"].train_test_split(test_size=held_out, seed=seed)
        raw.update(train=split["train"], validation=split["test"])
    return raw


def main(argv: list[str]):
    """Run `ernie-sparse finetune` with the arguments `argv`."""
    args, saor, training = parse_arguments(argv, "finetune", USAGE, __doc__, FinetuneArguments)
    checkpoint = resume_point(training)
    set_seed(training.seed)
    config = load_config(args.model, args.pattern)
    max_length = args.max_length or config.max_position_embeddings
    if max_length > config.max_position_embeddings:
        raise ValueError(
            f"--max-length {max_length} is more than max_position_embeddings={config.max_position_embeddings}"
        )
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or args.model)
    with training.main_process_first(desc="reading and tokenizing the documents"):
        raw = load_splits(args, training.seed)
        names = label_names(raw["train"], args.label_column)
        features = {
            split: encode(rows, split, tokenizer, names, args.text_column, args.label_column, max_length)
            for split, rows in raw.items()
        }
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    trainer = SaorTrainer(
        model=ErnieSparseForSequenceClassification.from_pretrained(args.model, config=config),
        args=training,
        saor=saor,
        train_dataset=features["train"],
        eval_dataset=features["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    results = {
        split: trainer.evaluate(features[split], metric_key_prefix=split)
        for split in ("validation", "test")
        if split in features
    }
    if trainer.is_world_process_zero():
        report(argv, args, saor, training, features, results, trainer.state)


def report(argv, args, saor, training, features, results, state):
    """Print the final table and write results.json: the metrics of the test set, or of validation if there is none."""
    last = "test" if "test" in results else "validation"
    metrics = {name: results[last][f"{last}_{name}"] for name in ("accuracy", "f1", "loss")}
    labels = Counter(features[last]["labels"])
    majority = max(labels.values()) / len(features[last])
    truncated = {split: sum(rows["is_truncated"]) for split, rows in features.items()}
    everything = {
        **metrics,
        "evaluated_on": last,
        "majority_class": majority,
        "documents": {split: len(rows) for split, rows in features.items()},
        "truncated_documents": truncated,
        **results,
        "arguments": as_dict(args, saor),
    }
    table = [
        ("documents", ", ".join(f"{split} {len(rows):,}" for split, rows in features.items())),
        ("cut to the limit", ", ".join(f"{split} {count:,}" for split, count in truncated.items())),
        ("steps", state.global_step),
        *((f"{last} {name}", value) for name, value in metrics.items()),
        ("always the largest class", majority),
        ("model", training.output_dir),
    ]
    finish("finetune", argv, training.output_dir, everything, table, state.log_history)
