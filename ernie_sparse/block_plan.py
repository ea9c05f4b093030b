# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
The plan of one call: a batch as a list of documents, and a pattern as tables of indices over them. Made once per forward.

What a layer reads and writes is the *stream*: the documents one after the other, each block by block, its representatives and
then its tokens. Padding is not in it. Under a compiler, whose shapes must not depend on data, every place of the batch is in
it, and the tables say which are real.
"""

import itertools
from typing import NamedTuple

import torch

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
    def of(cls, first: torch.Tensor, sizes: torch.Tensor, size: int | None, largest: int, is_real: torch.Tensor | None):
        """
        Rows of `sizes` positions each, from `first` on.

        Args:
            size (`int`, *optional*): What all `sizes` are, where they are the whole stream; `None` where they differ.
            largest (`int`): The largest of the sizes.
            is_real (`torch.BoolTensor` of shape `(length,)`, *optional*): `False` for positions of padding.
        """
        count = first.shape[0]
        if size is not None:
            return cls(
                count, None, None if is_real is None else _see_something(is_real.unflatten(0, (count, -1))), None
            )
        number = torch.arange(largest, device=first.device)
        is_filled = number < sizes[:, None]
        index = torch.where(is_filled, first[:, None] + number, 0)
        return cls(count, index, _see_something(is_filled if is_real is None else is_filled & is_real[index]), None)

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
    """Things one after the other, of which each document has some: the document of each, its number there, the firsts."""

    document: torch.Tensor
    number: torch.Tensor
    first: torch.Tensor

    @classmethod
    def of(cls, sizes: torch.Tensor, total: int, size: int | None) -> "_Spread":
        """
        Args:
            sizes (`torch.LongTensor` of shape `(num_documents,)`): How many each document has.
            total (`int`): Their sum.
            size (`int`, *optional*): What they all are; `None` where they differ.
        """
        documents = torch.arange(sizes.shape[0], device=sizes.device)
        if size is not None:
            # Repeated, and not divided: ONNX has no remainder by a size.
            number = torch.arange(size, device=sizes.device).repeat(sizes.shape[0])
            return cls(documents[:, None].repeat(1, size).flatten(), number, documents * size)
        first = sizes.cumsum(0) - sizes
        document = documents.repeat_interleave(sizes, output_size=total)
        return cls(document, torch.arange(total, device=sizes.device) - first[document], first)


class _Sizes(NamedTuple):
    """
    How many tokens and blocks every document has, `(num_documents,)` each; their sums and the largest of them, known without
    reading anything back; and what all of them are, `None` where they differ.
    """

    sizes: torch.Tensor
    counts: torch.Tensor
    num_tokens: int
    num_blocks: int
    max_size: int
    max_count: int
    size: int | None
    count: int | None
    local_counts: list[int] | None

    @classmethod
    def of(cls, pattern: SparsePattern, batch_shape: tuple[int, int], sizes: list[int] | None, device) -> "_Sizes":
        if sizes is None or len(set(sizes)) == 1:
            num_documents, size = batch_shape if sizes is None else (len(sizes), sizes[0])
            count = pattern.num_blocks(size)
            numbers = (torch.full((num_documents,), number, device=device) for number in (size, count))
            return cls(*numbers, num_documents * size, num_documents * count, size, count, size, count, None)
        counts = [pattern.num_blocks(size) if size else 0 for size in sizes]
        numbers = (torch.tensor(number, device=device) for number in (sizes, counts))
        local = [max(0, count - pattern.num_global_blocks) for count in counts]
        return cls(*numbers, sum(sizes), sum(counts), max(sizes), max(counts), None, None, local)

    def num_global(self, pattern: SparsePattern) -> int:
        # A comparison instead of `min`: a compiler turns it into a condition instead of carrying it along.
        return self.max_count if pattern.num_global_blocks >= self.max_count else pattern.num_global_blocks

    def length(self, per_block: int) -> int:
        """Positions of the stream."""
        return self.num_tokens + per_block * self.num_blocks


class _Stream(NamedTuple):
    """Where tokens, representatives and blocks stand; see [`BlockPlan`]."""

    token: _Spread
    block: _Spread
    first: torch.Tensor
    tokens: torch.Tensor
    representatives: torch.Tensor
    first_tokens: torch.Tensor
    order: torch.Tensor
    position_blocks: torch.Tensor
    place_numbers: torch.Tensor
    places: torch.Tensor
    is_filled: torch.Tensor
    is_real: torch.Tensor
    is_position: torch.Tensor | None

    @classmethod
    def of(cls, pattern: SparsePattern, per_block: int, every: _Sizes, lengths: torch.Tensor | None) -> "_Stream":
        size, shift, device = pattern.block_size, pattern.block_shift, every.sizes.device
        token = _Spread.of(every.sizes, every.num_tokens, every.size)
        block = _Spread.of(every.counts, every.num_blocks, every.count)
        every_block, own = (torch.arange(count, device=device) for count in (every.num_blocks, per_block))
        # Before a token stand the tokens before it, and the representatives up to those of its block.
        token_blocks = block.first[token.document] + (token.number + shift) // size
        tokens = torch.arange(every.num_tokens, device=device) + per_block * (token_blocks + 1)
        first_numbers = block.number * size - shift
        first_tokens = token.first[block.document] + first_numbers.clamp(min=0)
        representatives = ((first_tokens + per_block * every_block)[:, None] + own).flatten()
        length = every.length(per_block)
        order = torch.empty(length, dtype=torch.long, device=device)
        order = order.index_copy(0, torch.cat([tokens, representatives]), torch.arange(length, device=device))
        position_blocks = torch.cat([token_blocks, every_block.repeat_interleave(per_block)])[order]
        place_numbers = torch.cat([per_block + (token.number + shift) % size, own.repeat(every.num_blocks)])[order]
        # The places of every block, by the numbers of the tokens in them.
        numbers = first_numbers[:, None] + torch.arange(size, device=device)
        bounds = (every.sizes, every.sizes if lengths is None else lengths)
        is_filled, is_real = ((numbers >= 0) & (numbers < bound[block.document][:, None]) for bound in bounds)
        positions = token.first[block.document][:, None] + numbers + per_block * (every_block + 1)[:, None]
        places = torch.where(is_filled, positions, 0)
        is_block = is_real.any(dim=1, keepdim=True).expand(-1, per_block)
        places, is_filled, is_real = (
            torch.cat(parts, dim=1)
            for parts in (
                (representatives.view(every.num_blocks, per_block), places),
                (torch.ones_like(is_block), is_filled),
                (is_block, is_real),
            )
        )
        is_position = None
        if lengths is not None:
            is_position = is_real.flatten()[position_blocks * is_real.shape[1] + place_numbers]
        return cls(
            token=token,
            block=block,
            first=token.first + per_block * block.first,
            tokens=tokens,
            representatives=representatives,
            first_tokens=first_tokens,
            order=order,
            position_blocks=position_blocks,
            place_numbers=place_numbers,
            places=places,
            is_filled=is_filled,
            is_real=is_real,
            is_position=is_position,
        )


def _documents(pattern: SparsePattern, per_block: int, every: _Sizes, stream: _Stream) -> tuple[Documents, ...]:
    """The documents in the stream, in that of the representatives alone, and their global blocks."""

    def rows(size: int | None, largest: int, first, sizes, is_real, length: int) -> Documents:
        documents = Documents.of(first, sizes, size, largest, is_real)
        if size is not None:
            return documents
        spread = _Spread.of(sizes, length, None)
        return documents._replace(places=spread.document * largest + spread.number)

    counts, is_real = per_block * every.counts, stream.is_position
    of_summaries = None if is_real is None else is_real[stream.representatives]
    one = None if every.size is None else (every.size + per_block * every.count, per_block * every.count)
    size, summary_size = one or (None, None)
    most = per_block * every.max_count
    width = every.num_global(pattern) * stream.places.shape[1]
    bounds = _bounds(pattern, per_block, every, stream.first)
    return (
        rows(size, every.max_size + most, stream.first, every.sizes + counts, is_real, every.length(per_block)),
        rows(summary_size, most, per_block * stream.block.first, counts, of_summaries, per_block * every.num_blocks),
        Documents.of(stream.first, bounds[:, 1] - bounds[:, 0], None, width, is_real),
    )


def _bounds(pattern: SparsePattern, per_block: int, every: _Sizes, first: torch.Tensor) -> torch.Tensor:
    """Where every document begins, where its global blocks end, which stand at its head, and where it ends."""
    num_global = every.num_global(pattern)
    num_tokens = num_global * pattern.block_size - pattern.block_shift if num_global else 0
    leading = every.sizes.clamp(max=num_tokens) + per_block * every.counts.clamp(max=num_global)
    return torch.stack([first, first + leading, first + every.sizes + per_block * every.counts], dim=1)


class _LocalBlocks(NamedTuple):
    """The blocks that are not global, and what they see; see [`BlockPlan`]."""

    first: torch.Tensor
    query_blocks: torch.Tensor
    key_blocks: torch.Tensor
    key_mask: torch.Tensor
    random_blocks: torch.Tensor
    reach: int

    @classmethod
    def of(cls, pattern: SparsePattern, every: _Sizes, stream: _Stream, lengths: torch.Tensor | None) -> "_LocalBlocks":
        num_global, device = every.num_global(pattern), every.sizes.device
        reach = every.max_count if pattern.num_window_blocks // 2 > every.max_count else pattern.num_window_blocks // 2
        count = None if every.count is None else every.count - num_global
        total = every.sizes.shape[0] * count if every.local_counts is None else sum(every.local_counts)
        query = _Spread.of((every.counts - num_global).clamp(min=0), total, count)
        numbers, first = (query.number + num_global)[:, None], stream.block.first[query.document]
        counts = every.counts
        if lengths is not None:
            counts = (lengths + pattern.block_shift + pattern.block_size - 1) // pattern.block_size
        has = counts[query.document][:, None]
        head = torch.arange(num_global, device=device).expand(total, -1)
        window = numbers + torch.arange(-reach, reach + 1, device=device)
        drawn = random_columns(pattern, every.max_count, numbers, has)
        is_seen = torch.cat([head < has, (window >= num_global) & (window < has), drawn >= 0], dim=1)
        key_blocks = torch.where(is_seen, torch.cat([head, window, drawn], dim=1) + first[:, None], 0)
        query_blocks = first + numbers[:, 0]
        random_blocks = torch.full((every.num_blocks, drawn.shape[1]), -1, device=device)
        return cls(
            first=query.first,
            query_blocks=query_blocks,
            key_blocks=key_blocks,
            key_mask=_see_something((is_seen[:, :, None] & stream.is_real[key_blocks]).flatten(1)),
            random_blocks=random_blocks.index_copy(0, query_blocks, drawn),
            reach=reach,
        )


class BlockPlan(NamedTuple):
    """
    Who sees whom in one call. The stream's `P` positions are `T` tokens and `M` representatives in `N` blocks; a block has `S`
    places, for its representatives and then for its tokens.

    Args:
        sources (`torch.LongTensor` of shape `(T,)`, *optional*):
            The place of every token in the flat batch; `None` where every place holds one, in order.
        is_real (`torch.BoolTensor` of shape `(P,)`, *optional*): `False` for positions of padding; `None` where there are none.
        token_numbers (`torch.LongTensor` of shape `(T,)`): The number of every token in its document.
        order (`torch.LongTensor` of shape `(P,)`):
            What stands at every position, as an index into the tokens followed by the representatives.
        num_tokens (`torch.LongTensor` of shape `(num_documents,)`): The real tokens of every document.
        heads (`torch.LongTensor` of shape `(num_documents,)`): The position of every document's first token.
        tokens, representatives (`torch.LongTensor` of shape `(T,)`, `(M,)`): Their positions.
        first_tokens (`torch.LongTensor` of shape `(N,)`): The first token of every block.
        documents, summaries ([`Documents`]): In the stream, and in that of the representatives alone.
        global_parts ([`Documents`]): The global blocks of every document.
        position_blocks (`torch.LongTensor` of shape `(P,)`): The block of every position.
        block_numbers, block_documents (`torch.LongTensor` of shape `(N,)`): The number of every block in its document, and that.
        random_blocks (`torch.LongTensor` of shape `(N, r)`): The random blocks that each block sees, so numbered; -1 for none.
        places (`torch.LongTensor` of shape `(N, S)`): The position in every place of the blocks, filled up with 0.
        is_filled (`torch.BoolTensor` of shape `(N, S)`): `False` where `places` is a filler.
        position_places (`torch.LongTensor` of shape `(P,)`): The place of every position, in the flat `places`.
        query_blocks (`torch.LongTensor` of shape `(L,)`): The blocks that are not global.
        key_blocks (`torch.LongTensor` of shape `(L, W)`): The blocks that each of these sees, filled up with any.
        key_mask (`torch.BoolTensor` of shape `(L, W · S)`): Which of the places in `key_blocks` it sees.
        results (`torch.LongTensor` of shape `(P,)`):
            Where every position stands in the places of `query_blocks` followed by those of `global_parts`.
        bounds (`torch.LongTensor` of shape `(num_documents, 3)`):
            Where every document begins, where its global blocks end, and where it ends.
        visible (`torch.BoolTensor` of shape `(num_documents, max_length, max_length)`, *optional*):
            [`BlockPlan.visibility`], where the documents are short enough for one dense call.
        num_global_blocks, reach (`int`): Of the pattern: its global blocks, and how far its window goes to each side.
        batch (`torch.Tensor` of shape `(batch_size, sequence_length)`): Of nothing: its shape is the batch's.
        num_summaries (`int`, *optional*): Representatives of a row that is full. `None` where every row is taken for that.
        sees_everything (`bool`): Whether every position sees all of its document.
    """

    sources: torch.Tensor | None
    is_real: torch.Tensor | None
    token_numbers: torch.Tensor
    order: torch.Tensor
    num_tokens: torch.Tensor
    heads: torch.Tensor
    tokens: torch.Tensor
    representatives: torch.Tensor
    first_tokens: torch.Tensor
    documents: Documents
    summaries: Documents
    global_parts: Documents
    position_blocks: torch.Tensor
    block_numbers: torch.Tensor
    block_documents: torch.Tensor
    random_blocks: torch.Tensor
    places: torch.Tensor
    is_filled: torch.Tensor
    position_places: torch.Tensor
    query_blocks: torch.Tensor
    key_blocks: torch.Tensor
    key_mask: torch.Tensor
    results: torch.Tensor
    bounds: torch.Tensor
    visible: torch.Tensor | None
    num_global_blocks: int
    reach: int
    sees_everything: bool
    batch: torch.Tensor
    num_summaries: int | None

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
        per_block = num_representatives * pattern.hierarchical
        every = _Sizes.of(pattern, batch_shape, sizes, device)
        stream = _Stream.of(pattern, per_block, every, lengths)
        documents, summaries, global_parts = _documents(pattern, per_block, every, stream)
        local = _LocalBlocks.of(pattern, every, stream, lengths)
        # Where every position's result is: in its block's, or among those of the global blocks.
        num_global, per_place = every.num_global(pattern), stream.places.shape[1]
        number, row = stream.block.number[stream.position_blocks], stream.block.document[stream.position_blocks]
        in_local = (local.first[row] + number - num_global) * per_place + stream.place_numbers
        in_global = torch.arange(every.length(per_block), device=device) - stream.first[row]
        in_global = in_global + row * global_parts.index.shape[1] + local.query_blocks.shape[0] * per_place
        reach = local.reach
        plan = cls(
            sources=sources,
            is_real=stream.is_position,
            token_numbers=stream.token.number,
            order=stream.order,
            num_tokens=every.sizes if lengths is None else lengths,
            heads=(stream.first + per_block).clamp(max=every.length(per_block) - 1),
            tokens=stream.tokens,
            representatives=stream.representatives,
            first_tokens=stream.first_tokens,
            documents=documents,
            summaries=summaries,
            global_parts=global_parts,
            position_blocks=stream.position_blocks,
            block_numbers=stream.block.number,
            block_documents=stream.block.document,
            random_blocks=local.random_blocks,
            places=stream.places,
            is_filled=stream.is_filled,
            position_places=stream.position_blocks * per_place + stream.place_numbers,
            query_blocks=local.query_blocks,
            key_blocks=local.key_blocks,
            key_mask=local.key_mask,
            results=torch.where(number < num_global, in_global, in_local),
            bounds=_bounds(pattern, per_block, every, stream.first),
            visible=None,
            num_global_blocks=num_global,
            reach=reach,
            # An exported program has to serve short documents in the block form as well.
            sees_everything=every.max_count - num_global <= (0 if torch.compiler.is_exporting() else reach + 1),
            batch=torch.empty((), device=device).expand(batch_shape),
            num_summaries=None if lengths is not None else per_block * pattern.num_blocks(batch_shape[1]),
        )
        is_long = every.max_size + per_block * every.max_count > MAX_DENSE_LENGTH
        if lengths is not None or torch.compiler.is_compiling() or plan.sees_everything or is_long:
            return plan
        visible = plan.visibility(documents)
        if documents.key_mask is not None:
            # What is filled up with sees everything: it must see something, and nothing is made of it.
            visible = (visible & documents.key_mask[:, None]) | ~documents.key_mask[:, :, None]
        return plan._replace(visible=visible)

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
        raise ValueError("several documents in a row need shapes that depend on data: they cannot be compiled")
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
