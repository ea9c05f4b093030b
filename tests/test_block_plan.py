# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The plan of a batch against its definition: every position of every document listed in plain Python."""

import itertools

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor

from ernie_sparse import SparsePattern
from ernie_sparse.block_plan import BlockPlan, BlockTables, Documents, plan_batch
from ernie_sparse.sparse_pattern import MOST

CPU = torch.device("cpu")


@st.composite
def patterns(draw):
    block_size = draw(st.integers(1, 9))
    return SparsePattern(
        block_size,
        draw(st.sampled_from((1, 3, 5))),
        draw(st.sampled_from((0, 1, 2, 5, 2**31 - 1))),
        draw(st.integers(0, 3)),
        draw(st.integers(0, block_size - 1)),
        draw(st.booleans()),
        draw(st.integers(0, 9)),
    )


def listed(pattern: SparsePattern, sizes: list[int], per_block: int) -> list[tuple[int, int, int | None]]:
    """The stream: of every position its document, its block, and its token (`None` for a representative)."""
    stream = []
    for document, size in enumerate(sizes):
        for block in range(pattern.num_blocks(size) if size else 0):
            stream += [(document, block, None)] * (per_block if pattern.hierarchical else 0)
            tokens = [t for t in range(size) if (t + pattern.block_shift) // pattern.block_size == block]
            stream += [(document, block, token) for token in tokens]
    return stream


def defined(pattern: SparsePattern, sizes: list[int], stream) -> torch.Tensor:
    """Which position of the stream sees which."""
    sees = [[d == e and pattern.sees(b, c, pattern.num_blocks(sizes[d])) for e, c, _ in stream] for d, b, _ in stream]
    return torch.tensor(sees, dtype=torch.bool).view(len(stream), len(stream))


def in_the_tables(plan: BlockPlan) -> torch.Tensor:
    """The same, read off the block tables and the global parts."""
    length = len(plan.position_blocks)
    visible = torch.zeros(length, length, dtype=torch.bool)
    tables = BlockTables.of(plan)
    for block, (keys, mask) in enumerate(zip(tables.key_places, tables.key_mask, strict=True)):
        queries = (plan.position_blocks == block).nonzero().flatten()
        visible[queries[:, None], keys[mask]] = True
    for row, (index, mask) in enumerate(zip(tables.global_parts.index, tables.global_parts.key_mask, strict=True)):
        document = plan.block_documents[plan.position_blocks] == row
        visible[index[mask & document[index]][:, None], document] = True
    return visible


def rows_of(documents: Documents, length: int) -> list[list[int]]:
    rows = documents.rows(torch.arange(length))
    if documents.key_mask is None:
        return rows.tolist()
    return [row[mask].tolist() for row, mask in zip(rows, documents.key_mask, strict=True)]


some_documents = st.lists(st.integers(0, 25), min_size=1, max_size=4).filter(any)


@settings(max_examples=150, deadline=None, derandomize=True, phases=[Phase.generate])
@given(pattern=patterns(), sizes=some_documents, is_one_size=st.booleans(), per_block=st.integers(1, 2))
def test_tables_say_what_the_pattern_says_of_every_document(pattern, sizes, is_one_size, per_block):
    if is_one_size:
        sizes = [max(sizes)] * len(sizes)
    plan = BlockPlan.build(pattern, per_block, (1, sum(sizes)), CPU, sizes=sizes)
    stream = listed(pattern, sizes, per_block)
    length, num_tokens = len(stream), sum(sizes)
    firsts = [0, *itertools.accumulate(sizes)]
    # Where everything stands.
    tokens = {(d, t): position for position, (d, _, t) in enumerate(stream) if t is not None}
    assert plan.tokens.tolist() == [tokens[d, t] for d, size in enumerate(sizes) for t in range(size)]
    assert plan.token_numbers.tolist() == [t for size in sizes for t in range(size)]
    assert plan.representatives.tolist() == [p for p, (_, _, token) in enumerate(stream) if token is None]
    joined = plan.join(torch.arange(num_tokens), torch.full((length - num_tokens,), -1))
    assert joined.tolist() == [-1 if t is None else firsts[d] + t for d, _, t in stream]
    blocks = list(dict.fromkeys((d, b) for d, b, _ in stream))
    assert [blocks[block] for block in plan.position_blocks.tolist()] == [(d, b) for d, b, _ in stream]
    assert list(zip(plan.block_documents.tolist(), plan.block_numbers.tolist(), strict=True)) == blocks
    of_blocks = [min(t for d, b, t in stream if (d, b) == block and t is not None) for block in blocks]
    assert plan.first_tokens.tolist() == [firsts[d] + t for (d, _), t in zip(blocks, of_blocks, strict=True)]
    begins = [[(d, b) for d, b, _ in stream].index(block) for block in blocks]
    assert plan.block_bounds.tolist() == [*begins, length]
    counts = [pattern.num_blocks(size) if size else 0 for size in sizes]
    assert plan.document_bounds.tolist() == [0, *itertools.accumulate(counts)]
    # Who sees whom.
    expected = defined(pattern, sizes, stream)
    assert torch.equal(in_the_tables(plan), expected)
    everything = plan.visibility(Documents(1))[0]
    assert torch.equal(everything, expected) or plan.sees_everything
    documents = torch.tensor([d for d, _, _ in stream])
    assert not plan.sees_everything or torch.equal(expected, documents[:, None] == documents)
    # The documents as rows, and those of the representatives.
    filled = [d for d, size in enumerate(sizes) if size]
    rows = rows_of(plan.documents, length)
    assert plan.documents.rows(torch.arange(length)).shape[1] == max(map(len, rows))
    assert [rows[d] for d in filled] == [(documents == d).nonzero().flatten().tolist() for d in filled]
    summaries, counts = rows_of(plan.summaries, len(plan.representatives)), plan.documents.count
    assert counts == len(sizes) and plan.num_tokens.tolist() == sizes
    assert [i for d in filled for i in summaries[d]] == list(range(len(plan.representatives)))
    for part, size in ((plan.documents, length), (plan.summaries, len(plan.representatives))):
        assert torch.equal(part.stream(part.rows(torch.arange(size))), torch.arange(size))
    # Every result is found: those of blocks behind each other, and then those of the global parts.
    tables = BlockTables.of(plan)
    places, parts = tables.places.flatten(), tables.global_parts
    for position, result in enumerate(tables.results.tolist()):
        if result < len(places):
            assert places[result] == position
            assert plan.block_numbers[plan.position_blocks[position]] >= plan.num_global_blocks
        else:
            row, column = divmod(result - len(places), parts.index.shape[1])
            assert parts.index[row, column] == position and parts.key_mask[row, column]
            assert plan.block_numbers[plan.position_blocks[position]] < plan.num_global_blocks


MASKS = {
    "none": None,
    "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
    "left": [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]],
    "holes": [[0, 1, 0, 0, 1], [1, 0, 1, 0, 1]],
    "an empty row": [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0]],
    "one length": [[0, 1, 1, 0, 0], [1, 1, 0, 0, 0]],
}


