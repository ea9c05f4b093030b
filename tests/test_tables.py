# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Rows drawn by a seed, and what cannot be read."""

import pytest
from datasets import Dataset

from ernie_sparse.errors import InputError
from ernie_sparse.tables import load_rows, subset


def test_a_subset_is_drawn_by_the_seed_and_keeps_the_order():
    rows = Dataset.from_dict({"n": list(range(100))})
    drawn = subset(rows, 10, 0)["n"][:]
    assert len(set(drawn)) == 10 and drawn == sorted(drawn) and drawn != list(range(10))
    assert subset(rows, 10, 0)["n"][:] == drawn != subset(rows, 10, 1)["n"][:]
    assert subset(rows, None, 0) is rows and subset(rows, 100, 0) is rows


def test_a_data_set_that_cannot_be_reached_is_said():
    with pytest.raises(InputError, match=r"the data set nobody/nothing cannot be loaded: .+"):
        load_rows({}, "nobody/nothing", None)


def test_a_header_that_names_a_column_twice_is_said(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("text,label,text\na,b,c\n")
    with pytest.raises(InputError, match=r"the header of .*twice\.csv names the column 'text' twice"):
        load_rows({"train": [str(path)]}, None, None)
