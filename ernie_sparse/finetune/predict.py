# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse predict`: a fine-tuned model on a file of any size, some rows at a time."""

import argparse
import copy
import dataclasses
import hashlib
from collections import Counter
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path

import pyarrow.parquet
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .. import __version__
from ..checkpoints import digest_of_tokenizer, load_config, load_model, load_tokenizer
from ..command_line import ArgumentParser, check_least
from ..errors import InputError
from ..results import digest, print_table
from ..sparse_pattern import SparsePattern
from ..tables import FORMATS, find_files
from .classification import LABEL_TYPES
from .data import ROLES
from .prediction_files import PredictionFile, check_target
from .predictor import Predictor, RowEncoder, check_all_rows, check_any_row, chunks
from .settings import FILE_NAME, LONG_DOCUMENTS, Settings
from .task_types import TASK_TYPES
from .trainer import FeatureCollator

SHOWN_REASONS = 10
# What may be read of a row; labels and answers are not.
COLUMN_ROLES = sorted({role for needed, _ in ROLES.values() for role in needed} | {"id", "text_pair"})


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser.of_command("predict")
    parser.add_argument("--model", required=True, help="folder that `ernie-sparse finetune` wrote, or a hub id")
    parser.add_argument("--input-file", required=True, help="csv, tsv, jsonl, json or parquet rows; read as a stream")
    parser.add_argument("--output-file", required=True, help="csv, jsonl or json; must not exist yet")
    for role in COLUMN_ROLES:
        flag = f"--{role.replace('_', '-')}-column"
        parser.add_argument(flag, metavar="NAME", help=f"column of the {role} (as in training)")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per forward pass and process (8)")
    parser.add_argument("--chunk-size", type=int, default=256, help="rows in memory, and kept, at a time (256)")
    parser.add_argument("--pattern", help="sparse pattern to read with (the model's)")
    parser.add_argument("--long-documents", choices=LONG_DOCUMENTS, help="of texts (as in training)")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--strict", action="store_true", help="check all rows first, and end where one cannot be used")
    args = parser.parse_args(argv)
    check_least(args, {"batch_size": 1, "chunk_size": 1})
    return args


def main(argv: list[str]):
    """Run `ernie-sparse predict` with the arguments `argv`."""
    args = arguments(argv)
    (source, *others), target = find_files([args.input_file]), Path(args.output_file)
    if others:
        raise InputError(f"--input-file {args.input_file} stands for {len(others) + 1} files: one is needed")
    if source.suffix.lower() not in FORMATS:
        raise InputError(f"--input-file {source}: {', '.join(FORMATS)} can be read")
    check_target(target)
    config = load_config(args.model, args.pattern)
    tokenizer = load_tokenizer(args.model, config)
    settings = with_flags(load_settings(args.model, config, tokenizer), args)
    encoder, task_type = RowEncoder(settings, tokenizer), TASK_TYPES[settings.task_type]
    check_any_row(source, encoder)
    state = PartialState(cpu=not torch.accelerator.is_available())
    is_main = state.is_main_process
    if args.strict:
        check_all_rows(source, encoder, args.chunk_size, is_main)
    model = load_model(task_type.model_class, args.model, config)
    file, total = None, None
    if is_main:
        file_digest, total = examine(source)
        identity = {
            "version": __version__,
            "input_file": file_digest,
            "model": digest_of_model(model),
            "tokenizer": digest_of_tokenizer(tokenizer),
            "pattern": str(config.pattern),
            "bf16": args.bf16,
            **dataclasses.asdict(settings),
        }
        file = PredictionFile(target, task_type.fields, identity)
    model = model.to(torch.bfloat16) if args.bf16 else model
    collator = FeatureCollator(tokenizer.pad_token_id, settings, config.max_position_embeddings)
    predict = Predictor(encoder, model.to(state.device).eval(), collator, args.batch_size)
    with ExitStack() as stack:
        done = enter(file, stack)
        # Closed whatever happens: a message would otherwise stand behind the bar.
        bar = tqdm(desc="Predicting", unit=" rows", initial=done, total=total, disable=not is_main)
        with bar:
            for rows in chunks(source, args.chunk_size, done):
                own = predict(rows[state.process_index :: state.num_processes])
                records = sorted(gather_object(own), key=itemgetter(0))
                if file is not None:
                    file.add([record for _, record in records])
                bar.update(len(rows))
        if file is not None:
            report(file, done, *file.finish())


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


def with_flags(settings: Settings, args: argparse.Namespace) -> Settings:
    """
    The settings of the training, but for what the flags change.

    Raises:
        [`InputError`]: A flag that changes nothing for this type of task.
    """
    columns = columns_of(settings, args, COLUMN_ROLES)
    if args.long_documents and settings.task_type not in LABEL_TYPES:
        kind = settings.task_type.replace("_", " ")
        raise InputError(f"--long-documents {args.long_documents} is for texts that are classified: this is {kind}")
    long_documents = args.long_documents or settings.long_documents
    return dataclasses.replace(settings, columns=columns, long_documents=long_documents)


def columns_of(settings: Settings, args: argparse.Namespace, roles: list[str]) -> dict[str, str]:
    """The column of each role: the training's, but for those of `roles` that a flag names."""
    columns = {"id": "id", **settings.columns}
    for role in roles:
        column = getattr(args, f"{role}_column")
        if column is not None and role not in columns:
            known = ", ".join(other for other in roles if other in columns)
            raise InputError(f"--{role.replace('_', '-')}-column {column}: {args.model} reads {known} alone")
        columns |= {role: column} if column else {}
    return columns


def enter(file: PredictionFile | None, stack: ExitStack) -> int:
    """Open the file in the process that has one; all learn how many predictions it holds, or why it cannot be opened."""
    done, refusal = 0, None
    if file is not None:
        try:
            done = stack.enter_context(file).count
        except InputError as error:
            refusal = str(error)
    done, refusal = broadcast_object_list([done, refusal])
    if refusal is not None:
        raise InputError(refusal)
    return done


def examine(source: Path) -> tuple[str, int | None]:
    """The digest of a file, and how many rows it has, where that is cheap to know."""
    found, lines, suffix = hashlib.blake2b(digest_size=8), 0, source.suffix.lower()
    with open(source, "rb") as file:
        while block := file.read(2**20):
            found.update(block)
            lines += block.count(b"\n")
    if suffix == ".parquet":
        return found.hexdigest(), pyarrow.parquet.read_metadata(source).num_rows
    return found.hexdigest(), lines if suffix == ".jsonl" else None


def digest_of_model(model: PreTrainedModel) -> str:
    """Of the weights, and of the config but for the pattern: the same in whatever folder they lie."""
    config = copy.deepcopy(model.config)
    config.pattern = SparsePattern()
    places = ("_name_or_path", "transformers_version")
    values = {name: value for name, value in config.to_dict().items() if name not in places}
    found = hashlib.blake2b(digest(values).encode(), digest_size=8)
    for name, weight in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(weight.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def report(file: PredictionFile, done: int, errors: Counter, notes: Counter):
    """Print what there is, and why how many rows have no prediction."""
    rows = [("rows", file.count)]
    if done:
        rows.append(("of an earlier start", done))
    if errors:
        shown = [(reason, count) for reason, count in errors.most_common(SHOWN_REASONS) if reason]
        others = errors.total() - sum(count for _, count in shown)
        rows.append(("rows without a prediction", errors.total()))
        rows += [("", f"{count}: {reason}") for reason, count in shown]
        rows += [("", f"{others}: other reasons")] if others else []
    print_table([*rows, *notes.items(), ("predictions", file.target)])
