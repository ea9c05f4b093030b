# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What results say of where they come from."""

import json
import math
import subprocess
from enum import Enum

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from ernie_sparse import cli, results
from ernie_sparse.errors import InputError
from ernie_sparse.results import Record, contents_digest, environments, write_json


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder that this package's sources seem to lie in, within a repository."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    # Not the answer that is kept for all other tests.
    monkeypatch.setattr(results, "commit", results.commit.__wrapped__)
    monkeypatch.setattr(results, "__file__", str(folder / "results.py"))
    git(tmp_path, "init", "--quiet")
    return folder


def git(folder, *words: str) -> str:
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *author, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_commit_is_that_of_the_sources(sources):
    git(sources, "add", ".")
    git(sources, "commit", "--quiet", "-m", "one")
    head = git(sources, "rev-parse", "HEAD")
    assert results.commit() == head
    (sources.parent / "elsewhere.txt").write_text("not of the package")
    assert results.commit() == head
    kept = sources.parent / "benchmarks" / "results" / "run.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    assert results.commit() == head
    for changed in (sources / "__init__.py", sources.parent / "benchmarks" / "lra.py"):
        before = changed.read_text() if changed.exists() else None
        changed.write_text("changed = True\n")
        assert results.commit() == f"{head}-dirty"
        changed.unlink() if before is None else changed.write_text(before)
    assert results.commit() == head


def test_a_copy_inside_another_repository_has_no_commit(sources):
    (sources.parent / "theirs.txt").write_text("")
    git(sources.parent, "add", "theirs.txt")
    git(sources.parent, "commit", "--quiet", "-m", "theirs")
    assert results.commit() is None


def test_what_is_committed_during_a_run_is_not_what_ran(sources):
    git(sources, "add", ".")
    git(sources, "commit", "--quiet", "-m", "one")
    record, head = Record("ernie-sparse pretrain", ["--train-file", "a b.txt"]), git(sources, "rev-parse", "HEAD")
    (sources / "__init__.py").write_text("later = True\n")
    git(sources, "commit", "--quiet", "-a", "-m", "later")
    assert record.facts()["commit"] == head != results.commit()


@pytest.mark.parametrize("flag", ["--resume-from-checkpoint", "--resume_from_checkpoint"])
def test_the_command_runs_from_the_beginning(flag):
    facts = Record("ernie-sparse pretrain", ["--train-file", "a b.txt", flag, "last", "--bf16"]).facts()
    assert facts["command"] == "ernie-sparse pretrain --train-file 'a b.txt' --bf16"
    assert environments([{"loss": 1.0}, {"step": 3, "hardware": {}}]) == [{"step": 3, "hardware": {}}]


class Colour(str, Enum):
    RED = "red"


def test_a_file_of_json_can_be_read_by_anyone(tmp_path):
    content = {
        "loss": math.nan,
        "steps": [1, -math.inf, 0.5, True, None],
        "numbers": {"a": np.float32(0.5), 3: np.int64(4), "b": np.float64("inf")},
        "path": tmp_path,
        "colour": Colour.RED,
        "names": ("é", "☃"),
        "url": "https://me:secret@host/x and s3://key:pw@bucket",
    }
    write_json(tmp_path / "sub" / "a.json", content)
    text = (tmp_path / "sub" / "a.json").read_text(encoding="utf-8")

    def refuse(constant):
        raise ValueError(constant)

    assert json.loads(text, parse_constant=refuse) == {
        "loss": None,
        "steps": [1, None, 0.5, True, None],
        "numbers": {"a": 0.5, "3": 4, "b": None},
        "path": str(tmp_path),
        "colour": "red",
        "names": ["é", "☃"],
        "url": "https://***@host/x and s3://***@bucket",
    }
    assert "é" in text and [path.name for path in (tmp_path / "sub").iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("https://me:se@cret@host/x", "https://***@host/x"),
        ("'https://me:se/cr@et@host/x' next", "'https://***@host/x' next"),
        ("https://host/x?token=abc&page=2", "https://host/x?token=***&page=2"),
        ("https://host/x?a=1&X-Amz-Signature=abc#top", "https://host/x?a=1&X-Amz-Signature=***#top"),
        ("https://host/x?API_KEY=abc'", "https://host/x?API_KEY=***'"),
        (f"--tokn hf_{'a1' * 17}", "--tokn hf_***"),
        ("me@host https://host/x?page=2 hf_model", "me@host https://host/x?page=2 hf_model"),
    ],
)
def test_no_password_is_kept_or_printed(text, expected, tmp_path, capsys):
    write_json(tmp_path / "a.json", {"a": [text]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [expected]}
    results.print_table([("a", text)])
    assert expected in capsys.readouterr().out

    def refuse(argv):
        raise InputError(text)

    assert cli.run_command("knit", refuse, []) == 2
    assert capsys.readouterr().err == f"knit: error: {expected}\n"
    # What stands in rows stays as it is.
    write_json(tmp_path / "a.json", {"a": text}, is_data=True)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": text}


@pytest.mark.parametrize("words", [["--hub-token", "hf_xxx"], ["--hub-token=hf_xxx"], ["--hub_token", "hf_xxx"]])
def test_a_record_holds_no_token(words):
    record = Record("ernie-sparse finetune", ["--model", "m", *words, "--seed", "1"])
    assert record.command == "ernie-sparse finetune --model m --seed 1"


ROWS = [
    {"text": f"t{i}", "ids": list(range(i)), "answers": {"text": ["a"] * (i % 3)}, "label": i % 2} for i in range(9)
]


def test_a_digest_is_of_the_rows_and_not_of_how_they_are_stored(tmp_path):
    rows = Dataset.from_list(ROWS)
    digest = contents_digest(rows)
    parts = concatenate_datasets([rows.select(range(4)), rows.select(range(4, 9))])
    longer = concatenate_datasets([rows, rows])
    rows.to_parquet(tmp_path / "rows.parquet")
    for same in (parts, longer.select(range(9)), longer.select(list(range(9, 18))), rows.flatten_indices()):
        assert contents_digest(same) == digest
    assert contents_digest(Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))) == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [rows[1], rows[0], *rows[2:]],
        lambda rows: rows[:-1],
        lambda rows: [{**rows[0], "label": 1}, *rows[1:]],
        lambda rows: [*rows[:-1], {**rows[-1], "ids": [*rows[-1]["ids"][:-1], 99]}],
        lambda rows: [*rows[:-2], {**rows[-2], "ids": [*rows[-2]["ids"], 0]}, {**rows[-1], "ids": rows[-1]["ids"][1:]}],
        lambda rows: [{**rows[0], "text": None}, *rows[1:]],
        lambda rows: [{**rows[0], "ids": None}, *rows[1:]],
        lambda rows: [{**rows[0], "text": ""}, *rows[1:]],
        lambda rows: [{**rows[0], "answers": {"text": ["b"]}}, *rows[1:]],
        lambda rows: [{"words" if name == "text" else name: row[name] for name in row} for row in rows],
    ],
)
def test_other_rows_have_another_digest(change):
    digests = [contents_digest(Dataset.from_list(rows)) for rows in (ROWS, change(ROWS))]
    assert digests[0] != digests[1]
