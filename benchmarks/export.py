# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.export`: one forward on the CPU in PyTorch and in ONNX Runtime, in fp32 and with linear layers in int8
(docs/notebook/export.md). Seconds side by side in one run, on random weights; and, with --model, the cosine between the mean-pooled vectors
of the longest topics of Python's own documentation and those in fp32.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
from transformers.utils import logging

from ernie_sparse import ErnieSparseConfig, ErnieSparseForSequenceClassification, ErnieSparseModel
from ernie_sparse.checkpoints import load_config, load_model, load_tokenizer
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser, check_least, check_most
from ernie_sparse.configuration_ernie_sparse import RANGES
from ernie_sparse.errors import InputError
from ernie_sparse.files import check_place
from ernie_sparse.onnx_files import Session, make_inputs, quantize, save, trace
from ernie_sparse.results import Record, print_table, write_json

PROG = "python -m benchmarks.export"
NAMES = ["input_ids", "attention_mask"]
NUM_RUNS = 5
NUM_TEXTS = 24
VECTOR_LENGTHS = (256, 2048)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", default=[512, 4096, 16384], help="tokens, batch 1")
    parser.add_argument("--layers", type=int, default=4, help="of base width")
    parser.add_argument("--model", help="checkpoint of real weights, for the vectors")
    parser.add_argument("--output-file", type=Path, required=True, help="json to write")
    args = parser.parse_args(argv)
    for length in args.lengths:
        if not 1 <= length <= RANGES["max_position_embeddings"][1]:
            raise InputError(f"--lengths {length}: each must be from 1 to {RANGES['max_position_embeddings'][1]:,}")
    check_least(args, {"layers": 1})
    check_most(args, {"layers": RANGES["num_hidden_layers"][1]})
    if args.output_file.is_dir():
        raise InputError(f"--output-file {args.output_file} is a folder: name a file")
    check_place(args.output_file, f"--output-file {args.output_file}")
    return args


def int8_in_process(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear: per_channel_dynamic_qconfig})


def all_forms(model, folder: Path) -> dict[str, Callable]:
    graph, inputs = trace(model, NAMES)
    save(graph, folder / "fp32.onnx")
    save(quantize(graph, inputs), folder / "int8.onnx")
    return {
        "PyTorch fp32": model,
        "PyTorch int8": int8_in_process(model),
        "ONNX fp32": Session(folder / "fp32.onnx"),
        "ONNX int8": Session(folder / "int8.onnx"),
    }


def seconds(forms: dict[str, Callable], inputs: dict) -> dict[str, list[float]]:
    """Of every form in turn, but for the first round."""
    times = {name: [] for name in forms}
    for _ in range(NUM_RUNS + 1):
        for name, form in forms.items():
            start = time.perf_counter()
            form(**inputs)
            times[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in times.items()}


def cosines(forms: dict[str, Callable], tokenizer, length: int) -> dict[str, dict[str, float]]:
    """The mean and the least over the texts."""
    texts = sorted(topics.values(), key=len)[-NUM_TEXTS:]
    found = {name: [] for name in forms}
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        vectors = {
            name: form(**{n: inputs[n] for n in NAMES})["last_hidden_state"][0].mean(0) for name, form in forms.items()
        }
        for name, vector in vectors.items():
            found[name].append(torch.cosine_similarity(vector, vectors["PyTorch fp32"], dim=0).item())
    return {name: {"mean": statistics.mean(values), "least": min(values)} for name, values in found.items()}


@torch.no_grad()
def main(argv: list[str]):
    """Run `python -m benchmarks.export` with the arguments `argv`."""
    args, record = parse_arguments(argv), Record(PROG, argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    results, rows = {"layers": args.layers, "runs": NUM_RUNS, "lengths": {}, "vectors": {}}, []
    with tempfile.TemporaryDirectory() as folder:
        if args.lengths:
            config = ErnieSparseConfig(num_hidden_layers=args.layers, max_position_embeddings=max(args.lengths))
            model = ErnieSparseForSequenceClassification(config).eval()
            forms = all_forms(model, Path(folder))
        for length in args.lengths:
            times = seconds(forms, make_inputs(model, NAMES, 1, length))
            medians = {name: statistics.median(values) for name, values in times.items()}
            results["lengths"][str(length)] = {
                name: {"seconds": median, "runs": times[name], "over_pytorch_fp32": median / medians["PyTorch fp32"]}
                for name, median in medians.items()
            }
            rows += [(f"{length:,} tokens, {name}", median) for name, median in medians.items()]
    if args.model:
        config = load_config(args.model, None)
        model = load_model(ErnieSparseModel, args.model, config).eval()
        with tempfile.TemporaryDirectory() as folder:
            forms = all_forms(model, Path(folder))
            for length in VECTOR_LENGTHS:
                found = results["vectors"][str(length)] = cosines(forms, load_tokenizer(args.model), length)
                rows += [(f"cosine at {length:,} tokens, {name}", values["mean"]) for name, values in found.items()]
    facts = record.facts()
    facts["versions"] |= {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}
    write_json(args.output_file, {**results, **facts})
    print_table(rows)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
