# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Files to rows: what stands in them, which files are meant, what cannot be read; and rows drawn by a seed."""

import errno
from pathlib import Path

import pytest
from datasets import Dataset, Features, Value

from ernie_sparse.errors import InputError
from ernie_sparse.tables import find_files, load_hub_rows, load_rows, place_of, read_rows, subset

TEXTS = Features({"text": Value("string")})


def test_a_subset_is_drawn_by_the_seed_and_keeps_the_order():
    rows = Dataset.from_dict({"n": list(range(100))})
    drawn = subset(rows, 10, 0)["n"][:]
    assert len(set(drawn)) == 10 and drawn == sorted(drawn) and drawn != list(range(10))
    assert subset(rows, 10, 0)["n"][:] == drawn != subset(rows, 10, 1)["n"][:]
    assert subset(rows, None, 0) is rows and subset(rows, 100, 0) is rows


def test_a_data_set_that_cannot_be_reached_is_said():
    with pytest.raises(InputError, match=r"the data set nobody/nothing cannot be loaded: .+"):
        load_hub_rows("nobody/nothing", None)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_in(path: Path, **arguments) -> list:
    """The rows, errors as their texts."""
    return [str(row) if isinstance(row, InputError) else row for row in read_rows(path, **arguments)]


QUOTES = "the quotes of line"


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("a.csv", "text,n\nx,007\n,TRUE\n\nonly\n", [("x", "007"), (None, "TRUE"), ("only", None)]),
        ("a.csv", '\ufefftext,n\n"a, ""b""\nc",NA\n', [('a, "b"\nc', "NA")]),
        ("a.TSV", "text\tn\na, b\t1\n", [("a, b", "1")]),
        ("a.csv", "text,n\na,b,c\nd,e\n", ["it has 3 cells, and the header has 2", ("d", "e")]),
        # Where quotes are wrong, the row is the line on which it begins.
        (
            "a.csv",
            'text,n\na,1\n"b" c,2\n"d\ne",3\n',
            [("a", "1"), f"{QUOTES} 3 are wrong: ',' expected after '\"'", ("d\ne", "3")],
        ),
        ("a.csv", 'text,n\n"never,1\nb,2\n', [f"{QUOTES} 2 are wrong: unexpected end of data", ("b", "2")]),
        (
            "a.csv",
            'text,n\n"never,1\nb,2\n"c",3\n',
            [f"{QUOTES} 2 are wrong: ',' expected after '\"'", ("b", "2"), ("c", "3")],
        ),
        ("a.jsonl", '{"text": "é\u2028", "n": 1}\n\n{"text": null, "n": [2]}\n', [("é\u2028", 1), (None, [2])]),
        ("a.json", ' [{"text": "x", "n": 1},\n {"text": "y", "n": "z"}]', [("x", 1), ("y", "z")]),
        ("a.json", '{"text": "x", "n": 1}\n{"text": "y", "n": 2}\n', [("x", 1), ("y", 2)]),
        ("a.jsonl", '[1]\n{"text": "y", "n": 2}', ["it is [1]: an object is needed", ("y", 2)]),
    ],
)
def test_what_stands_in_a_file_comes_out_row_by_row(name, content, expected, tmp_path):
    expected = [row if isinstance(row, str) else dict(zip(("text", "n"), row, strict=True)) for row in expected]
    assert rows_in(write(tmp_path / name, content)) == expected


def test_a_line_that_is_no_json_stands_alone(tmp_path):
    rows = rows_in(
        write(
            tmp_path / "a.jsonl",
            '{"text": "x"}\n{"text": \n{"text": "y"}\n' + "[" * 100_000 + '\n{"n": ' + "1" * 5000 + "}",
        )
    )
    assert rows[4].startswith("it is no JSON: Exceeds the limit")
    assert rows[0] == {"text": "x"} and rows[2] == {"text": "y"}
    assert rows[1].startswith("it is no JSON") and rows[3].startswith("it is no JSON")


def test_an_empty_cell_of_a_single_column_has_its_place(tmp_path):
    rows = rows_in(write(tmp_path / "a.csv", "\ntext\n\na\n\n\nb\n\n\n"))
    assert [row["text"] for row in rows] == [None, "a", None, None, "b"]
    # Of several columns a blank line is no row.
    assert len(rows_in(write(tmp_path / "a.csv", "text,n\n\na,1\n\nb,2\n"))) == 2


