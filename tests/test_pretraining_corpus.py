# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Corpora: every document once, whoever reads; in pieces of bounded size; on from any place; and what cannot be read."""

import gzip
import itertools
from collections import Counter

import pytest

from ernie_sparse.errors import InputError
from ernie_sparse.pretraining import corpus as corpora
from ernie_sparse.pretraining.corpus import Corpus, parts_of_files, parts_of_rows
from ernie_sparse.pretraining.documents import Reading, documents_of, pieces
from ernie_sparse.tables import load_hub_rows

LINES = Reading(sample_by="line", piece=40)


@pytest.fixture
def files(tmp_path) -> list[str]:
    names = []
    for name, count in (("a.txt", 90), ("b.txt", 31), ("c.txt", 7)):
        (tmp_path / name).write_text("".join(f"{name} {number}\n" for number in range(count)))
        names.append(str(tmp_path / name))
    return names


def read(corpus: Corpus, **how) -> list[tuple[int, str]]:
    return [(place.number_of_pass, text) for place, texts in corpus.groups(**how) for text in texts]


@pytest.mark.parametrize("shares", [1, 2, 3, 5])
def test_each_document_of_a_pass_goes_to_one_reader(files, shares):
    shared = [
        read(Corpus(parts_of_files(files), LINES), share=share, shares=shares, passes=2) for share in range(shares)
    ]
    found = Counter(itertools.chain.from_iterable(shared))
    assert all(shared) and len(found) == 2 * 128 and set(found.values()) == {1}
    if shares == 1:
        # Anew in each pass.
        first, second = ([text for number, text in shared[0] if number == which] for which in (0, 1))
        assert first != second


@pytest.mark.parametrize("share, shares", [(0, 1), (1, 2), (3, 4)])
def test_a_reader_goes_on_from_any_place(files, share, shares):
    def groups(**how):
        corpus = Corpus(parts_of_files(files), LINES._replace(piece=2), seed=3)
        return list(corpus.groups(share=share, shares=shares, passes=2, **how))

    whole = groups()
    assert max(place.group for place, _ in whole) >= 2
    for number, (place, _) in enumerate(whole):
        assert groups(start=place) == whole[number:]


def test_files_are_read_by_turns_and_as_often_as_their_weight(files):
    corpus = Corpus(parts_of_files(files, [2, 0.5, 1]), LINES)
    texts = [text for _, text in read(corpus, passes=1)]
    counts = Counter(texts)
    assert all(counts[f"a.txt {number}"] == 2 for number in range(90))
    halved = sum(counts[f"b.txt {number}"] for number in range(31))
    assert 8 <= halved <= 23 and max(counts[f"b.txt {number}"] for number in range(31)) == 1
    assert {text[0] for text in texts[:40]} >= {"a", "b"}


def test_pieces_are_small_end_at_blanks_and_are_the_text():
    text = "one two  three " * 30 + "x" * 100
    found = list(pieces((text[i : i + 7] for i in range(0, len(text), 7)), 40))
    assert "".join(found) == text and max(map(len, found)) <= 40 and min(map(len, found[:-1])) >= 20
    # A blank begins a piece, and of two blanks none does.
    assert all(piece[0] == " " and piece[1] != " " for piece in found[1:] if not piece.startswith("x"))


def test_packed_files_and_tables_are_read(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write('{"body": "one"}\n{"body": null}\n{"body": "two"}\n')
    reading = Reading("body")
    corpus = Corpus(parts_of_files([str(tmp_path / "a.jsonl.gz")]), reading)
    assert sorted(corpus.documents()) == ["one", "two"] and corpus.skipped == {"empty": 1}
    (tmp_path / "a.txt.zst").write_bytes(b"none")
    with pytest.raises(InputError, match=r"a\.txt\.zst: pip install zstandard|could not read"):
        list(Corpus(parts_of_files([str(tmp_path / "a.txt.zst")]), Reading()).documents())
    (tmp_path / "b.txt.gz").write_bytes(b"not packed")
    with pytest.raises(InputError, match=r"could not read .*b\.txt\.gz: Not a gzipped file"):
        list(Corpus(parts_of_files([str(tmp_path / "b.txt.gz")]), Reading()).documents())


def test_what_cannot_be_read_stops_or_is_counted(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\nno json\n{"text": "\xff"}\n{"other": 1}\n{"text": 3}\n{"text": "two"}\n')
    parts = parts_of_files([str(path)])
    with pytest.raises(InputError, match=r"a\.jsonl, row 1: it is no JSON"):
        list(Corpus(parts, Reading()).documents())
    corpus = Corpus(parts, Reading(skip_bad=True))
    said = []
    monkeypatch.setattr(corpora.logger, "warning", lambda text, *values: said.append(text % values))
    assert sorted(corpus.documents()) == ["one", "two"] and corpus.skipped == {str(path): 4}
    (line,) = said
    assert "a.jsonl, row 1: it is no JSON" in line and "left out" in line
    binary = tmp_path / "b.txt"
    binary.write_bytes(b"good \xff\xfe")
    (error,) = documents_of(str(binary), None, Reading())
    assert isinstance(error, InputError) and "b.txt: it is not UTF-8 text" in str(error)


def test_a_data_set_that_breaks_off_while_it_streams_is_an_error_of_its_own(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n{"text": broken\n')
    parts = parts_of_rows("corpus", load_hub_rows(str(tmp_path), None, streaming=True)["train"])
    for read in (lambda: list(Corpus(parts, Reading()).documents()), lambda: Corpus(parts, Reading()).held_out(0.5)):
        with pytest.raises(InputError, match="corpus, shard 0: it cannot be read on from row 0: JSON parse error"):
            read()


def test_a_corpus_without_text_or_with_too_little_for_its_readers_says_so(tmp_path):
    path = tmp_path / "blank.txt"
    path.write_text(" \n\n")
    with pytest.raises(InputError, match=r"blank\.txt: there is no text"):
        list(Corpus(parts_of_files([str(path)]), LINES).groups())
    path.write_text("one\ntwo\n")
    with pytest.raises(InputError, match="too few documents for 3 readers"):
        list(itertools.islice(Corpus(parts_of_files([str(path)]), LINES).groups(share=2, shares=3), 3))


def test_what_is_held_out_is_not_trained_on(files):
    corpus = Corpus(parts_of_files(files), LINES)
    train, validation = corpus.held_out(0.1)
    held_out, rest = list(validation.documents()), list(train.documents())
    assert held_out and not set(held_out) & set(rest) and len(held_out) + len(rest) == 128
    # The first part has less than is wanted of all.
    train, validation = Corpus(parts_of_files(files[2:] + files[:2]), LINES).held_out(0.3)
    assert list(validation.documents()) == ["c.txt 0", "c.txt 1"] and len(list(train.documents())) == 126
    with pytest.raises(InputError, match=r"a\.txt has too few documents to hold some out"):
        Corpus(parts_of_files(files), Reading()).held_out(0.5)
