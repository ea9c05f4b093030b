# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Pages of Markdown whose tables are made of results."""

import re
from collections.abc import Mapping
from pathlib import Path

from ernie_sparse.errors import InputError


def fill_page(page: Path, tables: Mapping[str, str]):
    """
    Write each table into a page of Markdown, between its marks `<!-- begin NAME -->` and `<!-- end NAME -->`.

    Raises:
        [`InputError`]: No such page, or one that has no place for a table.
    """
    if not page.is_file():
        raise InputError(f"{page}: there is no such file")
    text = page.read_text()
    for name, table in tables.items():
        marks = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
        if not marks.search(text):
            raise InputError(
                f"{page} has no place for a table: the lines <!-- begin {name} --> and <!-- end {name} -->"
            )
        text = marks.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    page.write_text(text)
