# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse predict`: a fine-tuned model on a file of any size, some rows at a time."""

import argparse
import csv
import dataclasses
import io
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import TrainingArguments

from ..checkpoints import load_config, load_model, load_tokenizer
from ..command_line import ArgumentParser, check_least
from ..errors import InputError
from ..results import print_table
from ..tables import FORMATS, find_files, located_rows, longest_first
from ..trainer import SaorArguments
from .data import ROLES, row_by_role, row_features
from .features import split_notes
from .settings import FILE_NAME, LONG_DOCUMENTS, Settings
from .task_types import TASK_TYPES
from .tasks import OWN_FILES
from .trainer import FeatureCollator, FinetuneTrainer

WRITERS = (".csv", ".jsonl", ".json")

EXAMPLES = """examples:
  ernie-sparse predict --model classifier --input-file mails.csv --output-file labels.csv
  ernie-sparse predict --model classifier --input-file mails.jsonl --output-file labels.jsonl --text-column body
  ernie-sparse predict --model reader --input-file questions.jsonl --output-file answers.json

The output has a row per input row, in its order: its id (the row's number where it has none), then label and score,
labels (sets of classes, or one per word), value (regression) or answer and score. In csv lists are joined by "|". A .json
file holds {id: answer} for questions, and {id: prediction} otherwise; .jsonl also has the scores of all classes and the
other answers.
"""


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="ernie-sparse predict",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="folder that `ernie-sparse finetune` wrote, or a hub id")
    parser.add_argument("--input-file", required=True, help="csv, jsonl, json or parquet rows; read as a stream")
    parser.add_argument("--output-file", required=True, help="csv, jsonl or json; must not exist yet")
    for role in sorted({role for needed, _ in ROLES.values() for role in needed} | {"id", "text_pair"}):
        flag = f"--{role.replace('_', '-')}-column"
        parser.add_argument(flag, metavar="NAME", help=f"column of the {role} (as in training)")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per forward (8)")
    parser.add_argument("--chunk-size", type=int, default=1024, help="rows in memory at a time (1024)")
    parser.add_argument("--pattern", help="sparse pattern to read with (the model's)")
    parser.add_argument("--long-documents", choices=LONG_DOCUMENTS, help="as in training, unless given")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    args = parser.parse_args(argv)
    check_least(args, {"batch_size": 1, "chunk_size": 1})
    return args


def main(argv: list[str]):
    """Run `ernie-sparse predict` with the arguments `argv`."""
    args = arguments(argv)
    (source,), target = find_files([args.input_file]), Path(args.output_file)
    if source.suffix.lower() not in FORMATS:
        raise InputError(f"--input-file {source}: {', '.join(FORMATS)} can be read")
    if target.suffix.lower() not in WRITERS:
        raise InputError(f"--output-file {target}: {', '.join(WRITERS)} can be written")
    if target.exists():
        raise InputError(f"--output-file {target} exists already: name another one")
    config = load_config(args.model, args.pattern)
    tokenizer = load_tokenizer(args.model, config)
    settings = load_settings(args.model, config, tokenizer)
    given = {role: getattr(args, f"{role}_column", None) for role in (*settings.columns, "id")}
    columns = {**settings.columns, **{role: column for role, column in given.items() if column}}
    changes = {"columns": columns, "long_documents": args.long_documents or settings.long_documents}
    settings = dataclasses.replace(settings, **changes)
    predict = predictor(args, config, tokenizer, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    try:
        count = write(partial, target.suffix.lower(), predictions(source, settings, predict, args.chunk_size))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(target)
    print_table([("rows", count), ("predictions", target)])


def load_settings(model: str, config, tokenizer) -> Settings:
    """The settings beside a model in a folder or on the hub."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            folder = Path(hf_hub_download(model, FILE_NAME)).parent
        except EntryNotFoundError:
            raise InputError(f"{model} has no {FILE_NAME}: it was not written by `ernie-sparse finetune`") from None
    return Settings.load(folder, config, tokenizer)


def predictor(args: argparse.Namespace, config, tokenizer, settings: Settings):
    """A function from canonical rows to predictions."""
    task_type = TASK_TYPES[settings.task_type]
    # Nothing is written into it: Trainer wants a folder all the same.
    folder = Path(tempfile.gettempdir()) / "ernie-sparse-predict"
    training = TrainingArguments(
        output_dir=str(folder),
        per_device_eval_batch_size=args.batch_size,
        bf16_full_eval=args.bf16,
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.accelerator.is_available(),
        report_to="none",
        # A file of questions may have answers: then there is a loss, which is no output.
        label_names=["start_positions", "end_positions"] if settings.task_type == "question_answering" else ["labels"],
    )
    trainer = FinetuneTrainer(
        model=load_model(task_type.model_class, args.model, config),
        args=training,
        saor=SaorArguments(saor_alpha=0.0),
        settings=settings,
        data_collator=FeatureCollator(tokenizer.pad_token_id, settings, config.max_position_embeddings),
    )

    def predict(rows: Dataset) -> list[dict]:
        features, _ = split_notes(task_type.encode(rows, settings, tokenizer, is_training=False), rows)
        features = longest_first(features)
        return task_type.decode(trainer.predict(features).predictions, features, rows, settings)

    return predict


def predictions(source: Path, settings: Settings, predict, chunk_size: int) -> Iterator[dict]:
    """The predictions of a file's rows, which are read and computed `chunk_size` at a time."""
    task = dataclasses.replace(OWN_FILES[settings.task_type], columns=settings.columns)
    features, count = row_features(task, False), 0
    rows = located_rows([source], partial(row_by_role, task=task, is_labelled=False))
    # Closed whatever happens: a message would otherwise stand behind the bar.
    with tqdm(desc="Predicting", unit=" rows") as progress:
        while chunk := list(islice(rows, chunk_size)):
            yield from predict(Dataset.from_list(chunk, features=features))
            count += len(chunk)
            progress.update(len(chunk))
    if count == 0:
        raise InputError(f"{source} has no rows")


def write(path: Path, suffix: str, rows: Iterator[dict]) -> int:
    """Write predictions as they come; how many there were."""
    count, text = 0, {".csv": _csv_row, ".jsonl": _jsonl_row, ".json": _json_entry}[suffix]
    with open(path, "w", newline="", encoding="utf-8") as file:
        for row in rows:
            file.write(text(row, is_first=count == 0))
            count += 1
        if suffix == ".json":
            file.write("\n}\n")
    return count


def _csv_row(row: dict, is_first: bool) -> str:
    flat = {name: value for name, value in row.items() if name not in ("scores", "n_best")}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if is_first:
        writer.writerow(flat)
    writer.writerow("|".join(map(str, value)) if isinstance(value, list) else value for value in flat.values())
    return buffer.getvalue()


def _jsonl_row(row: dict, is_first: bool) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _json_entry(row: dict, is_first: bool) -> str:
    value = row["answer"] if "answer" in row else {name: part for name, part in row.items() if name != "id"}
    return ("{\n" if is_first else ",\n") + f"{json.dumps(row['id'])}: {json.dumps(value, ensure_ascii=False)}"
