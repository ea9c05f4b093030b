# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From rows to features, some rows at a time."""

from collections.abc import Callable

from datasets import Dataset, Features


def build_features(
    rows: Dataset,
    encode_batch: Callable[[dict[str, list], list[int]], dict[str, list]],
    schema: Features | None = None,
    batch_size: int = 1000,
) -> Dataset:
    """
    The features that `encode_batch` makes of rows and their numbers, any number of them per row; they are written to disk as
    they come.

    Args:
        schema (`datasets.Features`, *optional*): Given, a batch of which nothing is left has its columns as well.
        batch_size (`int`, defaults to 1000): Rows at a time; less where documents are long.
    """
    return rows.map(
        encode_batch,
        batched=True,
        batch_size=batch_size,
        with_indices=True,
        remove_columns=rows.column_names,
        features=schema,
        # Features from a cache would come without the notes that encoding takes.
        load_from_cache_file=False,
        desc="Tokenizing",
    )
