# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Tables of rows: read from files or the hub, drawn and sorted."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, DatasetDict

from .errors import InputError

# The formats of datasets by a file's suffix.
FORMATS = {".csv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def load_rows(
    files: Mapping[str, list[str] | None],
    hub_name: str | None,
    hub_config: str | None,
    sample_by: str | None = None,
    text_columns: Iterable[str] = (),
) -> DatasetDict:
    """
    The rows by split: from local files (csv, json, jsonl, parquet; any other file as text cut into documents by
    `sample_by`, when that is given) or from a hub data set or a local folder in its layout. In csv the cells of
    `text_columns` are text even where all of them are numbers.

    Raises:
        [`InputError`]: Both or neither are given, or a file is missing, empty, of an unknown format or unreadable.
    """
    files = {split: paths for split, paths in files.items() if paths}
    if bool(files) == bool(hub_name):
        raise InputError("give either --train-file (and --validation-file) or --dataset")
    if hub_name:
        try:
            return datasets.load_dataset(hub_name, hub_config)
        except Exception as error:
            raise InputError(f"the data set {hub_name} cannot be loaded: {_reason(error)}") from error
    for path in (path for paths in files.values() for path in paths):
        check_file(path)
    return DatasetDict({split: _load_files(split, paths, sample_by, text_columns) for split, paths in files.items()})


def check_file(path: str | Path):
    """Raise an [`InputError`] where `path` is no file, or an empty one."""
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: a file is needed")
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file")
    if Path(path).stat().st_size == 0:
        raise InputError(f"{path} is empty")


def csv_options(paths: Iterable[str | Path], text_columns: Iterable[str]) -> dict:
    """
    How csv is read: an empty cell is missing, `NA`, `None` or `null` in one is what somebody wrote, and digits in one of
    `text_columns` are no number.

    Raises:
        [`InputError`]: Two columns of one name, of which pandas would rename one.
    """
    for path in paths:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = next((row for row in csv.reader(file) if row), [])
        twice = [name for name, count in Counter(header).items() if name and count > 1]
        if twice:
            raise InputError(f"the header of {path} names the column {twice[0]!r} twice")
    return {"keep_default_na": False, "na_values": [""], "converters": dict.fromkeys(text_columns, str)}


def _load_files(split: str, paths: list[str], sample_by: str | None, text_columns: Iterable[str]) -> Dataset:
    formats = {FORMATS.get(Path(path).suffix.lower(), "text") for path in paths}
    file_format = formats.pop()
    if formats or (file_format == "text" and sample_by is None):
        also = "" if sample_by is None else "text, "
        raise InputError(f"{', '.join(paths)}: give {also}csv, json, jsonl or parquet files, in each split of one kind")
    try:
        options = csv_options(paths, text_columns) if file_format == "csv" else {}
        if file_format == "text":
            options = {"sample_by": sample_by}
        return datasets.load_dataset(file_format, data_files={split: paths}, split=split, **options)
    except Exception as error:
        raise InputError(f"could not read {', '.join(paths)} as {file_format}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return "it has no rows" if "corresponds to no data" in str(cause) else str(cause)


def longest_first(rows: Dataset) -> Dataset:
    """The rows by falling `length`: what memory is needed is needed at once, and batches hold rows of a length."""
    # `Dataset.sort` calls pyarrow in a way of which pyarrow warns.
    return rows.select(np.argsort(-np.asarray(rows["length"]), kind="stable"))


def subset(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """At most `count` rows, drawn by `seed`, in their order; all of them when `count` is `None`."""
    if count is None or count >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]))
