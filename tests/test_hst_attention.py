# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The attention backends: the dense reference against plain loops, the others against the reference."""

import math

import pytest
import torch
from test_block_attention import LargestTensor
from transformers import AttentionInterface

from ernie_sparse import SparsePattern, block_attention, block_plan, hst_attention
from ernie_sparse.block_plan import BlockPlan, plan_batch
from ernie_sparse.hst_attention import ALL_ATTENTION_FUNCTIONS, eager_hst_attention, sdpa_hst_attention

HALF = [torch.bfloat16, torch.float16]
CPU = torch.device("cpu")
PATTERNS = [
    SparsePattern(4),
    SparsePattern(4, 1, 0, 2, 3, seed=5),
    SparsePattern(4, 5, 2, 1, 1, hierarchical=False),
    SparsePattern.full(block_size=4, hierarchical=True),
]
BATCHES = {
    "without padding": [[1] * 22, [1] * 22],
    "with padding": [[0] * 4 + [1] * 18, [1] * 3 + [0] * 19, [0, 1] * 11, [0] * 22],
}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=str)
every_batch = pytest.mark.parametrize("batch", BATCHES)


def make_plan(pattern: SparsePattern, batch: str, per_block: int = 1) -> BlockPlan:
    mask = torch.tensor(BATCHES[batch])
    return plan_batch(pattern, per_block, mask.shape, CPU, mask)


@pytest.fixture(params=["dense", "blocks", "gathered"])
def form(request, monkeypatch):
    """The forms of `sdpa`: one dense call, block by block on the CPU, and as on other devices."""
    if request.param != "dense":
        request.getfixturevalue("block_form")
    if request.param == "gathered":
        for module in (block_attention, hst_attention):
            monkeypatch.setattr(module, "runs_on_cpu", lambda states: False)
    return request.param


def new_module(training=False):
    return torch.nn.Module().train(training)


def make_states(plan, num_heads=2, head_dim=4, dtype=torch.float32):
    """Query, key, value and the gradient that comes back to the output."""
    length = len(plan.position_blocks) if isinstance(plan, BlockPlan) else plan.count
    return [torch.randn(length, num_heads, head_dim).to(dtype) for _ in range(4)]


def outputs_and_gradients(backend, states, plan, training=False, dropout=0.0):
    *inputs, upstream = states
    inputs = [part.detach().clone().requires_grad_() for part in inputs]
    output, _ = backend(new_module(training), *inputs, plan, scaling=0.7, dropout=dropout)
    assert output.shape == inputs[0].shape and output.dtype == inputs[0].dtype
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream)]


def attention_by_loops(query, key, value, sees):
    outputs = []
    for i in range(len(query)):
        scores = [0.7 * sum(a * b for a, b in zip(query[i], key[j], strict=True)) for j in range(len(key))]
        weights = [math.exp(score) if sees[i][j] else 0.0 for j, score in enumerate(scores)]
        outputs.append(
            [sum(w * v[d] for w, v in zip(weights, value, strict=True)) / sum(weights) for d in range(len(value[0]))]
        )
    return outputs


