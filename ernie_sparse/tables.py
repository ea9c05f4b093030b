# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Rows of files: one reader for every command. What a column holds is decided by whoever asks for it, row by row."""

import csv
import glob
import gzip
import inspect
import io
import itertools
import json
import lzma
import os
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, IterableDatasetDict
from fsspec.compression import compr
from fsspec.utils import infer_compression
from pyarrow import parquet

from .errors import InputError, input_errors

NOT_UTF8 = "not UTF-8 text"
# How a text file is cut into documents.
SAMPLE_BY = ("document", "paragraph", "line")
# Packed files, whose kind is what stands before.
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def find_files(names: Iterable[str | Path]) -> list[Path]:
    """
    The files that `names` stand for: each is a path or, where nothing of this name exists, a pattern such as `part-*.csv`.

    Raises:
        [`InputError`]: There is no such file, it is a folder or empty, or nothing matches a pattern.
        `PermissionError`: It may not be read.
    """
    paths = []
    for name in map(str, names):
        is_pattern = not os.path.lexists(name) and glob.has_magic(name)
        found = (
            sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path)) if is_pattern else [name]
        )
        if not found:
            raise InputError(f"{name}: there is no such file, and none that matches it")
        paths += map(Path, found)
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder: a file is needed")
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
        # Who may not read it hears so now, and not from a process that prepares rows.
        path.open("rb").close()
    return paths


@contextmanager
def said_of(path: Path) -> Iterator[None]:
    """Errors of reading `path` as an [`InputError`] that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"could not read {path}: it is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    except pa.ArrowException as error:
        raise InputError(f"could not read {path}: {error}") from error


def kind_of(path: str | Path) -> str:
    """The suffix that says how a file is read, in small letters: that before `.gz` or the like of a packed one."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() in COMPRESSED else path.name).suffix.lower()


@contextmanager
def open_text(path: str | Path, **how) -> Iterator[io.TextIOWrapper]:
    """
    A file of UTF-8 text, unpacked while it is read; `how` as of `open`.

    Raises:
        [`InputError`]: What unpacks it is not installed, or it is not packed as its name says.
    """
    packing = infer_compression(str(path))
    if packing is None and Path(path).suffix.lower() in COMPRESSED:
        # What is not installed is not known either.
        raise InputError(f"{path}: pip install zstandard, which reads .zst files")
    try:
        with open(path, "rb") as packed:
            file = packed if packing is None else compr[packing](packed, mode="rb")
            with io.TextIOWrapper(file, encoding="utf-8-sig", **how) as text:
                yield text
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"could not read {path}: {error}") from error


def read_rows(path: str | Path, sample_by: str | None = None) -> Iterator[dict | InputError]:
    """
    The rows of a file, one after the other: csv (a header, commas, or tabs in tsv; every cell is text, and an empty one is
    `None`), jsonl, json (a list of objects, or jsonl), parquet, all of them in UTF-8; or, where `sample_by` is given, of any
    other file as [`read_text`] does. A row that cannot be read comes as an [`InputError`] in its place.

    Raises:
        [`InputError`]: The file as a whole cannot be read.
    """
    path = Path(path)
    read = _READERS.get(kind_of(path))
    if read is None and sample_by is None:
        raise InputError(f"{path}: {', '.join(suffix[1:] for suffix in FORMATS)} files can be read")
    with said_of(path):
        yield from read_text(path, sample_by) if read is None else read(path)


