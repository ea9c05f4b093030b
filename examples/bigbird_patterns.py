# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Which blocks a query reads in training, in evaluation and after a short batch: transformers' BigBird beside ERNIE-Sparse, both with
random weights, measured from outside. docs/notebook/bigbird.md says what follows from it. Seconds on a CPU, and nothing is downloaded:

    python examples/bigbird_patterns.py
"""

import argparse
import platform
import sys
from collections.abc import Callable

import numpy as np
import torch
import transformers
from transformers import BigBirdConfig, BigBirdModel, PreTrainedModel
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

import ernie_sparse
from ernie_sparse import ErnieSparseConfig, ErnieSparseModel
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser

PROG = "python examples/bigbird_patterns.py"

LENGTH, BLOCK_SIZE, RANDOM_BLOCKS, WIDTH = 1024, 64, 3, 32
NUM_BLOCKS = LENGTH // BLOCK_SIZE
# One layer, so that a query reads what its own attention reads; no dropout, so that nothing else tells training from evaluation.
SIZES = {
    "vocab_size": 100,
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": WIDTH,
    "max_position_embeddings": 4096,
    "block_size": BLOCK_SIZE,
    "num_random_blocks": RANDOM_BLOCKS,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def bigbird(seed: int = 0) -> PreTrainedModel:
    """Its random blocks have no seed that could be set."""
    torch.manual_seed(0)
    return BigBirdModel(BigBirdConfig(**SIZES), add_pooling_layer=False)


def ours(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(0)
    return ErnieSparseModel(ErnieSparseConfig(**SIZES, pattern_seed=seed))


def output(model: PreTrainedModel, length: int = LENGTH) -> torch.Tensor:
    """Of the same input each time."""
    inputs = torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(inputs_embeds=inputs).last_hidden_state[0]


def reads(model: PreTrainedModel) -> torch.Tensor:
    """Which blocks' outputs (rows) change when the input of a block (columns) is another, `(NUM_BLOCKS, NUM_BLOCKS)`."""
    inputs, others = torch.randn(2, NUM_BLOCKS, BLOCK_SIZE, WIDTH, generator=torch.Generator().manual_seed(1))
    rows = inputs.repeat(NUM_BLOCKS + 1, 1, 1, 1)
    rows[range(NUM_BLOCKS), range(NUM_BLOCKS)] = others
    with torch.no_grad():
        *changed, unchanged = model(inputs_embeds=rows.flatten(1, 2)).last_hidden_state
    difference = (torch.stack(changed) - unchanged).abs().unflatten(1, (NUM_BLOCKS, BLOCK_SIZE)).amax(dim=(2, 3))
    return difference.T > 1e-5


def random_blocks(model: PreTrainedModel) -> torch.Tensor:
    """What is read besides the window of three and the global blocks: ours are the first, BigBird's the first and the last."""
    block = torch.arange(NUM_BLOCKS)
    is_global = (block == 0) | (block == NUM_BLOCKS - 1 if isinstance(model, BigBirdModel) else False)
    near = (block[:, None] - block).abs() <= 1
    return reads(model) & ~(near | is_global | is_global[:, None])


def per_query_block(blocks: torch.Tensor) -> float:
    """The mean over the query blocks that are neither the first two nor the last two, which the two models treat alike."""
    return blocks[2:-2].sum(dim=1).float().mean().item()


def counts(model: PreTrainedModel) -> torch.Tensor:
    """How often the keys of a block (columns) are counted by the queries of a block (rows), which count their own block once."""
    attention, outputs = model.encoder.layer[0].attention.self, []

    def marks(module, inputs, values):
        """Values that tell their block: its entry is 1. In ours a representative stands at the head of each."""
        blocks = torch.arange(values.shape[-2]) // (values.shape[-2] // NUM_BLOCKS)
        return torch.nn.functional.one_hot(blocks, WIDTH).to(values).expand_as(values)

    hooks = [
        # All scores are equal.
        attention.query.register_forward_hook(lambda module, inputs, queries: torch.zeros_like(queries)),
        attention.value.register_forward_hook(marks),
        attention.register_forward_hook(lambda module, inputs, found: outputs.append(found[0])),
    ]
    output(model)
    for hook in hooks:
        hook.remove()
    shares = outputs[0].view(NUM_BLOCKS, -1, WIDTH)[:, -1, :NUM_BLOCKS]
    return (shares / shares.diagonal()[:, None]).round(decimals=3)


