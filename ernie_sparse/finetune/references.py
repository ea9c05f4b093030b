# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What predictions are scored against, in memory: a table on disk takes a hundred times as long to draw rows from."""

from collections.abc import Mapping, Sequence

from datasets import Dataset

# The columns of rows that scores are made of; no long texts.
SCORED_COLUMNS = ("label", "labels", "answer", "answers", "aliases")


class References:
    """
    Labels and answers of rows, for the `score` of a type of task in place of the rows.

    Args:
        columns (`Mapping[str, Sequence]`): As many values in each.
    """

    def __init__(self, columns: Mapping[str, Sequence]):
        self.columns = columns
        self.column_names = list(columns)

    @classmethod
    def of(cls, rows: Dataset) -> "References":
        return cls({name: rows[name][:] for name in SCORED_COLUMNS if name in rows.column_names})

    def __getitem__(self, name: str) -> Sequence:
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def select(self, numbers: Sequence[int]) -> "References":
        """The rows of these numbers."""
        return References({name: [values[i] for i in numbers] for name, values in self.columns.items()})
