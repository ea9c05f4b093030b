# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""FlexAttention: its tiles and its rule against the dense mask, its output against the reference, its hand-overs."""

import copy
import itertools

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention

from ernie_sparse import ErnieSparseModel, SparsePattern, flex_block_mask, hst_attention
from ernie_sparse.flex_block_mask import TILE_SIZE, bucket_length
from ernie_sparse.hst_attention import (
    eager_hst_attention,
    flex_hst_attention,
    position_blocks,
    sdpa_hst_attention,
    sequence_mask,
)
from ernie_sparse.sparse_pattern import block_plan

PATTERNS = [
    SparsePattern(8, window, num_global, num_random, block_shift)
    for window, num_global, num_random, block_shift in itertools.product((1, 5), (0, 2), (0, 2, 5), (0, 5))
]
PATTERNS += [SparsePattern(64), SparsePattern(128, num_random_blocks=1), SparsePattern(3, hierarchical=False)]
NUM_TOKENS = 300


def padding(num_tokens):
    """Four documents: without padding, padded on the right, on the left, and nothing but padding."""
    real = torch.ones(4, num_tokens, dtype=torch.bool)
    real[1, num_tokens // 2 :] = False
    real[2, : num_tokens // 2] = False
    real[3] = False
    return real


def make_case(pattern, is_padded, num_tokens=NUM_TOKENS, batch_size=4):
    plan = block_plan(pattern, num_tokens, "cpu")
    num_representatives = plan.num_blocks if pattern.hierarchical else 0
    mask = sequence_mask(padding(num_tokens), plan, num_representatives) if is_padded else None
    inputs = torch.randn(3, batch_size, 2, num_representatives + num_tokens, 16).unbind()
    return plan, inputs, mask


def attend(backend, plan, inputs, mask, **kwargs):
    return backend(torch.nn.Module(), *inputs, mask, plan=plan, num_tokens=plan.num_tokens, scaling=0.3, **kwargs)[0]


@pytest.fixture
def flex_calls(monkeypatch):
    """FlexAttention as it is defined, without a compiler; a list of its calls."""
    calls = []

    def flex(*args, **kwargs):
        calls.append(kwargs["block_mask"])
        return flex_attention(*args, **kwargs)

    monkeypatch.setattr(hst_attention, "compiled_flex_attention", lambda: flex)
    return calls


def dense_mask(plan, mask, sequence_length, batch_size):
    blocks = position_blocks(plan, sequence_length)
    visible = plan.block_mask()[blocks][:, blocks].expand(batch_size, -1, -1)
    return visible if mask is None else visible & mask[:, None, :]


@pytest.mark.parametrize("is_padded", [False, True])
def test_rule_and_tiles_are_the_dense_mask(is_padded):
    for pattern in PATTERNS:
        plan, inputs, mask = make_case(pattern, is_padded)
        sequence_length = inputs[0].shape[2]
        tables = flex_block_mask.FlexTables.build(plan, position_blocks(plan, sequence_length))
        block_mask, empty_rows = flex_block_mask.flex_block_mask(tables, mask, batch_size=4)
        length = bucket_length(sequence_length)
        index = torch.arange(length)
        batch = torch.arange(4)[:, None, None]
        rule = block_mask.mask_mod(batch, 0, index[None, :, None], index[None, None, :])
        expected = dense_mask(plan, mask, sequence_length, 4)
        sees_something = expected.any(dim=-1)
        assert torch.equal(rule[:, :sequence_length, :sequence_length] & sees_something[:, :, None], expected), pattern
        assert not (rule[:, :sequence_length, sequence_length:] & sees_something[:, :, None]).any(), pattern
        assert (empty_rows is None) if mask is None else torch.equal(empty_rows, ~sees_something), pattern

        visible = torch.zeros(length, length, dtype=torch.bool)
        visible[:sequence_length, :sequence_length] = dense_mask(plan, None, sequence_length, 1)[0]
        tiles = visible.unflatten(1, (-1, TILE_SIZE)).unflatten(0, (-1, TILE_SIZE))
        some = tiles.any(dim=3).any(dim=1)
        assert torch.equal(block_mask.to_dense()[0, 0].bool(), some), pattern
        # Every position of a full tile is visible; the last tile of queries may be filled up, that of keys may not.
        queries = torch.arange(length).unflatten(0, (-1, TILE_SIZE)) < sequence_length
        full = (tiles | ~queries[:, :, None, None]).all(dim=3).all(dim=1) & some
        assert (tables.full_tiles <= full).all(), pattern
        counts = block_mask.full_kv_num_blocks[0, 0]
        assert torch.equal(counts, tables.full_tiles.sum(1).int() if mask is None else torch.zeros_like(counts))


def test_full_tiles_are_found():
    plan = block_plan(SparsePattern(256, num_window_blocks=1, num_global_blocks=0, hierarchical=False), 1024, "cpu")
    tables = flex_block_mask.FlexTables.build(plan, position_blocks(plan, 1024))
    assert torch.equal(
        tables.full_tiles, torch.eye(4, dtype=torch.bool).repeat_interleave(2, 0).repeat_interleave(2, 1)
    )
    assert not tables.partial_tiles.any()


@pytest.mark.parametrize("is_padded", [False, True])
def test_agrees_with_the_reference(is_padded, flex_calls):
    for pattern in PATTERNS[::3] + PATTERNS[-3:]:
        plan, inputs, mask = make_case(pattern, is_padded)
        with torch.no_grad():
            output = attend(flex_hst_attention, plan, inputs, mask)
        torch.testing.assert_close(output, attend(eager_hst_attention, plan, inputs, mask), rtol=1e-5, atol=1e-5)
        if is_padded:
            assert (output[3] == 0).all()
    assert flex_calls


def test_lengths_of_a_bucket_and_patterns_share_their_shapes():
    assert [bucket_length(n) for n in (1, 128, 129, 256, 257, 512, 513)] == [128, 128, 256, 256, 512, 512, 1024]
    shapes = set()
    for pattern, num_tokens in itertools.product(
        [
            SparsePattern(size, window, block_shift=shift)
            for size, window, shift in ((64, 3, 0), (32, 5, 1), (16, 1, 3))
        ],
        (390, 460),
    ):
        plan, inputs, _ = make_case(pattern, False, num_tokens)
        tables = flex_block_mask.FlexTables.build(plan, position_blocks(plan, inputs[0].shape[2]))
        block_mask, _ = flex_block_mask.flex_block_mask(tables, None, 4)
        captured = [cell.cell_contents for cell in block_mask.mask_mod.__closure__]
        tensors = [value for value in captured if isinstance(value, torch.Tensor)] + [block_mask.kv_indices]
        shapes.add(tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors))
    assert len(shapes) == 1


@pytest.mark.parametrize("reason", ["gradient", "dropout"])
def test_what_flex_attention_cannot_do_goes_through_sdpa_and_says_so(reason, flex_calls, monkeypatch):
    warnings = []
    monkeypatch.setattr(hst_attention.logger, "warning_once", warnings.append)
    plan, inputs, mask = make_case(SparsePattern(8), True)
    if reason == "gradient":
        for states in inputs:
            states.requires_grad_()
        output = attend(flex_hst_attention, plan, inputs, mask)
        assert torch.equal(output, attend(sdpa_hst_attention, plan, inputs, mask))
        output.sum().backward()
        assert "no backward pass on the CPU" in warnings[0]
    else:
        torch.manual_seed(0)
        output = attend(flex_hst_attention, plan, inputs, mask, dropout=0.5)
        torch.manual_seed(0)
        assert torch.equal(output, attend(sdpa_hst_attention, plan, inputs, mask, dropout=0.5))
        assert "no attention dropout" in warnings[0]
    assert "sdpa" in warnings[0] and not flex_calls


def test_dense_calls_do_not_reach_flex_attention(flex_calls):
    plan, inputs, mask = make_case(SparsePattern.full(block_size=8), True)
    with torch.no_grad():
        output = attend(flex_hst_attention, plan, inputs, mask)
    assert torch.equal(output, attend(sdpa_hst_attention, plan, inputs, mask)) and not flex_calls


def test_a_model_gives_the_same_states(flex_calls, tiny_config):
    config = tiny_config(max_position_embeddings=NUM_TOKENS, block_size=16)
    models = [
        ErnieSparseModel._from_config(copy.deepcopy(config), attn_implementation=name).eval()
        for name in ("eager", "flex_attention")
    ]
    models[1].load_state_dict(models[0].state_dict())
    input_ids, mask = torch.randint(99, (4, NUM_TOKENS)), padding(NUM_TOKENS).long()
    with torch.no_grad():
        expected, output = (model(input_ids, mask) for model in models)
    for name in ("last_hidden_state", "representative_hidden_state"):
        torch.testing.assert_close(output[name], expected[name], rtol=1e-5, atol=1e-5)
    assert len(flex_calls) == 2


def test_embeddings_of_padding_may_be_anything(flex_calls, tiny_config):
    config = tiny_config(max_position_embeddings=NUM_TOKENS, block_size=16)
    model = ErnieSparseModel._from_config(config, attn_implementation="flex_attention").eval()
    mask, states = padding(NUM_TOKENS), torch.randn(4, NUM_TOKENS, 32)
    with torch.no_grad():
        outputs = [
            model(inputs_embeds=states.masked_fill(~mask[..., None], value), attention_mask=mask)
            for value in (float("nan"), 0.0)
        ]
    for name in ("last_hidden_state", "representative_hidden_state"):
        assert torch.equal(outputs[0][name], outputs[1][name])
    assert len(flex_calls) == 4


@pytest.mark.slow
def test_compiled_once_for_all_patterns_of_a_bucket():
    def run(pattern, num_tokens):
        plan, inputs, mask = make_case(pattern, True, num_tokens)
        with torch.no_grad():
            output = attend(flex_hst_attention, plan, inputs, mask)
        torch.testing.assert_close(output, attend(eager_hst_attention, plan, inputs, mask), rtol=1e-5, atol=1e-5)

    run(SparsePattern(16), 300)
    programs = counters["stats"]["unique_graphs"]
    assert programs > 0
    for pattern in (SparsePattern(16, 5, 2, block_shift=3), SparsePattern(32), SparsePattern(8, 1)):
        run(pattern, 310)
    assert counters["stats"]["unique_graphs"] == programs


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("is_padded", [False, True])
def test_outputs_and_gradients_on_a_gpu(dtype, tolerance, is_padded):
    pattern = SparsePattern(64, num_random_blocks=2, block_shift=5)
    plan = block_plan(pattern, 1000, "cuda")
    mask = sequence_mask(padding(1000).cuda(), plan, plan.num_blocks) if is_padded else None
    inputs = 0.5 * torch.randn(4, 4, 2, plan.num_blocks + 1000, 64, device="cuda")
    results = []
    for backend in (eager_hst_attention, flex_hst_attention, sdpa_hst_attention):
        leaves = [states.to(dtype).requires_grad_() for states in inputs[:3]]
        output = attend(backend, plan, leaves, mask)
        output.backward(inputs[3].transpose(1, 2).to(dtype))
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