@every_batch
@every_pattern
def test_the_reference_agrees_with_plain_loops(pattern, batch):
    plan = make_plan(pattern, batch)
    sizes = torch.tensor(BATCHES[batch]).sum(1).tolist()
    blocks = [(int(plan.block_documents[b]), int(plan.block_numbers[b])) for b in plan.position_blocks]
    sees = [[d == e and pattern.sees(b, c, pattern.num_blocks(sizes[d])) for e, c in blocks] for d, b in blocks]
    query, key, value, _ = make_states(plan, 1, 3, torch.float64)
    output, _ = eager_hst_attention(new_module(), query, key, value, plan, scaling=0.7)
    expected = attention_by_loops(*(states[:, 0].tolist() for states in (query, key, value)), sees)
    # The reference's softmax is in fp32 whatever the states are.
    torch.testing.assert_close(output[:, 0], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@every_batch
@every_pattern
def test_every_form_agrees_with_the_reference(pattern, batch, dtype, form):
    plan = make_plan(pattern, batch, per_block=2)
    states = make_states(plan, dtype=dtype)
    expected = outputs_and_gradients(eager_hst_attention, [part.float() for part in states], plan)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for actual, reference in zip(outputs_and_gradients(sdpa_hst_attention, states, plan), expected, strict=True):
        torch.testing.assert_close(actual.float(), reference, rtol=tolerance, atol=tolerance)


@every_batch
def test_representatives_see_all_of_their_document(batch, form):
    plan = make_plan(PATTERNS[0], batch)
    length = len(plan.representatives)
    states = [torch.randn(length, 2, 4) for _ in range(4)]
    documents = plan.block_documents
    visible = (documents[:, None] == documents).float()
    query, key, value, _ = states
    weights = (torch.einsum("phd,qhd->hpq", query, key) * 0.7 + visible.log()).softmax(-1)
    expected = torch.einsum("hpq,qhd->phd", weights, value)
    for backend in (eager_hst_attention, sdpa_hst_attention):
        output, maps = backend(new_module(), query, key, value, plan.summaries, scaling=0.7)
        torch.testing.assert_close(output, expected)
        assert maps is None
    gradients = [outputs_and_gradients(b, states, plan.summaries) for b in (eager_hst_attention, sdpa_hst_attention)]
    for actual, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beyond, is_dense", [(0, True), (1, False)])
def test_short_documents_take_one_dense_call_and_longer_ones_blocks(beyond, is_dense, monkeypatch):
    calls = []
    for name in ("dense_attention", "block_attention"):
        original = getattr(hst_attention, name)
        monkeypatch.setattr(
            hst_attention, name, lambda *a, name=name, original=original: calls.append(name) or original(*a)
        )
    pattern = SparsePattern(8, hierarchical=False)
    plan = plan_batch(pattern, 1, (1, block_plan.MAX_DENSE_LENGTH + beyond), CPU)
    states = make_states(plan)
    results = outputs_and_gradients(sdpa_hst_attention, states, plan)
    assert calls == (["dense_attention"] if is_dense else ["block_attention"])
    for actual, reference in zip(results, outputs_and_gradients(eager_hst_attention, states, plan), strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-5, atol=1e-5)
    calls.clear()
    # Dropout would leave the fast kernel of a dense call.
    outputs_and_gradients(sdpa_hst_attention, states, plan, training=True, dropout=0.1)
    assert calls == ["block_attention"]


@pytest.mark.slow
def test_memory_of_the_block_form_grows_linearly_and_that_of_the_reference_does_not():
    def largest(backend, num_tokens):
        plan = plan_batch(SparsePattern(8, num_random_blocks=1), 1, (1, num_tokens), CPU)
        states = make_states(plan)
        with LargestTensor() as tensor:
            outputs_and_gradients(backend, states, plan)
        return tensor.numel

    assert largest(sdpa_hst_attention, 8192) < 5 * largest(sdpa_hst_attention, 2048)
    assert largest(eager_hst_attention, 1024) > 15 * largest(eager_hst_attention, 256)


@pytest.mark.parametrize("per_block", [1, 2])
@every_batch
@pytest.mark.parametrize("pattern", PATTERNS[:3], ids=str)
def test_maps_are_all_the_attention_there_is(pattern, batch, per_block):
    plan, is_real = make_plan(pattern, batch, per_block), torch.tensor(BATCHES[batch]).bool()
    query, key, value, _ = make_states(plan)
    output, maps = eager_hst_attention(new_module(), query, key, value, plan, scaling=0.7)
    num_rows, num_places = is_real.shape
    assert maps.token_to_token.shape == (num_rows, 2, num_places, num_places)
    numbers = is_real.cumsum(1) - 1
    for row in range(num_rows):
        count = int(is_real[row].sum())
        blocks = [(t + pattern.block_shift) // pattern.block_size for t in numbers[row].tolist()]
        sees = torch.tensor([[pattern.sees(b, c, pattern.num_blocks(count)) for c in blocks] for b in blocks])
        visible = sees & is_real[row]
        assert torch.equal(maps.token_to_token[row][:, is_real[row]] > 0, visible[is_real[row]].expand(2, -1, -1))
        shares = (maps.token_to_token.sum(-1) + maps.token_to_representative.sum(-1))[row][:, is_real[row]]
        torch.testing.assert_close(shares, torch.ones_like(shares))
    values = plan.give(value.flatten(1)).unflatten(-1, (2, 4)).transpose(1, 2)
    of_tokens = (maps.token_to_token @ values).transpose(1, 2)
    if not pattern.hierarchical:
        torch.testing.assert_close(of_tokens[is_real], plan.give(output.flatten(1)).unflatten(-1, (2, 4))[is_real])


def test_output_is_computed_from_the_maps():
    plan = make_plan(PATTERNS[0], "without padding")
    query, key, value, _ = make_states(plan)
    output, maps = eager_hst_attention(new_module(), query.requires_grad_(), key, value, plan, scaling=0.7)
    for part in maps:
        part.retain_grad()
    output.square().sum().backward()
    for part in maps:
        assert part.grad.abs().sum() > 0


def test_block_form_returns_no_maps():
    plan = make_plan(PATTERNS[0], "without padding")
    assert sdpa_hst_attention(new_module(), *make_states(plan)[:3], plan, scaling=0.7)[1] is None


@pytest.mark.parametrize("is_step_two", [False, True])
@pytest.mark.parametrize("backend", [eager_hst_attention, sdpa_hst_attention])
def test_attention_dropout_works_in_training_only(backend, is_step_two):
    plan = plan_batch(SparsePattern(8, num_random_blocks=1), 1, (8, 64), CPU)
    states = make_states(plan)
    if is_step_two:
        states, plan = [part[: len(plan.representatives)] for part in states], plan.summaries

    def run(training, dropout):
        return outputs_and_gradients(backend, states, plan, training, dropout)

    clean = run(False, 0.0)
    for same in (run(False, 0.5), run(True, 0.0)):
        for values, reference in zip(same, clean, strict=True):
            torch.testing.assert_close(values, reference)
    for values, reference in zip(run(True, 0.5), clean, strict=True):
        assert not torch.allclose(values, reference, atol=0.1)


@pytest.mark.parametrize("backend", [eager_hst_attention, sdpa_hst_attention])
def test_attention_dropout_keeps_the_expected_output(backend):
    plan = plan_batch(SparsePattern(8, num_random_blocks=1), 1, (256, 64), CPU)
    query, key, value, _ = make_states(plan)
    output, _ = backend(new_module(True), query, key, torch.ones_like(value), plan, scaling=0.7, dropout=0.1)
    # Rows of the kept weights add up to 1 on average, since they are scaled up by 1 / 0.9.
    assert (output.unflatten(0, (256, -1)).mean(dim=(0, 2, 3)) - 1).abs().max() < 0.06
    assert output.std() > 0.01


def test_backends_are_found_by_transformers_names_without_replacing_its_own():
    for name, backend in (("eager", eager_hst_attention), ("sdpa", sdpa_hst_attention)):
        assert ALL_ATTENTION_FUNCTIONS.get_interface(name, None) is backend
    assert AttentionInterface()["sdpa"] is not sdpa_hst_attention
