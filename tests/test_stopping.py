# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Commands that SIGTERM or Ctrl-C stops: where they stop, what they say and leave, and that going on ends where it would have."""

import functools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from test_cli import SIZES, pretrain_arguments, run, workspace  # noqa: F401
from test_finetune_predict import arguments, finetuned, predict, read_results
from test_finetune_predict import workspace as workspace_of_types
from test_resuming import ENVIRONMENT, assert_ends_as_whole

import ernie_sparse
from ernie_sparse import cli, signals
from ernie_sparse.finetune import runner
from ernie_sparse.finetune.prediction_files import PredictionFile
from ernie_sparse.signals import StopSignals

GOES_ON = "the same command resumes it"
BY_STEPS = ("--eval-strategy", "steps", "--eval-steps", 2, "--save-strategy", "steps", "--save-steps", 2)
# Of eight updates in two epochs: flags, the call of the training step in which the signal comes, and the update behind which
# the run stops.
PLACES = {
    "within an epoch": ((), 2, 2),
    "at the end of an epoch": ((), 4, 4),
    "at the end of the run": ((), 8, 8),
    "at an evaluation by steps": ((*BY_STEPS, "--load-best-model-at-end", "true"), 6, 6),
    "where the best alone is saved": (("--save-strategy", "best", "--learning-rate", 1e-7), 8, 8),
    "where nothing is saved": (("--save-strategy", "no"), 5, 5),
    "where one checkpoint is kept": (("--save-total-limit", 1, "--learning-rate", 1e-7), 6, 6),
    "within an update": (("--per-device-train-batch-size", 4, "--gradient-accumulation-steps", 2), 3, 2),
    "where patience ends": (
        ("--num-train-epochs", 3, "--early-stopping-patience", 1, "--learning-rate", 1e-7), 8, 8,
    ),
}  # fmt: skip
FAST = ("within an epoch",)


def send(number: int):
    os.kill(os.getpid(), number)


def send_in_step(monkeypatch, call: int, *numbers: int, error: Exception | None = None):
    """Have this process get signals in a training step, which may fail then."""
    step, calls = ernie_sparse.SaorTrainer.training_step, []

    def with_signals(self, *args, **kwargs):
        calls.append(1)
        loss = step(self, *args, **kwargs)
        if len(calls) == call:
            for number in numbers:
                send(number)
            if error is not None:
                raise error
        return loss

    monkeypatch.setattr(ernie_sparse.SaorTrainer, "training_step", with_signals)


