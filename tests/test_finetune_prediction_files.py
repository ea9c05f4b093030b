# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""No prediction is lost: bad rows keep their place, a run that was stopped goes on, and nobody writes into its file."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_finetune_predict import (
    assert_same,
    finetuned,
    make_rows,
    make_tokenizer,
    predict,
    read_jsonl,
    workspace,
    write_jsonl,
)

import ernie_sparse
from ernie_sparse.errors import InputError
from ernie_sparse.finetune import prediction_files, predictor
from ernie_sparse.finetune.predict import digest_of_tokenizer
from ernie_sparse.finetune.prediction_files import PredictionFile, empty_prediction
from ernie_sparse.finetune.task_types import TASK_TYPES

FLAGS = ("--chunk-size", 2, "--batch-size", 2)


def rows_of(task_type: str) -> list[dict]:
    return read_jsonl(workspace() / f"{task_type}-test.jsonl")


def evaluated(task_type: str) -> list[dict]:
    return read_jsonl(finetuned(task_type) / "predictions-test.jsonl")


def strict_json(text: str):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


# The fast suite knows one, the slow suite all.
by_task_type = pytest.mark.parametrize(
    "task_type", [pytest.param(name, marks=[pytest.mark.slow] * (name != "single_label")) for name in TASK_TYPES]
)


@by_task_type
def test_predictions_have_the_fields_that_are_named(task_type):
    for row in evaluated(task_type):
        assert tuple(row) == ("id", *TASK_TYPES[task_type].fields)
        strict_json(json.dumps(row))


# Per type of task: what is changed in a row, and a part of the reason.
BAD = {
    "single_label": [({"text": " \n"}, "is empty"), ({"text": None}, "is empty"), ({"text": 3}, "holds 3")],
    "multi_label": [({"text": ["north"]}, "holds ['north']"), ({"text": "\ud800 north"}, "half of a character")],
    "regression": [({"text": {"a": 1}}, "holds {'a': 1}")],
    "token_classification": [({"tokens": "north snow"}, "holds 'north snow'"), ({"tokens": ["a", None]}, "nothing in")],
    "question_answering": [({"question": ""}, "is empty"), ({"context": 3}, "holds 3")],
    "candidate_choice": [
        ({"candidates": []}, "it has no candidates"),
        ({"candidates": ["paris"] * 99}, "it has 99 candidates: beside"),
        ({"candidates": None}, "is empty"),
        ({"supports": [3]}, "holds 3"),
    ],
}


