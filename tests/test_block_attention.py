# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Attention under a plan: the CPU function, the gathered form and the dense call against a plain softmax over the stream."""

import weakref

import pytest
import torch
from largest_tensor import LargestTensor
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from ernie_sparse import SparsePattern, block_plan
from ernie_sparse import block_attention as module
from ernie_sparse.block_attention import (
    _chunks,
    _CpuBlockAttention,
    _kept,
    block_attention,
    dense_attention,
    gathered_block_attention,
)
from ernie_sparse.block_plan import BlockPlan, Documents, plan_batch

HEAD_DIM, SCALING = 5, 0.7
HALF = [torch.bfloat16, torch.float16]
FORMS = {"cpu": block_attention, "gathered": gathered_block_attention}
# A pattern and the tokens of each document; blocks that are full, cut off and shifted, documents of one block and of none.
CASES = {
    "plain": (SparsePattern(4), [24, 24]),
    "cut off": (SparsePattern(4), [22]),
    "shifted": (SparsePattern(4, 3, 1, 0, 3), [21, 21, 21]),
    "several lengths": (SparsePattern(4, 3, 1, 0, 1), [30, 2, 0, 17]),
    "random": (SparsePattern(4, 1, 0, 2, seed=3), [26, 9]),
    "many global blocks": (SparsePattern(3, 1, 3, 1, 2), [25, 4, 12]),
    "flat": (SparsePattern(4, 3, 0, 0, 2, hierarchical=False), [19, 25]),
}
every_case = pytest.mark.parametrize("case", CASES)
both_forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def make_plan(case: str, per_block: int = 1) -> BlockPlan:
    pattern, sizes = CASES[case]
    return BlockPlan.build(pattern, per_block, (1, sum(sizes)), torch.device("cpu"), sizes=sizes)


def padded_plan() -> BlockPlan:
    """With padding in the stream, as under a compiler."""
    mask = torch.tensor([[1] * 22, [0] * 9 + [1] * 13, [0] * 22, [1] * 3 + [0] * 19])
    return plan_batch(SparsePattern(4, 3, 1, 1, 1), 1, mask.shape, torch.device("cpu"), mask, is_static=True)


def visible_in(plan: BlockPlan) -> torch.Tensor:
    visible = plan.visibility(Documents(1))[0]
    return visible if plan.is_real is None else visible & plan.is_real


def softmax_attention(query, key, value, plan, scaling):
    scores = torch.einsum("phd,qhd->hpq", query, key) * scaling
    weights = scores.masked_fill(~visible_in(plan), torch.finfo(scores.dtype).min).softmax(-1)
    return torch.einsum("hpq,qhd->phd", weights, value)


def make_states(plan, num_heads=3, head_dim=HEAD_DIM, dtype=torch.float32, scale=1.0):
    """Query, key, value and the gradient that comes back to the output, none for padding."""
    shape = (len(plan.position_blocks), num_heads, head_dim)
    states = [(scale * torch.randn(shape)).to(dtype) for _ in range(4)]
    if plan.is_real is not None:
        states[3][~plan.is_real] = 0.0
    return states


def outputs_and_gradients(form, query, key, value, upstream, plan, *args):
    states = [states.detach().clone().requires_grad_() for states in (query, key, value)]
    output = form(*states, plan, SCALING, *args)
    output.backward(upstream)
    real = slice(None) if plan.is_real is None else plan.is_real
    return [output.detach()[real], *(states.grad for states in states)]


