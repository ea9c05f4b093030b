# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From rows to features, some rows at a time, and to notes about the rows."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets

from ..errors import InputError
from .settings import Settings

# The features of each row and the notes about it, or why it has none.
Encoded: TypeAlias = Iterable[tuple[list[dict], list[str]] | InputError]
# In characters: a tokenizer keeps all tokens of what it is given at once, in some hundred times the memory.
MOST_AT_ONCE = 4_000_000


def build_features(
    rows: Dataset,
    encode_batch: Callable[..., Encoded],
    types: dict,
    settings: Settings,
    tokenizer,
    is_training: bool,
    num_proc: int | None = None,
    batch_size: int = 1000,
) -> Dataset:
    """
    What `encode_batch` makes of rows, as records in the order of the rows: any number of features per row, and notes. Those
    of rows on disk are written there as they come; such rows that were encoded in the same way before are read from there.

    A record also has its row's number, `document`, its `length` and, at the first of its row, the row's `notes`. A row
    without features has one record of `length` 0, which [`split_notes`] leaves out, with the `error` if there is one.

    Args:
        encode_batch (`Callable`):
            A function of a module, whose results depend on its arguments alone: `(batch, settings, tokenizer, is_training)`.
        types (`dict`): The types of the features' columns, beside those that all features have.
        num_proc (`int`, *optional*): Processes to share the rows.
        batch_size (`int`, defaults to 1000): Rows at a time; less where documents are long.
    """
    types = {
        "input_ids": List(Value("int32")),
        "attention_mask": List(Value("int8")),
        **({"token_type_ids": List(Value("int8"))} if "token_type_ids" in tokenizer.model_input_names else {}),
        **types,
        "document": Value("int64"),
        "length": Value("int64"),
        "notes": List(Value("string")),
        "error": Value("string"),
    }
    # It forgets how its last call truncated, which versions of datasets before 5 take for another tokenizer.
    tokenizer("", verbose=False)
    arguments = {"settings": settings, "tokenizer": tokenizer, "is_training": is_training}
    if not rows.cache_files:
        # These are few: without a cache and its progress bar.
        parts = [Dataset.from_dict({name: [] for name in types}, features=Features(types))]
        for start in range(0, len(rows), batch_size):
            indices = range(start, min(start + batch_size, len(rows)))
            records = _encode(rows[start : indices.stop], indices, encode_batch, list(types), [], **arguments)
            parts.append(Dataset.from_dict(records, features=Features(types)))
        return concatenate_datasets(parts)
    # The cache knows functions by their names alone: features of other code are others.
    code = [inspect.getsource(inspect.getmodule(function)) for function in (_encode, encode_batch)]
    return rows.map(
        _encode,
        batched=True,
        batch_size=batch_size,
        with_indices=True,
        remove_columns=rows.column_names,
        features=Features(types),
        num_proc=num_proc,
        fn_kwargs={"encode_batch": encode_batch, "names": list(types), "code": code, **arguments},
        desc="Tokenizing",
    )


def _encode(
    batch: dict, indices: Sequence[int], encode_batch: Callable, names: list[str], code: list[str], **arguments
):
    records = {name: [] for name in names}
    parts = ({name: column[part] for name, column in batch.items()} for part in _parts_of(batch))
    encoded_rows = itertools.chain.from_iterable(encode_batch(part, **arguments) for part in parts)
    for document, encoded in zip(indices, encoded_rows, strict=True):
        error = str(encoded) if isinstance(encoded, InputError) else None
        features, notes = ([], []) if error else encoded
        for feature in features or [{}]:
            length = len(feature.get("input_ids", ()))
            defaults = {"token_type_ids": [0] * length, "attention_mask": [1] * length} if feature else {}
            record = {**defaults, **feature, "document": document, "length": length, "notes": notes, "error": error}
            for name, column in records.items():
                column.append(record.get(name))
            notes = []
    return records


def _parts_of(batch: dict) -> Iterator[slice]:
    """The rows of a batch in parts of at most [`MOST_AT_ONCE`] characters, or of a single row."""
    start = size = 0
    for row, values in enumerate(zip(*batch.values(), strict=True)):
        own = sum(map(_characters, values))
        if row > start and size + own > MOST_AT_ONCE:
            yield slice(start, row)
            start, size = row, 0
        size += own
    yield slice(start, None)


def _characters(value) -> int:
    if isinstance(value, list):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str) else 0


def split_notes(records: Dataset, rows: Dataset) -> tuple[Dataset, dict[str, list[str]]]:
    """
    The features among the records of `rows`, and for every note the ids of its rows, in their order.

    Raises:
        [`InputError`]: A row has an error instead of features.
    """
    ids, found = rows["id"][:], {}
    for document, notes, error in zip(*(records[name][:] for name in ("document", "notes", "error")), strict=True):
        if error is not None:
            raise InputError(f"row {ids[document]}: {error}")
        for note in notes:
            found.setdefault(note, []).append(ids[document])
    return records.select(np.flatnonzero(records["length"][:])).remove_columns(["notes", "error"]), found