def test_a_cell_may_be_a_document(tmp_path):
    assert len(rows_in(write(tmp_path / "a.csv", "text\n" + "x" * 500_000 + "\n"))[0]["text"]) == 500_000


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "text,label,text\na,b,c\n", r"the header of .*a\.csv names the column 'text' twice"),
        (
            "a.csv",
            '"never closed\nx\n',
            r"could not read the header of .*a\.csv: the quotes of line 1 are wrong: unexpected end",
        ),
        ("a.json", '[{"n": ' + "1" * 5000 + "}]", r"could not read .*a\.json: Exceeds the limit"),
        ("a.json", "[" * 100_000 + "]" * 100_000, r"could not read .*a\.json: maximum recursion depth exceeded"),
        ("a.csv", b"t\xe9xt\nete\n", r"could not read .*a\.csv: it is not UTF-8 text"),
        # Python's csv reads zero bytes from 3.11 on.
        (
            "a.csv",
            "text\nutf-16\n".encode("utf-16"),
            r"could not read .*a\.csv: .*(it is not UTF-8 text|line contains NUL)",
        ),
        ("a.json", b'[{"text": "\xe9"}]', r"could not read .*a\.json: it is not UTF-8 text"),
        ("a.json", '[{"text": "a"}, {"te', r"could not read .*a\.json: Unterminated string"),
        ("a.parquet", "no such thing", r"could not read .*a\.parquet: "),
        ("a.txt", "text", r"a\.txt: csv, tsv, jsonl, json, parquet files can be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        rows_in(write(tmp_path / name, content))


@pytest.mark.parametrize(
    "name, content",
    [("a.csv", b"text\none\nt\xe9xt\ntwo\n"), ("a.jsonl", b'{"text": "one"}\n"\xff\n{"text": "two"}\n')],
)
def test_a_row_that_is_not_utf8_is_that_row_alone(name, content, tmp_path):
    found = rows_in(write(tmp_path / name, content))
    assert found == [{"text": "one"}, "it is not UTF-8 text", {"text": "two"}]


def test_a_text_is_cut_into_documents(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeffone\ntwo\n\n \n\nthree\r\n")
    assert rows_in(path, sample_by="document") == [{"text": "one\ntwo\n\n \n\nthree\r\n"}]
    assert rows_in(path, sample_by="paragraph") == [{"text": "one\ntwo"}, {"text": "three"}]
    assert [row["text"] for row in rows_in(path, sample_by="line")] == ["one", "two", "", " ", "", "three"]


def test_a_path_is_a_path_and_else_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data[1].csv", "data1.csv", "data2.csv", "a b::é.csv", "sub/data3.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, f"text\n{name}\n")
    found = [
        load_rows(names, TEXTS)["text"][:]
        for names in (["data[1].csv"], ["a b::é.csv"], ["data?.csv"], ["**/data3.csv"])
    ]
    assert found == [["data[1].csv"], ["a b::é.csv"], ["data1.csv", "data2.csv"], ["sub/data3.csv"]]
    for name, message in (
        ("data[9].csv", "no such file, and none that matches"),
        ("none.csv", "there is no such file"),
    ):
        with pytest.raises(InputError, match=message):
            find_files([name])


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = write(tmp_path / "a.csv", "text\nfirst\n")
    assert load_rows([path], TEXTS)["text"][:] == ["first"]
    write(path, "text\nsecond\n")
    assert load_rows([path], TEXTS)["text"][:] == ["second"]


def test_a_bad_row_is_named_by_its_file_and_its_number_there(tmp_path):
    paths = [
        write(tmp_path / "a.jsonl", '{"text": "x"}\n' * 3),
        write(tmp_path / "b.jsonl", '{"text": "x"}\n{"body": "y"}\n'),
    ]
    with pytest.raises(InputError, match=r"b\.jsonl, row 1: there is no column 'text', only 'body'"):
        load_rows(paths, TEXTS)
    assert place_of(paths, 4) == f"{paths[1]}, row 1" and place_of(paths, 2) == f"{paths[0]}, row 2"


def test_a_file_that_may_not_be_read_is_named_before_anything_is_prepared(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("north")

    def refused(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    # Root may read every file.
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PermissionError, match=str(path)):
        find_files([path])