def said(capsys) -> str:
    """The only line of the command on standard error, without the name of the command."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("ernie-sparse")]
    return line.partition(": ")[2]


def two_epochs(out, *more) -> list[str]:
    return arguments(out, "--num-train-epochs", 2, *more)


@functools.cache
def unbroken(flags: tuple) -> Path:
    """What a run leaves that was not stopped; not to be written to."""
    out = workspace_of_types() / f"unbroken-{len(list(workspace_of_types().glob('unbroken-*')))}"
    assert run(two_epochs(out, *flags)) == 0
    return out


@pytest.mark.parametrize("place", [pytest.param(p, marks=[pytest.mark.slow] * (p not in FAST)) for p in PLACES])
def test_a_stopped_run_ends_where_an_unbroken_one_does(place, tmp_path, monkeypatch, capsys):
    flags, call, update = PLACES[place]
    number = signals.SIGNALS[call % 2]
    handlers = [signal.getsignal(number) for number in signals.SIGNALS]
    whole, out = unbroken(flags), tmp_path / "out"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        send_in_step(patch, call, number)
        assert run(two_epochs(out, *flags)) == 128 + number
    assert said(capsys) == f"stopped at update {update} by {number.name}; {GOES_ON}"
    assert [signal.getsignal(number) for number in signals.SIGNALS] == handlers
    assert (out / f"checkpoint-{update}").is_dir() and not (out / "results.json").exists()
    assert run(two_epochs(out, *flags)) == 0
    assert_ends_as_whole(whole.name, out, whole.parent)
    evaluations, expected = (
        [(entry["step"], entry["eval_loss"]) for entry in read_results(folder)["history"] if "eval_loss" in entry]
        for folder in (out, whole)
    )
    assert evaluations == expected


def test_a_stopped_pretraining_ends_where_an_unbroken_one_does(workspace, tmp_path, monkeypatch, capsys):  # noqa: F811
    with monkeypatch.context() as patch:
        send_in_step(patch, 2, signal.SIGTERM)
        assert run(pretrain_arguments(workspace, tmp_path / "out")) == 143
    assert said(capsys) == f"stopped at update 2 by SIGTERM; {GOES_ON}"
    assert run(pretrain_arguments(workspace, tmp_path / "out")) == 0
    assert_ends_as_whole("pretrained", tmp_path / "out", workspace)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "how"), [("epoch", GOES_ON), ("no", GOES_ON.replace("resumes it", "starts again"))]
)
def test_a_signal_behind_the_last_update(strategy, how, tmp_path, monkeypatch, capsys):
    load, command = ernie_sparse.SaorTrainer.store_flos, two_epochs(tmp_path, "--save-strategy", strategy)

    def stopped(self):
        if self.control.should_training_stop:
            send(signal.SIGTERM)
        load(self)

    with monkeypatch.context() as patch:
        patch.setattr(ernie_sparse.SaorTrainer, "store_flos", stopped)
        patch.setattr("ernie_sparse.stopping._StopAtUpdate.on_epoch_end", lambda *args, **kwargs: None)
        assert run(command) == 143
    assert said(capsys).startswith(f"stopped behind the last update by SIGTERM; {how}")
    assert not (tmp_path / "results.json").exists()
    assert run(command) == 0


def test_a_second_signal_ends_at_once_but_for_one_that_was_passed_on(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        # However slow the machine is.
        patch.setattr(signals, "SAME_SIGNAL_SECONDS", 600)
        send_in_step(patch, 6, signal.SIGINT, signal.SIGTERM, signal.SIGINT)
        assert run(two_epochs(tmp_path / "same")) == 130
    assert said(capsys) == f"stopped at update 6 by SIGINT; {GOES_ON}"
    monkeypatch.setattr(signals, "SAME_SIGNAL_SECONDS", -1)
    send_in_step(monkeypatch, 6, signal.SIGINT, signal.SIGTERM)
    assert run(two_epochs(tmp_path / "second")) == 143
    assert said(capsys) == f"ended at once by SIGTERM; {GOES_ON}"
    assert [path.name for path in (tmp_path / "second").glob("checkpoint-*")] == ["checkpoint-4"]


def test_what_fails_behind_a_signal_is_said(tmp_path, monkeypatch, capsys):
    send_in_step(monkeypatch, 2, signal.SIGTERM, error=RuntimeError("a worker was killed"))
    assert run(two_epochs(tmp_path)) == 143
    begins = "the same command starts again, for there is no checkpoint"
    assert said(capsys) == f"stopped by SIGTERM (RuntimeError: a worker was killed); {begins}"


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_while_data_are_prepared_leaves_nothing(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "prepare", lambda *args: send(number))
    assert run(two_epochs(tmp_path / "out")) == 128 + number
    assert said(capsys) == f"stopped by {number.name}" and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_search_ends_at_once(tmp_path, monkeypatch, capsys):
    command = two_epochs(tmp_path, "--search-trials", 2)
    with monkeypatch.context() as patch:
        send_in_step(patch, 2, signal.SIGTERM)
        assert run(command) == 143
    assert said(capsys) == "stopped by SIGTERM"
    assert not list(tmp_path.glob("checkpoint-*")) and not (tmp_path / "search.json").exists()
    assert run(command) == 0


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_stopped_prediction_says_how_to_go_on(number, tmp_path, monkeypatch, capsys):
    add = PredictionFile.add
    finetuned("single_label")
    source, words = workspace_of_types() / "single_label-test.jsonl", ("--chunk-size", 2)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(PredictionFile, "add", lambda self, records: (add(self, records), send(number)))
        assert predict("single_label", source, tmp_path / "out.csv", *words) == 128 + number
    error = capsys.readouterr().err
    assert "2 predictions are kept: the same command resumes after them" in error and "Traceback" not in error
    assert f"ernie-sparse predict: stopped by {number.name}" in error
    assert predict("single_label", source, tmp_path / "out.csv", *words) == 0


def test_where_signals_are_not_ours_nothing_is_done_about_them(monkeypatch):
    found = []
    command = lambda argv: found.append([signal.getsignal(number) for number in signals.SIGNALS])  # noqa: E731
    outside = [signal.getsignal(number) for number in signals.SIGNALS]
    thread = threading.Thread(target=cli.run_command, args=("test", command, []))
    thread.start()
    thread.join()
    # As under nohup, or behind a script's `&`.
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    cli.run_command("test", lambda argv: monkeypatch.undo() or command(argv), [])
    assert found == [outside] * 2


def test_a_signal_within_a_destructor_is_not_lost(capsys):
    class Doomed:
        def __del__(self):
            send(signal.SIGTERM)

    hook, begin = sys.unraisablehook, time.monotonic()
    with pytest.raises(signals.Stopped) as stopped, StopSignals():
        Doomed()
        time.sleep(10)
    assert stopped.value.number == signal.SIGTERM and sys.unraisablehook is hook
    assert time.monotonic() - begin < 5 and capsys.readouterr().err == ""


def test_processes_that_read_or_tokenize_end_when_their_parent_says_so():
    with StopSignals():
        child = get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    os.kill(child.pid, signal.SIGINT)
    child.join(0.2)
    assert child.is_alive()
    child.terminate()
    child.join(10)
    assert child.exitcode == -signal.SIGTERM


def start(*words) -> subprocess.Popen:
    """A command in a group of processes of its own, as a terminal has it."""
    words = [sys.executable, "-m", *map(str, words)]
    return subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(path: Path, process: subprocess.Popen):
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists(), process.communicate()[1][-3000:]


def ranks(launcher: int) -> dict[str, int]:
    """The processes that torchrun has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    environments = {pid: Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in children}
    return {value[5:]: int(pid) for pid, words in environments.items() for value in words if value.startswith("RANK=")}


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "one", "terminal"])
def test_several_processes_stop_at_the_same_update(whom, workspace, tmp_path):  # noqa: F811
    def launch(out, *more):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = ("--report-to", "none", "--max-steps", 300, "--save-steps", 100, *more)
        words = pretrain_arguments(workspace, tmp_path / out, *flags)
        return start(
            "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", "-m", "ernie_sparse", *words
        )

    whole, process = launch("whole"), launch("out")
    wait_for(tmp_path / "out" / "checkpoint-100" / "trainer_state.json", process)
    if whom == "launcher":
        process.terminate()
    elif whom == "one":
        os.kill(ranks(process.pid)["1"], signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    name = "SIGINT" if whom == "terminal" else "SIGTERM"
    (line,) = [line for line in error.splitlines() if line.startswith("ernie-sparse pretrain: ")]
    update = int(re.fullmatch(f"ernie-sparse pretrain: stopped at update ([0-9]+) by {name}; {GOES_ON}", line)[1])
    assert 100 <= update < 300 and (tmp_path / "out" / f"checkpoint-{update}").is_dir()
    assert not (tmp_path / "out" / "results.json").exists()
    assert whole.wait(200) == 0
    resumed = launch("out")
    assert resumed.wait(200) == 0, resumed.communicate()[1][-3000:]
    assert_ends_as_whole("whole", tmp_path / "out", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--dataloader-num-workers", 2)], ids=["", "workers"])
@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_terminal_stops_all_processes_of_a_command(number, flags, workspace, tmp_path):  # noqa: F811
    words = pretrain_arguments(workspace, tmp_path / "out", "--report-to", "none", "--max-steps", 100000, *flags)
    process = start("ernie_sparse", *words, "--save-steps", 20)
    wait_for(tmp_path / "out" / "checkpoint-20" / "trainer_state.json", process)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and "Traceback" not in error
    assert GOES_ON in error.splitlines()[-1] and f"by {number.name}" in error.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_stops_the_preparation_of_rows(number, workspace, tmp_path):  # noqa: F811
    (tmp_path / "long.txt").write_text("The north wind carried snow over the harbour.\n" * 1_000_000)
    flags = ("--sample-by", "line", "--config", SIZES, "--output-dir", tmp_path / "out")
    tokenizer = workspace / "pretrained"
    process = start("ernie_sparse", "pretrain", "--train-file", tmp_path / "long.txt", "--tokenizer", tokenizer, *flags)
    wait_for(tmp_path / "out" / "run.json", process)
    time.sleep(2)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and "Traceback" not in error, error[-3000:]
    assert error.splitlines()[-1] == f"ernie-sparse pretrain: stopped by {number.name}"
    assert not (tmp_path / "out").exists() or not (tmp_path / "out" / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_terminal_stops_processes_that_tokenize(number, workspace, tmp_path):  # noqa: F811
    rows = "".join(f"The north wind carried snow over the harbour {'again ' * 40},{i % 2}\n" for i in range(200_000))
    (tmp_path / "long.csv").write_text(f"text,label\n{rows}")
    files = ("--train-file", tmp_path / "long.csv", "--output-dir", tmp_path / "out")
    words = ("finetune", "--model", workspace / "pretrained", *files, "--preprocessing-processes", 2)
    process = start("ernie_sparse", *words)
    # Until it has children, and they have begun.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 60
    while len(children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert children.read_text()
    time.sleep(1)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and "Traceback" not in error, error[-3000:]
    assert error.splitlines()[-1] == f"ernie-sparse finetune: stopped by {number.name}"
    assert not (tmp_path / "out" / "results.json").exists()
