# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
A training loop of one's own with accelerate: SAOR inside the forward pass, gradient accumulation, mixed precision, several
processes, and a checkpoint at the end that `from_pretrained` reads. Its documents are made up, so that it runs in seconds:

    python examples/accelerate_loop.py --output-dir classifier --mixed-precision bf16
    torchrun --nproc_per_node 2 examples/accelerate_loop.py --output-dir classifier
"""

import argparse
import dataclasses
import random
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from ernie_sparse import ErnieSparseConfig, ErnieSparseForSequenceClassification
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser, check_least
from ernie_sparse.files import check_folder

PROG = "python examples/accelerate_loop.py"

VOCABULARY, LONGEST = 100, 128


def make_documents(count: int, seed: int) -> list[dict]:
    """Documents of other lengths; which of two tokens stands in them, once in eight places, is their label."""
    draw = random.Random(seed)
    documents = []
    for number in range(count):
        length, label = draw.randint(24, LONGEST), number % 2
        ids = [1, *(2 + label if draw.random() < 1 / 8 else draw.randrange(4, VOCABULARY) for _ in range(length - 1))]
        documents.append({"input_ids": ids, "labels": label})
    return documents


def collate(documents: list[dict]) -> dict[str, torch.Tensor]:
    longest = max(len(document["input_ids"]) for document in documents)
    ids = torch.tensor([d["input_ids"] + [0] * (longest - len(d["input_ids"])) for d in documents])
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": torch.tensor([d["labels"] for d in documents]),
    }


def main(argv: list[str]):
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--gradient-accumulation-steps", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--alpha", type=float, default=1.0, help="weight of the consistency loss; 0: no second pass")
    args = parser.parse_args(argv)
    check_least(args, {"gradient_accumulation_steps": 1, "epochs": 1, "alpha": 0})
    check_folder(Path(args.output_dir), "--output-dir")

    accelerator = Accelerator(
        # Without it, several processes without a GPU would not hear of each other.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
    )
    set_seed(0)
    config = ErnieSparseConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=LONGEST,
        block_size=16,
        initializer_range=0.1,
    )
    model = ErnieSparseForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    train = DataLoader(make_documents(128, seed=0), batch_size=8, shuffle=True, collate_fn=collate)
    test = DataLoader(make_documents(64, seed=1), batch_size=16, collate_fn=collate)
    model, optimizer, train, test = accelerator.prepare(model, optimizer, train, test)

    # The same one in all processes.
    draw = random.Random(0)
    for epoch in range(args.epochs):
        model.train()
        for batch in train:
            second = dataclasses.replace(config.pattern, block_shift=draw.randrange(1, config.block_size))
            saor = {"consistency_pattern": second, "consistency_alpha": args.alpha} if args.alpha > 0 else {}
            with accelerator.accumulate(model):
                output = model(**batch, **saor)
                accelerator.backward(output.loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        right = []
        for batch in test:
            with torch.no_grad():
                predictions = model(**batch).logits.argmax(-1)
            # Without the rows that fill up the last batch of several processes.
            predictions, labels = accelerator.gather_for_metrics((predictions, batch["labels"]))
            right.append(predictions == labels)
        accelerator.print(
            f"epoch {epoch + 1}: loss {output.loss.item():.3f}, accuracy {torch.cat(right).float().mean():.2f}"
        )

    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model).save_pretrained(
        args.output_dir, is_main_process=accelerator.is_main_process, save_function=accelerator.save
    )
    accelerator.end_training()


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
