# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
From a short-document checkpoint to long documents: convert it, go on pretraining at the new length with SAOR, and watch
the loss beyond the source's limit come down to the level inside it.

Beyond and inside are measured on the very same masked tokens: once where they stand in rows of `--max-length` tokens, once
with each row cut into pieces that the source could read. A source without a masked-LM head is first given one at its own
length by plain transformers training.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import datasets
import torch
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy, interpolate
from transformers import AutoModelForMaskedLM, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging

from ernie_sparse import ErnieSparseForMaskedLM, SaorArguments, SaorTrainer
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser, check_least
from ernie_sparse.conversion import check_target, convert
from ernie_sparse.errors import InputError
from ernie_sparse.pretraining.corpus import Corpus, parts_of_files
from ernie_sparse.pretraining.documents import Reading
from ernie_sparse.pretraining.masking import MaskAnew, Masking, MaskingCollator, mask_once
from ernie_sparse.pretraining.packing import Packer
from ernie_sparse.pretraining.rows import written_rows
from ernie_sparse.results import Record, print_table, write_json

PROG = "python examples/continue_pretraining.py"
MLM_PROBABILITY = 0.15


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--source", required=True, help="BERT-like checkpoint, a folder or a hub id")
    parser.add_argument("--train-file", nargs="+", required=True, help="text, csv, json, jsonl or parquet files")
    parser.add_argument("--validation-file", nargs="+", required=True, help="files to measure the losses on")
    parser.add_argument("--text-column", default="text", help="column of the documents, but for text files")
    parser.add_argument("--output-dir", required=True, help="folder of the models, results.json and losses.png")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens per row after conversion")
    parser.add_argument("--training-rows", type=int, default=2000, help="rows of --max-length tokens to train on")
    parser.add_argument("--validation-rows", type=int, default=24, help="rows of --max-length tokens to measure on")
    parser.add_argument("--head-steps", type=int, default=500, help="steps at the source's length, if it has no head")
    parser.add_argument("--steps", type=int, default=200, help="steps at the new length")
    parser.add_argument("--measure-every", type=int, default=50, help="steps between two measurements")
    parser.add_argument("--tokens-per-step", type=int, default=4096, help="tokens of a batch")
    parser.add_argument("--head-learning-rate", type=float, default=1e-3, help="learning rate at the source's length")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="learning rate at the new length")
    parser.add_argument("--saor-alpha", type=float, default=1.0, help="weight of the consistency loss")
    parser.add_argument(
        "--positions",
        choices=("tiled", "interpolated"),
        default="tiled",
        help="where position embeddings begin: copies of the source's, as `convert` makes them, or its table drawn out to --max-length",
    )
    parser.add_argument("--bf16", action="store_true", help="train in bf16; losses are measured in fp32")
    parser.add_argument("--seed", type=int, default=0, help="seed of masks, batches and dropout")
    args = parser.parse_args(argv)
    counts = (
        "max_length",
        "training_rows",
        "validation_rows",
        "head_steps",
        "steps",
        "measure_every",
        "tokens_per_step",
    )
    numbers = ("head_learning_rate", "learning_rate", "saor_alpha", "seed")
    check_least(args, {**dict.fromkeys(counts, 1), **dict.fromkeys(numbers, 0)})
    return args


