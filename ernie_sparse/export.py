# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse export`: a model as ONNX, in fp32 and in int8, compared with PyTorch before anything is left behind."""

import argparse
import importlib.util
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils import logging

from . import modeling_ernie_sparse as modeling
from .checkpoints import has_tokenizer, load_config, load_model, load_tokenizer
from .command_line import ArgumentParser, check_least
from .conversion import check_target
from .errors import InputError, reason_of
from .files import read_json, whole_folder
from .onnx_files import Session, compare, cost, quantize, save, say, trace
from .results import Record, print_table, write_json

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
REPORT = "export.json"
FP32, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"
# What lies beside a checkpoint and says how its outputs are read; the last three are sentence-transformers'.
BESIDE = ("finetune.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser.of_command("export")
    parser.add_argument("model", metavar="MODEL", help="an ERNIE-Sparse checkpoint, a folder or a hub id")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="what to write (onnx)")
    parser.add_argument("--int8", action="store_true", help="write int8 as well, and say what it costs")
    parser.add_argument("--data-file", help="rows as `ernie-sparse predict` reads them, on which int8 is compared")
    parser.add_argument("--pattern", help="sparse pattern of the file (the model's)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="the largest difference from PyTorch, as a share of the largest output where that is above 1 (1e-4)",
    )
    args = parser.parse_args(argv)
    check_least(args, {"tolerance": 0})
    if args.data_file and not args.int8:
        raise InputError(f"--data-file {args.data_file} is for comparing int8 with fp32: add --int8, or leave it out")
    return args


def main(argv: list[str]):
    """Run `ernie-sparse export` with the arguments `argv`."""
    args = arguments(argv)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--format onnx needs {', '.join(missing)}: pip install {' '.join(missing)}")
    record = Record("ernie-sparse export", argv)
    nearest = check_out(args.out, args.model, args.format)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, tokenizer = load(args.model, args.pattern)
    rows = None
    if args.data_file:
        # At once: it says what is wrong with the rows, and needs what only training needs.
        from .finetune.agreement import RowsOfFile

        rows = RowsOfFile(args.data_file, args.model, model, tokenizer)
    # Of an earlier export, what is in it is replaced.
    with whole_folder(args.out, nearest, replaces=True) as complete:
        write_beside(complete, args.model, model, tokenizer)
        found = export(model, input_names(model, tokenizer), complete, args.tolerance, args.int8)
        if rows is not None:
            say(f"Predicting the rows of {args.data_file}")
            found["data_file"] = {"name": args.data_file, **rows.compare(*map(Session, files_of(complete)))}
        files = [str(path.relative_to(complete)) for path in sorted(complete.rglob("*")) if path.is_file()]
        facts = record.facts()
        facts["versions"] |= {name: version(name) for name in PACKAGES}
        write_json(complete / REPORT, {"format": args.format, "model": args.model, **found, **facts, "files": files})
    print_table([*table(found), ("saved in", args.out)])


def check_out(out: Path, model: str, export_format: str) -> Path:
    """The folder above `out` that there is; an [`InputError`] unless an export can be written to `out`."""
    if Path(model).is_dir():
        place, source = out.resolve(), Path(model).resolve()
        if place == source or source in place.parents or place in source.parents:
            raise InputError(f"{out} and the model, {model}, lie in one another: name a folder elsewhere")
    try:
        report = read_json(out / REPORT)
        own = {*report["files"], REPORT} if report["format"] == export_format else set()
    except (OSError, ValueError, KeyError, TypeError):
        return check_target(out)
    others = sorted({str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()} - own)
    if others:
        raise InputError(
            f"{out} is not empty, and not all in it is of an earlier export ({others[0]}): name another folder, or remove it first"
        )
    if not os.access(out.absolute().parent, os.W_OK):
        raise InputError(f"{out} cannot be written: {out.absolute().parent} is read-only")
    return out.absolute().parent


def load(name: str, pattern: str | None):
    """Model, with the head it was saved with, and tokenizer; `None` in place of the latter where there is none."""
    config = load_config(name, pattern, argument="MODEL")
    architecture = (config.architectures or ["ErnieSparseModel"])[0]
    if architecture not in modeling.__all__ or architecture == "ErnieSparsePreTrainedModel":
        raise InputError(f"MODEL {name} is a {architecture}, which cannot be exported")
    tokenizer = None
    if not Path(name).is_dir() or has_tokenizer(name):
        tokenizer = load_tokenizer(name, config)
    return load_model(getattr(modeling, architecture), name, config, argument="MODEL").eval(), tokenizer


