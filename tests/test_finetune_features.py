# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Records of every task type: from the cache, by several processes, and what is left of them as features and notes."""

import json
import os
import string
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, Value, load_dataset
from transformers import BertTokenizer

from ernie_sparse.finetune import classification, features
from ernie_sparse.finetune.features import build_features, split_notes
from ernie_sparse.finetune.settings import Settings
from ernie_sparse.finetune.task_types import TASK_TYPES

datasets.disable_progress_bars()

ANSWERS = {"text": ["ab"], "answer_start": [4]}
# Per task type: rows of which some are noted, and the notes in training.
CASES = {
    "single_label": (
        [{"text": "abc", "label": "x"}, {"text": "abcdefghij" * 3, "label": "y"}],
        {"longer than the limit": ["r1"]},
    ),
    "token_classification": (
        [{"tokens": ["ab", "c"], "labels": ["x", "y"]}, {"tokens": ["abc"] * 20, "labels": ["x"]}],
        {"as many labels as tokens are needed": ["r1"]},
    ),
    "question_answering": (
        [{"question": "a", "context": "cd ab " * 20, "answers": a} for a in (ANSWERS, {**ANSWERS, "text": ["z"]})],
        {"answer not in the context": ["r1"]},
    ),
    "candidate_choice": (
        [{"query": "a", "candidates": ["b", "c"], "supports": ["abc" * 20], "answer": answer} for answer in "cd"],
        {"supports cut": ["r0"], "answer not among the candidates": ["r1"]},
    ),
}
every_type = pytest.mark.parametrize("name", CASES)
one_type = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "question_answering" else pytest.mark.slow) for name in CASES]
)


def make_tokenizer(more: tuple[str, ...] = ()) -> BertTokenizer:
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase)
    pieces = (*pieces, *(f"##{letter}" for letter in string.ascii_lowercase), *more)
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})


def make_settings(name: str, max_length: int = 24) -> Settings:
    names = ("x", "y") if name in ("single_label", "token_classification") else ()
    return Settings(name, max_length, 8, 16, {"b": "c", "a": "d"}, label_names=names, stride=2)


def load(name: str, folder: Path) -> Dataset:
    """A type's rows, from a file that is written once."""
    path = folder / f"{name}.jsonl"
    folder.mkdir(exist_ok=True)
    if not path.exists():
        rows = [{"id": f"r{i}", **row} for i, row in enumerate(CASES[name][0])]
        path.write_text("\n".join(map(json.dumps, rows)))
    return load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))


def encode(name: str, rows: Dataset, settings=None, tokenizer=None, is_training=True, num_proc=None) -> Dataset:
    arguments = (settings or make_settings(name), tokenizer or make_tokenizer(), is_training, num_proc)
    return TASK_TYPES[name].encode(rows, *arguments)


def files(records: Dataset) -> dict[str, int]:
    """Where records are stored, and when they were written."""
    return {file["filename"]: Path(file["filename"]).stat().st_mtime_ns for file in records.cache_files}


@every_type
def test_the_same_rows_are_encoded_once(name, tmp_path):
    tokenizer = make_tokenizer()
    first = encode(name, load(name, tmp_path), tokenizer=tokenizer)
    written = files(first)
    # The tokenizer has been called since, and everything else is loaded anew.
    tokenizer("abc", truncation=True, max_length=4, padding="max_length")
    again = [encode(name, load(name, tmp_path), tokenizer=used) for used in (tokenizer, make_tokenizer())]
    assert len(written) == 1 and files(again[0]) == files(again[1]) == written
    for records in (first, *again):
        found, notes = split_notes(records, load(name, tmp_path))
        assert notes == CASES[name][1] and len(found) > 0
        assert min(found["length"]) > 0 and "notes" not in found.column_names


@every_type
def test_what_is_encoded_otherwise_is_another_file(name, tmp_path, monkeypatch):
    rows = load(name, tmp_path)
    others = (
        {"settings": make_settings(name, max_length=23)},
        {"tokenizer": make_tokenizer(("yz",))},
        # In evaluation the labels of both rows have to fit.
        *([{"is_training": False}] if name != "token_classification" else []),
    )
    found = [files(encode(name, rows, **changes)) for changes in ({}, *others)]
    monkeypatch.setattr(features.inspect, "getsource", lambda module: f"other code of {module}")
    found.append(files(encode(name, rows)))
    assert len({file for by_file in found for file in by_file}) == len(found)


@one_type
def test_several_processes_make_the_same(name, tmp_path):
    alone, shared = (encode(name, load(name, tmp_path / str(n)), num_proc=n) for n in (None, 2))
    assert shared[:] == alone[:] and shared.features == alone.features
    assert (len(files(alone)), len(files(shared))) == (1, 2)