@pytest.mark.parametrize("name", MASKS)
def test_a_document_is_what_is_real_of_a_row(name):
    pattern, mask = SparsePattern(2, block_shift=1), None if MASKS[name] is None else torch.tensor(MASKS[name])
    plan = plan_batch(pattern, 1, (2, 5), CPU, mask)
    is_real = torch.ones(2, 5, dtype=torch.long) if mask is None else mask
    sizes = is_real.sum(1).tolist()
    assert torch.equal(in_the_tables(plan), defined(pattern, sizes, listed(pattern, sizes, 1)))
    batch = torch.arange(1, 11).view(2, 5)
    assert torch.equal(plan.take(batch), batch[is_real.bool()])
    stream = plan.join(plan.take(batch), torch.zeros_like(plan.representatives))[:, None]
    assert torch.equal(plan.give(stream)[..., 0], batch * is_real)
    assert torch.equal(plan.take(batch[:1])[: sizes[0]], plan.take(batch)[: sizes[0]])


@pytest.mark.parametrize("name", [name for name in MASKS if name != "none"])
@pytest.mark.parametrize("num_random_blocks", [0, 2])
def test_a_static_plan_has_the_same_documents_and_padding_behind_them(name, num_random_blocks):
    pattern, mask = SparsePattern(1, 1, 1, num_random_blocks, 0), torch.tensor(MASKS[name])
    plan, static = (plan_batch(pattern, 1, (2, 5), CPU, mask, is_static=static) for static in (False, True))
    shapes = plan_batch(pattern, 1, (2, 5), CPU, torch.ones_like(mask), is_static=True)
    for one, other in zip([*static, *static.tables], [*shapes, *shapes.tables], strict=True):
        assert not isinstance(one, torch.Tensor) or one.shape == other.shape
    is_real = static.is_real
    assert torch.equal(static.take(torch.arange(10).view(2, 5))[is_real[static.tokens]], plan.sources)
    visible = in_the_tables(static)[is_real][:, is_real]
    assert torch.equal(visible, in_the_tables(plan))
    # Kernels differ on a row that sees nothing.
    for mask_of_rows in (static.tables.key_mask, static.documents.key_mask, static.summaries.key_mask):
        assert mask_of_rows.any(dim=1).all()
    # Nothing real sees padding.
    seen = [keys[mask] for keys, mask in zip(static.tables.key_places, static.tables.key_mask, strict=True)]
    of_real = [is_real[first:end].any() for first, end in itertools.pairwise(static.block_bounds)]
    assert all(is_real[places].all() for places, real in zip(seen, of_real, strict=True) if real)


