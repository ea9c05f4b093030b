# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From the rows of a file, good and bad, to predictions: checked, encoded and computed some at a time."""

import dataclasses
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import InputError
from ..tables import longest_first, read_rows
from .data import ROLES, row_by_role, row_features
from .prediction_files import empty_prediction
from .settings import Settings
from .task_types import TASK_TYPES
from .tasks import OWN_FILES
from .trainer import FeatureCollator

NOT_FINITE = "the model's output for it is not finite"
NO_TOKENS = "the tokenizer leaves nothing of it"


def chunks(source: Path, size: int, first: int = 0) -> Iterator[list[tuple[int, dict | InputError]]]:
    """The rows of a file from number `first` on, `size` at a time, each with its number."""
    rows = islice(enumerate(read_rows(source)), first, None)
    while chunk := list(islice(rows, size)):
        yield chunk


class Encoded(NamedTuple):
    """
    Args:
        numbers (`list[int]`): The rows that can be predicted, by their numbers in the file.
        rows, features (`Dataset`): These rows by role, and what the model reads of them.
        notes (`dict[int, list[str]]`): Notes about rows, such as that one is cut, by their numbers.
        refused (`dict[int, tuple[str, str]]`): Id and reason of each row that cannot be predicted.
    """

    numbers: list[int]
    rows: Dataset
    features: Dataset
    notes: dict[int, list[str]]
    refused: dict[int, tuple[str, str]]


class RowEncoder:
    """
    Rows of a file to features.

    Raises:
        [`InputError`]: Settings with which no row can be encoded.
    """

    def __init__(self, settings: Settings, tokenizer: PreTrainedTokenizerBase):
        self.settings, self.tokenizer = settings, tokenizer
        self.task = dataclasses.replace(OWN_FILES[settings.task_type], columns=settings.columns)
        self.types = row_features(self.task, is_labelled=False)
        self._encode([])

    def _encode(self, rows: list[dict]) -> tuple[Dataset, Dataset]:
        """The rows as a table, and their records."""
        table = Dataset.from_dict({name: [row[name] for row in rows] for name in self.types}, features=self.types)
        encode = TASK_TYPES[self.settings.task_type].encode
        return table, encode(table, self.settings, self.tokenizer, is_training=False)

    def by_role(self, number: int, row: dict | InputError) -> dict:
        """The row by role; an [`InputError`] where it cannot be used."""
        if isinstance(row, InputError):
            raise row
        return {**row_by_role(row, number, self.task, is_labelled=False), "id": self.id_of(number, row)}

    def id_of(self, number: int, row: dict | InputError) -> str:
        """The row's id, or its number where there is none, without halves of characters."""
        value = row.get(self.task.columns.get("id", "id")) if isinstance(row, dict) else None
        return str(number if value is None else value).encode(errors="replace").decode()

    def __call__(self, rows: list[tuple[int, dict | InputError]]) -> Encoded:
        usable, refused = {}, {}
        for number, row in rows:
            try:
                usable[number] = self.by_role(number, row)
            except InputError as error:
                refused[number] = (self.id_of(number, row), str(error))
        table, records = self._encode(list(usable.values()))
        numbers = np.array(list(usable), dtype=np.int64)
        lengths, errors = np.array(records["length"][:]), records["error"][:]
        for place in np.flatnonzero(lengths == 0):
            number = int(numbers[records["document"][place]])
            refused[number] = (usable.pop(number)["id"], errors[place] or NO_TOKENS)
        if len(usable) < len(numbers):
            # So that the others are numbered as they are in their table.
            table, records = self._encode(list(usable.values()))
            numbers = np.array(list(usable), dtype=np.int64)
        notes = {}
        for document, found in zip(records["document"][:], records["notes"][:], strict=True):
            if found:
                notes[int(numbers[document])] = found
        return Encoded(numbers.tolist(), table, records.remove_columns(["notes", "error"]), notes, refused)


