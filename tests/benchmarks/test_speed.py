# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The benchmark: that what it compares is comparable, that it counts right, and that nothing stops or spoils a run."""

import functools
import json
import sys
from pathlib import Path

import pytest
import torch
from peak_cases import build_allocating, build_dying, build_failing
from torch import nn

from benchmarks.speed import PROG, measure, report, runner
from benchmarks.speed.measure import Case, LeftOut, cpu_peak, time_rounds
from benchmarks.speed.models import BUILDERS, DEFAULT_MODELS, Sizes, build_encoder, note
from benchmarks.speed.runner import Plan, measure_length
from benchmarks.speed.tasks import (
    CHECKPOINTED,
    FULL,
    KEPT,
    PADDED,
    PLAIN,
    SAOR,
    TASKS,
    Row,
    Setup,
    build_case,
    build_inputs,
)
from ernie_sparse.cli import run_command
from ernie_sparse.results import write_json

TINY = Sizes(hidden_size=48, num_layers=2, num_heads=4, vocab_size=99, max_length=256)
OURS = "ernie-sparse:sdpa"


class Clock:
    """Seconds that pass only when a fake step takes them."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fake_case(clock: Clock, seconds, log: list | None = None, name: str = "") -> Case:
    """A case whose steps take the `seconds`, one after the other and then the last ever again; errors are raised."""
    left = list(seconds)

    def step():
        if log is not None:
            log.append(name)
        taken = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(taken, BaseException):
            raise taken
        clock.now += taken

    return Case(nn.Linear(1, 1), step, num_tokens=100)


@pytest.fixture
def fake_models(monkeypatch):
    """`fake_models({("dense", 512): [1.0, …], …})`: the cases of a run, by model and length; 1 s where none are named."""

    def use(seconds: dict):
        clock = Clock()
        built = []

        def build(task, row, setup, length):
            built.append((row.model, length))
            found = seconds.get((row.model, length), [1.0])
            if isinstance(found, BaseException):
                raise found
            return fake_case(clock, found)

        monkeypatch.setattr(runner, "build_case", build)
        monkeypatch.setattr(runner, "time_rounds", functools.partial(time_rounds, clock=clock))
        return built

    return use


def tiny_arguments(output_dir, *more) -> list[str]:
    words = [
        *("--hidden-size", 32, "--layers", 1, "--heads", 4, "--vocab-size", 99, "--threads", 1),
        *("--lengths", 64, 128, "--runs", 2, "--no-memory", "--device", "cpu", "--output-dir", output_dir, *more),
    ]
    return [str(word) for word in words]


def read(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@torch.no_grad()
def test_the_model_without_attention_has_the_same_layers_with_the_values_in_its_place():
    model = build_encoder("no-attention", TINY).eval()
    input_ids = torch.randint(99, (2, 130))
    tables = model.embeddings
    states = tables.word_embeddings(input_ids) + tables.position_embeddings.weight[:130]
    states = tables.LayerNorm(states + tables.token_type_embeddings.weight[0])
    for layer in model.encoder.layer:
        states = layer.attention.output(layer.attention.self.value(states), states)
        states = layer.output(layer.intermediate(states), states)
    output = model(input_ids)
    torch.testing.assert_close(output.last_hidden_state, states)
    assert output.representative_hidden_state is None
    attending = build_encoder(OURS, TINY).eval()(input_ids).last_hidden_state
    assert not torch.allclose(attending, states, atol=1e-2)


def test_all_models_spend_the_same_on_their_linear_layers():
    def linear_weights(name: str) -> int:
        return sum(
            module.weight.numel()
            for path, module in build_encoder(name, TINY).named_modules()
            # Longformer's second projections serve its few global tokens alone.
            if isinstance(module, nn.Linear) and not path.endswith("_global")
        )

    expected = TINY.num_layers * 12 * TINY.hidden_size**2
    for name in DEFAULT_MODELS:
        assert linear_weights(name) == pytest.approx(expected, rel=0.02), name


@pytest.mark.parametrize("task, attention_dropout", [("training", 0.0), ("training-attention-dropout", 0.1)])
def test_all_models_drop_alike(task, attention_dropout):
    for name in DEFAULT_MODELS:
        model = build_case(TASKS[task], Row(name), Setup(TINY), 64).model
        config = model.config.to_dict()
        names = {key: config[key] for key in config if "dropout" in key and "classifier" not in key}
        found = {key: value for key, value in names.items() if key.startswith("attention")}
        assert list(found.values()) == [attention_dropout], (name, names)
        assert all(value == 0.1 for key, value in names.items() if key not in found), (name, names)
        assert model.training


@torch.no_grad()
def test_the_notes_say_what_the_peers_do():
    sizes = Sizes(hidden_size=32, num_layers=1, num_heads=4, vocab_size=99, max_length=768)
    for length, attention_type in ((704, "original_full"), (768, "block_sparse")):
        case = build_case(TASKS["forward"], Row("bigbird"), Setup(sizes), length)
        case.step()
        assert case.model.attention_type == attention_type
        assert (note("bigbird", length) == "full attention") == (attention_type == "original_full")
    # The longest input that was asked for must fit, padded as it is.
    case = build_case(TASKS["forward"], Row("longformer"), Setup(Sizes(32, 1, 4, 99, max_length=70)), 70)
    case.step()
    assert note("longformer", 70) == "padded to 512" and note("longformer", 1024) is None


@pytest.mark.parametrize("length, batch_size", [(16, 1), (67, 4), (128, 9)])
def test_half_of_the_padded_batch_is_padding(length, batch_size):
    task, setup = TASKS["padding-training"], Setup(TINY, batch_size=batch_size)
    padded, full = (build_inputs(task, Row(OURS, variant), setup, length) for variant in (PADDED, FULL))
    mask = padded["attention_mask"]
    assert 2 * int(mask.sum()) == mask.numel() and len(mask) >= max(4, batch_size)
    assert (mask.diff(dim=1) <= 0).all() and mask.sum(dim=1).unique().numel() >= 3 and mask.sum(dim=1).min() > 0
    assert full.keys() == {"input_ids"} and full["input_ids"].shape == padded["input_ids"].shape == mask.shape
    assert build_case(task, Row(OURS, PADDED), setup, length).num_tokens == int(mask.sum())


def test_variants_differ_in_what_they_are_about_and_in_nothing_else():
    task, setup = TASKS["saor"], Setup(TINY)
    plain, *others = (build_inputs(task, Row(OURS, variant), setup, 200) for variant in task.variants)
    for name, other in zip(("consistency_pattern", "alignment_pattern"), others, strict=True):
        pattern = other.pop(name)
        assert pattern.block_shift == 32 and pattern.block_size == 64
        assert plain.keys() == other.keys() and all(torch.equal(plain[key], other[key]) for key in plain)
    labelled = plain["labels"] != -100
    assert labelled.sum() == 30 and torch.equal(plain["labels"][labelled], plain["input_ids"][labelled])
    kept, checkpointed = (
        build_case(TASKS["training-checkpointing"], Row(OURS, variant), setup, 64).model
        for variant in (KEPT, CHECKPOINTED)
    )
    assert all(layer.gradient_checkpointing for layer in checkpointed.encoder.layer)
    assert not any(layer.gradient_checkpointing for layer in kept.encoder.layer)


def test_every_round_begins_with_another_model_and_the_first_step_does_not_count():
    clock, log = Clock(), []
    cases = {name: fake_case(clock, [9.0, 1.0, 2.0, 3.0, 4.0], log, name) for name in "abc"}
    outcomes = time_rounds(cases, runs=4, budget=30, clock=clock)
    assert "".join(log) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert outcomes == {name: [1.0, 2.0, 3.0, 4.0] for name in "abc"}


def test_a_step_finds_no_gradients_and_leaves_none():
    model, found = nn.Linear(2, 2), []

    def step():
        found.append(model.weight.grad)
        model(torch.ones(1, 2)).sum().backward()

    model(torch.ones(1, 2)).sum().backward()
    time_rounds({"a": Case(model, step, 1)}, runs=2, budget=30)
    assert found == [None, None, None] and model.weight.grad is None


def test_medians_and_ratios(fake_models):
    fake_models(
        {
            ("no-attention", 512): [50.0, 2.0, 1.0, 9.0],
            (OURS, 512): [50.0, 3.0, 4.0, 3.0],
            ("dense", 512): [50.0, 6.0, 6.0, 1.0],
        }
    )
    plan = Plan(["no-attention", OURS, "dense"], [], [512], runs=3, budget=60, with_memory=False)
    cells = {cell["model"]: cell for cell in measure_length(TASKS["forward"], 512, plan, {})}
    assert [cells[name]["median_seconds"] for name in plan.models] == [2.0, 3.0, 6.0]
    assert [cells[name]["min_seconds"] for name in plan.models] == [1.0, 3.0, 1.0]
    assert [cells[name]["over_reference"] for name in plan.models] == [1.0, 1.5, 3.0]
    assert cells["dense"]["over_ours"] == 2.0 and cells["no-attention"]["over_ours"] is None
    assert cells["dense"]["tokens_per_second"] == 100 / 6
    text = "\n".join(table.text() for table in report.tables(list(cells.values())))
    assert "1.50 x no-attention" in text and "2.00 x ours" in text
    assert text.index("x no-attention") < text.index("tokens per second")
    titles = [table.title for table in report.tables([cells[OURS], cells["dense"]])]
    assert titles == ["forward: time over ernie-sparse:sdpa", "forward: tokens per second"]


def test_variants_are_compared_with_the_first_one():
    cells = [
        report.make_cell(TASKS["saor"], Row(model, variant), 64, None, 64, [seconds], None)
        for model, variant, seconds in (
            (OURS, PLAIN, 2.0),
            (OURS, SAOR, 5.0),
            ("ernie-sparse:eager", PLAIN, 4.0),
            ("ernie-sparse:eager", SAOR, 6.0),
        )
    ]
    report.add_ratios(cells)
    assert [cell["over_reference"] for cell in cells] == [1.0, 2.5, 1.0, 1.5]
    assert {cell["over_ours"] for cell in cells} == {None}


def test_what_takes_too_long_is_left_out_from_there_on_and_said(fake_models, tmp_path, capsys):
    built = fake_models({("dense", 128): [31.0, 1.0]})
    models = ("--models", "no-attention", OURS, "dense", "--tasks", "forward", "training")
    assert run_command(PROG, runner.main, tiny_arguments(tmp_path, *models, "--lengths", "64", "128", "256")) == 0
    assert built.count(("dense", 64)) == built.count(("dense", 128)) == 2 and ("dense", 256) not in built
    cells = {(cell["task"], cell["model"], cell["length"]): cell for cell in read(tmp_path)["cells"]}
    assert len(cells) == 18
    assert [cells["forward", "dense", length]["reason"] for length in (64, 128, 256)] == [None, *["over 30 s"] * 2]
    assert cells["forward", "dense", 128]["seconds"] is None and cells["forward", OURS, 256]["seconds"] == [1.0, 1.0]
    for text in (capsys.readouterr().out, (tmp_path / "results.md").read_text()):
        assert "dense: over 30 s (forward at 128, 256; training at 128, 256 tokens)" in text


def test_a_model_that_fails_is_a_reason_and_the_others_go_on(fake_models, tmp_path):
    fake_models(
        {
            ("dense", 64): ValueError("no\n such thing"),
            ("bigbird", 64): [1.0, 1.0, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
            ("longformer", 64): [KeyError("first")],
        }
    )
    models = ("--models", "no-attention", "dense", OURS, "bigbird", "longformer", "--tasks", "forward")
    assert run_command(PROG, runner.main, tiny_arguments(tmp_path, *models)) == 0
    cells = {(cell["model"], cell["length"]): cell for cell in read(tmp_path)["cells"]}
    assert cells["dense", 64]["reason"] == "ValueError: no such thing" and cells["dense", 128]["seconds"] == [1.0, 1.0]
    assert cells["longformer", 64]["reason"].startswith("KeyError") and cells["longformer", 128]["seconds"]
    # It will not take less memory with more tokens.
    assert cells["bigbird", 64]["reason"] == cells["bigbird", 128]["reason"] == "out of memory"
    assert cells["no-attention", 64]["seconds"] == cells[OURS, 64]["seconds"] == [1.0, 1.0]


def test_nothing_measured_is_an_error(tmp_path, capsys):
    models = ("--models", "ernie-sparse:flash_attention_3", "--tasks", "forward")
    assert run_command(PROG, runner.main, tiny_arguments(tmp_path, *models)) == 2
    assert "nothing could be measured" in capsys.readouterr().err


def test_a_kill_loses_nothing_of_what_was_measured(fake_models, tmp_path, monkeypatch):
    fake_models({("dense", 128): KeyboardInterrupt()})
    monkeypatch.setattr(runner, "cpu_peak", lambda build, length, threads, budget: float(length))
    arguments = tiny_arguments(tmp_path, "--models", "no-attention", "dense", "--tasks", "forward")
    arguments.remove("--no-memory")
    assert run_command(PROG, runner.main, arguments) == 130
    results = read(tmp_path)
    assert results["complete"] is False
    found = [(c["model"], c["length"], c["seconds"], c["peak_memory_mib"], c["reason"]) for c in results["cells"]]
    assert found == [
        ("no-attention", 64, [1.0, 1.0], 64.0, None),
        ("dense", 64, [1.0, 1.0], 64.0, None),
        ("no-attention", 128, None, 128.0, "not timed yet"),
        ("dense", 128, None, 128.0, "not timed yet"),
    ]


def test_a_kill_while_saving_leaves_the_last_results(tmp_path, monkeypatch):
    write_json(tmp_path / "results.json", {"cells": [1]})

    def write_half(path, text, **kwargs):
        with open(path, "w") as file:
            file.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "results.json", {"cells": [1, 2]})
    assert read(tmp_path) == {"cells": [1]}


def test_what_its_own_process_could_not_hold_is_not_tried_in_this_one(fake_models, tmp_path, monkeypatch):
    built = fake_models({})
    killed = LeftOut("killed", stays=True)
    monkeypatch.setattr(runner, "cpu_peak", lambda build, length, *_: killed if build.args[1].model == "dense" else 1.0)
    arguments = tiny_arguments(tmp_path, "--models", "no-attention", "dense", "--tasks", "forward")
    arguments.remove("--no-memory")
    assert run_command(PROG, runner.main, arguments) == 0
    assert {model for model, _ in built} == {"no-attention"}
    reasons = [(cell["reason"], cell["memory_reason"]) for cell in read(tmp_path)["cells"] if cell["model"] == "dense"]
    assert reasons == [("killed", "killed")] * 2


def test_everything_runs_and_is_told(tmp_path, capsys, block_form):
    assert (
        run_command(
            PROG,
            runner.main,
            tiny_arguments(tmp_path, "--lengths", "64", "--models", *DEFAULT_MODELS, "ernie-sparse:eager"),
        )
        == 0
    )
    results = read(tmp_path)
    assert results["complete"] is True and results["command"].startswith("python -m benchmarks.speed --hidden-size 32")
    assert {cell["task"] for cell in results["cells"]} == set(TASKS)
    assert len(results["cells"]) == 3 * 7 + 4 * 4 + 2 and all(len(cell["seconds"]) == 2 for cell in results["cells"])
    assert results["hardware"]["threads"] == 1 and results["settings"]["lengths"] == [64]
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    markdown = (tmp_path / "results.md").read_text()
    assert (
        results["command"] in markdown and "x no-attention (padded to 512)" in markdown and "1.00 x plain" in markdown
    )
    out = capsys.readouterr().out
    assert "ernie-sparse:sdpa, half padding" in out and "benchmark.png" in out


def test_without_matplotlib_it_says_how_to_get_the_picture(fake_models, tmp_path, monkeypatch, capsys):
    fake_models({})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert (
        run_command(PROG, runner.main, tiny_arguments(tmp_path, "--models", "no-attention", "--tasks", "forward")) == 0
    )
    assert "pip install matplotlib" in capsys.readouterr().out
    assert (tmp_path / "results.md").exists() and not (tmp_path / "benchmark.png").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_in_one_line(tmp_path, capsys):
    assert run_command(PROG, runner.main, tiny_arguments(tmp_path / "never", "--device", "cuda")) == 2
    assert capsys.readouterr().err == f"{PROG}: error: --device cuda: torch finds no GPU here\n"
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_peak_memory_is_that_of_the_step_in_a_process_of_its_own():
    assert cpu_peak(build_allocating, 400, threads=1, budget=30) == pytest.approx(100, abs=8)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals differ")
def test_a_process_that_is_killed_is_a_reason():
    outcome = cpu_peak(build_dying, 64, threads=1, budget=30)
    assert outcome.reason.startswith("killed") and outcome.stays


def test_a_failure_in_the_process_is_a_reason(monkeypatch):
    sent = []
    monkeypatch.setattr(measure.torch, "set_num_threads", lambda threads: None)
    measure._send_peak(type("Sender", (), {"send": sent.append}), build_failing, 64, 1)
    assert sent == [measure.OUT_OF_MEMORY]


@pytest.mark.slow
def test_a_forward_of_4096_tokens_takes_at_most_one_and_a_half_times_the_same_without_attention():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        plan = Plan(["no-attention", OURS], [], [4096], Setup(Sizes(max_length=4096)), with_memory=False)
        _, ours = measure_length(TASKS["forward"], 4096, plan, {})
    finally:
        torch.set_num_threads(threads)
    assert ours["over_reference"] <= 1.5


def test_every_peer_has_a_colour_and_a_marker_in_the_picture():
    assert report.COLOURS.keys() == report.MARKERS.keys() == BUILDERS.keys()
    assert len(set(report.COLOURS.values()) | set(report.OURS_COLOURS)) == len(BUILDERS) + len(report.OURS_COLOURS)
