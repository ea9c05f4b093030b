# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.scaling`: what pretraining takes per model size (docs/notebook/scaling.md). Weights and multiplications are counted, and
what a layer keeps for the backward pass is measured, on a CPU: bytes of the tensors that autograd saves, in bf16 autocast.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from ernie_sparse import ErnieSparseConfig, ErnieSparseForMaskedLM
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser
from ernie_sparse.errors import InputError
from ernie_sparse.files import check_folder
from ernie_sparse.results import Record, write_json
from ernie_sparse.show import Drawing

from .pages import fill_page

PROG = "python -m benchmarks.scaling"
SIZES = {
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
LENGTH = 4096
# Weights, their gradients, and AdamW's two moments in fp32.
STATE_BYTES = 16
MASKED = 0.15


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--results-dir", default="benchmarks/results/scaling", help="what is kept of a run")
    parser.add_argument("--page", help="measure nothing: put the tables of what is kept into this page")
    args = parser.parse_args(argv)
    check_folder(Path(args.results_dir), "--results-dir")
    if args.page is not None and not (Path(args.results_dir) / "results.json").is_file():
        raise InputError(f"--results-dir {args.results_dir}: there is no results.json")
    return args


def config_of(size: str, **changes) -> ErnieSparseConfig:
    return ErnieSparseConfig(**{**SIZES[size], "max_position_embeddings": LENGTH, **changes})


def saved_bytes(config: ErnieSparseConfig, checkpointing: bool) -> int:
    """What a training pass over one document keeps for its backward pass, weights aside."""
    torch.manual_seed(0)
    model = ErnieSparseForMaskedLM(config).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    ids = torch.randint(config.vocab_size, (1, LENGTH))
    labels = torch.where(torch.rand(ids.shape) < MASKED, ids, -100)
    kept, weights = {}, {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, labels=labels).loss
    assert loss.isfinite()
    return sum(size for size, _ in kept.values())


def measure(size: str) -> dict:
    config = config_of(size)
    with torch.device("meta"):
        model = ErnieSparseForMaskedLM(config)
    costs = Drawing.of(config.pattern, LENGTH).costs(config.hidden_size, config.intermediate_size)
    linear = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    attention = sum(value for name, value in costs.items() if name != "full attention")
    head = MASKED * (config.hidden_size**2 + config.hidden_size * config.vocab_size)
    per_layer = {}
    for checkpointing in (False, True):
        kept = [saved_bytes(config_of(size, num_hidden_layers=layers), checkpointing) for layers in (2, 4)]
        per_layer["checkpointed" if checkpointing else "plain"] = (kept[1] - kept[0]) / 2 / LENGTH
    return {
        "parameters": model.num_parameters(),
        "layers": config.num_hidden_layers,
        # A multiplication and an addition; the backward pass has twice those of the forward pass.
        "flops_per_token": 3 * 2 * (config.num_hidden_layers * linear * (1 + attention) + head),
        "saved_bytes_per_token_and_layer": per_layer,
    }


def table(results: dict) -> str:
    lines = [
        "| model | weights | training operations per token, one pass; SAOR | weights, gradients, AdamW | kept per 4,096 tokens; "
        "checkpointed |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for size, found in results["sizes"].items():
        plain, checkpointed = (
            found["saved_bytes_per_token_and_layer"][name] * found["layers"] * LENGTH / 2**30
            for name in ("plain", "checkpointed")
        )
        shape = SIZES[size]
        cells = [
            f"{size}: {shape['num_hidden_layers']} layers of {shape['hidden_size']}",
            f"{found['parameters'] / 1e6:,.0f} M",
            f"{found['flops_per_token'] / 1e9:.2f} G; {2 * found['flops_per_token'] / 1e9:.2f} G",
            f"{STATE_BYTES * found['parameters'] / 2**30:.1f} GiB",
            f"{plain:.2f} GiB; {checkpointed:.2f} GiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str]):
    """Run `python -m benchmarks.scaling` with the arguments `argv`."""
    args = parse_arguments(argv)
    kept = Path(args.results_dir) / "results.json"
    if args.page is None:
        record = Record(PROG, argv)
        write_json(kept, {"sizes": {size: measure(size) for size in SIZES}, **record.facts()})
    results = json.loads(kept.read_text())
    if args.page is not None:
        fill_page(Path(args.page), {"memory": table(results)})
    else:
        print(table(results))


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
