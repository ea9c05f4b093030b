# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From texts to rows of token ids."""

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Features, List, Value
from transformers import PreTrainedTokenizerBase

from ..errors import InputError

PACKINGS = ("documents", "concatenate")
# What a tokenizer is given at once: it needs some hundred bytes for each token.
CHARACTERS_AT_ONCE = 2**20

FEATURES = Features(
    {"input_ids": List(Value("int32")), "lengths": List(Value("int32")), "is_word_start": List(Value("bool"))}
)


@dataclass
class Packer:
    """
    Makes rows of at most `max_length` tokens, of which none is dropped.

    Args:
        tokenizer (`PreTrainedTokenizerBase`)
        max_length (`int`): Tokens of a row.
        packing (`str`):
            `documents`: a row holds whole documents, `[CLS] … [SEP]` each, that do not see each other: the largest first, each in
            the row that it fills best; one that is longer than a row is split. `concatenate`: all documents one after the
            other, with `[SEP]` between them and a frame around the row, cut wherever a row ends.
        with_words (`bool`): Whether rows say where words begin, as masking of words needs.

    Raises:
        [`InputError`]: The tokenizer lacks a token that rows need.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    packing: str = "documents"
    with_words: bool = False

    def __post_init__(self):
        for name in ("cls_token_id", "sep_token_id", "mask_token_id", "pad_token_id"):
            if getattr(self.tokenizer, name) is None:
                raise InputError(f"the tokenizer has no {name.removesuffix('_id')}: masked-LM pretraining needs one")
        if self.with_words and not self.tokenizer.is_fast:
            raise InputError(
                "whole words can be masked with a fast tokenizer alone: this one does not say where they begin"
            )

    def rows(self, texts: Sequence[str], draw: random.Random) -> list[dict[str, np.ndarray]]:
        """The rows of some documents, in an order that is drawn."""
        documents = [document for part in _parts(texts) for document in self._tokenize(part) if len(document[0])]
        pack = self._whole if self.packing == "documents" else self._concatenated
        rows = list(pack(documents))
        draw.shuffle(rows)
        return rows

    def _tokenize(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each text its tokens, and which of them begin a word."""
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        documents = []
        for number, ids in enumerate(encoded["input_ids"]):
            ids = np.array(ids, np.int32)
            starts = np.ones(len(ids), bool)
            if self.with_words and len(ids):
                words = np.array([-1 if word is None else word for word in encoded.word_ids(number)])
                starts[1:] = words[1:] != words[:-1]
            documents.append((ids, starts))
        return documents

    def _framed(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        first, last = np.int32([self.tokenizer.cls_token_id]), np.int32([self.tokenizer.sep_token_id])
        ids = [piece for ids, _ in parts for piece in (first, ids, last)]
        row = {"input_ids": np.concatenate(ids), "lengths": np.array([len(ids) + 2 for ids, _ in parts], np.int32)}
        frame = np.ones(1, bool)
        words = [piece for _, starts in parts for piece in (frame, starts, frame)] if self.with_words else [frame[:0]]
        return row | {"is_word_start": np.concatenate(words)}

    def _whole(self, documents) -> Iterator[dict[str, np.ndarray]]:
        """Best fit: each part, the largest first, in the row where the least room is left behind it."""
        room = self.max_length - 2
        parts = [
            (ids[start : start + room], starts[start : start + room])
            for ids, starts in documents
            for start in range(0, len(ids), room)
        ]
        rows, free = [], []
        for part in sorted(parts, key=lambda part: -len(part[0])):
            size = len(part[0]) + 2
            place = bisect.bisect_left(free, (size, -1))
            left, row = free.pop(place) if place < len(free) else (self.max_length, len(rows))
            rows += [[]] if row == len(rows) else []
            rows[row].append(part)
            # No document has fewer tokens than one, and its frame.
            if left - size > 2:
                bisect.insort(free, (left - size, row))
        return map(self._framed, rows)

    def _concatenated(self, documents) -> Iterator[dict[str, np.ndarray]]:
        last, room = np.int32([self.tokenizer.sep_token_id]), self.max_length - 2
        ids = np.concatenate([piece for ids, _ in documents for piece in (ids, last)]) if documents else last[:0]
        starts = [piece for _, starts in documents for piece in (starts, np.ones(1, bool))]
        starts = np.concatenate(starts) if documents else np.ones(0, bool)
        for start in range(0, max(0, len(ids) - 1), room):
            end = min(start + room, len(ids))
            # The frame's [SEP] stands for that of a document which ends with its row.
            end -= ids[end - 1] == last[0]
            if end > start:
                yield self._framed([(ids[start:end], starts[start:end])])


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts, so many at a time that a tokenizer has room for them."""
    sizes = itertools.accumulate(map(len, texts))
    numbered = zip((size // CHARACTERS_AT_ONCE for size in sizes), texts, strict=True)
    for _, part in itertools.groupby(numbered, lambda pair: pair[0]):
        yield [text for _, text in part]
