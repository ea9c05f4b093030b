# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.conversion`: how near a converted model is to its source before any training (docs/notebook/conversion.md). The
largest difference under the full pattern, and the cosine between the mean-pooled embeddings of the same real texts under the
model's own pattern, for several ways to start the representatives.
"""

import argparse
import sys

import torch
from transformers import AutoModel
from transformers.utils import logging

from ernie_sparse import SparsePattern
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser, check_least
from ernie_sparse.conversion import convert
from ernie_sparse.errors import InputError
from ernie_sparse.pretraining.corpus import Corpus, parts_of_files
from ernie_sparse.pretraining.documents import Reading
from ernie_sparse.results import print_table

PROG = "python -m benchmarks.conversion"
LENGTHS = (64, 256, 512)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--source", required=True, help="BERT-like checkpoint, a folder or a hub id")
    parser.add_argument("--text-file", nargs="+", required=True, help="csv, json, jsonl or parquet files")
    parser.add_argument("--text-column", default="text", help="their column of texts")
    parser.add_argument("--num-texts", type=int, default=100, help="texts of at least 512 tokens to compare on")
    args = parser.parse_args(argv)
    check_least(args, {"num_texts": 1})
    return args


def token_rows(args, tokenizer) -> torch.Tensor:
    """The first `max(LENGTHS)` tokens of the first texts that have as many."""
    rows = []
    longest = max(LENGTHS)
    for text in Corpus(parts_of_files(args.text_file), Reading(args.text_column)).documents():
        ids = tokenizer(text, truncation=True, max_length=longest)["input_ids"]
        rows += [ids] if len(ids) == longest else []
        if len(rows) == args.num_texts:
            break
    if not rows:
        raise InputError(f"no text of {', '.join(args.text_file)} has {longest} tokens")
    return torch.tensor(rows)


def starts(model, tokenizer, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Embeddings that the representatives could start from."""
    embeddings = model.embeddings
    words, token_type = embeddings.word_embeddings.weight, embeddings.token_type_embeddings.weight[0]
    shares = 1 / torch.arange(1, len(words) + 1)
    counts = rows.flatten().bincount(minlength=len(words)).to(words.dtype)
    return {
        "average token by rank (ours)": embeddings.representative_embeddings.weight[0].clone(),
        "all rows of the vocabulary by rank": shares @ words / shares.sum() + token_type,
        "[CLS]": words[tokenizer.cls_token_id] + token_type,
        "[SEP]": words[tokenizer.sep_token_id] + token_type,
        "[MASK]": words[tokenizer.mask_token_id] + token_type,
        "plain mean of the vocabulary": words.mean(0) + token_type,
        "average token by these texts": counts @ words / counts.sum() + token_type,
    }


def pooled(model, rows: torch.Tensor, **kwargs) -> torch.Tensor:
    states = [model(batch, **kwargs).last_hidden_state.mean(1) for batch in rows.split(8)]
    return torch.nn.functional.normalize(torch.cat(states), dim=-1)


@torch.no_grad()
def main(argv: list[str]):
    """Run `python -m benchmarks.conversion` with the arguments `argv`."""
    args = parse_arguments(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # First: it says what is wrong with a checkpoint.
    conversion = convert(args.source, base_model=True)
    model, tokenizer = conversion.model, conversion.tokenizer
    if tokenizer is None:
        raise InputError(f"there is no tokenizer in {args.source}")
    source = AutoModel.from_pretrained(args.source).eval()
    rows = token_rows(args, tokenizer)
    candidates = starts(model, tokenizer, rows)
    table = [("texts", len(rows)), ("pattern", conversion.report.pattern)]
    for length in LENGTHS:
        # As the tokenizer would have cut them.
        batch = torch.cat([rows[:, : length - 1], rows[:, -1:]], dim=1)
        expected = pooled(source, batch)
        exact = model(batch[:8], pattern=SparsePattern.full()).last_hidden_state
        difference = (exact - source(batch[:8]).last_hidden_state).abs().max().item()
        table.append((f"{length} tokens: largest difference, full pattern", f"{difference:.1e}"))
        cosines = {"no hierarchy": pooled(model, batch, pattern="hierarchical=false")}
        for name, start in candidates.items():
            model.embeddings.representative_embeddings.weight.copy_(start[None])
            cosines[name] = pooled(model, batch)
        for name, states in cosines.items():
            cosine = (states * expected).sum(-1)
            spread = f"{cosine.mean().item():.4f} (least {cosine.min().item():.3f})"
            table.append((f"{length} tokens: cosine, {name}", spread))
    print_table(table)


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