def check_any_row(source: Path, encoder: RowEncoder):
    """
    Raise an [`InputError`] where there are no rows, or all of them are wrong: then the file is, or the columns that were named.
    Those that are merely empty say nothing of the others. It reads on to the first row that can be used, and no further.
    """
    first_error, number = None, -1
    for number, row in enumerate(read_rows(source)):
        try:
            encoder.by_role(number, row)
            return
        except InputError as error:
            if first_error is None and not _has_empty(row, encoder.settings):
                first_error = f"{source}, row {number}: {error}"
    if number < 0:
        raise InputError(f"{source} has no rows")
    if first_error is not None:
        raise InputError(first_error + (f" (none of the {number + 1} rows can be used)" if number else ""))


def _has_empty(row: dict | InputError, settings: Settings) -> bool:
    columns = [settings.columns[role] for role in ROLES[settings.task_type][0]]
    if not isinstance(row, dict) or not all(column in row for column in columns):
        return False
    return any(row[column] in (None, []) or not str(row[column]).strip() for column in columns)


def check_all_rows(source: Path, encoder: RowEncoder, chunk_size: int, show_progress: bool):
    """Raise an [`InputError`] for the first row that cannot be predicted."""
    with tqdm(desc="Checking", unit=" rows", disable=not show_progress) as progress:
        for rows in chunks(source, chunk_size):
            refused = encoder(rows).refused
            if refused:
                number = min(refused)
                raise InputError(f"{source}, row {number}: {refused[number][1]}")
            progress.update(len(rows))


class Predictor:
    """
    Rows of a file, with their numbers, to predictions with theirs, in any order.

    Args:
        encoder ([`RowEncoder`])
        model (`PreTrainedModel`): On its device, in evaluation mode.
        collator ([`FeatureCollator`])
        batch_size (`int`): Features per forward pass.
    """

    def __init__(self, encoder: RowEncoder, model: PreTrainedModel, collator: FeatureCollator, batch_size: int):
        self.encoder, self.model, self.collator, self.batch_size = encoder, model, collator, batch_size

    def __call__(self, rows: list[tuple[int, dict | InputError]]) -> list[tuple[int, dict]]:
        encoded, settings = self.encoder(rows), self.encoder.settings
        task_type = TASK_TYPES[settings.task_type]
        found = [(number, empty_prediction(*which, task_type.fields)) for number, which in encoded.refused.items()]
        if not encoded.numbers:
            return found
        features = longest_first(encoded.features)
        predictions = task_type.decode(self.outputs(features), features, encoded.rows, settings)
        for number, prediction in zip(encoded.numbers, predictions, strict=True):
            if not _is_finite(prediction):
                prediction = empty_prediction(prediction["id"], NOT_FINITE, task_type.fields)
            notes = encoded.notes.get(number)
            found.append((number, {**prediction, "notes": notes} if notes else prediction))
        return found

    @torch.no_grad()
    def outputs(self, features: Dataset) -> np.ndarray | tuple[np.ndarray, ...]:
        """What `decode` needs: logits or, where they are wide, what `reduce` makes of them."""
        reduce = TASK_TYPES[self.encoder.settings.task_type].reduce
        batches = []
        for batch in DataLoader(features, self.batch_size, collate_fn=self.collator):
            inputs = {name: value.to(self.model.device) for name, value in batch.items() if name != "is_context"}
            output = self.model(**inputs, return_dict=True)
            logits = output.logits if "logits" in output else (output.start_logits, output.end_logits)
            logits = logits if reduce is None else reduce(logits, batch, self.encoder.settings)
            parts = logits if isinstance(logits, tuple) else (logits,)
            batches.append([(part.float() if part.is_floating_point() else part).cpu().numpy() for part in parts])
        stacked = tuple(map(_stack, zip(*batches, strict=True)))
        return stacked if len(stacked) > 1 else stacked[0]


def _stack(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """Batches as one array, as wide as the widest."""
    width = max(array.shape[1] for array in arrays)
    return np.concatenate([np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays])


def _is_finite(prediction: dict) -> bool:
    try:
        json.dumps(prediction, allow_nan=False)
    except ValueError:
        return False
    return True
