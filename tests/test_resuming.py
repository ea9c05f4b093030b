# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Commands that are killed, at planned points and at random ones, and what they leave damaged: going on ends where a run that was
never stopped does, or says why it cannot.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from test_cli import pretrain_arguments, run, workspace  # noqa: F401
from test_finetune_predict import arguments, finetune, read_results
from test_finetune_runner import are_equal

import ernie_sparse
from ernie_sparse.files import read_json
from ernie_sparse.results import file_digest

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(ernie_sparse.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
}

# A function, which of its calls, and whether it is still made.
POINTS = [
    ("transformers:Trainer.training_step", 1, "before"),
    ("transformers:Trainer.training_step", 4, "after"),
    ("transformers.modeling_utils:safe_save_file", 1, "before"),
    ("transformers.modeling_utils:safe_save_file", 2, "before"),
    ("torch:save", 2, "before"),
    ("torch:save", 4, "after"),
    ("transformers.trainer_callback:TrainerState.save_to_json", 1, "before"),
    ("transformers.trainer_callback:TrainerState.save_to_json", 2, "after"),
    ("transformers:PreTrainedTokenizerBase.save_pretrained", 2, "before"),
    ("ernie_sparse.run:write_json", 1, "before"),
    ("ernie_sparse.run:write_json", 2, "before"),
    ("ernie_sparse.run:plot_history", 1, "before"),
]


def killed(place: str, number: int, when: str, argv) -> int:
    script = Path(__file__).with_name("killed.py")
    words = [sys.executable, str(script), place, str(number), when, *map(str, argv)]
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, timeout=200).returncode