def write_beside(out: Path, name: str, model: PreTrainedModel, tokenizer):
    """What tools read beside the files: config, tokenizer, and what lies beside the model for them."""
    (out / "onnx").mkdir(parents=True)
    model.config.save_pretrained(out)
    if tokenizer is None:
        say(f"{name} has no tokenizer: none is written")
    else:
        tokenizer.save_pretrained(out)
    source = Path(name)
    for file in BESIDE:
        if (source / file).is_file():
            shutil.copyfile(source / file, out / file)
    if (out / "modules.json").is_file():
        for part in parts_of(source / "modules.json"):
            if (source / part).is_dir():
                shutil.copytree(source / part, out / part, copy_function=shutil.copyfile)


def parts_of(path: Path) -> list[str]:
    """The folders that modules.json of a sentence encoder names, beside its own."""
    try:
        parts = [module["path"] for module in json.loads(path.read_text(encoding="utf-8"))]
        # None of them may be elsewhere.
        if any(Path(part).is_absolute() or ".." in Path(part).parts for part in parts):
            raise ValueError("a path in it leads out of the folder")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({reason_of(error, 100)}): put a whole copy in its place") from error
    return [part for part in parts if part]


def input_names(model: PreTrainedModel, tokenizer) -> list[str]:
    """What the file reads: what the tokenizer gives, if the model makes anything of it."""
    has_types = model.config.type_vocab_size > 1
    has_types &= tokenizer is None or "token_type_ids" in tokenizer.model_input_names
    is_choice = isinstance(model, modeling.ErnieSparseForCandidateChoice)
    return [
        *("input_ids", "attention_mask"),
        *(["token_type_ids"] if has_types else []),
        *(["candidate_positions"] if is_choice else []),
    ]


def files_of(out: Path) -> list[Path]:
    return [out / name for name in (FP32, INT8) if (out / name).is_file()]


def export(model: PreTrainedModel, names: list[str], out: Path, tolerance: float, int8: bool) -> dict:
    """
    Write the model into `out`, and compare.

    Returns:
        `dict`: What was found, for `export.json`.

    Raises:
        [`InputError`]: The file differs from PyTorch by more than `tolerance`.
    """
    say(f"Tracing {type(model).__name__} of {model.config.num_hidden_layers} layers")
    graph, inputs = trace(model, names)
    save(graph, out / FP32)
    limit = model.config.max_position_embeddings
    session = Session(out / FP32)
    differences, scale = compare(model, session, names)
    largest = max(differences.values())
    # So that nan is refused as well.
    if not largest <= tolerance * max(1.0, scale):
        raise InputError(
            f"the file differs from PyTorch by up to {largest:.1e}, where outputs reach {scale:.1e}: more than "
            f"--tolerance {tolerance:g} allows; nothing was written"
        )
    found = {
        "model_class": type(model).__name__,
        "pattern": str(model.config.pattern),
        "inputs": session.inputs,
        "outputs": session.outputs,
        "max_length": limit,
        "tolerance": tolerance,
        "differences": differences,
        "largest_difference": largest,
        "megabytes": {"fp32": _megabytes(out / FP32)},
    }
    if int8:
        say("Quantizing")
        save(quantize(graph, inputs), out / INT8)
        found["megabytes"]["int8"] = _megabytes(out / INT8)
        found |= {"int8": cost(model, session, Session(out / INT8), names)}
    return found


def _megabytes(path: Path) -> float:
    return round(sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) / 1e6, 3)


def table(found: dict) -> list[tuple[str, object]]:
    """What was found, for people."""
    sizes = found["megabytes"]
    rows = [
        ("model", f"{found['model_class']}, {found['pattern']}"),
        ("inputs", f"{', '.join(found['inputs'])}: any number of rows, 1 to {found['max_length']:,} tokens"),
        ("outputs", ", ".join(found["outputs"])),
        *((f"largest difference at {int(n):,} tokens", f"{value:.1e}") for n, value in found["differences"].items()),
    ]
    if "int8" not in sizes:
        return [*rows, ("megabytes", f"{sizes['fp32']:.1f}")]
    rows.append(("megabytes, fp32 and int8", f"{sizes['fp32']:.1f} and {sizes['int8']:.1f}"))
    for length, times in found["int8"]["seconds"].items():
        text = f"{1000 * times['fp32']:.1f} and {1000 * times['int8']:.1f}, {times['ratio']:.2f} times as fast"
        rows.append((f"milliseconds at {int(length):,} tokens", text))
    data = found.get("data_file")
    if data:
        rows.append(("rows compared", data["rows"]))
        if data["flipped"] is not None:
            rows.append(("predictions that int8 changes", f"{data['flipped']:.2%}"))
        rows.append(("symmetric KL, fp32 and int8", f"{data['symmetric_kl']:.1e}"))
        for name, value in data["scores"].get("fp32", {}).items():
            rows.append((f"{name}, fp32 and int8", f"{value:.4f} and {data['scores']['int8'][name]:.4f}"))
    return rows
