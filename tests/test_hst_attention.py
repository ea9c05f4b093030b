# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""HST attention: the dense reference against plain loops, the other backends against it, and what all promise."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface

from ernie_sparse import SparsePattern, block_attention, hst_attention
from ernie_sparse.hst_attention import (
    ALL_ATTENTION_FUNCTIONS,
    eager_hst_attention,
    from_blocks,
    position_blocks,
    sdpa_hst_attention,
    sequence_mask,
    to_blocks,
)
from ernie_sparse.sparse_pattern import block_plan
from ernie_sparse.unpadding import drop_padding

BACKENDS = (eager_hst_attention, sdpa_hst_attention)
HALF = [torch.bfloat16, torch.float16]
LENGTHS = (1, 7, 16, 29, 64)
PATTERNS = [
    SparsePattern(8, window, num_global, num_random, block_shift)
    for window, num_global, num_random, block_shift in itertools.product((1, 3, 5), (0, 1, 3), (0, 2), (0, 5))
]
PATTERNS += [SparsePattern(1), SparsePattern(5, 99, 2, 1, 4), SparsePattern(64), SparsePattern.full(block_size=8)]
# Every value of every field is among them.
SOME_PATTERNS = PATTERNS[:-4:5] + PATTERNS[-4:]

in_blocks = pytest.mark.usefixtures("block_form")


@pytest.fixture(params=["eager", "sdpa", "sdpa_in_blocks"])
def backend(request):
    """Each backend, and `sdpa` both as it is on inputs as short as these and as it is on long ones."""
    if request.param == "sdpa_in_blocks":
        request.getfixturevalue("block_form")
    return eager_hst_attention if request.param == "eager" else sdpa_hst_attention


@pytest.fixture
def forms(monkeypatch):
    """Which forms the calls of `sdpa` take."""
    taken = []

    def record(form, attend):
        return lambda *args, **kwargs: taken.append(form) or attend(*args, **kwargs)

    for name, form in (("masked_sdpa", "dense"), ("block_attention", "blocks")):
        monkeypatch.setattr(hst_attention, name, record(form, getattr(hst_attention, name)))
    return taken


def new_module(training=False):
    return torch.nn.Module().train(training)


