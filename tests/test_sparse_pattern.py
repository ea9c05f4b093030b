# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The sparse pattern as a value, its predicate, and the block plan that reads the predicate as tables."""

import dataclasses
import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_sparse import ErnieSparseModel, SparsePattern
from ernie_sparse.block_plan import BlockTables, Documents, plan_batch

DEFAULTS = {
    "block_size": 64,
    "num_window_blocks": 3,
    "num_global_blocks": 1,
    "num_random_blocks": 0,
    "block_shift": 0,
    "hierarchical": True,
    "seed": 0,
}
WINDOWS, GLOBALS, RANDOMS, SEEDS = (1, 3, 5, 99), (0, 1, 2, 6, 2**31 - 1), (0, 1, 2, 50), (0, 2**32 - 1)


@st.composite
def patterns(draw):
    block_size = draw(st.integers(1, 10**6))
    return SparsePattern(
        block_size=block_size,
        num_window_blocks=2 * draw(st.integers(0, 10**6)) + 1,
        num_global_blocks=draw(st.integers(0, 2**31 - 1)),
        num_random_blocks=draw(st.integers(0, 10**6)),
        block_shift=draw(st.integers(0, block_size - 1)),
        hierarchical=draw(st.booleans()),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def blocks_by_cutting(num_tokens, block_size, block_shift):
    """The documents' tokens cut one block after the other: a short first block, full ones, whatever is left."""
    tokens = list(range(num_tokens))
    blocks = [tokens[: block_size - block_shift]]
    rest = tokens[block_size - block_shift :]
    while rest:
        blocks.append(rest[:block_size])
        rest = rest[block_size:]
    return blocks


def seen_blocks_by_walking(num_blocks, num_window_blocks, num_global_blocks):
    """For each block the set of blocks it sees without random ones, by walking outwards block by block."""
    seen = [{block} for block in range(num_blocks)]
    for block in range(num_blocks):
        for step in range(1, min((num_window_blocks - 1) // 2, num_blocks) + 1):
            seen[block].update(other for other in (block - step, block + step) if other in range(num_blocks))
    for global_block in range(min(num_global_blocks, num_blocks)):
        for block in range(num_blocks):
            seen[global_block].add(block)
            seen[block].add(global_block)
    return seen


def plan_of_blocks(pattern, num_blocks):
    return plan_of_tokens(pattern, num_blocks * pattern.block_size - pattern.block_shift)


def plan_of_tokens(pattern, num_tokens):
    return plan_batch(pattern, 1, (1, num_tokens), torch.device("cpu"))


def table_as_sets(plan):
    """The plan's table row by row, with the rows that global blocks do not need filled in."""
    tables, num_blocks = BlockTables.of(plan), len(plan.block_numbers)
    rows = [set(plan.position_blocks[k[m]].tolist()) for k, m in zip(tables.key_places, tables.key_mask, strict=True)]
    return [set(range(num_blocks))] * plan.num_global_blocks + rows[plan.num_global_blocks :]


def block_mask(plan):
    """Which block sees which, read off the definition by position."""
    visible = plan.visibility(Documents(1))[0]
    firsts = [plan.position_blocks.tolist().index(block) for block in range(len(plan.block_numbers))]
    return visible[firsts][:, firsts]


def mask_as_sets(mask):
    return [set(row.nonzero().flatten().tolist()) for row in mask]


def test_defaults_are_the_documented_ones():
    assert dataclasses.asdict(SparsePattern()) == DEFAULTS


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("block_size", 0, "an integer from 1 to 2147483647"),
        ("block_size", -4, "an integer from 1 to 2147483647"),
        ("block_size", True, "an integer from 1 to 2147483647"),
        ("block_size", 64.0, "an integer from 1 to 2147483647"),
        ("block_size", "64", "an integer from 1 to 2147483647"),
        ("block_size", None, "an integer from 1 to 2147483647"),
        ("num_window_blocks", 0, "an integer from 1 to 2147483647"),
        ("num_window_blocks", -1, "an integer from 1 to 2147483647"),
        ("num_window_blocks", 2, "odd"),
        ("num_window_blocks", 100, "odd"),
        ("num_window_blocks", True, "an integer from 1 to 2147483647"),
        ("num_window_blocks", 3.0, "an integer from 1 to 2147483647"),
        ("num_global_blocks", -1, "an integer from 0 to 2147483647"),
        ("num_global_blocks", False, "an integer from 0 to 2147483647"),
        ("num_global_blocks", [1], "an integer from 0 to 2147483647"),
        ("num_random_blocks", -1, "an integer from 0 to 2147483647"),
        ("num_random_blocks", True, "an integer from 0 to 2147483647"),
        ("num_random_blocks", 0.5, "an integer from 0 to 2147483647"),
        ("block_shift", -1, "an integer from 0 to 63"),
        ("block_shift", 64, "an integer from 0 to 63"),
        ("block_shift", 1000, "block_size - 1"),
        ("block_shift", False, "an integer from 0 to 63"),
        ("block_shift", None, "an integer from 0 to 63"),
        ("hierarchical", 1, "true or false"),
        ("hierarchical", 0, "true or false"),
        ("hierarchical", "true", "true or false"),
        ("hierarchical", None, "true or false"),
        ("seed", -1, "an integer from 0 to 4294967295"),
        ("seed", 2**32, "an integer from 0 to 4294967295"),
        ("seed", True, "an integer from 0 to 4294967295"),
        ("seed", "zero", "an integer from 0 to 4294967295"),
    ],
)
def test_bad_field_is_refused_by_name_value_and_what_is_allowed(name, value, allowed):
    with pytest.raises(ValueError) as error:
        SparsePattern(**{name: value})
    assert f"{name}={value!r}" in str(error.value)
    assert allowed in str(error.value)


def test_limits_themselves_are_allowed():
    pattern = SparsePattern(1, 1, 0, 0, 0, False, 2**32 - 1)
    assert dataclasses.astuple(pattern) == (1, 1, 0, 0, 0, False, 2**32 - 1)
    assert SparsePattern(block_size=5, block_shift=4).block_shift == 4


def test_block_shift_is_measured_against_the_block_size():
    with pytest.raises(ValueError, match=r"block_shift=5 .* from 0 to 4 \(block_size - 1\)"):
        SparsePattern(block_size=5, block_shift=5)


@settings(derandomize=True, deadline=None)
@given(pattern=patterns())
def test_text_and_mapping_round_trip(pattern):
    assert SparsePattern.parse(str(pattern)) == pattern
    assert SparsePattern.parse(dataclasses.asdict(pattern)) == pattern
    assert SparsePattern.parse(pattern) is pattern


def test_text_form_is_the_documented_one():
    assert str(SparsePattern(block_size=16, hierarchical=False, seed=7)) == (
        "block_size=16,num_window_blocks=3,num_global_blocks=1,num_random_blocks=0,"
        "block_shift=0,hierarchical=false,seed=7"
    )


@pytest.mark.parametrize(
    "value, fields",
    [
        ("block_size=16", {"block_size": 16}),
        (" block_size = 16 , seed = 3 ", {"block_size": 16, "seed": 3}),
        ("hierarchical=False,num_random_blocks=2", {"hierarchical": False, "num_random_blocks": 2}),
        ("hierarchical=TRUE", {}),
        ({"block_shift": 5}, {"block_shift": 5}),
        ({}, {}),
    ],
)
def test_fields_that_are_not_named_take_the_defaults(value, fields):
    assert SparsePattern.parse(value) == SparsePattern(**{**DEFAULTS, **fields})


@pytest.mark.parametrize(
    "value, telling",
    [
        ("nonsense", ["'nonsense'", "name=value", "block_size=64"]),
        ("", ["''", "name=value", "block_size=64"]),
        ("block_size=16,", ["'block_size=16,'", "name=value"]),
        ("block_size=", ["'block_size='", "name=value"]),
        ("=16", ["'=16'", "name=value"]),
        ("block_size=16,block_size=16", ["'block_size'", "twice"]),
        ("size=16", ["'size'", "not a field", "block_size", "seed"]),
        ({"size": 16}, ["'size'", "not a field", "block_size", "seed"]),
        ({1: 16}, ["1", "not a field", "block_size", "seed"]),
        ("block_size=big", ["block_size='big'", "from 1 to"]),
        ("block_size=1.5", ["block_size='1.5'", "from 1 to"]),
        ("hierarchical=1", ["hierarchical='1'", "true or false"]),
        ("seed=-1", ["seed=-1", "from 0 to 4294967295"]),
        ("seed=+-5", ["seed=", "+-5", "from 0 to 4294967295"]),
        ("block_size=8,block_shift=8", ["block_shift=8", "from 0 to 7"]),
        (64, ["64", "not a sparse pattern", "block_size=64"]),
        (None, ["None", "not a sparse pattern"]),
        (["block_size"], ["not a sparse pattern"]),
    ],
)
def test_what_is_no_pattern_is_refused_with_a_telling_text(value, telling):
    with pytest.raises(ValueError) as error:
        SparsePattern.parse(value)
    for part in telling:
        assert part in str(error.value)


def test_a_pattern_is_changed_where_a_text_names_a_field_and_nowhere_else():
    own = SparsePattern(block_size=32, num_window_blocks=5, hierarchical=False, seed=3)
    assert own.changed_by("num_global_blocks=4") == dataclasses.replace(own, num_global_blocks=4)
    assert own.changed_by("hierarchical=true,seed=9") == dataclasses.replace(own, hierarchical=True, seed=9)
    for text, words in (("window=3", "not a field"), ("num_window_blocks=2", "odd"), ("block_size", "name=value")):
        with pytest.raises(ValueError, match=words):
            own.changed_by(text)


def test_patterns_are_hashable_and_frozen():
    assert len({SparsePattern(), SparsePattern(seed=0), SparsePattern(seed=1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        SparsePattern().block_size = 32


@pytest.mark.parametrize("block_size", [1, 2, 3, 5])
def test_tokens_are_cut_into_blocks_with_a_short_first_one(block_size):
    for block_shift, num_tokens in itertools.product(range(block_size), (1, 2, 3, 4, 5, 6, 7, 11, 15, 16)):
        pattern = SparsePattern(block_size=block_size, block_shift=block_shift)
        blocks = blocks_by_cutting(num_tokens, block_size, block_shift)
        assert pattern.num_blocks(num_tokens) == len(blocks)
        plan = plan_of_tokens(pattern, num_tokens)
        assert len(plan.block_numbers) == len(blocks)
        token_blocks = plan.position_blocks[plan.tokens].tolist()
        assert token_blocks == [index for index, block in enumerate(blocks) for _ in block]
        assert plan.first_tokens.tolist() == [token_blocks.index(block) for block in range(len(blocks))]


@pytest.mark.parametrize("num_random_blocks", [0, 2])
def test_tokens_see_each_other_as_the_pattern_says(num_random_blocks):
    sizes = [(1, 0), (2, 0), (2, 1), (3, 2), (5, 0), (5, 3)]
    for (block_size, block_shift), window, num_global, num_tokens in itertools.product(
        sizes, (1, 3, 99), (0, 1, 3, 99), (1, 2, 5, 7, 16)
    ):
        pattern = SparsePattern(block_size, window, num_global, num_random_blocks, block_shift)
        blocks = blocks_by_cutting(num_tokens, block_size, block_shift)
        seen = seen_blocks_by_walking(len(blocks), window, num_global)
        expected = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
        for query_block, key_blocks in enumerate(seen):
            key_blocks |= set(pattern.random_blocks(query_block, len(blocks)))
            for query_token, key_block in itertools.product(blocks[query_block], key_blocks):
                expected[query_token, blocks[key_block]] = True
        plan = plan_of_tokens(pattern, num_tokens)
        token_blocks = plan.position_blocks[plan.tokens]
        assert torch.equal(block_mask(plan)[token_blocks][:, token_blocks], expected), (pattern, num_tokens)


@pytest.mark.parametrize("num_random_blocks", RANDOMS)
def test_predicate_table_and_dense_mask_agree(num_random_blocks):
    for window, num_global, seed, num_blocks in itertools.product(
        WINDOWS, GLOBALS, SEEDS, (1, 2, 3, 4, 5, 7, 8, 11, 13)
    ):
        pattern = SparsePattern(8, window, num_global, num_random_blocks, seed=seed)
        blocks = range(num_blocks)
        expected = [{k for k in blocks if pattern.sees(q, k, num_blocks)} for q in blocks]
        plan = plan_of_blocks(pattern, num_blocks)
        assert table_as_sets(plan) == expected, (pattern, num_blocks)
        assert mask_as_sets(block_mask(plan)) == expected, (pattern, num_blocks)
        if num_random_blocks == 0 or plan.sees_everything:
            assert plan.sees_everything == block_mask(plan).all(), (pattern, num_blocks)


def test_predicate_without_random_blocks_is_window_and_global():
    for window, num_global, num_blocks in itertools.product(WINDOWS, GLOBALS, range(1, 12)):
        pattern = SparsePattern(8, window, num_global)
        predicate = [{k for k in range(num_blocks) if pattern.sees(q, k, num_blocks)} for q in range(num_blocks)]
        assert predicate == seen_blocks_by_walking(num_blocks, window, num_global), (pattern, num_blocks)


def test_full_pattern_sees_everything_at_any_length():
    for num_blocks in (1, 2, 17):
        assert block_mask(plan_of_blocks(SparsePattern.full(), num_blocks)).all()
        assert SparsePattern.full().sees(num_blocks - 1, 0, num_blocks)
    assert SparsePattern.parse("full") == SparsePattern.full()
    assert SparsePattern.full(block_size=16, hierarchical=True).block_size == 16
    assert SparsePattern.full(hierarchical=True).hierarchical
    assert not SparsePattern.full().hierarchical


def test_random_blocks_are_as_many_as_asked_and_never_seen_otherwise():
    for window, num_global, num_random, seed, num_blocks in itertools.product(
        WINDOWS, GLOBALS, RANDOMS, SEEDS, (1, 2, 5, 9, 16)
    ):
        pattern = SparsePattern(8, window, num_global, num_random, seed=seed)
        for query, seen in enumerate(seen_blocks_by_walking(num_blocks, window, num_global)):
            drawn = pattern.random_blocks(query, num_blocks)
            unseen = set(range(num_blocks)) - seen
            assert len(drawn) == len(set(drawn)) == min(num_random, len(unseen))
            assert set(drawn) <= unseen
            assert drawn == sorted(drawn)


def test_random_blocks_reach_the_whole_document():
    pattern = SparsePattern(8, num_window_blocks=1, num_global_blocks=0, num_random_blocks=1)
    drawn = [block for query in range(64) for block in pattern.random_blocks(query, 64)]
    # 64 fair draws from 64 blocks leave about 64 / e = 24 of them out.
    assert len(set(drawn)) > 30
    assert min(drawn) < 16 and max(drawn) >= 48


def test_random_blocks_are_only_displaced_as_a_document_grows():
    pattern = SparsePattern(8, num_random_blocks=3, seed=5)
    for query, num_blocks in itertools.product(range(10), range(10, 30)):
        before, after = (set(pattern.random_blocks(query, length)) for length in (num_blocks, num_blocks + 1))
        assert after - before <= {num_blocks}


def test_random_blocks_are_the_same_on_every_call_and_differ_between_seeds():
    plans = [plan_of_blocks(SparsePattern(8, num_random_blocks=2, seed=seed), 32) for seed in (0, 0, 1, 2**32 - 1)]
    assert torch.equal(plans[0].random_blocks, plans[1].random_blocks)
    for first, second in itertools.combinations(plans[1:], 2):
        assert not torch.equal(block_mask(first), block_mask(second))


def test_global_random_states_are_neither_read_nor_moved():
    pattern = SparsePattern(8, num_random_blocks=3, seed=9)
    masks = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        masks.append((block_mask(plan_of_blocks(pattern, 20)).tolist(), pattern.random_blocks(10, 20)))
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert masks[0] == masks[1]


# Checkpoints trained with random blocks must find the same blocks in every later version.
@pytest.mark.parametrize(
    "pattern, num_blocks, drawn",
    [
        (
            SparsePattern(num_random_blocks=2),
            16,
            {0: [], 1: [5, 7], 2: [6, 10], 3: [10, 15], 8: [1, 10], 15: [4, 12]},
        ),
        (
            SparsePattern(num_window_blocks=1, num_global_blocks=0, num_random_blocks=3, seed=7),
            16,
            {0: [7, 9, 12], 1: [5, 7, 14], 2: [4, 8, 10], 10: [0, 3, 4], 15: [1, 6, 10]},
        ),
        (
            SparsePattern(num_random_blocks=2, seed=2**32 - 1),
            16,
            {1: [3, 8], 2: [4, 9], 7: [3, 15], 12: [6, 7], 15: [3, 4]},
        ),
    ],
)
def test_random_draws_stay_what_they_were(pattern, num_blocks, drawn):
    assert {query: pattern.random_blocks(query, num_blocks) for query in drawn} == drawn
    num_global = pattern.num_global_blocks
    seen = seen_blocks_by_walking(num_blocks, pattern.num_window_blocks, num_global)
    table = table_as_sets(plan_of_blocks(pattern, num_blocks))
    assert {query: sorted(table[query] - seen[query]) for query in drawn} == drawn


def test_model_attends_to_the_same_blocks_in_training_and_in_evaluation(tiny_config):
    pattern = SparsePattern(block_size=8, num_random_blocks=2, block_shift=3, seed=11)
    config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager")
    model = ErnieSparseModel(config)
    input_ids = torch.randint(1, config.vocab_size, (1, 90))
    num_blocks = pattern.num_blocks(90)
    blocks = [index for index, block in enumerate(blocks_by_cutting(90, 8, 3)) for _ in block]
    sees = [[pattern.sees(query, key, num_blocks) for key in range(num_blocks)] for query in range(num_blocks)]
    expected = torch.tensor(sees)[blocks][:, blocks]
    for training in (True, False):
        with torch.no_grad():
            attentions = model.train(training)(input_ids, pattern=pattern, output_attentions=True).attentions
        assert len(attentions) == config.num_hidden_layers
        for attention in attentions:
            assert torch.equal(attention[0] > 0, expected.expand(config.num_attention_heads, -1, -1))
