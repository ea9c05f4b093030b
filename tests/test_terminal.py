# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a training says in the terminal, without a training."""

from types import SimpleNamespace

import pytest
import torch
from transformers import PrinterCallback, ProgressCallback

from ernie_sparse import terminal
from ernie_sparse.terminal import TrainingReport, in_words, report_in_terminal

ARGS = {
    "logging_steps": 50,
    "disable_tqdm": True,
    "train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "world_size": 1,
    "bf16": False,
    "fp16": False,
    "device": torch.device("cpu"),
}
STATE = {
    "logging_steps": 50,
    "is_world_process_zero": True,
    "global_step": 0,
    "max_steps": 1500,
    "num_train_epochs": 3,
}


@pytest.fixture
def model() -> torch.nn.Module:
    return torch.nn.Linear(100, 20)


def begin(model, args=None, **state) -> tuple[TrainingReport, SimpleNamespace, SimpleNamespace]:
    report = TrainingReport([("rows", "train 32")])
    args, state = SimpleNamespace(**{**ARGS, **(args or {})}), SimpleNamespace(**{**STATE, **state})
    report.on_train_begin(args, state, None, model=model)
    return report, args, state


def table_of(text: str) -> dict[str, str]:
    return dict(line.strip().split("  ", 1) for line in text.splitlines() if "  " in line.strip())


@pytest.mark.parametrize(
    ("args", "state", "name", "said"),
    [
        ({}, {}, "rows", "train 32"),
        ({}, {}, "parameters", "2,020"),
        ({}, {}, "updates", "1,500 of 8 rows, 3 epochs"),
        ({"world_size": 3}, {"num_train_epochs": 1}, "updates", "1,500 of 24 rows, 1 epoch"),
        ({}, {"num_train_epochs": 2**63 - 1}, "updates", "1,500 of 8 rows, streamed"),
        ({"bf16": True}, {}, "runs on", f"CPU, {torch.get_num_threads()} threads, bf16"),
        ({"fp16": True}, {}, "runs on", f"CPU, {torch.get_num_threads()} threads, fp16"),
        ({"device": torch.device("mps")}, {}, "runs on", "mps, fp32"),
        (
            {"world_size": 3},
            {},
            "runs on",
            f"3 processes, each on CPU, {torch.get_num_threads()} threads, fp32",
        ),
        ({}, {"global_step": 1200}, "resumes after update", "1,200"),
    ],
)
def test_a_table_says_what_a_training_is(args, state, name, said, model, capsys):
    begin(model, args, **state)
    assert table_of(capsys.readouterr().out)[name].strip() == said


def test_only_weights_that_are_trained_are_counted_as_such(model, capsys):
    model.bias.requires_grad_(False)
    begin(model)
    assert table_of(capsys.readouterr().out)["parameters"].strip() == "2,020, of which 2,000 are trained"


@pytest.mark.parametrize("state", [{"is_world_process_zero": False}, {"global_step": 1500}])
def test_other_processes_and_a_run_that_is_over_say_nothing(state, model, capsys):
    report, args, state = begin(model, **state)
    report.on_log(args, state, None, logs={"train_loss": 1.0})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("asked", "updates", "steps"),
    [(50, 1500, 50), (50, 999, 49), (50, 45, 2), (50, 8, 1), (10, 45, 10), (500, 1500, 500)],
)
def test_a_short_run_logs_more_often_unless_told_otherwise(asked, updates, steps, model):
    _, _, state = begin(model, {"logging_steps": asked}, logging_steps=asked, max_steps=updates)
    assert state.logging_steps == steps


def test_a_line_for_each_log_has_its_figures(model, capsys):
    report, args, state = begin(model, global_step=0)
    capsys.readouterr()
    state.global_step = 50
    report.on_log(args, state, None, logs={"loss": 0.123456, "grad_norm": 2.0, "learning_rate": 1e-5, "epoch": 0.1})
    report.on_log(args, state, None, logs={"eval_loss": 1.5, "eval_rows": 7, "eval_runtime": 3.0, "total_flos": 9})
    report.on_log(args, state, None, logs={"train_runtime": 3.0, "train_loss": 0.5})
    assert capsys.readouterr().out.splitlines() == [
        "update    50 of 1,500: loss 0.1235, grad norm 2, learning rate 1e-05",
        "update    50 of 1,500: eval loss 1.5, eval rows 7",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (10, "about 4.2 hours to go, without evaluations"),
        (0.02, None),
        (0.0201, "about 30 seconds to go, without evaluations"),
    ],
)
def test_after_six_updates_the_time_of_the_others_is_said(seconds, said, model, capsys, monkeypatch):
    report, args, state = begin(model)
    capsys.readouterr()
    clock = 1000.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock)
    lines = []
    for state.global_step in range(1, 12):
        # What the first update takes is none of the others' time.
        clock += seconds if state.global_step > 1 else 500.0
        report.on_step_end(args, state, None)
        lines += [(state.global_step, line) for line in capsys.readouterr().out.splitlines()]
    assert lines == ([] if said is None else [(6, said)])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (31, "31 seconds"),
        (89.4, "89 seconds"),
        (90, "2 minutes"),
        (5399, "90 minutes"),
        (5400, "1.5 hours"),
        (90000, "25.0 hours"),
    ],
)
def test_a_time_is_said_as_people_say_it(seconds, said):
    assert in_words(seconds) == said


def test_transformers_own_reports_are_taken_out():
    removed, added = [], []
    trainer = SimpleNamespace(remove_callback=removed.append, add_callback=added.append)
    report_in_terminal(trainer, [("rows", 3)])
    assert removed == [ProgressCallback, PrinterCallback]
    (report,) = added
    assert isinstance(report, TrainingReport) and report.facts == [("rows", 3)]
