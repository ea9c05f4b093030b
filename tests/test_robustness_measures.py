# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a pattern changes and costs, against values computed by hand; the grid; the dial."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_export import build

from ernie_sparse import ErnieSparseForSequenceClassification, SparsePattern
from ernie_sparse.errors import InputError
from ernie_sparse.finetune.agreement import share_of_flips
from ernie_sparse.finetune.metrics import bootstrap, intervals, resampled
from ernie_sparse.robustness import dial, measures
from ernie_sparse.robustness.measures import (
    OwnOutputs,
    PatternCalls,
    attention_map,
    dropped_attention,
    peak_memory,
    seconds_beside,
)
from ernie_sparse.robustness.patterns import cost, default_grid, full_attention, label, parse_patterns, seen_blocks
from ernie_sparse.saor import categorical_divergence

OWN = SparsePattern(8, 3, 1)


def test_flips_are_counted_over_all_predictions():
    assert share_of_flips("single_label", ["a", "b", "b", "a"], ["a", "a", "b", "b"]) == 0.5
    # A set of labels is one prediction; of labelled words each is.
    assert share_of_flips("multi_label", [["a", "b"], []], [["a"], []]) == 0.5
    assert share_of_flips("token_classification", [["O", "B"], ["O"]], [["O", "O"], ["O"]]) == pytest.approx(1 / 3)
    assert share_of_flips("regression", [0.1], [0.9]) is None


def test_the_divergence_is_the_symmetric_kl_of_every_prediction():
    logits = {
        "own": torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]])),
        "other": torch.log(torch.tensor([[0.25, 0.75], [0.9, 0.1]])),
    }

    def forward(inputs, pattern):
        return {"logits": logits["own" if pattern == OWN else "other"]}

    def divergence(inputs, output, other):
        return categorical_divergence(output["logits"], other["logits"])

    found, seen = {}, []
    for pattern in (OWN, SparsePattern(16)):
        calls = PatternCalls(forward, divergence, pattern, OwnOutputs(forward, OWN), seen.append, torch.device("cpu"))
        calls(input_ids=torch.zeros(2, 4))
        found[pattern] = calls.mean_kl()
    first = 0.5 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3)) + 0.5 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert found[OWN] == 0 and found[SparsePattern(16)] == pytest.approx(first / 2, rel=1e-6) and seen == [2, 2]


def test_own_outputs_are_computed_once_as_far_as_there_is_room():
    calls = []

    def forward(inputs, pattern):
        calls.append(int(inputs["number"]))
        return {"logits": torch.full((2,), float(inputs["number"]))}

    own = OwnOutputs(forward, OWN, room=8)
    for _ in range(2):
        for number in range(3):
            assert own(number, {"number": torch.tensor(number)})["logits"][0] == number
    assert calls == [0, 1, 2, 1, 2]


