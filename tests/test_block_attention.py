# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Attention by block table: the CPU function and the gathered form against a plain softmax under a dense mask."""

import weakref

import pytest
import torch
from test_hst_attention import LargestTensor
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from ernie_sparse import block_attention as module
from ernie_sparse.block_attention import (
    BlockRows,
    _chunks,
    _CpuBlockAttention,
    _kept,
    block_attention,
    gathered_block_attention,
)

NUM_BLOCKS, PER_BLOCK, HEAD_DIM = 6, 4, 5
SCALING = 0.7
HALF = [torch.bfloat16, torch.float16]
FORMS = {"cpu": block_attention, "gathered": gathered_block_attention}
# Query blocks and key blocks of each table.
TABLES = {
    "rows_of_one_block": [([[0], [1], [2], [3], [4], [5]], [[5, 0, 1], [0, 1, 2], [1, 2, 3], [2, 4, 3], [5, 3, 4], [4, 5, 0]])],
    "a_row_of_all_blocks": [([[0, 1, 2, 3, 4, 5]], [[0, 1, 2, 3, 4, 5]])],
    "a_row_in_another_order": [([[0, 1, 2, 3, 4, 5]], [[3, 5, 0, 1, 4, 2]])],
    "rows_of_three_blocks": [([[0, 1, 2], [3, 4, 5]], [[4, 1], [2, 3]])],
    "a_wide_table_and_a_narrow_one": [([[0, 1]], [[0, 1, 2, 3, 4, 5]]), ([[2], [3], [4], [5]], [[0, 2], [4, 0], [1, 3], [5, 2]])],
    "a_last_row_of_all_blocks": [([[0, 1], [2, 3]], [[0, 1, 4], [2, 3, 5]]), ([[4, 5]], [[5, 2, 4, 1, 0, 3]])],
}  # fmt: skip
MASKS = ["none", "shared", "per_document", "per_document_with_empty_rows", "shared_with_empty_rows"]
every_table = pytest.mark.parametrize("table", TABLES)
every_mask = pytest.mark.parametrize("mask", MASKS)
both_forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def make_tables(table: str, mask: str = "none", batch_size: int = 3) -> tuple[BlockRows, ...]:
    """
    With a mask, rows that do not name all blocks have one column more: a filler that repeats their first key block and
    must not be seen.
    """
    tables = []
    for query_blocks, key_blocks in TABLES[table]:
        num_rows = len(query_blocks)
        queries = torch.tensor(query_blocks, dtype=torch.long).view(num_rows, -1 if num_rows else 1)
        keys = torch.tensor(key_blocks, dtype=torch.long).view(num_rows, -1 if num_rows else 2)
        if mask == "none":
            tables.append(BlockRows(queries, keys, None))
            continue
        real = torch.rand(1 if mask.startswith("shared") else batch_size, num_rows, keys.shape[1], PER_BLOCK) < 0.6
        real[:, :, 0, 1] = True
        if mask.endswith("empty_rows"):
            real[-1, -1:] = False
        if keys.shape[1] < NUM_BLOCKS:
            real = torch.cat([real, torch.zeros_like(real[:, :, :1])], dim=2)
            keys = torch.cat([keys, keys[:, :1]], dim=1)
        tables.append(BlockRows(queries, keys, real.flatten(2), may_see_nothing=mask.endswith("empty_rows")))
    return tuple(tables)


def dense_mask(tables: tuple[BlockRows, ...], batch_size: int, num_blocks: int, per_block: int) -> torch.Tensor:
    """`(batch_size, 1, num_blocks · per_block, num_blocks · per_block)`: which position sees which."""
    visible = torch.zeros(batch_size, num_blocks, per_block, num_blocks, per_block, dtype=torch.bool)
    for query_blocks, key_blocks, key_mask, *_ in tables:
        for row, (queries, keys) in enumerate(zip(query_blocks.tolist(), key_blocks.tolist(), strict=True)):
            for column, key in enumerate(keys):
                part = slice(column * per_block, (column + 1) * per_block)
                real = torch.ones(1, per_block, dtype=torch.bool) if key_mask is None else key_mask[:, row, part]
                visible[:, queries, :, key] |= real[:, None, None]
    return visible.flatten(3).flatten(1, 2)[:, None]