@every_type
def test_rows_in_memory_make_the_same_without_a_cache(name, tmp_path):
    rows = load(name, tmp_path)
    on_disk, in_memory = encode(name, rows), encode(name, Dataset.from_list(rows.to_list(), features=rows.features))
    assert files(on_disk) and not files(in_memory)
    assert in_memory[:] == on_disk[:] and in_memory.features == on_disk.features


@pytest.mark.slow
def test_another_process_reads_what_this_one_wrote(tmp_path):
    mine = {name: files(encode(name, load(name, tmp_path))) for name in CASES}
    script = (
        "import json, sys; from pathlib import Path; from test_finetune_features import *\n"
        "print(json.dumps({name: files(encode(name, load(name, Path(sys.argv[1])))) for name in CASES}))"
    )
    # With another order of sets.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == mine


def encode_batch(batch: dict, settings, tokenizer, is_training: bool):
    """Texts of one more token each, as many as the row says; the token is the number of rows at a time."""
    for count, remarks in zip(batch["count"], batch["remarks"], strict=True):
        yield [{"input_ids": [len(batch["count"])] * (k + 1)} for k in range(count)], remarks


def make_records(counts: list[int], remarks: list[list[str]]) -> tuple[Dataset, Dataset]:
    ids = [f"r{i}" for i in range(len(counts))]
    rows = Dataset.from_dict({"id": ids, "count": counts, "remarks": remarks})
    settings, tokenizer = make_settings("single_label"), make_tokenizer()
    return build_features(rows, encode_batch, {}, settings, tokenizer, True, batch_size=2), rows


def test_notes_stand_at_the_first_record_of_a_row_and_name_it():
    records, rows = make_records([2, 0, 1, 3], [["a", "b"], ["b"], [], ["c", "a"]])
    assert records["document"] == [0, 0, 1, 2, 3, 3, 3] and records["length"] == [1, 2, 0, 1, 1, 2, 3]
    assert records["notes"] == [["a", "b"], [], ["b"], [], ["c", "a"], [], []]
    found, notes = split_notes(records, rows)
    assert notes == {"a": ["r0", "r3"], "b": ["r0", "r1"], "c": ["r3"]}
    assert found["document"] == [0, 0, 2, 3, 3, 3] and found["input_ids"][1] == [2, 2]
    assert found["attention_mask"] == [[1] * n for n in found["length"]]
    assert found["token_type_ids"] == [[0] * n for n in found["length"]]


def test_rows_without_any_feature_leave_all_columns():
    found, notes = split_notes(*make_records([0, 0, 0], [["a"], [], ["a"]]))
    assert len(found) == 0 and notes == {"a": ["r0", "r2"]}
    names = ["input_ids", "attention_mask", "token_type_ids", "document", "length"]
    assert found.column_names == names


@pytest.mark.parametrize("most", [1, 9, 20])
def test_long_documents_are_tokenized_a_few_at_a_time(most, monkeypatch):
    tokenizer, settings = make_tokenizer(), make_settings("single_label")
    texts = ["abc def", "a", "b c d e f g", "ab", "abcdefghijklmnop", "", "cd ef"]
    rows = Dataset.from_dict({"id": [f"r{i}" for i in range(len(texts))], "text": texts})
    expected = build_features(
        rows, classification.encode_batch, {"document_length": Value("int64")}, settings, tokenizer, True
    )
    sizes = []

    def counting(batch, **arguments):
        sizes.append(sum(map(len, batch["text"])) if len(batch["text"]) > 1 else 0)
        return classification.encode_batch(batch, **arguments)

    monkeypatch.setattr(features, "MOST_AT_ONCE", most)
    found = build_features(rows, counting, {"document_length": Value("int64")}, settings, tokenizer, True)
    assert found[:] == expected[:] and len(sizes) > 1 and max(sizes) <= most + 2 * len("r0")


def test_how_a_tokenizer_cut_before_is_no_part_of_what_is_compared(monkeypatch, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer("abc", truncation=True, max_length=4, padding="max_length")
    core = tokenizer.backend_tokenizer
    assert core.truncation is not None and core.padding is not None
    monkeypatch.setattr(Dataset, "map", lambda *arguments, **more: (core.truncation, core.padding))
    Dataset.from_dict({"id": ["r0"], "text": ["abc"]}).save_to_disk(tmp_path)
    rows = Dataset.load_from_disk(tmp_path)
    assert build_features(rows, encode_batch, {}, make_settings("single_label"), tokenizer, True) == (None, None)