def commands(folder):
    """A pretraining and a fine-tuning, as functions of their output folder and more flags; each makes several checkpoints."""
    return {
        "pretrain": lambda out, *more: pretrain_arguments(folder, out, "--report-to", "none", *more),
        "finetune": lambda out, *more: arguments(out, "--num-train-epochs", 2, *more),
    }


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory):  # noqa: F811
    """What runs leave that were never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    for name, command in commands(workspace).items():
        assert run(command(folder / name)) == 0
    return folder


def assert_ends_as_whole(name: str, out: Path, whole: Path):
    assert are_equal(out, whole / name)
    found, expected = (read_results(folder) for folder in (out, whole / name))
    measured = ("eval_loss", "perplexity", "splits", "steps")
    assert {n: found.get(n) for n in measured} == {n: expected.get(n) for n in measured}
    assert not list(out.glob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "finetune"])
@pytest.mark.parametrize("point", POINTS, ids=lambda point: "-".join(map(str, point)))
def test_a_run_killed_anywhere_ends_where_an_unbroken_one_does(point, name, whole, workspace, tmp_path):  # noqa: F811
    command = commands(workspace)[name]
    assert killed(*point, command(tmp_path / "out")) == -signal.SIGKILL
    assert run(command(tmp_path / "out")) == 0
    assert_ends_as_whole(name, tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_any_time_and_more_than_once_does_too(seed, whole, workspace, tmp_path):  # noqa: F811
    draw, out = random.Random(seed), tmp_path / "out"
    command = commands(workspace)["finetune"](out)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "ernie_sparse", *map(str, command)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        # Reading the libraries takes most of the time, and nothing can go wrong there.
        while not out.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 5))
        process.kill()
        process.wait()
    assert run(command) == 0
    assert_ends_as_whole("finetune", out, whole)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "10 bytes": lambda path: path.write_bytes(path.read_bytes()[:10]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"garbage" * 50),
    "null": lambda path: path.write_text("null"),
    "missing": lambda path: path.unlink(),
}
# What no continuation reads.
UNREAD = {"training_args.bin", "README.md"}


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_run_ends_as_it_would_have(whole, workspace, tmp_path, caplog):  # noqa: F811
    command, out = commands(workspace)["finetune"], tmp_path / "out"
    assert run(command(tmp_path / "longer", "--num-train-epochs", 3)) == 0
    assert killed("transformers:Trainer.training_step", 9, "before", command(out, "--num-train-epochs", 3)) == -9
    newest, older = out / "checkpoint-8", out / "checkpoint-4"
    assert newest.is_dir() and older.is_dir()
    files = sorted(path.name for path in newest.iterdir() if path.name not in UNREAD)
    named = 0
    for name in files:
        for damage, change in DAMAGES.items():
            shutil.copytree(out, tmp_path / "copy")
            change(tmp_path / "copy" / "checkpoint-8" / name)
            caplog.clear()
            assert run(command(tmp_path / "copy", "--num-train-epochs", 3)) == 0, (name, damage)
            lines = [line for line in caplog.messages if "going on from" in line]
            # Of what no continuation needs, nothing is said.
            assert len(lines) <= 1 and all(name in line and line.endswith("checkpoint-4") for line in lines)
            named += len(lines)
            assert are_equal(tmp_path / "copy", tmp_path / "longer"), (name, damage)
            shutil.rmtree(tmp_path / "copy")
    assert named > 4 * len(files)


@pytest.mark.slow
def test_early_stopping_goes_on_counting(tmp_path, monkeypatch):
    flags = (
        "--early-stopping-patience",
        2,
        "--num-train-epochs",
        30,
        "--learning-rate",
        1e-7,
        "--eval-on-start",
        "true",
    )
    whole = finetune(tmp_path / "whole", *flags)
    step, calls = ernie_sparse.SaorTrainer.training_step, []

    class Killed(BaseException):
        """What nothing catches."""

    def broken(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == whole["steps"] - 1:
            raise Killed
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ernie_sparse.SaorTrainer, "training_step", broken)
        finetune(tmp_path / "killed", *flags)
    resumed = finetune(tmp_path / "killed", *flags)
    assert resumed["steps"] == whole["steps"] < 30 * 4
    # Once more, and it says that it is finished.
    results = (tmp_path / "killed" / "results.json").read_bytes()
    finetune(tmp_path / "killed", *flags)
    assert (tmp_path / "killed" / "results.json").read_bytes() == results


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["epoch", pytest.param("steps", marks=pytest.mark.slow)])
def test_a_run_that_had_stopped_early_makes_no_further_update(strategy, tmp_path, monkeypatch):
    flags = ["--early-stopping-patience", 1, "--num-train-epochs", 30, "--learning-rate", 1e-7]
    flags += ["--eval-strategy", strategy, "--save-strategy", strategy, "--eval-steps", 3, "--save-steps", 3]
    whole = finetune(tmp_path / "whole", *flags)

    class Killed(BaseException):
        """What nothing catches."""

    def killed_there(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        # After the training, before the results.
        patch.setattr(ernie_sparse.SaorTrainer, "predict", killed_there)
        finetune(tmp_path / "killed", *flags)
    resumed = finetune(tmp_path / "killed", *flags)
    assert resumed["steps"] == whole["steps"] < 30 * 4 and resumed["splits"] == whole["splits"]
    assert are_equal(tmp_path / "whole", tmp_path / "killed")


def test_every_checkpoint_says_what_its_files_hold(tmp_path, caplog):
    out = tmp_path / "out"
    finetune(out, "--num-train-epochs", 2)
    (out / "results.json").unlink()
    for checkpoint in out.glob("checkpoint-*"):
        digests = read_json(checkpoint / "digests.json")
        assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} <= digests.keys()
    # Weights of the right size.
    content = bytearray((out / "checkpoint-8" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (out / "checkpoint-8" / "model.safetensors").write_bytes(content)
    # Where the run is to write a file.
    (out / "checkpoint-8" / "scheduler.pt").unlink()
    (out / "checkpoint-8" / "scheduler.pt").mkdir()
    assert run(arguments(out, "--num-train-epochs", 2)) == 0
    reason = "model.safetensors is damaged (it is not what was written)"
    assert f"{out / 'checkpoint-8'}: {reason}; going on from {out / 'checkpoint-4'}" in caplog.messages


def test_the_newest_checkpoints_are_kept_whatever_the_clock_says(tmp_path):
    flags = ("--save-strategy", "steps", "--save-steps", 2, "--eval-strategy", "no")
    assert run(arguments(tmp_path, *flags, "--max-steps", 4)) == 0
    for checkpoint in tmp_path.glob("checkpoint-*"):
        os.utime(checkpoint, (4e9, 4e9 + int(checkpoint.name[-1])))
    assert run(arguments(tmp_path, *flags, "--max-steps", 6)) == 0
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}
    # Killed while it drew.
    (tmp_path / "training.png.partial").touch()
    assert run(arguments(tmp_path, *flags, "--max-steps", 6)) == 0
    assert not list(tmp_path.glob("*.partial"))


def test_a_killed_process_that_loads_rows_ends_a_run_in_a_line_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    flags = ("--dataloader-num-workers", 1, "--save-strategy", "steps", "--save-steps", 2, "--max-steps", 4)
    step, calls = ernie_sparse.SaorTrainer.training_step, []

    def with_dead_worker(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            os.kill(active_children()[0].pid, signal.SIGKILL)
            # Until torch has been told of it.
            time.sleep(10)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ernie_sparse.SaorTrainer, "training_step", with_dead_worker)
        assert run(arguments(tmp_path, *flags)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    line = error.splitlines()[-1]
    assert line.startswith("ernie-sparse finetune: error: a process that loads rows has died (DataLoader worker")
    assert line.endswith(f"the same command resumes from {tmp_path / 'checkpoint-2'}, which is whole")
    assert run(arguments(tmp_path, *flags)) == 0


@pytest.mark.slow
def test_other_data_and_another_precision_are_refused(tmp_path, capsys):
    finetune(tmp_path / "out", "--max-steps", 2)
    text = Path(arguments(tmp_path)[arguments(tmp_path).index("--train-file") + 1]).read_text()
    rows = text.splitlines(keepends=True)
    for name, content in {"order": [rows[2], *rows[:2], *rows[3:]], "half": rows[: len(rows) // 2]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(content))
    (tmp_path / "swapped.jsonl").write_text(
        text.replace('"north"}', '"x"}').replace('"south"}', '"north"}').replace('"x"}', '"south"}')
    )
    (tmp_path / "same.jsonl").write_text(text)
    resume = ("--max-steps", 3)
    for name in ("order", "half", "swapped"):
        capsys.readouterr()
        assert run(arguments(tmp_path / "out", *resume, "--train-file", tmp_path / f"{name}.jsonl")) == 2
        assert "holds a run on other data: train has other rows now" in capsys.readouterr().err
    for flags, message in (
        (("--data-seed", 3), "data_seed None and not 3"),
        (("--bf16", "true"), "bf16 False and not True"),
    ):
        capsys.readouterr()
        assert run(arguments(tmp_path / "out", *resume, *flags)) == 2
        assert message in capsys.readouterr().err
    # The same rows elsewhere are the same rows.
    finetune(tmp_path / "out", *resume, "--train-file", tmp_path / "same.jsonl")


def test_what_a_run_is_to_write_over_is_named(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    for flags in ((), ("--seeds", 0, 1)):
        capsys.readouterr()
        assert run(arguments(tmp_path, *flags)) == 2
        assert "is not empty: it holds notes.txt; name another folder" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_dollar_in_a_label_is_no_formula(tmp_path):
    rows = "".join(
        f'{{"text": "{word} {word}", "label": "{label}"}}\n'
        for word, label in (("north", "<$1k"), ("south", "$1k_$5k")) * 8
    )
    (tmp_path / "rows.jsonl").write_text(rows)
    results = finetune(
        tmp_path / "out",
        "--max-steps",
        1,
        *(w for s in ("train", "validation", "test") for w in (f"--{s}-file", tmp_path / "rows.jsonl")),
    )
    assert results["steps"] == 1 and (tmp_path / "out" / "predictions.png").is_file()


@pytest.mark.slow
def test_two_processes_end_cleanly(workspace, tmp_path):  # noqa: F811
    for number in range(6):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
        words = pretrain_arguments(workspace, tmp_path / str(number), "--report-to", "none", "--max-steps", 2)
        ended = subprocess.run(
            [*launch, "-m", "ernie_sparse", *map(str, words)],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert torch.isfinite(torch.tensor(read_results(tmp_path / str(number))["eval_loss"]))
        # Of all processes, and whole.
        checkpoint = tmp_path / str(number) / "checkpoint-2"
        digests = read_json(checkpoint / "digests.json")
        assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors", "trainer_state.json"} <= digests.keys()
        assert all(file_digest(checkpoint / name) == digest for name, digest in digests.items())