def _is_utf8(text: str) -> bool:
    """Whether it was: bytes that are none come as halves of characters, for they are a row's fault and not the file's."""
    if text.isascii():
        # Known without a copy, of which a cell of hundreds of megabytes would have too many.
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_csv(path: Path) -> Iterator[dict | InputError]:
    # Documents are cells: the limit of the library is 128 KiB.
    csv.field_size_limit(sys.maxsize)
    with open_text(path, newline="", errors="surrogateescape") as file:
        rows = _csv_rows(file, "\t" if kind_of(path) == ".tsv" else ",")
        header = next((row for row in rows if row), [])
        if isinstance(header, InputError):
            raise InputError(f"could not read the header of {path}: {header}")
        twice = [name for name, count in Counter(header).items() if name and count > 1]
        if twice:
            raise InputError(f"the header of {path} names the column {twice[0]!r} twice")
        if not _is_utf8("".join(header)):
            raise InputError(f"could not read {path}: it is {NOT_UTF8}")
        blanks = 0
        for row in rows:
            if not row:
                blanks += 1
                continue
            if len(header) == 1:
                # Of a single column an empty cell is a blank line; those at the end of a file are none.
                yield from ({header[0]: None} for _ in range(blanks))
            blanks = 0
            if isinstance(row, InputError):
                yield row
            elif not all(map(_is_utf8, row)):
                yield InputError(f"it is {NOT_UTF8}")
            elif len(row) > len(header):
                yield InputError(f"it has {len(row)} cells, and the header has {len(header)}")
            else:
                cells = [cell or None for cell in row]
                yield dict(zip(header, cells + [None] * (len(header) - len(row)), strict=True))


def _csv_rows(file: Iterator[str], delimiter: str) -> Iterator[list[str] | InputError]:
    """
    The cells of every row, none for a blank line. Where quotes are wrong, the line on which the row begins comes as an
    [`InputError`], and the next row begins on the next line: a quote that is never closed does not swallow the rest.
    """
    taken, again, number = [], deque(), 0

    def lines() -> Iterator[str]:
        while line := again.popleft() if again else next(file, ""):
            taken.append(line)
            yield line

    rows = csv.reader(lines(), delimiter=delimiter, strict=True)
    while True:
        taken.clear()
        try:
            row = next(rows)
            number += len(taken)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            again.extendleft(reversed(taken[1:]))
            rows = csv.reader(lines(), delimiter=delimiter, strict=True)
            row = InputError(f"the quotes of line {number} are wrong: {error}")
        yield row


def _read_json(path: Path) -> Iterator[dict | InputError]:
    with open_text(path, errors="surrogateescape") as file:
        is_list = kind_of(path) == ".json" and file.read(4096).lstrip().startswith("[")
        file.seek(0)
        if is_list:
            text = file.read()
            if not _is_utf8(text):
                raise InputError(f"could not read {path}: it is {NOT_UTF8}")
            # Beside what is no JSON: numbers of thousands of digits, and lists too deep in one another.
            with input_errors(ValueError, RecursionError, about=f"could not read {path}"):
                values = json.loads(text)
        else:
            values = (line for line in file if not line.isspace())
        for value in values:
            if not is_list and not _is_utf8(value):
                yield InputError(f"it is {NOT_UTF8}")
                continue
            try:
                row = value if is_list else json.loads(value.rstrip())
                yield row if isinstance(row, dict) else InputError(f"it is {json.dumps(row):.40}: an object is needed")
            except (ValueError, RecursionError) as error:
                yield InputError(f"it is no JSON: {error}")


def _read_parquet(path: Path) -> Iterator[dict]:
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def read_text(path: str | Path, sample_by: str) -> Iterator[dict]:
    """The documents of a text file, `{"text": …}` each: the whole of it, its paragraphs or its lines ([`SAMPLE_BY`])."""
    with said_of(path), open_text(path, newline="\n") as file:
        if sample_by == "document":
            yield {"text": file.read()}
        elif sample_by == "line":
            yield from ({"text": line.rstrip("\r\n")} for line in file)
        else:
            # Between blank lines.
            for is_blank, lines in itertools.groupby(file, str.isspace):
                if not is_blank:
                    yield {"text": "".join(lines).rstrip("\r\n")}


_READERS = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json, ".json": _read_json, ".parquet": _read_parquet}
FORMATS = tuple(_READERS)


