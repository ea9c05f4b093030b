# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Documents, one after the other, in pieces of bounded size: of files, packed ones too, and of data sets of the hub."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..tables import FORMATS, check_text, columns_in, kind_of, open_text, read_rows, said_of

LEAST_PIECE = 2**17
# More than a token has in most languages.
CHARACTERS_PER_TOKEN = 8


class Reading(NamedTuple):
    """
    How documents are read.

    Args:
        column (`str`): That holds the text in tables.
        sample_by (`str`): What a document is in a text file: the file, a paragraph or a line.
        piece (`int`): Characters of a piece: of a longer document, each piece is a document of its own.
        skip_bad (`bool`): Whether rows that cannot be read are left out, and counted, or end the reading.
    """

    column: str = "text"
    sample_by: str = "document"
    piece: int = LEAST_PIECE
    skip_bad: bool = False

    @classmethod
    def for_rows_of(
        cls, max_length: int, column: str = "text", sample_by: str = "document", skip_bad: bool = False
    ) -> "Reading":
        """For rows of so many tokens, of which a piece fills one at least."""
        return cls(column, sample_by, max(LEAST_PIECE, CHARACTERS_PER_TOKEN * max_length), skip_bad)


def documents_of(name: str, rows: Iterable[dict] | None, reading: Reading) -> Iterator[str | InputError]:
    """
    The documents of a file or, where `rows` are given, of a data set. What cannot be read comes as an [`InputError`] in its
    place, with file and row; behind it the file is read on, where that can be.
    """
    path = Path(name)
    try:
        if rows is None and kind_of(path) not in FORMATS and reading.sample_by == "document":
            if reading.column != "text":
                raise InputError(f"{name}, row 0: --text-column {reading.column}: there is no such column, only 'text'")
            with said_of(path), open_text(path, newline="\n") as file:
                yield from pieces(iter(partial(file.read, reading.piece), ""), reading.piece)
            return
        found = read_rows(path, sample_by=reading.sample_by) if rows is None else _rows_of_data_set(name, rows)
        for number, row in enumerate(found):
            try:
                text = _text_of(row, reading.column)
            except InputError as error:
                yield InputError(f"{name}, row {number}: {error}")
            else:
                yield from pieces([text], reading.piece)
    except InputError as error:
        yield error


def _rows_of_data_set(name: str, rows: Iterable[dict]) -> Iterator[dict]:
    number = 0
    try:
        for row in rows:
            yield row
            number += 1
    except Exception as error:
        # Of a stream, files are parsed and fetched by now, each way with errors of its own.
        raise InputError(f"{name}: it cannot be read on from row {number}: {error}") from error


def _text_of(row: dict | InputError, column: str) -> str:
    if isinstance(row, InputError):
        raise row
    if column not in row:
        raise InputError(f"--text-column {column}: there is no such column, {columns_in(row)}")
    text = row[column]
    if not isinstance(text, str | None):
        raise InputError(f"column {column!r} holds {text!r:.40} ({type(text).__name__}): a text is needed")
    try:
        return check_text(text or "")
    except InputError as error:
        raise InputError(f"column {column!r} {error}") from None


def pieces(chunks: Iterable[str], size: int) -> Iterator[str]:
    """The text that `chunks` are of, in pieces of at most `size` characters, none of them within a word if that can be."""
    # Not shortened piece by piece: all that is left would be copied each time.
    text, start = "", 0
    for chunk in chunks:
        text, start = text[start:] + chunk, 0
        while len(text) - start > size:
            stop = _cut(text, start, size)
            yield text[start:stop]
            start = stop
    yield text[start:]


def _cut(text: str, start: int, size: int) -> int:
    """
    The last blank that stands alone at most `size` behind `start`: of several, a tokenizer may make a token of their number.
    """
    for place in range(start + size, start + size // 2, -1):
        if text[place].isspace() and not text[place - 1].isspace() and not text[place + 1 : place + 2].isspace():
            return place
    return start + size