def dense_attention(query, key, value, tables, scaling):
    batch_size, _, num_blocks, per_block, _ = query.shape
    visible = dense_mask(tables, batch_size, num_blocks, per_block)
    query, key, value = (states.flatten(2, 3) for states in (query, key, value))
    scores = (query @ key.transpose(2, 3)) * scaling
    # The smallest finite number and not minus infinity: rows that see nothing stay finite and are cleared.
    weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1) * visible
    return (weights @ value).unflatten(2, (num_blocks, per_block))


def make_states(batch_size=3, num_heads=3, num_blocks=NUM_BLOCKS, head_dim=HEAD_DIM, dtype=torch.float32, scale=1.0):
    """Query, key, value and the gradient that comes back to the output."""
    shape = (batch_size, num_heads, num_blocks, PER_BLOCK, head_dim)
    return [(scale * torch.randn(shape)).to(dtype) for _ in range(4)]


def outputs_and_gradients(form, query, key, value, upstream, tables, *args):
    states = [states.detach().clone().requires_grad_() for states in (query, key, value)]
    output = form(*states, tables, SCALING, *args)
    output.backward(upstream)
    return [output.detach(), *(states.grad for states in states)]


def compare(actual, expected, tolerance=1e-5):
    for name, values, reference in zip(("output", "query", "key", "value"), actual, expected, strict=True):
        torch.testing.assert_close(
            values, reference, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def cpu_attention_with_seed(tables, dropout, seed=7):
    return lambda query, key, value: _CpuBlockAttention.apply(query, key, value, tables, SCALING, dropout, seed)


@every_mask
@every_table
@both_forms
def test_equals_softmax_under_a_dense_mask(form, table, mask):
    for batch_size, num_heads in ((1, 1), (1, 3), (3, 1), (3, 3)):
        tables = make_tables(table, mask, batch_size)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            states = make_states(batch_size, num_heads, dtype=dtype)
            expected = outputs_and_gradients(dense_attention, *states, tables)
            compare(outputs_and_gradients(form, *states, tables), expected, tolerance)


@both_forms
def test_takes_states_of_any_layout(form):
    tables = make_tables("a_wide_table_and_a_narrow_one", "per_document")
    states = make_states()
    expected = outputs_and_gradients(dense_attention, *states, tables)
    query, key, value = (states.permute(4, 0, 3, 2, 1).contiguous().permute(1, 4, 3, 2, 0) for states in states[:3])
    assert not query.is_contiguous()
    inputs = [states.detach().requires_grad_() for states in (query, key, value)]
    output = form(*inputs, tables, SCALING)
    gradients = torch.autograd.grad(output, inputs, states[3].transpose(1, 4).contiguous().transpose(1, 4))
    compare([output.detach(), *gradients], expected)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("mask", ["shared_with_empty_rows", "per_document_with_empty_rows"])
@every_table
@both_forms
def test_rows_that_see_nothing_are_zero_with_finite_gradients(form, table, mask, dtype):
    tables = make_tables(table, mask)
    query, key, value, upstream = make_states(dtype=dtype)
    sees_something = (
        dense_mask(tables, 3, NUM_BLOCKS, PER_BLOCK).any(-1).view(3, 1, NUM_BLOCKS, PER_BLOCK, 1).expand_as(query)
    )
    assert not sees_something.all()
    results = outputs_and_gradients(form, query, key, value, upstream, tables)
    assert all(values.isfinite().all() for values in results)
    output, query_gradient, *_ = results
    assert (output[~sees_something] == 0).all() and (query_gradient[~sees_something] == 0).all()
    assert (output[sees_something] != 0).all()


def test_gradcheck_with_dropout(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SCORES", 5 * PER_BLOCK * PER_BLOCK * 3)
    tables = make_tables("a_wide_table_and_a_narrow_one", "per_document_with_empty_rows", batch_size=2)
    states = [states.requires_grad_() for states in make_states(2, 1, head_dim=2, dtype=torch.float64)[:3]]
    assert gradcheck(cpu_attention_with_seed(tables, 0.4), states)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@every_mask
def test_half_precision_is_computed_in_fp32_and_rounded_once(mask, dtype):
    tables = make_tables("a_wide_table_and_a_narrow_one", mask)
    states = make_states(dtype=dtype)
    exact = outputs_and_gradients(block_attention, *(states.float() for states in states), tables)
    for values, reference in zip(outputs_and_gradients(block_attention, *states, tables), exact, strict=True):
        assert values.dtype == dtype
        assert torch.equal(values, reference.to(dtype))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@every_table
@both_forms
def test_half_precision_is_close_to_fp32(form, table, dtype):
    tables = make_tables(table, "per_document")
    states = make_states(dtype=dtype, scale=0.5)
    exact = outputs_and_gradients(dense_attention, *(states.float() for states in states), tables)
    results = outputs_and_gradients(form, *states, tables)
    assert all(values.dtype == dtype for values in results)
    compare([values.float() for values in results], exact, 2e-2)


@every_mask
@every_table
def test_chunks_of_any_size_give_one_result(table, mask, monkeypatch):
    tables = make_tables(table, mask)
    states = make_states()
    whole = outputs_and_gradients(block_attention, *states, tables)
    num_rows = [9 * len(rows.query_blocks) for rows in tables]
    assert len(list(_chunks(tables, states[0].shape))) == sum(rows > 0 for rows in num_rows)
    monkeypatch.setattr(module, "CHUNK_SCORES", 1)
    assert len(list(_chunks(tables, states[0].shape))) == sum(num_rows)
    compare(outputs_and_gradients(block_attention, *states, tables), whole, 1e-6)
    # As many scores as two and five rows of the first table have: neither divides the rows of a head.
    height, width = tables[0].query_blocks.shape[1], tables[0].key_blocks.shape[1]
    for rows_in_chunk in (2, 5):
        monkeypatch.setattr(module, "CHUNK_SCORES", rows_in_chunk * height * PER_BLOCK * width * PER_BLOCK)
        assert len(list(_chunks(tables[:1], states[0].shape))) == -(-num_rows[0] // rows_in_chunk)
        compare(outputs_and_gradients(block_attention, *states, tables), whole, 1e-6)


def make_one_hot_values(batch_size=2, num_heads=2, num_blocks=NUM_BLOCKS):
    """States under which the output is the matrix of attention weights."""
    sequence_length = num_blocks * PER_BLOCK
    query, key, _, upstream = make_states(batch_size, num_heads, num_blocks, head_dim=sequence_length, scale=0.5)
    value = (
        torch.eye(sequence_length)
        .view(num_blocks, PER_BLOCK, sequence_length)
        .expand(batch_size, num_heads, -1, -1, -1)
    )
    return query, key, value, upstream


@pytest.mark.parametrize("chunk_scores", [1, 1000, 2**19])
@pytest.mark.parametrize("mask", ["none", "per_document_with_empty_rows"])
@every_table
def test_backward_drops_the_weights_that_forward_dropped(table, mask, chunk_scores, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SCORES", chunk_scores)
    tables = make_tables(table, mask, batch_size=2)
    query, key, value, upstream = make_one_hot_values()
    clean = dense_attention(query, key, value, tables, SCALING).flatten(2, 3)
    output, query_gradient, key_gradient, value_gradient = outputs_and_gradients(
        block_attention, query, key, value, upstream, tables, 0.5
    )
    dropped = output.flatten(2, 3)
    kept = dropped != 0
    torch.testing.assert_close(dropped, torch.where(kept, 2 * clean, 0.0))
    assert 0.4 < kept.sum() / (clean != 0).sum() < 0.6
    # The chain rule by hand, with the weights that the output shows.
    upstream = upstream.flatten(2, 3)
    torch.testing.assert_close(value_gradient.flatten(2, 3), dropped.transpose(2, 3) @ upstream, rtol=1e-5, atol=1e-5)
    slopes = upstream @ value.flatten(2, 3).transpose(2, 3) * kept * 2
    slopes = SCALING * clean * (slopes - (slopes * clean).sum(-1, keepdim=True))
    for gradient, expected in (
        (query_gradient, slopes @ key.flatten(2, 3)),
        (key_gradient, slopes.transpose(2, 3) @ query.flatten(2, 3)),
    ):
        torch.testing.assert_close(gradient.flatten(2, 3), expected, rtol=1e-5, atol=1e-5)


@both_forms
def test_dropout_keeps_the_expected_output(form):
    tables = make_tables("a_wide_table_and_a_narrow_one")
    query, key, value, _ = (states[:1, :1].expand(2000, 1, -1, -1, -1) for states in make_one_hot_values())
    clean = dense_attention(query[:1], key[:1], value[:1], tables, SCALING)[0]
    output = form(query, key, value, tables, SCALING, 0.3)
    assert abs((output != 0).sum() / (2000 * (clean != 0).sum()) - 0.7) < 0.005
    # Five standard errors of a weight that is 0 three times in ten.
    bound = 5 * clean * (0.3 / 0.7 / 2000) ** 0.5
    assert ((output.mean(dim=0) - clean).abs() <= bound).all()


def test_dropout_of_heads_documents_and_rows_differs():
    tables = make_tables("rows_of_one_block")
    query, key, value, _ = (states[:1, :1].expand(2, 2, -1, -1, -1) for states in make_one_hot_values())
    kept = block_attention(query, key, value, tables, SCALING, 0.5).flatten(0, 1).flatten(1, 2) != 0
    assert len({tuple(row) for row in kept.flatten(1).tolist()}) == 4
    assert len({tuple(row) for row in kept[0].tolist()}) > 0.9 * kept.shape[1]


def test_dropout_of_everything_gives_zeros():
    tables = make_tables("a_wide_table_and_a_narrow_one", "per_document_with_empty_rows")
    for values in outputs_and_gradients(block_attention, *make_states(), tables, 1.0):
        assert (values == 0).all()


def test_a_seed_reproduces_dropout():
    tables, states = make_tables("a_wide_table_and_a_narrow_one"), make_states()

    def run(seed):
        torch.manual_seed(seed)
        return outputs_and_gradients(block_attention, *states, tables, 0.5)

    first, second, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    torch.manual_seed(3)
    assert not torch.equal(first[0], outputs_and_gradients(block_attention, *states, tables, 0.4)[0])
    calls = [block_attention(*states[:3], tables, SCALING, 0.5) for _ in range(2)]
    assert not torch.equal(*calls)


def test_no_random_number_is_drawn_without_dropout():
    state = torch.get_rng_state()
    outputs_and_gradients(block_attention, *make_states(), make_tables("rows_of_one_block"))
    before = torch.get_rng_state()
    torch.set_rng_state(state)
    make_states()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpointing_gives_the_same_gradients(dropout):
    tables, (*inputs, upstream) = make_tables("a_wide_table_and_a_narrow_one", "per_document"), make_states()
    inputs = [states.requires_grad_() for states in inputs]

    def attend(*states):
        return block_attention(*states, tables, SCALING, dropout)

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


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("is_masked", [False, True])
def test_no_tensor_is_larger_than_the_input_or_a_chunk(is_masked, dropout, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SCORES", 2**12)
    for num_blocks in (64, 256, 1024):
        blocks = torch.arange(num_blocks)
        keys = (blocks[2:, None] + torch.arange(-1, 2)).clamp(max=num_blocks - 1)
        wide = BlockRows(blocks[None, :2], blocks[None], None)
        narrow = BlockRows(blocks[2:, None], keys, None)
        if is_masked:
            wide, narrow = (
                rows._replace(
                    key_mask=torch.rand(1, len(rows.query_blocks), rows.key_blocks.shape[1] * PER_BLOCK) < 0.9
                )
                for rows in (wide, narrow)
            )
        states = make_states(2, 2, num_blocks, head_dim=PER_BLOCK)
        with LargestTensor() as largest:
            outputs_and_gradients(block_attention, *states, (wide, narrow), dropout)
        # The two wide query blocks are one row, which is never cut.
        assert largest.numel <= max(states[0].numel(), 2**12, 2 * PER_BLOCK * num_blocks * PER_BLOCK)


def test_only_query_key_and_value_are_kept_for_the_backward_pass():
    tables, states = make_tables("rows_of_one_block", "per_document"), make_states()[:3]
    output = block_attention(*(states.requires_grad_() for states in states), tables, SCALING, 0.5)
    saved = output.grad_fn.saved_tensors
    assert [tensor.data_ptr() for tensor in saved] == [tensor.data_ptr() for tensor in states]


def test_nothing_is_kept_without_gradients():
    tables = make_tables("rows_of_one_block", "per_document")
    query, key, value = (states.requires_grad_() for states in make_states()[:3])
    kept = [weakref.ref(states) for states in (query, key, value)]
    with torch.no_grad():
        output = block_attention(query, key, value, tables, SCALING, 0.5)
    del query, key, value
    assert not output.requires_grad
    assert [reference() for reference in kept] == [None] * 3


@both_forms
@pytest.mark.parametrize("poison", [1e30, -1e30])
def test_masked_keys_may_hold_anything_finite(poison, form):
    tables = tuple(
        rows._replace(key_mask=rows.key_mask & (rows.key_blocks != 4).repeat_interleave(PER_BLOCK, dim=1))
        for rows in make_tables("a_wide_table_and_a_narrow_one", "per_document_with_empty_rows")
    )
    query, key, value, upstream = make_states()
    clean = outputs_and_gradients(form, query, key, value, upstream, tables)
    key[:, :, 4] = value[:, :, 4] = poison
    poisoned = outputs_and_gradients(form, query, key, value, upstream, tables)
    compare(poisoned, clean, 1e-6)


def test_a_second_derivative_is_refused():
    tables, (query, key, value, _) = make_tables("rows_of_one_block"), make_states()
    query.requires_grad_()
    output = block_attention(query, key, value, tables, SCALING)
    (gradient,) = torch.autograd.grad(output.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_function_transforms_take_the_gathered_form(monkeypatch):
    calls = []

    def spy(*args):
        calls.append(args)
        return gathered_block_attention(*args)

    monkeypatch.setattr(module, "gathered_block_attention", spy)
    tables, (query, key, value, upstream) = make_tables("a_wide_table_and_a_narrow_one", "shared"), make_states()
    _, expected, *_ = outputs_and_gradients(block_attention, query, key, value, upstream, tables)
    assert calls == []
    gradient = torch.func.grad(lambda query: (block_attention(query, key, value, tables, SCALING) * upstream).sum())(
        query
    )
    assert len(calls) == 1
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
    mapped = torch.func.vmap(lambda *states: block_attention(*states, tables, SCALING))(
        *(states[:, None] for states in (query, key, value))
    )
    torch.testing.assert_close(mapped[:, 0], block_attention(query, key, value, tables, SCALING), rtol=1e-5, atol=1e-5)


def test_autocast_changes_the_layers_around_and_not_the_function():
    tables = make_tables("rows_of_one_block")
    query, key, value, upstream = (
        torch.randn(3, 2, NUM_BLOCKS, PER_BLOCK, HEAD_DIM).to(torch.bfloat16).requires_grad_() for _ in range(4)
    )
    results = []
    for is_enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_enabled):
            output = block_attention(query, key, value, tables, SCALING)
            gradients = torch.autograd.grad(output, (query, key, value), upstream)
        results.append((output, *gradients))
    for without, within in zip(*results, strict=True):
        assert within.dtype == torch.bfloat16
        assert torch.equal(without, within)
