# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The runs of a whole page one after the other: what is started, what is kept, and what is not done twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lra import arguments, comparisons
from benchmarks.lra.models import MODELS

HISTORY = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 1.5, "eval_accuracy": 0.3, "eval_runtime": 4.0}]


@pytest.fixture
def started(tmp_path, monkeypatch) -> list[list[str]]:
    """The commands of the runs, which leave results at once; those of `dense` fail."""
    commands = []

    def run(command: list[str], check: bool):
        assert check and command[:3] == [sys.executable, "-m", "benchmarks.lra"]
        commands.append(command[3:])
        if "dense" in command:
            raise subprocess.CalledProcessError(2, command)
        out = Path(command[command.index("--output-dir") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").write_text(json.dumps({"accuracy": 0.4, "history": HISTORY}))

    monkeypatch.setattr(comparisons.subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    return commands


def test_what_is_kept_is_not_run_again_and_one_that_fails_stops_no_other(started, capsys):
    words = ["--task", "text", "--comparisons", "models", "--models", "dense", "hst", "window", "--seeds", "3"]
    with pytest.raises(SystemExit) as error:
        comparisons.main([*words, "--bf16", "true"])
    assert error.value.code == 1 and "returned non-zero exit status 2" in capsys.readouterr().err
    assert [command[command.index("--model") + 1] for command in started] == ["hst", "dense", "window"]
    # Whether there is a checkpoint or not: `last` begins what has none.
    assert started[0] == [
        *("--task", "text", "--model", "hst", "--bf16", "true", "--seed", "3"),
        *("--output-dir", "runs/lra/text/hst-seed-3", "--disable-tqdm", "true"),
    ]
    kept = Path("benchmarks/results/lra/text")
    assert sorted(path.name for path in kept.iterdir()) == ["hst-seed-3.json", "window-seed-3.json"]
    evaluations = [{"step": 1, "eval_loss": 1.5, "eval_accuracy": 0.3}]
    assert json.loads((kept / "hst-seed-3.json").read_text()) == {"accuracy": 0.4, "history": evaluations}
    del started[:]
    comparisons.main([*words[:-2], "--models", "hst", "window", "--seeds", "3", "4"])
    assert [command[command.index("--output-dir") + 1] for command in started] == [
        "runs/lra/text/hst-seed-4",
        "runs/lra/text/window-seed-4",
    ]


def test_the_last_checkpoint_is_tested_on_a_copy_of_the_run(started):
    run = Path("runs/lra/listops/hst-seed-0")
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    comparisons.main(["--comparisons", "models", "--models", "hst", "--at-last-update", "--data-dir", "there"])
    (command,) = started
    copy = Path("runs/lra/listops/hst-seed-0-last-update")
    assert command[command.index("--load-best-model-at-end") + 1] == "false"
    assert command[command.index("--data-dir") + 1] == "there" and str(copy) in command
    assert (copy / "run.json").is_file() and [path.name for path in run.iterdir()] == ["run.json"]
    assert Path("benchmarks/results/lra/listops/hst-seed-0-last-update.json").is_file()


def test_every_run_of_a_comparison_can_be_started():
    for runs in comparisons.COMPARISONS.values():
        for name, flags in runs.items():
            assert flags[0] == "--model" and flags[1] in MODELS and flags[1] in name
            if "--pattern" in flags:
                pattern = flags[flags.index("--pattern") + 1]
                assert arguments.LraArguments("listops", flags[1], pattern).pattern == pattern
