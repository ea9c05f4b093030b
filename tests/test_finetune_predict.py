# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Prediction is evaluation, on files of any form; and the toy problems that fine-tuning is tested on."""

import atexit
import csv
import functools
import json
import random
import shutil
import tempfile
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ernie_sparse import ErnieSparseConfig, ErnieSparseForMaskedLM, cli
from ernie_sparse.finetune.task_types import TASK_TYPES

datasets.disable_progress_bars()

FILLER = "snow ice lemon bee wind ship grass stone".split()
WORDS = [*FILLER, *"north south paris rome anna who lives there the capital of is ? .".split()]
SIZES = {"train": 32, "validation": 6, "test": 7}


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    specials = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **specials)


def make_rows(task_type: str, count: int, seed: int) -> list[dict]:
    """Rows whose second half of the words a model of any size tells from the first."""
    draw = random.Random(seed)

    def filler(most: int) -> str:
        return " ".join(draw.choice(FILLER) for _ in range(draw.randint(2, most)))

    rows = []
    for number in range(count):
        word = ("north", "south")[number % 2]
        text = f"{word} {word} {filler(20)} {word} {word}"
        row = {"id": f"{task_type[0]}{number}", "text": text, "label": word}
        if task_type == "multi_label":
            row["label"] = [word, "windy"]
        elif task_type == "regression":
            row["label"] = float(number % 2)
        elif task_type == "token_classification":
            words = text.split()
            labels = ["B-SIDE" if word in ("north", "south") else "O" for word in words]
            row = {"id": row["id"], "tokens": words, "labels": labels}
        elif task_type == "question_answering":
            context = f"{filler(90)} anna {filler(5)}"
            answers = {"text": ["anna"], "answer_start": [context.index("anna")]}
            row = {"id": row["id"], "question": "who lives there ?", "context": context, "answers": answers}
        elif task_type == "candidate_choice":
            city = ("paris", "rome")[number % 2]
            supports = [f"{city} {city} {city}", filler(8)]
            row = {"id": row["id"], "query": "capital_of", "candidates": ["paris", "rome"], "supports": supports}
            row["answer"] = city
        rows.append(row)
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@functools.cache
def workspace() -> Path:
    """A folder with a tiny model, in `model`, and `TYPE-SPLIT.jsonl` of every task_type; one for all tests of a session."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    root = Path(folder.name)
    torch.manual_seed(0)
    config = ErnieSparseConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        block_size=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )
    ErnieSparseForMaskedLM(config).save_pretrained(root / "model")
    make_tokenizer().save_pretrained(root / "model")
    for task_type in TASK_TYPES:
        for seed, (split, count) in enumerate(SIZES.items()):
            write_jsonl(root / f"{task_type}-{split}.jsonl", make_rows(task_type, count, seed))
    return root


def arguments(output_dir: Path, *more, task_type="single_label", splits=("train", "validation", "test")) -> list[str]:
    """A command line for the rows of a task_type; of a flag given twice the last counts."""
    files = [word for split in splits for word in (f"--{split}-file", workspace() / f"{task_type}-{split}.jsonl")]
    words = [
        *("finetune", "--model", workspace() / "model", "--kind", task_type, *files, "--output-dir", output_dir),
        *("--num-train-epochs", 6, "--per-device-train-batch-size", 8, "--learning-rate", 3e-3),
        *("--logging-steps", 4, "--report-to", "none", "--disable-tqdm", "true", *more),
    ]
    return [str(word) for word in words]


def finetune(output_dir: Path, *more, **choices) -> dict:
    assert cli.main(arguments(output_dir, *more, **choices)) == 0
    return read_results(output_dir)


@functools.cache
def finetuned(task_type: str) -> Path:
    """A model of a task_type, trained until it knows its toy problem; not to be written to."""
    out = workspace() / f"{task_type}-finetuned"
    finetune(
        out, "--saor-alpha", 1, "--num-train-epochs", 10 if task_type == "candidate_choice" else 6, task_type=task_type
    )
    return out


def predict(task_type: str, source: Path, target: Path, *more) -> int:
    words = ["predict", "--model", finetuned(task_type), "--input-file", source, "--output-file", target, *more]
    return cli.main([str(word) for word in words])


def near(value):
    """`value` with what rounding alone changes in its numbers, at any depth."""
    if isinstance(value, dict):
        return {name: near(part) for name, part in value.items()}
    if isinstance(value, list):
        return [near(part) for part in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def assert_same(found: list[dict], expected: list[dict]):
    """Predictions that differ by rounding alone, which a batch of another length brings."""
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for row, other in zip(found, expected, strict=True):
        for name, value in other.items():
            if name == "n_best":
                assert row[name][:1] == near(value[:1])
            else:
                assert row[name] == near(value), name


@pytest.mark.slow
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_a_file_is_predicted_as_it_was_evaluated(task_type, tmp_path):
    source, expected = (
        workspace() / f"{task_type}-test.jsonl",
        read_jsonl(finetuned(task_type) / "predictions-test.jsonl"),
    )
    for name, flags in {"whole": (), "chunks": ("--chunk-size", 3, "--batch-size", 2)}.items():
        assert predict(task_type, source, tmp_path / f"{name}.jsonl", *flags) == 0
        assert_same(read_jsonl(tmp_path / f"{name}.jsonl"), expected)
    # Labels and answers are what is looked for: they need not be there.
    known = ("label", "labels", "answers", "answer")
    bare = [{name: value for name, value in row.items() if name not in known} for row in read_jsonl(source)]
    assert (
        predict(task_type, write_jsonl(tmp_path / "bare.jsonl", bare), tmp_path / "new.jsonl", "--chunk-size", 4) == 0
    )
    assert_same(read_jsonl(tmp_path / "new.jsonl"), expected)


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_rows_come_in_every_format(suffix, tmp_path):
    task_type = "single_label"
    rows = Dataset.from_list(read_jsonl(workspace() / f"{task_type}-test.jsonl"))
    source = tmp_path / f"rows.{suffix}"
    if suffix == "json":
        source.write_text(json.dumps(rows.to_list()))
    else:
        {"csv": rows.to_csv, "parquet": rows.to_parquet}[suffix](source)
    assert predict(task_type, source, tmp_path / "out.jsonl", "--chunk-size", 3) == 0
    assert_same(read_jsonl(tmp_path / "out.jsonl"), read_jsonl(finetuned(task_type) / "predictions-test.jsonl"))


@pytest.mark.parametrize(
    "task_type, columns",
    [
        ("single_label", ["id", "label", "score"]),
        ("multi_label", ["id", "labels"]),
        *(
            pytest.param(name, columns, marks=pytest.mark.slow)
            for name, columns in (
                ("regression", ["id", "value"]),
                ("token_classification", ["id", "labels"]),
                ("question_answering", ["id", "answer", "score", "probability", "start", "end"]),
                ("candidate_choice", ["id", "answer", "score"]),
            )
        ),
    ],
)
def test_csv_and_json_hold_what_jsonl_does(task_type, columns, tmp_path):
    source, expected = (
        workspace() / f"{task_type}-test.jsonl",
        read_jsonl(finetuned(task_type) / "predictions-test.jsonl"),
    )
    for suffix in ("csv", "json"):
        assert predict(task_type, source, tmp_path / f"out.{suffix}", "--chunk-size", 3) == 0
    with open(tmp_path / "out.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [*columns, "error"] and [row["id"] for row in table] == [row["id"] for row in expected]
    for row, other in zip(table, expected, strict=True):
        for name in columns[1:]:
            value = other[name]
            text = "|".join(value) if isinstance(value, list) else str(value)
            assert (float(row[name]) if isinstance(value, float) else row[name]) == (
                pytest.approx(value, abs=1e-5) if isinstance(value, float) else text
            )
    by_id = json.loads((tmp_path / "out.json").read_text())
    assert [row["error"] for row in table] == [""] * len(table)
    if task_type == "candidate_choice":
        assert by_id == {row["id"]: row["answer"] for row in expected}
    elif task_type == "question_answering":
        assert by_id == json.loads((finetuned(task_type) / "answers-test.json").read_text())
    else:
        assert_same([{"id": name, **row} for name, row in by_id.items()], expected)


def test_ids_are_the_files_own_or_the_numbers_of_its_rows(tmp_path):
    rows = read_jsonl(workspace() / "single_label-test.jsonl")
    named = [{"name": f"n{number}", "body": row["text"]} for number, row in enumerate(rows)]
    source = write_jsonl(tmp_path / "named.jsonl", named)
    flags = ("--text-column", "body", "--chunk-size", 3)
    assert predict("single_label", source, tmp_path / "named.csv", *flags, "--id-column", "name") == 0
    assert predict("single_label", source, tmp_path / "numbered.csv", *flags) == 0
    names, numbers = (
        [line.split(",")[0] for line in (tmp_path / f"{name}.csv").read_text().splitlines()[1:]]
        for name in ("named", "numbered")
    )
    assert names == [f"n{number}" for number in range(7)] and numbers == [str(number) for number in range(7)]


def test_half_precision_gives_nearly_the_same_scores(tmp_path):
    assert predict("single_label", workspace() / "single_label-test.jsonl", tmp_path / "half.jsonl", "--bf16") == 0
    expected = read_jsonl(finetuned("single_label") / "predictions-test.jsonl")
    scores = [[row["score"] for row in rows] for rows in (read_jsonl(tmp_path / "half.jsonl"), expected)]
    assert scores[0] != scores[1] and scores[0] == pytest.approx(scores[1], abs=0.02)


def test_a_longer_text_can_be_read_in_windows_later(tmp_path):
    words = "north " * 4 + "snow " * 70 + "south " * 100
    source = write_jsonl(tmp_path / "long.jsonl", [{"text": words}])
    scores = {}
    for name in ("head", "tail", "windows"):
        assert predict("single_label", source, tmp_path / f"{name}.jsonl", "--long-documents", name) == 0
        scores[name] = read_jsonl(tmp_path / f"{name}.jsonl")[0]["scores"]["south"]
    assert predict("single_label", source, tmp_path / "default.jsonl") == 0
    assert read_jsonl(tmp_path / "default.jsonl")[0]["scores"]["south"] == scores["head"]
    assert scores["head"] < 0.5 < scores["tail"] and scores["head"] < scores["windows"] != scores["tail"]


def bad_inputs(folder: Path):
    """Arguments that cannot work, each with a part of what must be said of them."""
    good = ("single_label", workspace() / "single_label-test.jsonl", folder / "out.csv")
    rows = read_jsonl(good[1])
    (folder / "rows.xml").write_text("<row/>")
    (folder / "empty.csv").touch()
    (folder / "empty.jsonl").touch()
    (folder / "head.csv").write_text("text\n")
    (folder / "old.csv").write_text("kept")
    yield (*good[:2], folder / "old.csv"), (), "old.csv exists already: name another one"
    yield (*good[:2], folder / "out.parquet"), (), ".csv, .jsonl, .json can be written"
    for name, message in {
        "none.csv": "there is no such file",
        "rows.xml": ".csv, .tsv, .jsonl, .json, .parquet can be read",
        "empty.csv": "empty.csv is empty",
        "empty.jsonl": "empty.jsonl is empty",
        "head.csv": "has no rows",
    }.items():
        yield (good[0], folder / name, good[2]), (), message
    # What is wrong with all rows is wrong with the file, or with the command.
    yield good, ("--text-column", "body"), "row 0: there is no column 'body'"
    numbers = write_jsonl(folder / "numbers.jsonl", [{"text": number} for number in range(4)])
    yield (good[0], numbers, good[2]), (), "row 0: column 'text' holds 0 (int)"
    yield (good[0], numbers, good[2]), (), "none of the 4 rows can be used"
    blank = write_jsonl(folder / "blank.jsonl", [*rows[:5], {**rows[5], "text": " "}, {"text": 3}])
    yield (good[0], blank, good[2]), ("--strict",), "blank.jsonl, row 5: column 'text' is empty"
    yield (good[0], folder, good[2]), (), "is a folder: a file is needed"
    (folder / "twice.csv").write_text("text,text\na,b\n")
    yield (good[0], folder / "twice.csv", good[2]), (), "names the column 'text' twice"
    yield good, ("--id-column", "name"), "no column 'name' for the id, only 'id', 'text', 'label'"
    yield good, ("--question-column", "q"), "reads id, text alone"
    yield good, ("--text-pair-column", "other"), "--text-pair-column other: "
    words = ("token_classification", workspace() / "token_classification-test.jsonl", good[2])
    yield words, ("--long-documents", "tail"), "--long-documents tail is for texts that are classified"
    yield good, ("--chunk-size", 0), "--chunk-size 0: it must be at least 1"
    yield good, ("--batch-size", 0), "--batch-size 0: it must be at least 1"
    yield good, ("--model", workspace() / "model"), "has no finetune.json"
    yield good, ("--model", folder / "nowhere"), "there is no such folder"
    yield good, ("--pattern", "num_window_blocks=2"), "it must be odd"


def test_what_cannot_be_predicted_is_said_in_one_line_and_leaves_nothing(tmp_path, capsys):
    for words, flags, message in bad_inputs(tmp_path):
        before = {path.name for path in tmp_path.iterdir()}
        capsys.readouterr()
        assert predict(*words, *flags) == 2, (words, flags)
        errors = capsys.readouterr().err.splitlines()
        lines = [line for line in errors if "error:" in line]
        assert len(lines) == 1 and lines[0].startswith("ernie-sparse predict: error: "), (words, errors)
        assert message in lines[0] and not any("Traceback" in line for line in errors), (message, lines)
        assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "old.csv").read_text() == "kept"


def test_settings_that_are_not_ours_are_named(tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(finetuned("single_label"), model, ignore=shutil.ignore_patterns("checkpoint-*"))
    for text in ("{", '{"task_type": "single_label"}', '{"label_names": [], "metrics": [], "colour": "red"}'):
        (model / "finetune.json").write_text(text)
        source = workspace() / "single_label-test.jsonl"
        assert predict("single_label", source, tmp_path / "out.csv", "--model", model) == 2
        assert "finetune.json is not a file of `ernie-sparse finetune`" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_digits_are_text_and_the_case_of_a_suffix_does_not_matter(tmp_path):
    (tmp_path / "ROWS.CSV").write_text("id,text\n007,12\n8,13\n")
    assert predict("single_label", tmp_path / "ROWS.CSV", tmp_path / "OUT.JSONL", "--chunk-size", 1) == 0
    assert [row["id"] for row in read_jsonl(tmp_path / "OUT.JSONL")] == ["007", "8"]