def number_of_patterns(models: list[PreTrainedModel]) -> int:
    """How many patterns some models have, before each of which the global random states are others."""
    patterns = set()
    for number, model in enumerate(models):
        np.random.seed(number)
        torch.manual_seed(number)
        patterns.add(tuple(counts(model).flatten().tolist()))
    return len(patterns)


def resets_numpy(model: PreTrainedModel) -> bool:
    """Whether numpy's global random state is the same behind a forward, whatever it was before."""
    drawn = []
    for seed in (1, 2):
        np.random.seed(seed)
        output(model)
        drawn.append(np.random.rand())
    return drawn[0] == drawn[1]


def facts(build: Callable[..., PreTrainedModel]) -> dict[str, float | int | bool]:
    """What is measured of a model in training, in evaluation, and behind a short batch."""
    model = build()
    found = {
        "1. random blocks per query block, in training": per_query_block(random_blocks(model.train())),
        "patterns in 10 training steps": number_of_patterns([model] * 10),
        "patterns in trainings with 10 seeds": number_of_patterns([build(seed).train() for seed in range(10)]),
        "a training step resets numpy's random state": resets_numpy(model),
        "times that the keys of block 0 are counted, in training": counts(model)[NUM_BLOCKS // 2, 0].item(),
    }
    in_training = output(model)
    model.eval()
    in_evaluation = output(model)
    found |= {
        "2. random blocks per query block, in evaluation": per_query_block(random_blocks(model)),
        "times that the keys of block 0 are counted, in evaluation": counts(model)[NUM_BLOCKS // 2, 0].item(),
        "evaluation gives the outputs of training": torch.allclose(in_evaluation, in_training, atol=1e-5),
        "3. blocks read per query block of 1,024 tokens": per_query_block(reads(model)),
    }
    output(model, length=100)
    return {
        **found,
        "the same after one batch of 100 tokens": per_query_block(reads(model)),
        "the outputs are what they were before it": torch.equal(output(model), in_evaluation),
    }


def mends() -> dict[str, float | bool]:
    """What brings BigBird's training pattern into evaluation, and its sparse attention back."""
    model = bigbird().train()
    in_training = output(model)
    for module in model.eval().modules():
        # They draw in training alone, and have no dropout.
        if isinstance(module, BigBirdBlockSparseAttention):
            module.training = True
    found = {"attention modules left in training: outputs of training": torch.allclose(output(model), in_training)}
    model.eval()
    output(model, length=100)
    model.set_attention_type("block_sparse")
    return {**found, "after set_attention_type: blocks read per query block": per_query_block(reads(model))}


def table() -> str:
    """Of Markdown."""

    def text(value: float | int | bool) -> str:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:.2f}".removesuffix(".00")

    of_bigbird, of_ours = facts(bigbird), facts(ours)
    rows = [("", "BigBird", "ERNIE-Sparse"), ("---", "---", "---")]
    rows += [(name, text(value), text(of_ours[name])) for name, value in of_bigbird.items()]
    rows += [(name, text(value), "-") for name, value in mends().items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: list[str]):
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    # On tensors this small a second thread costs more than it gives.
    torch.set_num_threads(1)
    print(
        f"{LENGTH:,} tokens in {NUM_BLOCKS} blocks of {BLOCK_SIZE}, window of 3, num_random_blocks={RANDOM_BLOCKS}, one layer, "
        f"random weights; transformers {transformers.__version__}, torch {torch.__version__}, numpy {np.__version__}, "
        f"ernie-sparse {ernie_sparse.__version__}, Python {platform.python_version()}\n"
    )
    print(table())


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
