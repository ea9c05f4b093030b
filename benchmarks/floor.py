# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Time of the encoder over its floor: the same layers with attention replaced by the identity on V, projections kept.

No model with these linear layers can be faster than the floor, so the ratio says what attention costs. Floor and model
alternate in one process; the ratio is that of the medians.
"""

import argparse
import statistics
import time

import torch
from transformers import AttentionInterface

from ernie_sparse import ErnieSparseConfig, ErnieSparseModel

FLOOR = "identity_on_value"


def identity_on_value(module, query, key, value, attention_mask, **kwargs):
    return value.transpose(1, 2), None


def build(attn_implementation: str, length: int, layers: int, hierarchical: bool) -> ErnieSparseModel:
    torch.manual_seed(0)
    config = ErnieSparseConfig(num_hidden_layers=layers, max_position_embeddings=length, hierarchical=hierarchical)
    return ErnieSparseModel._from_config(config, attn_implementation=attn_implementation)


def seconds(model: ErnieSparseModel, input_ids: torch.Tensor, backward: bool) -> float:
    model.train(backward)
    model.zero_grad()
    start = time.perf_counter()
    with torch.set_grad_enabled(backward):
        output = model(input_ids).last_hidden_state
        if backward:
            output.sum().backward()
    return time.perf_counter() - start


def ratio(length: int, layers: int, runs: int, backward: bool) -> float:
    """Median time of the model over that of its floor, at base width and batch 1."""
    # The floor has no representatives: the leanest form of the same layers.
    models = [build("sdpa", length, layers, hierarchical=True), build(FLOOR, length, layers, hierarchical=False)]
    input_ids = torch.randint(models[0].config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    times = [[seconds(model, input_ids, backward) for model in models] for _ in range(runs + 1)][1:]
    ours, floor = (statistics.median(column) for column in zip(*times, strict=True))
    return ours / floor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each, after one that is not")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, fp32, base width, {args.layers} layers, batch 1")
    for length in args.lengths:
        for backward in (False, True):
            name = "forward + backward" if backward else "forward"
            print(
                f"{length:>6} tokens  {name:<18}  {ratio(length, args.layers, args.runs, backward):.2f} x floor",
                flush=True,
            )


AttentionInterface.register(FLOOR, identity_on_value)

if __name__ == "__main__":
    main()