def training_arguments(args, folder: Path, steps: int, length: int, learning_rate: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=learning_rate,
        warmup_steps=0.1,
        per_device_train_batch_size=max(1, args.tokens_per_step // length),
        logging_steps=25,
        save_strategy="no",
        remove_unused_columns=False,
        use_cpu=not torch.accelerator.is_available(),
        bf16=args.bf16,
        seed=args.seed,
    )


def cut(rows: datasets.Dataset, length: int) -> datasets.Dataset:
    """Packed or masked rows cut into pieces of `length` tokens, in order."""

    def pieces(batch: dict) -> dict:
        return {
            name: [row[start : start + length] for row in column for start in range(0, len(row), length)]
            for name, column in batch.items()
        }

    columns = [name for name in rows.column_names if name != "row"]
    rows = rows.select_columns(columns).map(pieces, batched=True)
    return rows.add_column("row", range(len(rows)))


@torch.no_grad()
def token_losses(model, rows: datasets.Dataset) -> torch.Tensor:
    """The loss of every masked token of `rows`, in order, in nats."""
    was_training = model.training
    model.eval()
    losses = []
    for row in rows.with_format("torch"):
        labels = row["labels"].to(model.device)
        logits = model(row["input_ids"][None].to(model.device)).logits[0]
        losses.append(cross_entropy(logits[labels != -100].float(), labels[labels != -100], reduction="none"))
    model.train(was_training)
    return torch.cat(losses).cpu()


class Measure(TrainerCallback):
    """Every so many steps, the loss of the same tokens inside the source's limit and where they stand."""

    def __init__(self, whole: datasets.Dataset, pieces: datasets.Dataset, limit: int, every: int):
        self.whole, self.pieces, self.every = whole, pieces, every
        masked = [[place for place, label in enumerate(row) if label != -100] for row in whole["labels"]]
        self.segments = torch.tensor([place // limit for row in masked for place in row])
        self.curve = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self(model, state.global_step)

    def __call__(self, model, step: int):
        in_place, inside = token_losses(model, self.whole), token_losses(model, self.pieces)
        beyond = self.segments > 0
        gap = (in_place - inside)[beyond]
        self.curve.append(
            {
                "step": step,
                "beyond": in_place[beyond].mean().item(),
                "beyond_read_inside": inside[beyond].mean().item(),
                "gap": gap.mean().item(),
                "gap_standard_error": (gap.std() / math.sqrt(len(gap))).item(),
                "by_segment": [in_place[self.segments == i].mean().item() for i in self.segments.unique()],
            }
        )
        shown = {name: round(value, 3) for name, value in self.curve[-1].items() if name != "by_segment"}
        print(json.dumps(shown), flush=True)


class HeadTrainer(Trainer):
    """Trains a BERT-like masked-LM model with its vocabulary matrix applied to the masked tokens alone: half the time."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        states = model.base_model(**inputs).last_hidden_state[labels != -100]
        return cross_entropy(model.cls(states), labels[labels != -100])


def give_head(args, rows: datasets.Dataset, tokenizer, folder: Path) -> Path:
    """The source with a masked-LM head, trained under its own full attention at its own length."""
    # Dropout on attention weights takes a slow path on the CPU.
    model = AutoModelForMaskedLM.from_pretrained(args.source, attention_probs_dropout_prob=0.0)
    if not hasattr(model, "cls"):
        raise InputError(f"{args.source} has no masked-LM head, and only BERT-like sources can be given one here")
    collator = MaskingCollator(Masking(tokenizer, MLM_PROBABILITY, seed=args.seed))
    length = len(rows[0]["input_ids"])
    arguments = training_arguments(args, folder, args.head_steps, length, args.head_learning_rate)
    trainer = HeadTrainer(model, arguments, collator, rows, processing_class=tokenizer, callbacks=[MaskAnew(collator)])
    trainer.train()
    trainer.save_model()
    return folder


@torch.no_grad()
def interpolate_positions(model, num_source_positions: int):
    """The source's positions drawn out over all of the model's: first and last stay, between two neighbours it is linear."""
    table = model.get_position_embeddings().weight
    drawn_out = interpolate(table[:num_source_positions].T[None], size=len(table), mode="linear", align_corners=True)
    table.copy_(drawn_out[0].T)


def plot(curve: list[dict], limit: int, path: Path):
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [point["step"] for point in curve]
    axes.plot(
        steps, [point["beyond"] for point in curve], marker="o", label=f"where they stand, beyond token {limit:,}"
    )
    axes.plot(
        steps,
        [point["beyond_read_inside"] for point in curve],
        marker="o",
        label=f"the same tokens, read in pieces of {limit:,}",
    )
    axes.set(xlabel="steps of continued pretraining", ylabel="masked-LM loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def rows_of(files: list[str], args, tokenizer, count: int) -> datasets.Dataset:
    """At most `count` full rows of `--max-length` tokens."""
    corpus = Corpus(parts_of_files(files), Reading.for_rows_of(args.max_length, args.text_column))
    rows, _ = written_rows(corpus, Packer(tokenizer, args.max_length, "concatenate"))
    rows = rows.select_columns(["input_ids", "row"]).shuffle(seed=args.seed)
    rows = rows.filter(lambda row: len(row["input_ids"]) == args.max_length)
    if not len(rows):
        raise InputError(f"the text does not fill one row of {args.max_length} tokens")
    return rows.select(range(min(count, len(rows))))


def main(argv: list[str]):
    """Run the example with the arguments `argv`."""
    args, record = parse_arguments(argv), Record(PROG, argv)
    out = Path(args.output_dir)
    check_target(out)
    logging.set_verbosity_error()
    set_seed(args.seed)
    source, conversion = args.source, convert(args.source, max_length=args.max_length)
    tokenizer, limit = conversion.tokenizer, conversion.report.num_source_positions
    if tokenizer is None:
        raise InputError(f"there is no tokenizer in {source}")
    rows = rows_of(args.train_file, args, tokenizer, args.training_rows)
    validation = rows_of(args.validation_file, args, tokenizer, args.validation_rows)
    if not isinstance(conversion.model, ErnieSparseForMaskedLM):
        source = give_head(args, cut(rows, limit), tokenizer, out / "source_with_head")
        conversion = convert(source, max_length=args.max_length)
    if args.positions == "interpolated":
        interpolate_positions(conversion.model, limit)
    conversion.save(out / "converted")
    print_table(conversion.report.rows())

    masked = mask_once(validation, Masking(tokenizer, MLM_PROBABILITY, seed=args.seed))
    pieces = cut(masked, limit)
    source_losses = token_losses(AutoModelForMaskedLM.from_pretrained(source), pieces)
    measure = Measure(masked, pieces, limit, args.measure_every)
    measure(conversion.model, 0)
    collator = MaskingCollator(Masking(tokenizer, MLM_PROBABILITY, seed=args.seed))
    arguments = training_arguments(args, out / "continued", args.steps, args.max_length, args.learning_rate)
    trainer = SaorTrainer(
        model=conversion.model,
        args=arguments,
        data_collator=collator,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[MaskAnew(collator), measure],
        saor=SaorArguments(saor_alpha=args.saor_alpha),
    )
    trainer.train()
    trainer.save_model()
    results = {
        **record.facts(),
        "masked_tokens": len(source_losses),
        "masked_tokens_beyond_the_limit": int((measure.segments > 0).sum()),
        "source_loss_in_pieces": source_losses.mean().item(),
        "curve": measure.curve,
        "history": trainer.state.log_history,
    }
    write_json(out / "results.json", results)
    plot(measure.curve, limit, out / "losses.png")
    first, last = measure.curve[0], measure.curve[-1]
    print_table(
        [
            ("source, in pieces it can read", source_losses.mean().item()),
            ("beyond its limit, before", f"{first['beyond']:.3f} (read inside: {first['beyond_read_inside']:.3f})"),
            ("beyond its limit, after", f"{last['beyond']:.3f} (read inside: {last['beyond_read_inside']:.3f})"),
            ("results and picture", out),
        ]
    )


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
