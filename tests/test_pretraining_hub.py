# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Pretraining on a data set of the Hub, read over HTTP: streamed, gone on with, written, and gone."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest

SIZES = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
TOKENIZER = ["--train-tokenizer", "300", "--config", SIZES, "--max-length", "64"]
QUIET = ["--disable-tqdm", "true", "--report-to", "none", "--use-cpu", "true", "--logging-steps", "1"]


def lines(*words: str) -> bytes:
    return b"".join(
        json.dumps({"text": f"{i} {word} from the harbour"}).encode() + b"\n" for word in words for i in range(80)
    )


@pytest.fixture
def pretrain(tmp_path):
    """Runs `ernie-sparse pretrain` on a data set of three files, and says with what exit code and error; `hub` is what the Hub has."""
    with hub_server.hub() as (address, hub):
        hub["data"] |= {f"train-{number}.jsonl": lines("lemons", "oranges") for number in range(2)}
        hub["data"] |= {"train-2.jsonl.gz": gzip.compress(lines("figs")), "validation.jsonl": lines("dates")}
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

        def run(out: str, *more) -> tuple[int, str]:
            command = [sys.executable, "-m", "ernie_sparse", "pretrain", "--dataset", "you/corpus", *TOKENIZER, *QUIET]
            command += [*map(str, more), "--output-dir", str(tmp_path / out)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            return done.returncode, done.stderr

        run.hub = hub
        yield run


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "results.json").read_text())["history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_a_data_set_streams_from_the_hub_and_goes_on_from_a_checkpoint(pretrain, tmp_path):
    stream = ["--streaming", "true", "--max-steps", "4", "--save-steps", "2"]
    assert pretrain("whole", *stream)[0] == 0
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    code, error = pretrain("rest", *stream, "--resume-from-checkpoint", checkpoint)
    assert code == 0, error
    assert losses(tmp_path / "rest") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 4


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_written_once(pretrain, tmp_path):
    assert pretrain("written", "--max-steps", "2")[0] == 0
    account = json.loads((tmp_path / "written" / "results.json").read_text())["preparation"]
    assert account["train"]["documents"] == 2 * 160 + 80 and account["validation"]["documents"] == 80


@pytest.mark.slow
def test_what_the_hub_does_not_have_is_one_line(pretrain):
    pretrain.hub["data"].clear()
    code, error = pretrain("none", "--streaming", "true", "--max-steps", "2")
    assert code == 2 and "Traceback" not in error
    assert "the data set you/corpus cannot be loaded" in error.splitlines()[-1]