PATTERNS = [
    OWN,
    SparsePattern(8, 1, 0, 2, seed=3),
    SparsePattern(4, 5, 2, 1, block_shift=3),
    SparsePattern(16, 1, 0),
    SparsePattern.full(8),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_table_of_blocks_is_the_pattern(pattern):
    for num_blocks in (1, 2, 9):
        expected = [[pattern.sees(q, k, num_blocks) for k in range(num_blocks)] for q in range(num_blocks)]
        assert seen_blocks(pattern, num_blocks).tolist() == expected


def test_keys_and_operations_are_counted(tiny_config):
    config = tiny_config(hidden_size=4, num_attention_heads=1, intermediate_size=8, num_hidden_layers=2)
    # 20 tokens in blocks of 8, 8 and 4, without the window's neighbours: 64, 64 and 16 pairs.
    plain = SparsePattern(8, 1, 0, hierarchical=False)
    found = cost(plain, config, [20, 20])
    pairs = 64 + 64 + 16
    layer = 8 * 16 * 20 + 4 * 4 * 8 * 20 + 4 * 4 * pairs
    assert found.keys_per_query == pairs / 20 and found.operations == 2 * 2 * layer
    # With representatives: blocks of 9, 9 and 5, three positions more, and step 2 in the first layer alone.
    found = cost(dataclasses.replace(plain, hierarchical=True), config, [20])
    pairs = 81 + 81 + 25
    layer = 8 * 16 * 23 + 4 * 4 * 8 * 23 + 4 * 4 * pairs
    assert found.operations == 2 * layer + 8 * 16 * 3 + 4 * 4 * 9
    assert found.keys_per_query == (8 * 9 + 8 * 9 + 4 * 5) / 20


def test_dropped_attention_is_what_falls_outside_the_pattern():
    attention = np.full((4, 4), 0.25)
    assert dropped_attention(SparsePattern(2, 1, 0), [attention]) == 0.5
    assert dropped_attention(SparsePattern(2, 1, 1), [attention]) == 0
    assert dropped_attention(SparsePattern(2, 1, 0, block_shift=1), [attention]) == pytest.approx(10 / 16)
    # Documents count by their tokens.
    assert dropped_attention(SparsePattern(2, 1, 0), [attention, np.ones((1, 1))]) == 0.4


def test_attention_is_looked_at_under_full_attention_and_the_backend_is_put_back():
    model = build(ErnieSparseForSequenceClassification, OWN)
    inputs = {"input_ids": torch.randint(5, 20, (1, 30))}
    found = attention_map(model, inputs, OWN)
    assert found.shape == (30, 30) and np.allclose(found.sum(-1), 1) and (found > 0).all()
    assert model.config._attn_implementation == "sdpa"
    maps = model.base_model(**inputs, pattern=full_attention(OWN), output_attentions=False).attentions
    assert maps is None


def test_time_is_measured_by_turns(monkeypatch):
    clock, seen = [0.0], []
    monkeypatch.setattr(measures.time, "perf_counter", lambda: clock[0])

    def forward(inputs, pattern):
        seen.append(pattern)
        # Slower and slower, as a machine that grows hot.
        clock[0] += (3 if pattern == other else 2) * (1 + len(seen))

    other, batch = SparsePattern(16), {"input_ids": torch.zeros(2, 4)}
    seconds, ratio = seconds_beside(forward, other, OWN, [batch])
    assert seen[2:6] == [other, OWN, OWN, other] and len(seen) == 12
    assert seconds == pytest.approx(3 * 8 / 2) and 1.3 < ratio < 1.7
    assert seconds_beside(forward, OWN, OWN, [batch])[1] == 1


def test_batches_of_all_lengths_are_timed_and_few_of_few():
    assert [measures.timed_batches(range(size)) for size in (1, 12, 20, 60)] == [[0], [6], [5, 15], [10, 30, 50]]


def test_memory_is_what_a_forward_takes_at_its_peak():
    def forward(inputs, pattern):
        torch.zeros(pattern.block_size * 2**18).sum()

    batch = {"input_ids": torch.zeros(2, 4)}
    assert [peak_memory(forward, SparsePattern(size), batch) for size in (16, 64)] == pytest.approx([16, 64], abs=2)


def test_the_grid_is_around_the_own_pattern_and_holds_each_once():
    patterns, left_out = default_grid(OWN, 100)
    assert patterns[0] == OWN and len(set(patterns)) == len(patterns) and left_out == {}
    assert [label(OWN, pattern) for pattern in patterns] == [
        *("own", "block_size=4", "block_size=16", "num_window_blocks=1", "num_window_blocks=5"),
        *("num_global_blocks=0", "num_global_blocks=2", "num_random_blocks=2", "block_shift=4"),
        *("hierarchical=false", "full attention"),
    ]
    patterns, left_out = default_grid(OWN, 9000)
    assert full_attention(OWN) not in patterns and "9,000 tokens" in left_out["full attention"]
    # The smallest pattern has fewer neighbours, and one that is full already no other.
    patterns, _ = default_grid(SparsePattern(1, 1, 0, hierarchical=False), 100)
    assert min(p.block_size for p in patterns) == 1 and len(patterns) == 7
    patterns, _ = default_grid(SparsePattern.full(8), 100)
    assert patterns.count(SparsePattern.full(8)) == 1


def test_patterns_of_ones_own_are_whole_or_differ_from_the_own_one():
    own = SparsePattern(8, 5, 2, block_shift=3)
    whole = "block_size=64,num_window_blocks=3,num_global_blocks=1,num_random_blocks=0,block_shift=0,hierarchical=true,seed=0"
    found = parse_patterns(own, ["block_size=4", "full", whole, "block_size=4", "seed=0"])
    assert found == [own, SparsePattern(4, 5, 2, block_shift=3), full_attention(own), SparsePattern()]
    for text, message in (("blok=3", "'blok' is not a field"), ("block_size=2", "block_shift=3 is not allowed")):
        with pytest.raises(InputError, match=f"--patterns: {message}"):
            parse_patterns(own, [text])


def test_draws_are_pairs_and_make_the_interval(every_draw):
    values = np.arange(10.0)

    def score(numbers):
        return {"mean": values[numbers].mean()}

    drawn = resampled(score, 10, 3)
    assert drawn == resampled(score, 10, 3) != resampled(score, 10, 4) and len(drawn["mean"]) == 200
    assert bootstrap(score, 10, 3) == intervals(drawn)
    less = resampled(lambda numbers: {"mean": values[numbers].mean() - 0.25}, 10, 3)
    assert np.allclose(np.subtract(drawn["mean"], less["mean"]), 0.25)


def test_the_dial_takes_the_cheapest_that_loses_little_with_confidence():
    draws = np.random.default_rng(0).normal(0.8, 0.05, 1000)
    noise = np.random.default_rng(1).normal(0, 0.01, 1000)
    losses = {
        "same": dial.loss(0.8, 0.8, draws, draws, 100),
        "a little": dial.loss(0.8, 0.797, draws, draws - 0.003, 100),
        # As little on these documents, but who knows.
        "unsure": dial.loss(0.8, 0.797, draws, draws - 0.003 + noise, 100),
        "much": dial.loss(0.8, 0.7, draws, draws - 0.1, 100),
    }
    assert losses["a little"] == pytest.approx((0.3, 0.3)) and losses["unsure"].points == pytest.approx(0.3)
    assert losses["unsure"].at_most == pytest.approx(0.3 + 100 * 0.01 * 1.645, abs=0.15)
    costs = {"same": 0.9, "a little": 0.7, "unsure": 0.5, "much": 0.3}
    assert dial.choose(costs, losses, 0.5) == "a little"
    assert dial.choose(costs, losses, 2.5) == "unsure"
    assert dial.choose(costs, losses, 11) == "much"
    assert dial.choose(costs, losses, 0.1) == "same"
    assert dial.choose({**costs, "same": 1.0}, losses, 0.1) is None
    assert dial.choose({**costs, "same": 0.7}, losses, 0.5) == "same"