def compare(actual, expected, tolerance=1e-5):
    for name, values, reference in zip(("output", "query", "key", "value"), actual, expected, strict=True):
        torch.testing.assert_close(
            values, reference, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("per_block", [1, 2])
@every_case
@both_forms
def test_equals_softmax_over_what_is_seen(form, case, per_block):
    plan = make_plan(case, per_block)
    for num_heads, dtype, tolerance in ((1, torch.float32, 1e-5), (3, torch.float64, 1e-12)):
        states = make_states(plan, num_heads, dtype=dtype)
        expected = outputs_and_gradients(softmax_attention, *states, plan)
        compare(outputs_and_gradients(form, *states, plan), expected, tolerance)


@both_forms
def test_padding_in_the_stream_is_not_seen(form):
    plan = padded_plan()
    states = make_states(plan)
    expected = outputs_and_gradients(softmax_attention, *states, plan)
    compare(outputs_and_gradients(form, *states, plan), expected)
    clean = outputs_and_gradients(form, *states, plan)
    for poison in (1e6, -1e6):
        for part in states[1:3]:
            part[~plan.is_real] = poison
        results = outputs_and_gradients(form, *states, plan)
        assert all(values.isfinite().all() for values in results)
        compare(results, clean, 1e-6)


@every_case
def test_short_documents_take_one_dense_call(case, monkeypatch):
    plan = make_plan(case)
    assert (plan.visible is None) == plan.sees_everything and not plan.sees_everything
    # Kernels differ on a row that sees nothing.
    assert plan.visible.any(dim=-1).all()
    states = make_states(plan)

    def dense(query, key, value, plan, scaling):
        return dense_attention(query, key, value, plan.documents, scaling, 0.0, plan.visible)

    compare(outputs_and_gradients(dense, *states, plan), outputs_and_gradients(softmax_attention, *states, plan))
    longest = max(len(row) for row in plan.documents.rows(torch.arange(len(plan.position_blocks))))
    for limit, is_short in ((longest, True), (longest - 1, False)):
        monkeypatch.setattr(block_plan, "MAX_DENSE_LENGTH", limit)
        assert (make_plan(case).visible is not None) == is_short


@pytest.mark.parametrize("sizes", [[7, 7], [12, 1, 0, 5]])
def test_documents_in_which_everything_is_seen_take_one_without_a_table(sizes):
    plan = BlockPlan.build(SparsePattern.full(4, True), 1, (1, sum(sizes)), torch.device("cpu"), sizes=sizes)
    assert plan.sees_everything and plan.visible is None
    states = make_states(plan)

    def dense(query, key, value, plan, scaling):
        return dense_attention(query, key, value, plan.documents, scaling)

    compare(outputs_and_gradients(dense, *states, plan), outputs_and_gradients(softmax_attention, *states, plan))


@both_forms
def test_takes_states_of_any_layout(form):
    plan = make_plan("several lengths")
    states = make_states(plan)
    expected = outputs_and_gradients(softmax_attention, *states, plan)
    inputs = [part.permute(2, 0, 1).contiguous().permute(1, 2, 0).detach().requires_grad_() for part in states[:3]]
    assert not inputs[0].is_contiguous()
    output = form(*inputs, plan, SCALING)
    gradients = torch.autograd.grad(output, inputs, states[3].transpose(0, 1).contiguous().transpose(0, 1))
    compare([output.detach(), *gradients], expected)


@pytest.mark.slow
def test_gradcheck_with_dropout(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SCORES", 200)
    plan = make_plan("many global blocks")
    states = [part.requires_grad_() for part in make_states(plan, 1, head_dim=2, dtype=torch.float64)[:3]]
    assert gradcheck(lambda *parts: _CpuBlockAttention.apply(*parts, plan, SCALING, 0.4, 7), states)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@every_case
def test_half_precision_is_computed_in_fp32_and_rounded_once(case, dtype):
    plan = make_plan(case)
    states = make_states(plan, dtype=dtype)
    exact = outputs_and_gradients(block_attention, *(part.float() for part in states), plan)
    for values, reference in zip(outputs_and_gradients(block_attention, *states, plan), exact, strict=True):
        assert values.dtype == dtype and torch.equal(values, reference.to(dtype))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@every_case
@both_forms
def test_half_precision_is_close_to_fp32(form, case, dtype):
    plan = make_plan(case)
    states = make_states(plan, dtype=dtype, scale=0.5)
    exact = outputs_and_gradients(softmax_attention, *(part.float() for part in states), plan)
    results = outputs_and_gradients(form, *states, plan)
    assert all(values.dtype == dtype for values in results)
    compare([values.float() for values in results], exact, 2e-2)


@every_case
def test_chunks_of_any_size_give_one_result(case, monkeypatch):
    plan = make_plan(case)
    states = make_states(plan)
    whole = outputs_and_gradients(block_attention, *states, plan)
    # Of one position of one head; of some blocks, of which a number does not divide a document's; of more than there is.
    for size in (1, 200, 500, 1100, 2**20):
        monkeypatch.setattr(module, "CHUNK_SCORES", size)
        compare(outputs_and_gradients(block_attention, *states, plan), whole, 1e-6)


@pytest.mark.parametrize("size", [1, 300, 2**20])
@every_case
def test_every_position_is_once_among_the_queries_of_a_chunk(case, size, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SCORES", size)
    plan, num_heads = make_plan(case), 3
    length = len(plan.position_blocks)
    numbers = torch.arange(length * num_heads, dtype=torch.float32).view(length, num_heads, 1)
    visible, covered = visible_in(plan), []
    for queries, keys in _chunks(plan, num_heads):
        rows, columns = queries.of(numbers)[..., 0], torch.cat([part.of(numbers)[..., 0] for part in keys], dim=1)
        covered.append(rows.flatten())
        assert columns.numel() * rows.shape[1] <= size or rows.numel() == 1
        for row, column in zip(rows.long(), columns.long(), strict=True):
            # Of one head, and all that is seen, once.
            assert len({*(row % num_heads).tolist(), *(column % num_heads).tolist()}) == 1
            for query in row // num_heads:
                assert sorted((column // num_heads).tolist()) == visible[query].nonzero().flatten().tolist()
    assert sorted(torch.cat(covered).tolist()) == list(range(length * num_heads))


def make_one_hot_values(plan, num_heads=2):
    """States under which the output is the matrix of attention weights."""
    length = len(plan.position_blocks)
    query, key, _, upstream = make_states(plan, num_heads, length, scale=0.5)
    return query, key, torch.eye(length)[:, None].repeat(1, num_heads, 1), upstream


@pytest.mark.parametrize("chunk_scores", [1, 1000, 2**19])
@every_case
def test_backward_drops_the_weights_that_forward_dropped(case, chunk_scores, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SCORES", chunk_scores)
    plan = make_plan(case)
    query, key, value, upstream = make_one_hot_values(plan)
    clean = softmax_attention(query, key, value, plan, SCALING) * visible_in(plan)[:, None]
    dropped, query_gradient, key_gradient, value_gradient = outputs_and_gradients(
        block_attention, query, key, value, upstream, plan, 0.5
    )
    kept = dropped != 0
    torch.testing.assert_close(dropped, torch.where(kept, 2 * clean, 0.0))
    assert 0.4 < kept.sum() / (clean != 0).sum() < 0.6
    # The chain rule by hand, with the weights that the output shows.
    torch.testing.assert_close(value_gradient, torch.einsum("phq,phd->qhd", dropped, upstream), rtol=1e-5, atol=1e-5)
    slopes = torch.einsum("phd,qhd->phq", upstream, value) * kept * 2
    slopes = SCALING * clean * (slopes - (slopes * clean).sum(-1, keepdim=True))
    for gradient, expected in (
        (query_gradient, torch.einsum("phq,qhd->phd", slopes, key)),
        (key_gradient, torch.einsum("phq,phd->qhd", slopes, query)),
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


@both_forms
def test_dropout_keeps_the_expected_output(form):
    plan = make_plan("plain")
    query, key, value, _ = (states[:, :1].expand(-1, 2000, -1) for states in make_one_hot_values(plan))
    clean = softmax_attention(query[:, :1], key[:, :1], value[:, :1], plan, SCALING) * visible_in(plan)[:, None]
    output = form(query, key, value, plan, SCALING, 0.3)
    assert abs((output != 0).sum() / (2000 * (clean != 0).sum()) - 0.7) < 0.005
    # Five standard errors of a weight that is 0 three times in ten.
    bound = 5 * clean[:, 0] * (0.3 / 0.7 / 2000) ** 0.5 + 1e-7
    assert ((output.mean(dim=1) - clean[:, 0]).abs() <= bound).all()


def test_dropout_of_heads_documents_and_rows_differs():
    plan = make_plan("plain")
    query, key, value, _ = (
        states[:1, :1].expand(len(plan.position_blocks), 2, -1) for states in make_one_hot_values(plan)
    )
    value = make_one_hot_values(plan)[2]
    kept = block_attention(query, key, value, plan, SCALING, 0.5) != 0
    first, second = kept[:30].clone(), kept[30:].clone()
    assert not torch.equal(kept[:, 0], kept[:, 1]) and not torch.equal(first[:, :, :30], second[:, :, 30:])
    assert len({tuple(row) for row in kept[:, 0].tolist()}) > 0.9 * len(kept)


def test_dropout_of_everything_gives_zeros():
    plan = make_plan("several lengths")
    for values in outputs_and_gradients(block_attention, *make_states(plan), plan, 1.0):
        assert (values == 0).all()


def test_a_seed_reproduces_dropout():
    plan = make_plan("several lengths")
    states = make_states(plan)

    def run(seed):
        torch.manual_seed(seed)
        return outputs_and_gradients(block_attention, *states, plan, 0.5)

    first, second, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    torch.manual_seed(3)
    assert not torch.equal(first[0], outputs_and_gradients(block_attention, *states, plan, 0.4)[0])
    calls = [block_attention(*states[:3], plan, SCALING, 0.5) for _ in range(2)]
    assert not torch.equal(*calls)


def test_no_random_number_is_drawn_without_dropout():
    plan = make_plan("plain")
    states = make_states(plan)
    before = torch.get_rng_state()
    outputs_and_gradients(block_attention, *states, plan)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpointing_gives_the_same_gradients(dropout):
    plan = make_plan("several lengths")
    *inputs, upstream = make_states(plan)
    inputs = [states.requires_grad_() for states in inputs]

    def attend(*states):
        return block_attention(*states, plan, SCALING, dropout)

    torch.manual_seed(3)
    expected = torch.autograd.grad(attend(*inputs), inputs, upstream)
    torch.manual_seed(3)
    output = checkpoint(attend, *inputs, use_reentrant=False)
    torch.randn(5)
    for actual, gradient in zip(torch.autograd.grad(output, inputs, upstream), expected, strict=True):
        assert torch.equal(actual, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dropout", [0.1, 0.25, 0.5, 0.9, 1.0])
def test_weights_are_dropped_or_grown(dropout, dtype):
    for shape in ((1, 1, 1), (1, 1, 3), (2, 5, 7), (8, 64, 256)):
        kept = _kept(torch.empty(shape, dtype=dtype), dropout, torch.Generator().manual_seed(3))
        assert kept.shape == shape and kept.dtype == dtype
        growth = torch.tensor(1 / (1 - dropout) if dropout < 1 else 0.0, dtype=dtype)
        assert ((kept == 0) | (kept == growth)).all()
    # Five standard errors of the share of 131072 weights.
    assert abs((kept != 0).double().mean() - (1 - dropout)) <= 5 * (dropout * (1 - dropout) / kept.numel()) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("num_global_blocks", [1, 8])
def test_no_tensor_is_larger_than_the_input_or_a_chunk(num_global_blocks, dropout, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SCORES", 2**12)
    for num_tokens in (256, 1024, 4090):
        pattern = SparsePattern(4, num_global_blocks=num_global_blocks)
        plan = plan_batch(pattern, 1, (2, num_tokens), torch.device("cpu"))
        plan = plan._replace(visible=None)
        states = make_states(plan, 2, head_dim=4)
        with LargestTensor() as largest:
            outputs_and_gradients(block_attention, *states, plan, dropout)
        # The scores of one query in a document are a chunk of their own.
        assert largest.numel <= max(states[0].numel(), 2**12), (num_tokens, largest.numel)


def test_only_query_key_and_value_are_kept_for_the_backward_pass():
    plan = make_plan("several lengths")
    states = make_states(plan)[:3]
    output = block_attention(*(states.requires_grad_() for states in states), plan, SCALING, 0.5)
    saved = output.grad_fn.saved_tensors
    assert [tensor.data_ptr() for tensor in saved] == [tensor.data_ptr() for tensor in states]


def test_nothing_is_kept_without_gradients():
    plan = make_plan("several lengths")
    query, key, value = (states.requires_grad_() for states in make_states(plan)[:3])
    kept = [weakref.ref(states) for states in (query, key, value)]
    with torch.no_grad():
        output = block_attention(query, key, value, plan, SCALING, 0.5)
    del query, key, value
    assert not output.requires_grad
    assert [reference() for reference in kept] == [None] * 3


@both_forms
def test_what_is_not_seen_may_hold_anything_finite(form):
    plan = make_plan("flat")
    states = make_states(plan)
    clean = outputs_and_gradients(form, *states, plan)
    visible = visible_in(plan)
    poisoned = [part.clone() for part in states]
    poisoned[1][-1] = poisoned[2][-1] = 1e30
    results = outputs_and_gradients(form, *poisoned, plan)
    unaware = ~visible[:, -1]
    assert unaware.any() and not unaware.all()
    torch.testing.assert_close(results[0][unaware], clean[0][unaware], rtol=1e-6, atol=1e-6)


def test_a_second_derivative_is_refused():
    plan = make_plan("plain")
    query, key, value, _ = make_states(plan)
    query.requires_grad_()
    output = block_attention(query, key, value, plan, SCALING)
    (gradient,) = torch.autograd.grad(output.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_function_transforms_take_the_gathered_form(monkeypatch):
    calls = []

    def spy(*args):
        calls.append(args)
        return gathered_block_attention(*args)

    monkeypatch.setattr(module, "gathered_block_attention", spy)
    plan = make_plan("several lengths")
    query, key, value, upstream = make_states(plan)
    _, expected, *_ = outputs_and_gradients(block_attention, query, key, value, upstream, plan)
    assert calls == []
    gradient = torch.func.grad(lambda query: (block_attention(query, key, value, plan, SCALING) * upstream).sum())(
        query
    )
    assert len(calls) == 1
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_autocast_changes_the_layers_around_and_not_the_function():
    plan = make_plan("several lengths")
    query, key, value, upstream = (part.requires_grad_() for part in make_states(plan, dtype=torch.bfloat16))
    results = []
    for is_enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_enabled):
            output = block_attention(query, key, value, plan, SCALING)
            gradients = torch.autograd.grad(output, (query, key, value), upstream)
        results.append((output, *gradients))
    for without, within in zip(*results, strict=True):
        assert within.dtype == torch.bfloat16
        assert torch.equal(without, within)