def located_rows(
    paths: Iterable[str | Path], convert: Callable[[dict, int], dict], read: Callable[..., Iterator] = read_rows
) -> Iterator[dict]:
    """
    `convert(row, number)` of every row of some files; numbers count from 0 through all of them.

    Raises:
        [`InputError`]: A row that cannot be read, or that `convert` refuses: with its file and its number in it.
    """
    number = 0
    for path in paths:
        for i, row in enumerate(read(path)):
            try:
                if isinstance(row, InputError):
                    raise row
                yield convert(row, number)
            except InputError as error:
                raise InputError(f"{path}, row {i}: {error}") from error
            number += 1


def place_of(paths: Iterable[str | Path], number: int) -> str:
    """Where row `number` of some files stands: `FILE, row N`."""
    for path in paths:
        for i, _ in enumerate(read_rows(path)):
            if number == 0:
                return f"{path}, row {i}"
            number -= 1
    raise IndexError("there are fewer rows")


def load_rows(
    names: Iterable[str | Path],
    features: Features,
    convert: Callable[..., dict] | None = None,
    read: Callable[..., Iterator] = read_rows,
    **arguments,
) -> Dataset:
    """
    The rows of some files as a table on disk; the same files, unchanged, are read once.

    Args:
        features (`Features`): The columns and their types; nothing else of a row is kept.
        convert (`Callable`, *optional*):
            `(row, number, **arguments)` to a row of `features`, a function of a module whose results depend on its
            arguments alone. The columns as they are, when `None`.
        read (`Callable`): [`read_rows`] or [`read_text`] of a path, perhaps with `sample_by`.

    Raises:
        [`InputError`]: A file or a row that cannot be read.
    """
    paths = find_files(names)
    convert = columns_as_they_are if convert is None else convert
    arguments = arguments if convert is not columns_as_they_are else {"features": features}
    # The cache knows files and functions by their names alone.
    states = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    code = tuple(inspect.getsource(inspect.getmodule(function)) for function in (_generate, convert))
    given = {"paths": tuple(str(path.absolute()) for path in paths), "read": read, "convert": convert}
    names = tuple(map(str, paths))
    try:
        return Dataset.from_generator(
            _generate,
            features=features,
            gen_kwargs={**given, "names": names, "arguments": arguments, "versions": (states, code)},
            writer_batch_size=256,
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
    except ValueError as error:
        if "corresponds to no data" in str(error):
            raise InputError(f"{', '.join(names)}: there are no rows") from None
        raise


def _generate(paths, names, convert, read, arguments, versions) -> Iterator[dict]:
    yield from located_rows(names, lambda row, number: convert(row, number, **arguments), read)


def columns_as_they_are(row: dict, number: int, features: Mapping) -> dict:
    """The columns of a row that `features` names."""
    missing = [name for name in features if name not in row]
    if missing:
        raise InputError(f"there is no column {missing[0]!r}, {columns_in(row)}")
    return {name: row[name] for name in features}


def columns_in(row: Mapping) -> str:
    """What a row has instead of a column that it lacks, in words."""
    return f"only {', '.join(map(repr, row))}" if row else "nor any other"


def check_text(text: str) -> str:
    """`text`, unless it cannot be written as UTF-8: JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"holds half of a character at place {error.start}") from None
    return text


def load_hub_rows(name: str, config: str | None, streaming: bool = False) -> DatasetDict | IterableDatasetDict:
    """
    The splits of a data set of the hub, or of a local folder in its layout; with `streaming`, read while they are asked for.

    Raises:
        [`InputError`]: It cannot be loaded, for whatever reason.
    """
    try:
        return datasets.load_dataset(name, config, streaming=streaming)
    except Exception as error:
        raise InputError(f"the data set {name} cannot be loaded: {error.__cause__ or error}") from error


def longest_first(rows: Dataset) -> Dataset:
    """The rows by falling `length`: what memory is needed is needed at once, and batches hold rows of a length."""
    # `Dataset.sort` calls pyarrow in a way of which pyarrow warns.
    return rows.select(np.argsort(-np.asarray(rows["length"]), kind="stable"))


def subset(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """At most `count` rows, drawn by `seed`, in their order; all of them when `count` is `None`."""
    if count is None or count >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]))