@by_task_type
def test_a_bad_row_has_a_reason_in_its_place_and_the_others_their_predictions(task_type, tmp_path, capsys):
    rows, expected = rows_of(task_type), evaluated(task_type)
    lines, reasons = [json.dumps(row) for row in rows], {}
    for number, (change, reason) in enumerate(
        [*BAD[task_type], ("{not json", "it is no JSON"), ("[3]", "an object is needed")]
    ):
        place = 2 * number + 1
        is_row = isinstance(change, dict)
        lines.insert(place, json.dumps({**rows[0], "id": f"bad {place}", **change}) if is_row else change)
        reasons[place] = (f"bad {place}" if is_row else str(place), reason)
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for suffix in ("jsonl", "csv", "json"):
        assert predict(task_type, source, tmp_path / f"out.{suffix}", "--chunk-size", 3) == 0
    table = capsys.readouterr().out
    found = [strict_json(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert len(found) == len(cells) == len(lines)
    for place, (row_id, reason) in reasons.items():
        assert found[place].pop("error") == cells[place].pop("error") != ""
        assert reason in table
        assert found[place] == {"id": row_id, **dict.fromkeys(TASK_TYPES[task_type].fields)}
        assert cells[place]["id"] == row_id and not any(value for name, value in cells[place].items() if name != "id")
    assert_same([row for place, row in enumerate(found) if place not in reasons], expected)
    by_id = strict_json((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert list(by_id) == [row["id"] for row in found]
    for row_id, reason in reasons.values():
        if "answer" in TASK_TYPES[task_type].fields:
            assert by_id[row_id] is None
        else:
            assert reason in by_id[row_id]["error"]
    # Before anything is computed.
    assert predict(task_type, source, tmp_path / "strict.csv", "--strict") == 2
    assert f"{source}, row 1: " in capsys.readouterr().err and not (tmp_path / "strict.csv").exists()


def test_rows_that_are_merely_empty_say_nothing_of_the_file(tmp_path, capsys):
    source = tmp_path / "rows.csv"
    source.write_text("id,text\na,\nb, \n", encoding="utf-8")
    assert predict("single_label", source, tmp_path / "out.csv") == 0
    reason = "column 'text' is empty"
    assert (tmp_path / "out.csv").read_text() == f"id,label,score,error\na,,,{reason}\nb,,,{reason}\n"
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert ["rows", "without", "a", "prediction", "2"] in table and ["2:", *reason.split()] in table


def test_a_row_whose_quotes_are_wrong_stands_alone(tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text('text\nnorth\n"north" and more\n\nsouth\n"never closed\nnorth\n', encoding="utf-8")
    assert predict("single_label", source, tmp_path / "out.jsonl", *FLAGS) == 0
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == list("012345")
    errors = ["the quotes of line 3 are wrong", "column 'text' is empty", "the quotes of line 6 are wrong"]
    assert [row.get("error", "").split(":")[0] for row in rows] == ["", *errors[:2], "", errors[2], ""]


def test_one_row_that_can_be_used_is_enough_wherever_it_stands(tmp_path, capsys):
    bad = [{}, *[{"text": 3}] * 1500]
    source = write_jsonl(tmp_path / "rows.jsonl", [*bad, {"text": "north"}])
    assert predict("single_label", source, tmp_path / "out.jsonl", "--chunk-size", 2000) == 0
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert len(rows) == 1502 and "error" not in rows[-1]
    assert rows[0]["error"] == "there is no column 'text' for the text, nor any other"
    capsys.readouterr()
    assert predict("single_label", write_jsonl(source, bad), tmp_path / "none.jsonl") == 2
    assert "(none of the 1501 rows can be used)" in capsys.readouterr().err


def test_what_has_to_be_mended_first_is_not_said_to_go_on(tmp_path, monkeypatch, capsys):
    stop_after(monkeypatch, 1, InputError)
    assert predict("single_label", workspace() / "single_label-test.jsonl", tmp_path / "out.csv", *FLAGS) == 2
    said = capsys.readouterr().err
    assert (
        f"2 predictions are kept: once the input file is mended, which makes another run of it, delete {tmp_path}"
        in said
    )
    assert "goes on" not in said


def test_reasons_are_counted_and_only_the_most_frequent_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prediction_files, "COUNTED_REASONS", 20)
    rows = [{"text": "north"}, *({"text": number} for number in (*range(40), 3, 3))]
    assert predict("single_label", write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.csv") == 0
    table = capsys.readouterr().out.split("rows without a prediction")[1]
    count, first, *others = (line.strip() for line in table.strip().splitlines())
    assert count == "42" and first == "3: column 'text' holds 3 (int): a text is needed"
    assert 8 <= sum(line.startswith("1: column 'text' holds ") for line in others) <= 10
    assert sum(int(line.split(":")[0]) for line in (first, *others[:-1])) == 42


def test_an_id_that_cannot_be_written_loses_no_prediction(tmp_path):
    ids = ["\ud800a", "", 7, True, [1], {}, None]
    rows = [{**row, "id": row_id} for row, row_id in zip(rows_of("single_label"), ids, strict=True)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert predict("single_label", source, tmp_path / "out.jsonl") == 0
    expected = evaluated("single_label")
    for row, row_id in zip(expected, ["?a", "", "7", "True", "[1]", "{}", "6"], strict=True):
        row["id"] = row_id
    assert_same(read_jsonl(tmp_path / "out.jsonl"), expected)


@pytest.mark.parametrize(
    "task_type",
    [
        "single_label",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("multi_label", "regression", "candidate_choice")),
    ],
)
def test_outputs_that_are_not_finite_are_no_prediction(task_type, tmp_path, monkeypatch):
    outputs = predictor.Predictor.outputs

    def with_nan(self, features):
        found = outputs(self, features)
        found[np.array(features["document"]) == 1] = np.nan
        return found

    monkeypatch.setattr(predictor.Predictor, "outputs", with_nan)
    target = tmp_path / "out.jsonl"
    assert predict(task_type, workspace() / f"{task_type}-test.jsonl", target) == 0
    found, expected = read_jsonl(target), evaluated(task_type)
    expected[1] = empty_prediction(expected[1]["id"], predictor.NOT_FINITE, TASK_TYPES[task_type].fields)
    assert_same(found, expected)


def test_rows_that_are_cut_are_counted(tmp_path, capsys):
    long = {"id": "long", "text": "snow " * 200}
    source = write_jsonl(tmp_path / "rows.jsonl", [*rows_of("single_label"), long, long])
    assert predict("single_label", source, tmp_path / "out.jsonl", "--chunk-size", 1) == 0
    assert ["longer", "than", "the", "limit", "2"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert all("notes" not in row and "error" not in row for row in read_jsonl(tmp_path / "out.jsonl"))


def test_rows_of_one_id_are_counted_where_they_share_a_place(tmp_path, capsys):
    rows = [{**row, "id": "same"} for row in rows_of("single_label")]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    for suffix in ("json", "jsonl"):
        assert predict("single_label", source, tmp_path / f"out.{suffix}") == 0
        words = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ([*prediction_files.SAME_ID.split(), "6"] in words) == (suffix == "json")
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1


def stop_after(monkeypatch, count: int, error: type[BaseException] = KeyboardInterrupt):
    """Let a prediction end with `error` when it has kept this many chunks."""
    add, done = PredictionFile.add, []

    def add_and_stop(self, records):
        if len(done) == count:
            raise error("stopped")
        add(self, records)
        done.append(len(records))

    monkeypatch.setattr(PredictionFile, "add", add_and_stop)


def computed_rows(monkeypatch) -> list[int]:
    """The numbers of the rows that are computed from here on."""
    seen, call = [], predictor.Predictor.__call__

    def count(self, rows):
        seen.extend(number for number, _ in rows)
        return call(self, rows)

    monkeypatch.setattr(predictor.Predictor, "__call__", count)
    return seen


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
def test_a_run_that_was_stopped_goes_on_behind_what_is_done(suffix, tmp_path, monkeypatch, capsys):
    rows = rows_of("single_label")
    rows[1] = {**rows[1], "text": ""}
    rows[2] = {**rows[2], "text": "snow " * 200}
    source = write_jsonl(tmp_path / "in" / "rows.jsonl", rows)
    whole, target = tmp_path / f"whole.{suffix}", tmp_path / "out" / f"stopped.{suffix}"
    finetuned("single_label")
    capsys.readouterr()
    assert predict("single_label", source, whole, *FLAGS) == 0
    table = capsys.readouterr().out
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert predict("single_label", source, target, *FLAGS) == 130
    assert "4 predictions are kept: the same command resumes after them" in capsys.readouterr().err
    (partial,) = target.parent.iterdir()
    assert partial.name == f"stopped.{suffix}.partial.jsonl" and len(partial.read_text().splitlines()) == 5
    # As a full disk or a loss of power leaves it.
    with open(partial, "a") as file:
        file.write('{"id": "s4", "lab')
    seen = computed_rows(monkeypatch)
    assert predict("single_label", source, target, *FLAGS) == 0
    assert seen == [4, 5, 6]
    assert list(target.parent.iterdir()) == [target] and target.read_bytes() == whole.read_bytes()
    # The table is of all rows, those of the earlier start included.
    again = capsys.readouterr().out.replace(str(target), str(whole)).splitlines()
    assert [line.split() for line in again if "earlier start" not in line] == [
        line.split() for line in table.splitlines()
    ]


def test_a_run_that_was_stopped_before_its_first_prediction_leaves_nothing(tmp_path, monkeypatch):
    stop_after(monkeypatch, 0)
    assert predict("single_label", workspace() / "single_label-test.jsonl", tmp_path / "out.csv") == 130
    assert list(tmp_path.iterdir()) == []


def test_other_sizes_of_chunks_and_batches_are_the_same_run(tmp_path, monkeypatch):
    source, target = workspace() / "single_label-test.jsonl", tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        stop_after(patch, 1, OSError)
        with pytest.raises(OSError, match="stopped"):
            predict("single_label", source, target, "--chunk-size", 3)
    seen = computed_rows(monkeypatch)
    assert predict("single_label", source, target, "--chunk-size", 2, "--batch-size", 1, "--strict") == 0
    assert seen == [3, 4, 5, 6]
    assert_same(read_jsonl(target), evaluated("single_label"))


def test_predictions_of_another_run_are_refused_with_what_differs(tmp_path, monkeypatch, capsys):
    rows = rows_of("single_label")
    source, target = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert predict("single_label", source, target, *FLAGS) == 130
    (tmp_path / "rows.jsonl").rename(tmp_path / "kept.jsonl")
    partial = tmp_path / "out.jsonl.partial.jsonl"
    kept = partial.read_bytes()

    model = tmp_path / "model"
    shutil.copytree(finetuned("single_label"), model, ignore=shutil.ignore_patterns("checkpoint-*"))
    same = write_jsonl(tmp_path / "same.jsonl", rows)
    other = write_jsonl(tmp_path / "other.jsonl", [rows[0], rows[1], *reversed(rows[2:])])
    weights = tmp_path / "weights"
    shutil.copytree(model, weights)
    changed = TASK_TYPES["single_label"].model_class.from_pretrained(model)
    changed.classifier.bias.data += torch.tensor([0.0, 1e-3])
    changed.save_pretrained(weights)
    for source, flags, difference in [
        (same, ("--long-documents", "tail"), "long_documents 'head' and not 'tail'"),
        (same, ("--bf16",), "bf16 False and not True"),
        (same, ("--pattern", "block_size=8"), "pattern "),
        (other, (), "input_file "),
        (same, ("--model", weights), "model "),
    ]:
        assert predict("single_label", source, target, *flags) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert f"{partial} holds predictions of another run, with {difference}" in line
        assert "delete it, or name another --output-file" in line
        assert partial.read_bytes() == kept and not target.exists()
    # A copy of the same model and of the same file is the same.
    assert predict("single_label", same, target, "--model", model) == 0
    assert_same(read_jsonl(target), evaluated("single_label"))


def test_a_tokenizer_is_the_same_however_it_cut_a_text_before():
    tokenizer = make_tokenizer()
    before = digest_of_tokenizer(tokenizer)
    tokenizer("north snow", "south", truncation=True, max_length=4, padding="max_length")
    assert digest_of_tokenizer(tokenizer) == before
    tokenizer.add_tokens(["east"])
    assert digest_of_tokenizer(tokenizer) != before


@pytest.mark.parametrize("content", [b"mine\n", b"mine", b'{"a": 1}\n{"b": 2}\n', b"\0" * 20, b"[]\n", b'{"run": 3}\n'])
def test_a_file_of_somebody_else_is_not_written_over(content, tmp_path, capsys):
    partial = tmp_path / "out.csv.partial.jsonl"
    partial.write_bytes(content)
    assert predict("single_label", workspace() / "single_label-test.jsonl", tmp_path / "out.csv") == 2
    assert f"{partial} holds no predictions" in capsys.readouterr().err
    assert partial.read_bytes() == content and list(tmp_path.iterdir()) == [partial]


@pytest.mark.parametrize("content", [b"", b'{"run": {"task'])
def test_a_first_line_that_is_torn_is_a_new_start(content, tmp_path):
    (tmp_path / "out.csv.partial.jsonl").write_bytes(content)
    assert predict("single_label", workspace() / "single_label-test.jsonl", tmp_path / "out.csv") == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 8


def test_two_predictions_into_one_file_are_refused(tmp_path, capsys):
    target = tmp_path / "out.jsonl"
    with PredictionFile(target, ("label",), {"a": 1}) as first:
        first.add([{"id": "0", "label": "x"}])
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert predict("single_label", workspace() / "single_label-test.jsonl", target) == 2
        assert f"--output-file {target} is being written by another prediction" in capsys.readouterr().err
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        first.finish()
    assert read_jsonl(target) == [{"id": "0", "label": "x"}] and list(tmp_path.iterdir()) == [target]


def test_a_disk_that_is_full_at_the_end_loses_nothing(tmp_path, monkeypatch, capsys):
    source, target = workspace() / "single_label-test.jsonl", tmp_path / "out.csv"

    def full(file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert predict("single_label", source, target, *FLAGS) == 2
    assert "7 predictions are kept" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv.partial.jsonl"]
    seen = computed_rows(monkeypatch)
    assert predict("single_label", source, target, *FLAGS) == 0 and seen == []
    assert list(tmp_path.iterdir()) == [target]


def test_what_csv_has_to_quote_is_quoted(tmp_path):
    answers = ["a,b", 'say "x"', "two\nlines", "return\rhere", "=1+1", "", "é 中"]
    with PredictionFile(tmp_path / "out.csv", ("answer", "score", "scores"), {}) as file:
        file.add([{"id": f"{number}\r", "answer": answer, "score": 0.5} for number, answer in enumerate(answers)])
        file.finish()
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["answer"] for row in rows] == answers and [row["id"] for row in rows] == [f"{i}\r" for i in range(7)]


def command_line(*words) -> list[str]:
    return [str(word) for word in (*words, "--model", finetuned("single_label"), "--batch-size", 4)]


def environment() -> dict[str, str]:
    path = [str(Path(ernie_sparse.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_killed_at_any_time_it_ends_as_if_it_had_not_been(tmp_path):
    source = write_jsonl(tmp_path / "rows.jsonl", make_rows("single_label", 3000, 9))
    whole, target = tmp_path / "whole.jsonl", tmp_path / "out" / "killed.jsonl"
    assert predict("single_label", source, whole, "--batch-size", 4, "--chunk-size", 64) == 0
    words = command_line("predict", "--input-file", source, "--output-file", target, "--chunk-size", 64)
    partial, draw, sizes = target.with_name("killed.jsonl.partial.jsonl"), random.Random(0), [0]
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "ernie_sparse", *words], env=environment(), stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (partial.exists() and partial.stat().st_size > sizes[-1]):
            time.sleep(0.01)
        time.sleep(draw.random() / 10)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        sizes.append(partial.stat().st_size)
        with open(partial, "rb+") as file:
            # Where a write ends is not in our hands.
            file.truncate(sizes[-1] - draw.randrange(40))
    assert len(sizes) > 3
    subprocess.run([sys.executable, "-m", "ernie_sparse", *words], env=environment(), check=not target.exists())
    assert_same(read_jsonl(target), read_jsonl(whole))
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.slow
def test_two_processes_write_one_file_in_order(tmp_path):
    rows = make_rows("single_label", 101, 9)
    rows[7]["text"] = ""
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert predict("single_label", source, tmp_path / "one.jsonl") == 0
    words = command_line("predict", "--input-file", source, "--output-file", tmp_path / "two.jsonl", "--chunk-size", 9)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    launch = [*torchrun, "-m", "ernie_sparse", *words]
    run = subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.count("rows without a prediction") == 1
    assert_same(read_jsonl(tmp_path / "two.jsonl"), read_jsonl(tmp_path / "one.jsonl"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "rows.jsonl", "two.jsonl"]
    # What one process refuses ends both.
    run = subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode != 0 and "two.jsonl exists already: name another one" in run.stderr


PEAK = """
import sys
from pathlib import Path
from ernie_sparse import cli
assert cli.main(sys.argv[1:]) == 0
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read there")
def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for count in (2000, 20000):
        source = write_jsonl(tmp_path / f"{count}.jsonl", make_rows("single_label", count, 9))
        words = command_line("predict", "--input-file", source, "--output-file", tmp_path / f"{count}.csv")
        script = [sys.executable, "-c", PEAK, *words, "--chunk-size", "32"]
        run = subprocess.run(script, env=environment(), capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout.split()[-1]))
    # In KiB: of 18,000 rows more each may cost less than 300 bytes.
    assert peaks[1] - peaks[0] < 5 * 1024, peaks