def test_a_batch_without_a_token_comes_out_as_zeros():
    plan = plan_batch(SparsePattern(2), 1, (2, 3), CPU, torch.zeros(2, 3))
    assert not plan.is_real.any() and (plan.give(torch.ones(len(plan.position_blocks), 4)) == 0).all()


def test_several_documents_in_a_row():
    pattern = SparsePattern(2)
    bounds = torch.tensor([0, 3, 5, 5, 10], dtype=torch.int32)
    plan = plan_batch(pattern, 1, (2, 5), CPU, None, bounds)
    assert plan.num_tokens.tolist() == [3, 2, 0, 5] and plan.sources is None
    assert plan.token_numbers.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3, 4]
    assert plan_batch(pattern, 1, (2, 5), CPU, torch.ones(2, 5), bounds).num_tokens.tolist() == [3, 2, 0, 5]
    mask = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 1, 1]])
    plan = plan_batch(pattern, 1, (2, 5), CPU, mask, bounds)
    assert plan.num_tokens.tolist() == [2, 1, 0, 4] and plan.sources.tolist() == [0, 1, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("bounds", [[0, 3, 10], [0, 5, 9], [1, 5, 10], [0, 7, 5, 10], [[0, 5, 10]], [0, 10]])
def test_documents_that_do_not_cover_the_batch_in_order_are_refused(bounds):
    with pytest.raises(ValueError, match="cu_seq_lens_q has to rise from 0 to 10"):
        plan_batch(SparsePattern(2), 1, (2, 5), CPU, None, torch.tensor(bounds))


def test_tables_do_not_grow_with_the_document():
    pattern = SparsePattern(8, num_window_blocks=5, num_global_blocks=2, num_random_blocks=3)
    assert BlockTables.of(plan_batch(pattern, 1, (1, 2400), CPU)).key_places.shape == (300, 10 * 9)


@pytest.mark.parametrize("more", [{}, {"block_shift": MOST - 1}, {"num_global_blocks": 0}])
@pytest.mark.parametrize("is_static", [True, False])
def test_a_plan_of_huge_blocks_costs_what_its_documents_do(is_static, more):
    mask = torch.ones(2, 40, dtype=torch.long)
    with LargestTensor() as largest:
        plan = plan_batch(SparsePattern(MOST, **more), 1, (2, 40), CPU, mask, is_static=is_static)
        BlockTables.of(plan)
    assert plan.block_width == 41 and largest.numel <= (2 * 41) ** 2


def test_a_plan_is_made_without_reading_anything_back(monkeypatch):
    """But for the sizes of the documents, once: each reading would stop a GPU."""
    read = []
    for name in ("item", "tolist", "__bool__", "__int__", "nonzero"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, original=original, name=name, **kwargs):
            read.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    pattern, mask = SparsePattern(2, num_random_blocks=1), torch.tensor(MASKS["left"])
    plan_batch(pattern, 1, (2, 5), CPU)
    plan_batch(pattern, 1, (2, 5), CPU, mask, is_static=True)
    assert read == []
    plan_batch(pattern, 1, (2, 5), CPU, mask)
    assert read == ["tolist"]
