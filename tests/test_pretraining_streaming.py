# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Pretraining on rows that stream: on from a checkpoint as if nothing had been, and what it needs."""

import itertools
import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from ernie_sparse import cli
from ernie_sparse.pretraining import rows
from ernie_sparse.pretraining.corpus import Corpus, parts_of_files
from ernie_sparse.pretraining.documents import Reading
from ernie_sparse.pretraining.packing import Packer
from ernie_sparse.pretraining.tokenizer import train_tokenizer

SIZES = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"


def run(*argv) -> int:
    return cli.main([str(word) for word in argv])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("streaming") / "text.txt"
    path.write_text("".join(f"{number} lemons from the {number * 7 % 13} harbour\n" for number in range(400)) + "\n")
    return path


def arguments(text, out, *more) -> list:
    return [
        *("pretrain", "--train-file", text, "--sample-by", "line", "--train-tokenizer", 300, "--config", SIZES),
        *(
            "--max-length",
            64,
            "--output-dir",
            out,
            "--streaming",
            "true",
            "--disable-tqdm",
            "true",
            "--report-to",
            "none",
        ),
        *(
            "--max-steps",
            6,
            "--eval-strategy",
            "no",
            "--save-strategy",
            "steps",
            "--save-steps",
            3,
            "--logging-steps",
            1,
            *more,
        ),
    ]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stream_goes_on_from_a_checkpoint_with_the_same_rows_masks_and_dropout(workers, text, tmp_path, capsys):
    more = ["--dataloader-num-workers", workers, "--masking", "span", "--per-device-train-batch-size", 4]
    assert run(*arguments(text, tmp_path / "whole", *more)) == 0
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    assert run(*arguments(text, tmp_path / "rest", *more, "--resume-from-checkpoint", checkpoint)) == 0
    other = ["--dataloader-num-workers", workers + 1, "--resume-from-checkpoint", checkpoint]
    assert run(*arguments(text, tmp_path / "other", *more, *other)) == 2
    assert f"dataloader_num_workers {workers} and not {workers + 1}" in capsys.readouterr().err
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "rest")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "rest")]
    logs = [[(e["step"], e["loss"], e["epoch"]) for e in r["history"] if "loss" in e] for r in results]
    assert logs[0] == logs[1] and len({loss for _, loss, _ in logs[0]}) == 6
    assert {"eval_accuracy", "eval_loss_wider", "eval_loss_no_global"} <= results[0]["history"][-1].keys()
    # Everything but what time it took.
    measured = [{name: value for name, value in r.items() if name not in ("history", "command")} for r in results]
    assert measured[0] == measured[1] and measured[0]["skipped_in_stream"] == {"empty": 1}
    page = (tmp_path / "rest" / "report.md").read_text()
    assert "| prepared | 1 empty documents left out |" in page and "](training.png)" in page
    assert page.count("| 6 | ") == 1


def test_a_stream_that_goes_on_counts_what_it_skips_once(tmp_path):
    for number in range(20):
        lines = "".join(f'{{"text": "{number} lemons from harbour {line}"}}\n' for line in range(6))
        (tmp_path / f"{number}.jsonl").write_text(lines + "no json\n" + '{"text": ""}\n' * (number == 7))
    packer = Packer(train_tokenizer(["lemons from the harbour 0123456789"], 300, 64), 64)

    def stream() -> rows.RowStream:
        corpus = Corpus(parts_of_files([str(tmp_path / "*.jsonl")]), Reading(skip_bad=True))
        return rows.RowStream(corpus, packer)

    def taken(stream: rows.RowStream, count: int) -> list[tuple]:
        return [(row["row"], dict(stream.corpus.skipped)) for row in itertools.islice(stream, count)]

    whole = taken(stream(), 120)
    # Of the second window, in which four files are read, and of the second pass.
    places = [row.split("/")[2:4] for row, _ in whole]
    assert ["0", "1"] in places and ["1", "0"] in places
    assert sum(whole[-1][1].values()) == 21 and whole[-1][1]["empty"] == 1
    for count in (3, places.index(["0", "1"]) + 2, places.index(["1", "0"]), places.index(["1", "0"]) + 2):
        first, rest = stream(), stream()
        taken(first, count)
        rest.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert taken(rest, 120 - count) == whole[count:]
    assert rows.skipped_in({"worker": {"state": first.state_dict()}, "more": [1]}) == Counter(whole[-1][1])


def test_what_a_stream_needs_is_said_before_anything_is_read(text, tmp_path, capsys):
    complete = arguments(text, tmp_path / "never")
    for flag, value, message in (
        ("--max-steps", -1, "--streaming true needs --max-steps"),
        ("--save-strategy", "epoch", "--streaming true has no epochs"),
    ):
        place = complete.index(flag) + 1
        assert run(*complete[:place], value, *complete[place + 1 :]) == 2
        assert message in capsys.readouterr().err
    assert run(*complete, "--saor-share", 0.5) == 2
    assert "--saor-share needs --packing concatenate" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def test_rows_are_written_once_and_counted_again_where_the_account_is_lost(text, tmp_path, monkeypatch):
    packer = Packer(train_tokenizer(text.read_text().splitlines(), 300, 64), 64)
    corpus = Corpus(parts_of_files([str(text)]), Reading(sample_by="line"))
    monkeypatch.setattr(rows.datasets.config, "HF_DATASETS_CACHE", tmp_path)
    first, account = rows.written_rows(corpus, packer)
    assert account["documents"] == 400 and account["rows"] == len(first) and account["skipped"] == {"empty": 1}
    assert account["tokens"] == sum(map(len, first["input_ids"])) and account["seconds"] > 0

    def never(*args):
        raise AssertionError

    monkeypatch.setattr(Packer, "rows", never)
    assert rows.written_rows(corpus, packer)[1] == account
    (path,) = (tmp_path / "ernie_sparse").iterdir()
    path.unlink()
    again, counted = rows.written_rows(corpus, packer)
    assert again["input_ids"] == first["input_ids"] and counted == {**account, "seconds": None, "skipped": {}}