def token_padding(num_tokens):
    """Four documents: without padding, padded on the right, on the left, and nothing but padding."""
    real = torch.ones(4, num_tokens, dtype=torch.bool)
    real[1, (num_tokens + 1) // 2 :] = False
    real[2, : num_tokens // 2] = False
    real[3] = False
    return real


def make_states(batch_size, sequence_length, num_heads=2, head_dim=4, dtype=torch.float32, scale=1.0):
    """Query, key, value and the gradient that comes back to the output."""
    query, key, value, upstream = (
        (scale * torch.randn(batch_size, num_heads, sequence_length, head_dim)).to(dtype) for _ in range(4)
    )
    return query, key, value, upstream.transpose(1, 2)


def outputs_and_gradients(backend, query, key, value, upstream, mask, plan, num_tokens, module=None, dropout=0.0):
    query, key, value = (states.detach().clone().requires_grad_() for states in (query, key, value))
    output, _ = backend(
        module or new_module(), query, key, value, mask, plan=plan, num_tokens=num_tokens, scaling=0.7, dropout=dropout
    )
    output.backward(upstream)
    return {"output": output.detach(), "query": query.grad, "key": key.grad, "value": value.grad}


def compare(actual, expected, tolerance, context):
    for name in expected:
        torch.testing.assert_close(
            actual[name].float(),
            expected[name].float(),
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, name=name: f"{name} of {context}: {text}",
        )


def blocks_of_positions(pattern, num_tokens, per_block):
    """The block of every position in plain Python: `per_block` representatives of each block, then the tokens."""
    of_tokens = [(token + pattern.block_shift) // pattern.block_size for token in range(num_tokens)]
    return [block for block in range(of_tokens[-1] + 1) for _ in range(per_block)] + of_tokens


def attention_by_loops(query, key, value, mask, pattern, num_tokens, per_block, scaling):
    """One document and one head, position by position in Python numbers: its outputs and its weights."""
    blocks = blocks_of_positions(pattern, num_tokens, per_block)
    outputs, weights = [], []
    for i, block in enumerate(blocks):
        seen = [
            j for j, other in enumerate(blocks) if pattern.sees(block, other, blocks[-1] + 1) and (not mask or mask[j])
        ]
        exponentials = {j: math.exp(scaling * sum(a * b for a, b in zip(query[i], key[j], strict=True))) for j in seen}
        total = sum(exponentials.values())
        row = [exponentials[j] / total if j in exponentials else 0.0 for j in range(len(blocks))]
        weights.append(row)
        outputs.append([sum(w * value[j][d] for j, w in enumerate(row)) for d in range(len(value[0]))])
    return outputs, weights


@pytest.mark.parametrize(
    "pattern, num_tokens, per_block",
    [
        (SparsePattern(3, num_window_blocks=1, num_global_blocks=0), 7, 1),
        (SparsePattern(3, num_window_blocks=3, num_global_blocks=1, block_shift=2), 13, 2),
        (SparsePattern(2, num_window_blocks=1, num_global_blocks=1, num_random_blocks=1, seed=3), 12, 1),
        (SparsePattern(4, num_window_blocks=3, num_global_blocks=2, block_shift=1, hierarchical=False), 18, 0),
        (SparsePattern.full(block_size=4), 9, 0),
        (SparsePattern(8), 1, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_padded", [False, True])
def test_reference_agrees_with_plain_loops(pattern, num_tokens, per_block, is_padded):
    plan = block_plan(pattern, num_tokens, "cpu")
    num_representatives = per_block * plan.num_blocks
    query, key, value, _ = make_states(4, num_representatives + num_tokens, 1, 3, dtype=torch.float64)
    mask = sequence_mask(token_padding(num_tokens), plan, num_representatives) if is_padded else None
    output, maps = eager_hst_attention(
        new_module(), query, key, value, mask, plan=plan, num_tokens=num_tokens, scaling=0.7
    )
    for document in range(4):
        expected, weights = attention_by_loops(
            *(states[document, 0].tolist() for states in (query, key, value)),
            mask[document].tolist() if is_padded else None,
            pattern,
            num_tokens,
            per_block,
            scaling=0.7,
        )
        # The reference's softmax is in fp32 whatever the states are.
        torch.testing.assert_close(
            output[document, :, 0], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6
        )
        weights = torch.tensor(weights, dtype=torch.float64)
        for actual, part in (
            (maps.token_to_token, weights[num_representatives:, num_representatives:]),
            (maps.token_to_representative, weights[num_representatives:, :num_representatives]),
            (maps.representative_to_sequence, weights[:num_representatives]),
        ):
            torch.testing.assert_close(actual[document, 0], part, rtol=1e-6, atol=1e-6)


def compare_with_reference(pattern, num_tokens, per_block, is_padded, dtype=torch.float32):
    plan = block_plan(pattern, num_tokens, "cpu")
    num_representatives = per_block * plan.num_blocks
    inputs = make_states(4, num_representatives + num_tokens, dtype=dtype, scale=1.0 if dtype == torch.float32 else 0.5)
    mask = sequence_mask(token_padding(num_tokens), plan, num_representatives) if is_padded else None
    eager, sdpa = (outputs_and_gradients(backend, *inputs, mask, plan, num_tokens) for backend in BACKENDS)
    assert eager["output"].shape == sdpa["output"].shape == (4, num_representatives + num_tokens, 2, 4)
    assert eager["output"].dtype == sdpa["output"].dtype == dtype
    context = (pattern, num_tokens, per_block, is_padded)
    if dtype == torch.float32:
        compare(sdpa, eager, 1e-5, context)
        return
    compare(sdpa, eager, 2e-2, context)
    exact = outputs_and_gradients(eager_hst_attention, *(states.float() for states in inputs), mask, plan, num_tokens)
    compare(eager, exact, 2e-2, ("eager in fp32", *context))


@in_blocks
@pytest.mark.parametrize("per_block", [0, 1, 2])
@pytest.mark.parametrize("is_padded", [False, True])
def test_block_form_agrees_with_the_reference_in_fp32(per_block, is_padded):
    for pattern, num_tokens in itertools.product(PATTERNS, LENGTHS):
        compare_with_reference(pattern, num_tokens, per_block, is_padded)


@in_blocks
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("per_block", [0, 2])
def test_block_form_agrees_with_the_reference_in_half_precision(per_block, dtype):
    for pattern, num_tokens, is_padded in itertools.product(SOME_PATTERNS, (1, 29), (False, True)):
        compare_with_reference(pattern, num_tokens, per_block, is_padded, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_short_inputs_take_one_dense_call_that_agrees_with_the_reference(dtype, forms):
    for pattern, per_block, is_padded in itertools.product(SOME_PATTERNS, (0, 1), (False, True)):
        compare_with_reference(pattern, 29, per_block, is_padded, dtype)
    assert set(forms) == {"dense"}


@pytest.mark.parametrize("beyond, form", [(0, "dense"), (1, "blocks")])
def test_the_last_dense_length_and_the_next_one_agree_with_the_reference(beyond, form, forms):
    pattern = SparsePattern(64, num_random_blocks=1, block_shift=5, hierarchical=False)
    compare_with_reference(pattern, hst_attention.MAX_DENSE_LENGTH + beyond, 0, is_padded=True)
    assert forms == [form]


def test_dropout_is_never_part_of_a_dense_call_under_a_plan(forms):
    plan = block_plan(SparsePattern(8), 64, "cpu")
    outputs_and_gradients(
        sdpa_hst_attention, *make_states(1, 72), None, plan, 64, new_module(training=True), dropout=0.1
    )
    assert forms == ["blocks"]


def test_a_packed_row_is_not_taken_for_its_pattern(forms):
    # Blocks 0, 4 and 5 are kept: side by side in the row, not in the document.
    pattern, real = SparsePattern(4, num_window_blocks=1), torch.zeros(1, 32, dtype=torch.bool)
    real[0, 16:24] = True
    packed = drop_padding(real, block_plan(pattern, 32, "cpu"))
    inputs = make_states(1, 12 + packed.plan.num_blocks)
    mask = sequence_mask(packed.pack_mask(real), packed.plan, packed.plan.num_blocks)
    eager, sdpa = (outputs_and_gradients(backend, *inputs, mask, packed.plan, 12) for backend in BACKENDS)
    compare(sdpa, eager, 1e-5, pattern)
    assert forms == ["blocks"]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-2)])
def test_without_a_plan_everyone_sees_everyone(dtype, tolerance):
    for sequence_length, is_padded in itertools.product((1, 9), (False, True)):
        inputs = make_states(4, sequence_length, dtype=dtype, scale=0.5)
        mask = token_padding(sequence_length) if is_padded else None
        eager, sdpa = (outputs_and_gradients(backend, *inputs, mask, None, 0) for backend in BACKENDS)
        compare(sdpa, eager, tolerance, (sequence_length, is_padded))
        query, key, value = (states[0].float() for states in inputs[:3])
        plain = ((query @ key.transpose(1, 2)) * 0.7).softmax(-1) @ value
        compare({"output": eager["output"][0]}, {"output": plain.transpose(0, 1)}, tolerance, sequence_length)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_rows_that_see_nothing_are_zero_with_finite_gradients(backend, dtype):
    # The window is one block and none is global: only the first document's first block and a bit of its third are real.
    pattern, num_tokens = SparsePattern(4, num_window_blocks=1, num_global_blocks=0), 14
    real = torch.zeros(2, num_tokens, dtype=torch.bool)
    real[0, :4] = real[0, 9] = True
    plan = block_plan(pattern, num_tokens, "cpu")
    mask = sequence_mask(real, plan, plan.num_blocks)
    sees_something = torch.zeros_like(mask)
    sees_something[0, [0, 2, *range(4, 8), *range(12, 16)]] = True
    inputs = make_states(2, mask.shape[1], dtype=dtype)
    results = outputs_and_gradients(backend, *inputs, mask, plan, num_tokens)
    for name, values in results.items():
        assert values.isfinite().all(), name
    assert (results["output"][~sees_something] == 0).all()
    assert (results["output"][sees_something] != 0).all()
    assert (results["query"].transpose(1, 2)[~sees_something] == 0).all()
    for name in ("key", "value"):
        assert (results[name].transpose(1, 2)[~mask] == 0).all(), name
        assert (results[name].transpose(1, 2)[mask] != 0).any(), name


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_rows_that_see_nothing_are_zero_without_a_plan_and_under_global_blocks(backend, dtype):
    mask = torch.tensor([[True] * 6, [False] * 6])
    inputs = make_states(2, 6, dtype=dtype)
    global_plan = block_plan(SparsePattern(2, num_global_blocks=1, hierarchical=False), 6, "cpu")
    for plan, num_tokens in ((None, 0), (global_plan, 6)):
        results = outputs_and_gradients(backend, *inputs, mask, plan, num_tokens)
        for name, values in results.items():
            assert values.isfinite().all(), name
            assert (values[1] == 0).all(), name
            assert (values[0] != 0).any(), name


@pytest.mark.parametrize("per_block", [0, 1])
@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.usefixtures("either_form")
def test_no_kernel_is_asked_for_a_row_without_keys(per_block, is_padded, monkeypatch):
    # Kernels differ on such rows: zeros here, NaN elsewhere.
    kernel, rows_with_keys = torch.nn.functional.scaled_dot_product_attention, []

    def spy(query, key, value, attn_mask=None, **kwargs):
        rows_with_keys.append(attn_mask is None or bool(attn_mask.any(dim=-1).all()))
        return kernel(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    # The form for other devices.
    for module in (block_attention, hst_attention):
        monkeypatch.setattr(module, "runs_on_cpu", lambda states: False)
    for pattern, num_tokens in itertools.product(PATTERNS, (7, 29)):
        plan = block_plan(pattern, num_tokens, "cpu")
        num_representatives = per_block * plan.num_blocks
        inputs = make_states(4, num_representatives + num_tokens)
        mask = sequence_mask(token_padding(num_tokens), plan, num_representatives) if is_padded else None
        outputs_and_gradients(sdpa_hst_attention, *inputs, mask, plan, num_tokens)
        assert rows_with_keys and all(rows_with_keys), (pattern, num_tokens)


@pytest.mark.parametrize("per_block", [0, 1])
def test_masked_positions_may_hold_anything_finite(backend, per_block):
    for pattern, num_tokens, poison in itertools.product(SOME_PATTERNS, (7, 29), (1e30, -1e30)):
        plan = block_plan(pattern, num_tokens, "cpu")
        num_representatives = per_block * plan.num_blocks
        query, key, value, upstream = make_states(4, num_representatives + num_tokens)
        mask = sequence_mask(token_padding(num_tokens), plan, num_representatives)
        clean = outputs_and_gradients(backend, query, key, value, upstream, mask, plan, num_tokens)
        is_hidden = ~mask[:, None, :, None]
        key, value = (states.masked_fill(is_hidden, poison) for states in (key, value))
        poisoned = outputs_and_gradients(backend, query, key, value, upstream, mask, plan, num_tokens)
        torch.testing.assert_close(poisoned["output"], clean["output"], rtol=1e-6, atol=1e-6)
        for name in ("key", "value"):
            gradients = (results[name].masked_fill(is_hidden, 0.0) for results in (poisoned, clean))
            torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
        sees_something = (clean["output"] != 0).any(-1).transpose(1, 2)[..., None]
        gradients = (results["query"].masked_fill(~sees_something, 0.0) for results in (poisoned, clean))
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("poison", [1.0, 1e10, 1e30])
def test_document_of_padding_has_no_gradient_whatever_the_padding_holds(backend, poison):
    mask = torch.zeros(2, 15, dtype=torch.bool)
    for plan, num_tokens in ((block_plan(SparsePattern(4), 12, "cpu"), 12), (None, 0)):
        query, key, value, upstream = make_states(2, 15)
        results = outputs_and_gradients(backend, query, poison * key, poison * value, upstream, mask, plan, num_tokens)
        for name, values in results.items():
            assert (values == 0).all(), name


@pytest.mark.parametrize("per_block", [0, 1])
def test_block_that_is_not_seen_may_hold_anything_finite(backend, per_block):
    # Block 0 stands in for the missing neighbours of the plan's table, so it is the one that could leak.
    pattern, num_tokens = SparsePattern(4, num_global_blocks=0, num_random_blocks=1, block_shift=1), 34
    plan = block_plan(pattern, num_tokens, "cpu")
    sequence_length = per_block * plan.num_blocks + num_tokens
    blocks = torch.tensor(blocks_of_positions(pattern, num_tokens, per_block))
    query, key, value, upstream = make_states(1, sequence_length)
    clean = outputs_and_gradients(backend, query, key, value, upstream, None, plan, num_tokens)["output"]
    for block in range(plan.num_blocks):
        hidden = (blocks == block)[None, None, :, None]
        states = (states.masked_fill(hidden, 1e30) for states in (key, value))
        output = outputs_and_gradients(backend, query, *states, upstream, None, plan, num_tokens)["output"]
        sees = [pattern.sees(query_block, block, plan.num_blocks) for query_block in range(plan.num_blocks)]
        sees_block = torch.tensor(sees)[blocks]
        torch.testing.assert_close(output[:, ~sees_block], clean[:, ~sees_block], rtol=1e-6, atol=1e-6)
        assert (output[:, sees_block] != clean[:, sees_block]).any(dim=-1).all()


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def largest_tensor(backend, pattern, num_tokens, dropout, is_padded):
    plan = block_plan(pattern, num_tokens, "cpu")
    inputs = make_states(1, plan.num_blocks + num_tokens, num_heads=1, head_dim=4)
    mask = None
    if is_padded:
        real = torch.ones(1, num_tokens, dtype=torch.bool)
        real[:, -num_tokens // 4 :] = False
        mask = sequence_mask(real, plan, plan.num_blocks)
    with LargestTensor() as largest:
        outputs_and_gradients(backend, *inputs, mask, plan, num_tokens, new_module(training=True), dropout)
    return largest.numel


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_memory_of_the_block_form_grows_linearly(dropout, is_padded):
    pattern = SparsePattern(16, num_global_blocks=1, num_random_blocks=1)
    sizes = {n: largest_tensor(sdpa_hst_attention, pattern, n, dropout, is_padded) for n in (1024, 4096)}
    assert 4 * sizes[1024] < 1024 * 1024
    assert sizes[4096] <= 4.3 * sizes[1024]


def test_memory_of_the_reference_does_not():
    pattern = SparsePattern(16, num_global_blocks=1, num_random_blocks=1)
    sizes = {n: largest_tensor(eager_hst_attention, pattern, n, 0.1, is_padded=True) for n in (256, 1024)}
    assert sizes[1024] >= 1024 * 1024
    assert sizes[1024] > 15 * sizes[256]


@pytest.mark.parametrize("per_block", [0, 1, 2])
def test_maps_are_all_the_attention_there_is(per_block):
    pattern, num_tokens = SparsePattern(4, num_window_blocks=3, num_random_blocks=1, block_shift=3), 22
    plan = block_plan(pattern, num_tokens, "cpu")
    num_representatives = per_block * plan.num_blocks
    mask = sequence_mask(token_padding(num_tokens), plan, num_representatives)
    query, key, value, _ = make_states(4, num_representatives + num_tokens)
    output, maps = eager_hst_attention(
        new_module(), query, key, value, mask, plan=plan, num_tokens=num_tokens, scaling=0.7
    )
    blocks = blocks_of_positions(pattern, num_tokens, per_block)
    sees = torch.tensor([[pattern.sees(q, k, plan.num_blocks) for k in blocks] for q in blocks])
    visible = (sees & mask[:, None, :])[:, None].expand(-1, 2, -1, -1)
    token_rows = torch.cat([maps.token_to_representative, maps.token_to_token], dim=-1)
    weights = torch.cat([maps.representative_to_sequence, token_rows], dim=2)
    assert torch.equal(weights > 0, visible)
    assert torch.equal(maps.token_to_token > 0, visible[:, :, num_representatives:, num_representatives:])
    torch.testing.assert_close(weights.sum(-1), visible.any(-1).float())
    torch.testing.assert_close((weights @ value).transpose(1, 2), output)


def test_output_is_computed_from_the_maps():
    plan = block_plan(SparsePattern(4), 10, "cpu")
    query, key, value, _ = make_states(1, plan.num_blocks + 10)
    output, maps = eager_hst_attention(
        new_module(), query.requires_grad_(), key, value, None, plan=plan, num_tokens=10, scaling=0.7
    )
    for part in maps:
        part.retain_grad()
    output.square().sum().backward()
    for part in maps:
        assert part.grad.abs().sum() > 0


def test_block_form_returns_no_maps():
    plan = block_plan(SparsePattern(4), 10, "cpu")
    inputs = make_states(1, plan.num_blocks + 10)[:3]
    for any_plan, num_tokens in ((plan, 10), (None, 0)):
        _, maps = sdpa_hst_attention(
            new_module(), *inputs, None, plan=any_plan, num_tokens=num_tokens, scaling=0.7, dropout=0.0
        )
        assert maps is None


@pytest.mark.parametrize("has_plan", [True, False])
def test_attention_dropout_works_in_training_only(backend, has_plan):
    num_tokens = 64
    plan = block_plan(SparsePattern(8, num_random_blocks=1), num_tokens, "cpu") if has_plan else None
    inputs = make_states(8, num_tokens + (8 if has_plan else 0))

    def run(training, dropout):
        return outputs_and_gradients(
            backend, *inputs, None, plan, num_tokens if has_plan else 0, new_module(training), dropout
        )

    clean = run(False, 0.0)
    for name, values in run(False, 0.5).items():
        assert torch.equal(values, clean[name]), name
    for name, values in run(True, 0.0).items():
        torch.testing.assert_close(values, clean[name])
    for name, values in run(True, 0.5).items():
        assert not torch.allclose(values, clean[name], atol=0.1), name


def test_attention_dropout_keeps_the_expected_output(backend):
    num_tokens = 64
    plan = block_plan(SparsePattern(8, num_random_blocks=1), num_tokens, "cpu")
    query, key, value, _ = make_states(256, plan.num_blocks + num_tokens)
    output, _ = backend(
        new_module(training=True),
        query,
        key,
        torch.ones_like(value),
        None,
        plan=plan,
        num_tokens=num_tokens,
        scaling=0.7,
        dropout=0.1,
    )
    # Rows of the kept weights add up to 1 on average, since they are scaled up by 1 / 0.9.
    assert (output.mean(dim=(0, 2, 3)) - 1).abs().max() < 0.06
    assert output.std() > 0.01


@pytest.mark.parametrize("per_block", [0, 1, 3])
def test_cutting_into_blocks_and_back(per_block):
    sizes = [(1, 0), (4, 0), (4, 1), (4, 3), (7, 5), (64, 63)]
    for (block_size, block_shift), num_tokens in itertools.product(sizes, (1, 3, 4, 15, 16)):
        pattern = SparsePattern(block_size, block_shift=block_shift)
        plan = block_plan(pattern, num_tokens, "cpu")
        sequence_length = per_block * plan.num_blocks + num_tokens
        states = torch.randn(2, sequence_length, 3)
        blocks = to_blocks(states, plan, num_tokens)
        assert blocks.shape == (2, plan.num_blocks, per_block + block_size, 3)
        assert torch.equal(from_blocks(blocks, plan, num_tokens), states)
        expected = blocks_of_positions(pattern, num_tokens, per_block)
        assert position_blocks(plan, sequence_length).tolist() == expected
        for block in range(plan.num_blocks):
            rows = states[:, [index for index, other in enumerate(expected) if other == block]]
            filled = blocks[:, block][:, (blocks[0, block] != 0).all(-1)]
            assert torch.equal(filled, rows)
        assert (blocks != 0).sum() == (states != 0).sum()


def test_representative_of_a_block_of_padding_is_not_real():
    plan = block_plan(SparsePattern(4, block_shift=1), 10, "cpu")
    # Tokens 0-2 | 3-6 | 7-9, and a mask of numbers other than 0 and 1.
    attention_mask = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 0, 2], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]])
    real_blocks = [[True, False, True], [False, True, False]]
    for per_block in (0, 1, 2):
        expected = [
            [is_real for is_real in blocks for _ in range(per_block)] + [bool(token) for token in tokens]
            for blocks, tokens in zip(real_blocks, attention_mask.tolist(), strict=True)
        ]
        for mask in (attention_mask, attention_mask.float(), attention_mask.bool()):
            assert sequence_mask(mask, plan, 3 * per_block).tolist() == expected


def test_backends_are_found_by_transformers_names_without_replacing_its_own():
    for name, backend in zip(("eager", "sdpa"), BACKENDS, strict=True):
        assert ALL_ATTENTION_FUNCTIONS.get_interface(name, None) is backend
    assert AttentionInterface()["sdpa"] is not sdpa_hst_attention
