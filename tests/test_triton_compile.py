# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The kernels under `torch.compile`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ernie_sparse import ErnieSparseForMaskedLM


@pytest.mark.slow
def test_triton_kernels_are_seen_by_the_compiler_in_one_graph_for_every_length_and_pattern():
    path = Path(__file__).with_name("triton_tracing.py")
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(path.parents[1])}
    ran = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, check=True)
    graphs = json.loads(ran.stdout.splitlines()[-1])
    # In each of two layers; global blocks are in parts, which three gradients are merged of.
    assert graphs == {
        "forward": [["_forward_kernel"] * 2 + ["_merge_kernel"] * 2],
        "backward": [["_key_kernel"] * 2 + ["_merge_kernel"] * 6 + ["_query_kernel"] * 2],
    }


@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_triton_compiled_model_is_the_eager_one(dropout, tiny_config):
    config = tiny_config(block_size=16, hidden_size=64, num_attention_heads=2, max_position_embeddings=2048)
    config.hidden_dropout_prob, config.attention_probs_dropout_prob = 0.0, dropout
    model = ErnieSparseForMaskedLM(config).cuda().train()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for length in (1500, 1900):
        input_ids = torch.randint(5, 99, (2, length), device="cuda")
        losses = []
        for one in (model, compiled):
            torch.manual_seed(0)
            model.zero_grad()
            loss = one(input_ids, labels=input_ids).loss
            loss.backward()
            losses.append((loss.item(), model.ernie_sparse.embeddings.word_embeddings.weight.grad.norm().item()))
        # Under dropout the compiler draws another seed.
        assert losses[0] == pytest.approx(losses[1], rel=1e-4 if dropout == 0 else 0.05)
