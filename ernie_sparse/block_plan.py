# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
The plan of one call: a batch as a list of documents, and a pattern as tables of indices over them. Made once per forward.

What a layer reads and writes is the *stream*: the documents one after the other, each block by block, its representatives and
then its tokens. Padding is not in it. Under a compiler, whose shapes must not depend on data, every place of the batch is in
it, padding behind each document's tokens.
"""

import itertools
from typing import NamedTuple

import torch

from .block_kernel import KernelTables, runs_on
from .sparse_pattern import SparsePattern, random_columns

# Up to 512 tokens and their representatives, one dense call under a mask takes no longer than blocks do.
MAX_DENSE_LENGTH = 576


class Documents(NamedTuple):
    """
    Parts of a stream, one of each document, as rows.

    Args:
        count (`int`): How many.
        index (`torch.LongTensor` of shape `(count, max_length)`, *optional*):
            The positions in the stream, filled up with 0. `None` where the rows, one after the other, are the stream.
        key_mask (`torch.BoolTensor` of shape `(count, max_length)`, *optional*):
            `False` where `index` is a filler, or a position is of padding, but for rows in which nothing else stands: what
            sees nothing would be NaN. `None` where all is real.
        places (`torch.LongTensor` of shape `(length,)`, *optional*): The place of every position in the flat rows.
    """

    count: int
    index: torch.Tensor | None = None
    key_mask: torch.Tensor | None = None
    places: torch.Tensor | None = None

    @classmethod
    def of(cls, bounds: torch.Tensor, largest: int, documents: torch.Tensor | None, is_real: torch.Tensor | None):
        """
        A whole stream, cut at `bounds`, `(count + 1,)`.

        Args:
            largest (`int`): The largest number of positions in a row.
            documents (`torch.LongTensor` of shape `(length,)`, *optional*): The row of every position; `None` for equal rows.
            is_real (`torch.BoolTensor` of shape `(length,)`, *optional*): `False` for positions of padding.
        """
        count = bounds.shape[0] - 1
        if documents is None:
            return cls(count, None, None if is_real is None else _see_something(is_real.unflatten(0, (count, -1))))
        position = torch.arange(documents.shape[0], device=bounds.device)
        places = documents * largest + position - bounds[documents]
        return cls.heads_of(bounds, bounds[1:], largest, is_real)._replace(places=places)

    @classmethod
    def heads_of(
        cls, bounds: torch.Tensor, ends: torch.Tensor, largest: int, is_real: torch.Tensor | None
    ) -> "Documents":
        """The positions from each of `bounds` but the last up to `ends`, `(count,)`, of which `largest` are the most."""
        index = bounds[:-1, None] + torch.arange(largest, device=bounds.device)
        is_filled = index < ends[:, None]
        index = torch.where(is_filled, index, 0)
        key_mask = _see_something(is_filled if is_real is None else is_filled & is_real[index])
        return cls(ends.shape[0], index, key_mask)

    def rows(self, stream: torch.Tensor) -> torch.Tensor:
        """`(length, …)` to `(count, max_length, …)`."""
        if self.index is None:
            return stream.unflatten(0, (self.count, -1))
        return stream.index_select(0, self.index.flatten()).unflatten(0, self.index.shape)

    def stream(self, rows: torch.Tensor) -> torch.Tensor:
        """The inverse of [`Documents.rows`]."""
        rows = rows.flatten(0, 1)
        return rows if self.places is None else rows.index_select(0, self.places)


def _see_something(mask: torch.Tensor) -> torch.Tensor:
    return mask | ~mask.any(dim=-1, keepdim=True)


class _Spread(NamedTuple):
    """
    Things one after the other, of which each document has some: the document of each, its number there; how many each document
    has and where they begin; how many there are, and at most in a document, both known without reading anything back.
    """

    document: torch.Tensor
    number: torch.Tensor
    sizes: torch.Tensor
    bounds: torch.Tensor
    total: int
    most: int
    is_one_size: bool

    @classmethod
    def of(cls, sizes: list[int] | None, count: int, size: int, device: torch.device) -> "_Spread":
        """`sizes` of them or, where that is `None`, `size` in each of `count` documents."""
        if sizes is not None and len(set(sizes)) == 1:
            count, size, sizes = len(sizes), sizes[0], None
        if sizes is None:
            # Repeated, and not divided: ONNX has no remainder by a size.
            number = torch.arange(size, device=device).repeat(count)
            documents = torch.arange(count + 1, device=device)
            document = documents[:-1, None].repeat(1, size).flatten()
            each = torch.full((count,), size, device=device)
            return cls(document, number, each, documents * size, count * size, size, True)
        each, total = torch.tensor(sizes, device=device), sum(sizes)
        bounds = torch.nn.functional.pad(each.cumsum(0), (1, 0))
        document = torch.arange(len(sizes), device=device).repeat_interleave(each, output_size=total)
        number = torch.arange(total, device=device) - bounds[document]
        return cls(document, number, each, bounds, total, max(sizes), False)


def _joined(tokens: torch.Tensor, of_tokens, representatives: torch.Tensor, of_representatives) -> torch.Tensor:
    """A stream of what stands at the positions of tokens and at those of representatives."""
    if representatives.shape[0] == 0:
        return of_tokens
    stream = of_tokens.new_empty(tokens.shape[0] + representatives.shape[0], *of_tokens.shape[1:])
    return stream.index_copy_(0, tokens, of_tokens).index_copy_(0, representatives, of_representatives)


class BlockTables(NamedTuple):
    """
    Who sees whom as rows that can be gathered, one per block. A block has `S` places; those behind what it holds are filled up.

    Args:
        places (`torch.LongTensor` of shape `(N, S)`): The position in every place of the blocks, filled up with 0.
        key_places (`torch.LongTensor` of shape `(N, W * S)`): The positions in the `W` blocks that each block sees.
        key_mask (`torch.BoolTensor` of shape `(N, W * S)`): Which of them it sees.
        global_parts ([`Documents`]): The global blocks of every document, which see all of it.
        results (`torch.LongTensor` of shape `(P,)`): Every position in `places`, or behind them in `global_parts`.
    """

    places: torch.Tensor
    key_places: torch.Tensor
    key_mask: torch.Tensor
    global_parts: Documents
    results: torch.Tensor

    @classmethod
    def of(cls, plan: "BlockPlan") -> "BlockTables":
        device, num_global = plan.block_bounds.device, plan.num_global_blocks
        first, end = (bounds[plan.block_documents, None] for bounds in (plan.document_bounds, plan.document_bounds[1:]))
        places = plan.block_bounds[:-1, None] + torch.arange(plan.block_width, device=device)
        is_real = places < plan.block_bounds[1:, None]
        places = torch.where(is_real, places, 0)
        if plan.is_real is not None:
            is_real = is_real & plan.is_real[places]
        head = first + torch.arange(num_global, device=device)
        window = first + plan.block_numbers[:, None] + torch.arange(-plan.reach, plan.reach + 1, device=device)
        is_seen = [head < end, (window >= first + num_global) & (window < end), plan.random_blocks >= 0]
        is_seen, key_blocks = torch.cat(is_seen, dim=1), torch.cat([head, window, first + plan.random_blocks], dim=1)
        key_blocks = torch.where(is_seen, key_blocks, 0)
        bounds = plan.block_bounds[plan.document_bounds]
        ends = plan.block_bounds[torch.minimum(plan.document_bounds[:-1] + num_global, plan.document_bounds[1:])]
        global_parts = Documents.heads_of(bounds, ends, num_global * plan.block_width, plan.is_real)
        position = torch.arange(plan.position_blocks.shape[0], device=device)
        row, block = plan.block_documents[plan.position_blocks], plan.position_blocks
        in_global = places.numel() + row * (num_global * plan.block_width) + position - bounds[row]
        in_block = block * plan.block_width + position - plan.block_bounds[block]
        return cls(
            places=places,
            key_places=places[key_blocks].flatten(1),
            key_mask=_see_something((is_seen[:, :, None] & is_real[key_blocks]).flatten(1)),
            global_parts=global_parts,
            results=torch.where(position < ends[row], in_global, in_block),
        )


class BlockPlan(NamedTuple):
    """
    Who sees whom in one call. The stream's `P` positions are `T` tokens and `M` representatives in `N` blocks.

    Args:
        sources (`torch.LongTensor` of shape `(T,)`, *optional*):
            The place of every token in the flat batch; `None` where every place holds one, in order.
        is_real (`torch.BoolTensor` of shape `(P,)`, *optional*): `False` for positions of padding; `None` where there are none.
        token_numbers (`torch.LongTensor` of shape `(T,)`): The number of every token in its document.
        num_tokens (`torch.LongTensor` of shape `(num_documents,)`): The real tokens of every document.
        heads (`torch.LongTensor` of shape `(num_documents,)`): The position of every document's first token.
        tokens, representatives (`torch.LongTensor` of shape `(T,)`, `(M,)`): Their positions.
        first_tokens (`torch.LongTensor` of shape `(N,)`): The first token of every block.
        block_bounds (`torch.LongTensor` of shape `(N + 1,)`): The position where every block begins, and where the last one ends.
        document_bounds (`torch.LongTensor` of shape `(num_documents + 1,)`): The first block of every document, and `N`.
        position_blocks (`torch.LongTensor` of shape `(P,)`): The block of every position.
        block_numbers, block_documents (`torch.LongTensor` of shape `(N,)`): The number of every block in its document, and that.
        random_blocks (`torch.LongTensor` of shape `(N, r)`): The random blocks that each block sees, so numbered; -1 for none.
        documents, summaries ([`Documents`]): In the stream, and in that of the representatives alone.
        num_global_blocks, reach (`int`): Of the pattern: its global blocks, and how far its window goes to each side.
        block_width (`int`): The positions of a full block, or as many as the longest document fills of one.
        num_representatives (`int`): How many of them are representatives.
        sees_everything (`bool`): Whether every position sees all of its document.
        batch (`torch.Tensor` of shape `(batch_size, sequence_length)`): Of nothing: its shape is the batch's.
        num_summaries (`int`, *optional*): Representatives of a row that is full. `None` where every row is taken for that.
        visible (`torch.BoolTensor` of shape `(num_documents, max_length, max_length)`, *optional*):
            [`BlockPlan.visibility`], where the documents are short enough for one dense call.
        tables ([`BlockTables`] or [`KernelTables`], *optional*):
            The blocks as rows to be gathered, or what a kernel reads; `None` where nobody is expected to ask for them.
    """

    sources: torch.Tensor | None
    is_real: torch.Tensor | None
    token_numbers: torch.Tensor
    num_tokens: torch.Tensor
    heads: torch.Tensor
    tokens: torch.Tensor
    representatives: torch.Tensor
    first_tokens: torch.Tensor
    block_bounds: torch.Tensor
    document_bounds: torch.Tensor
    position_blocks: torch.Tensor
    block_numbers: torch.Tensor
    block_documents: torch.Tensor
    random_blocks: torch.Tensor
    documents: Documents
    summaries: Documents
    num_global_blocks: int
    reach: int
    block_width: int
    num_representatives: int
    sees_everything: bool
    batch: torch.Tensor
    num_summaries: int | None
    visible: torch.Tensor | None = None
    tables: BlockTables | KernelTables | None = None

    @classmethod
    def build(
        cls,
        pattern: SparsePattern,
        num_representatives: int,
        batch_shape: tuple[int, int],
        device: torch.device,
        sizes: list[int] | None = None,
        lengths: torch.Tensor | None = None,
        sources: torch.Tensor | None = None,
    ) -> "BlockPlan":
        """
        Args:
            num_representatives (`int`): Per block, where the pattern is hierarchical.
            sizes (`list[int]`, *optional*): The tokens of every document; every row is one, of all its places, when `None`.
            lengths (`torch.LongTensor` of shape `(num_documents,)`, *optional*): How many of them are real; all when `None`.
        """
        size, shift, per_block = pattern.block_size, pattern.block_shift, num_representatives * pattern.hierarchical
        token = _Spread.of(sizes, *batch_shape, device)
        counts = None if sizes is None else [pattern.num_blocks(number) if number else 0 for number in sizes]
        block = _Spread.of(counts, batch_shape[0], pattern.num_blocks(batch_shape[1]), device)
        # Before a token stand the tokens before it, and the representatives up to those of its block.
        token_blocks = block.bounds[token.document] + (token.number + shift) // size
        tokens = torch.arange(token.total, device=device) + per_block * (token_blocks + 1)
        every_block = torch.arange(block.total, device=device)
        first_numbers = (block.number * size - shift).clamp(min=0)
        first_tokens = token.bounds[block.document] + first_numbers
        begins = first_tokens + per_block * every_block
        length = token.total + per_block * block.total
        representatives = (begins[:, None] + torch.arange(per_block, device=device)).flatten()
        # A comparison instead of `min`: a compiler turns it into a condition instead of carrying it along.
        num_global, reach = (
            block.most if number >= block.most else number
            for number in (pattern.num_global_blocks, pattern.num_window_blocks // 2)
        )
        has_kernel, is_exporting = runs_on(device, size, per_block), torch.compiler.is_exporting()
        # What is gathered for a block is as long as the longest document at most. A kernel gathers nothing, and would be compiled
        # for every length; an exported program serves all of them.
        is_long = not (has_kernel or is_exporting) and size > token.most
        num_tokens, is_real, counts = token.sizes if lengths is None else lengths, None, block.sizes
        if lengths is not None:
            counts = (lengths + shift + size - 1) // size
            of_tokens, of_blocks = token.number < lengths[token.document], first_numbers < lengths[block.document]
            is_real = _joined(tokens, of_tokens, representatives, of_blocks.repeat_interleave(per_block))
        block_bounds = torch.cat([begins, begins.new_full((1,), length)])
        most = token.most + per_block * block.most
        position_blocks = _joined(tokens, token_blocks, representatives, every_block.repeat_interleave(per_block))
        rows = summary_rows = of_summaries = None
        if not token.is_one_size:
            rows, summary_rows = block.document[position_blocks], block.document.repeat_interleave(per_block)
        if is_real is not None:
            of_summaries = is_real[representatives]
        plan = cls(
            sources=sources,
            is_real=is_real,
            token_numbers=token.number,
            num_tokens=num_tokens,
            heads=(block_bounds[block.bounds[:-1]] + per_block).clamp(max=length - 1),
            tokens=tokens,
            representatives=representatives,
            first_tokens=first_tokens,
            block_bounds=block_bounds,
            document_bounds=block.bounds,
            position_blocks=position_blocks,
            block_numbers=block.number,
            block_documents=block.document,
            random_blocks=random_columns(pattern, block.most, block.number[:, None], counts[block.document][:, None]),
            documents=Documents.of(block_bounds[block.bounds], most, rows, is_real),
            summaries=Documents.of(per_block * block.bounds, per_block * block.most, summary_rows, of_summaries),
            num_global_blocks=num_global,
            reach=reach,
            block_width=(token.most if is_long else size) + per_block,
            num_representatives=per_block,
            # An exported program has to serve short documents in the block form as well.
            sees_everything=block.most - num_global <= (0 if is_exporting else reach + 1),
            batch=torch.empty((), device=device).expand(batch_shape),
            num_summaries=None if lengths is not None else per_block * pattern.num_blocks(batch_shape[1]),
        )
        if has_kernel:
            return plan._replace(tables=KernelTables.of(plan, most))
        is_static = lengths is not None or torch.compiler.is_compiling()
        if not (is_static or plan.sees_everything or most > MAX_DENSE_LENGTH):
            visible, mask = plan.visibility(plan.documents), plan.documents.key_mask
            if mask is not None:
                # What is filled up with sees everything: it must see something, and nothing is made of it.
                visible = (visible & mask[:, None]) | ~mask[:, :, None]
            return plan._replace(visible=visible)
        return plan._replace(tables=BlockTables.of(plan)) if is_static or device.type != "cpu" else plan

    def visibility(self, rows: Documents) -> torch.Tensor:
        """Which positions in the same row see each other, `(count, max_length, max_length)`: the pattern's definition."""
        blocks = rows.rows(self.position_blocks)
        numbers, documents = self.block_numbers[blocks], self.block_documents[blocks]
        query, key = numbers[:, :, None], numbers[:, None]
        visible = ((query - key).abs() <= self.reach) | (torch.minimum(query, key) < self.num_global_blocks)
        for drawn in self.random_blocks.unbind(1):
            visible |= drawn[blocks][:, :, None] == key
        return visible & (documents[:, :, None] == documents[:, None])

    @property
    def is_hierarchical(self) -> bool:
        """Whether there are representatives."""
        return self.representatives.shape[0] > 0

    def join(self, of_tokens: torch.Tensor, of_representatives: torch.Tensor) -> torch.Tensor:
        """The stream, of what stands at its tokens, `(T, …)`, and at its representatives, `(M, …)`."""
        return _joined(self.tokens, of_tokens, self.representatives, of_representatives)

    def take(self, batch: torch.Tensor | None) -> torch.Tensor | None:
        """Of the tokens, `(batch_size or 1, sequence_length, …)` to `(T, …)`."""
        if batch is None:
            return None
        flat = batch.expand(self.batch.shape[0], *batch.shape[1:]).flatten(0, 1)
        return flat if self.sources is None else flat.index_select(0, self.sources)

    def give(self, stream: torch.Tensor) -> torch.Tensor:
        """The tokens of the stream as the batch has them, `(batch_size, sequence_length, …)`; zero for padding."""
        tokens = stream.index_select(0, self.tokens)
        if self.is_real is not None:
            tokens = tokens.masked_fill(~self.is_real.index_select(0, self.tokens)[:, None], 0.0)
        if self.sources is not None:
            size = self.batch.numel()
            tokens = tokens.new_zeros(size, *tokens.shape[1:]).index_copy(0, self.sources, tokens)
        return tokens.unflatten(0, self.batch.shape)

    def summary(self, stream: torch.Tensor) -> torch.Tensor:
        """The representatives of every document, `(num_documents, num_representatives, …)`; zero behind those it has."""
        rows = self.summaries.rows(stream.index_select(0, self.representatives))
        if self.summaries.key_mask is not None:
            is_real = self.summaries.key_mask & (self.num_tokens > 0)[:, None]
            rows = rows.masked_fill(~is_real[..., None], 0.0)
        if self.num_summaries is None or self.num_summaries <= rows.shape[1]:
            return rows
        return torch.nn.functional.pad(rows, (0, 0, 0, self.num_summaries - rows.shape[1]))

    def recorded(self, stream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[`BlockPlan.give`], and the stream with these tokens: gradients of what is recorded are those of what follows."""
        batch = self.give(stream)
        return batch, stream.index_copy(0, self.tokens, self.take(batch))


def plan_batch(
    pattern: SparsePattern,
    num_representatives: int,
    batch_shape: tuple[int, int],
    device: torch.device,
    attention_mask: torch.Tensor | None = None,
    cu_seq_lens: torch.Tensor | None = None,
    is_static: bool | None = None,
) -> BlockPlan:
    """
    The plan of a batch. A document is what is real of a row or, with `cu_seq_lens`, of a part of one; its blocks are cut from
    its first real token, wherever that stands. How many tokens are real is read back from the device, once.

    Args:
        pattern ([`SparsePattern`])
        num_representatives (`int`): Per block, where the pattern is hierarchical.
        batch_shape (`tuple[int, int]`): Rows, and places in each.
        attention_mask (`torch.Tensor` of shape `batch_shape`, *optional*): Nonzero where a token is real.
        cu_seq_lens (`torch.IntTensor` of shape `(num_documents + 1,)`, *optional*):
            Where each document begins in the flat batch, and where the last one ends.
        is_static (`bool`, *optional*):
            Whether no shape may depend on `attention_mask`: then padding is in the stream, behind each document's tokens, and
            nothing real sees it. As under a compiler, when `None`.

    Raises:
        `ValueError`: `cu_seq_lens` that do not cover the batch in order, part one row from the next or are to be static.
    """
    if is_static is None:
        is_static = torch.compiler.is_compiling() or torch.jit.is_tracing() or device.type == "meta"
    (batch_size, num_places), bounds = batch_shape, None
    if cu_seq_lens is not None:
        bounds = _check_bounds(cu_seq_lens, batch_size, num_places, is_static)
    settings = (pattern, num_representatives, batch_shape, device)
    if attention_mask is None:
        sizes = None if bounds is None else [end - first for first, end in itertools.pairwise(bounds)]
        return BlockPlan.build(*settings, sizes=sizes)
    is_padding = (attention_mask == 0).to(device)
    if is_static:
        # What is real first: row by row, for sizes that are known.
        order = _real_first(is_padding)
        sources = (order + torch.arange(batch_size, device=device)[:, None] * num_places).flatten()
        return BlockPlan.build(*settings, lengths=(~is_padding).sum(dim=1), sources=sources)
    if bounds is None:
        sizes = (~is_padding).sum(dim=1).tolist()
    else:
        before = torch.nn.functional.pad((~is_padding).flatten().cumsum(0), (1, 0))
        sizes = before[torch.tensor(bounds, device=device)].diff().tolist()
    total = sum(sizes)
    if total == 0:
        return BlockPlan.build(*settings, lengths=torch.zeros(batch_size, dtype=torch.long, device=device))
    if total == batch_size * num_places and bounds is None:
        return BlockPlan.build(*settings)
    sources = _real_first(is_padding.view(1, -1))[0, :total]
    return BlockPlan.build(*settings, sizes=sizes, sources=sources)


def _real_first(is_padding: torch.Tensor) -> torch.Tensor:
    """The places of every row, those of real tokens first and otherwise in order. ONNX has no sort that keeps the order."""
    is_real = ~is_padding
    place = torch.where(is_padding, is_real.sum(1, keepdim=True) + is_padding.cumsum(1), is_real.cumsum(1)) - 1
    every = torch.arange(is_padding.shape[1], device=is_padding.device).expand(is_padding.shape)
    return torch.zeros_like(place).scatter(1, place, every)


def _check_bounds(cu_seq_lens: torch.Tensor, batch_size: int, num_places: int, is_static: bool) -> list[int]:
    if is_static:
        raise ValueError(
            "cu_seq_lens_q: several documents in a row need shapes that depend on data, and cannot be compiled"
        )
    bounds, whole = cu_seq_lens.flatten().tolist(), batch_size * num_places
    rows = set(range(0, whole + 1, num_places))
    if (
        cu_seq_lens.dim() != 1
        or sorted(bounds) != bounds
        or not rows <= set(bounds)
        or bounds[0]
        or bounds[-1] != whole
    ):
        raise ValueError(
            f"cu_seq_lens_q has to rise from 0 to {whole}, the places of the batch, and to part every row from the next: it is "
            f"{bounds if len(bounds) < 20 else [*bounds[:20], '…']}"
        )
    return bounds
